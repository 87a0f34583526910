"""The one entry: names of procedures, every procedure's independence of the batch, bad input."""

import copy

import pytest
import torch
from tiny import (
    AUTOREGRESSIVE,
    CTC,
    DAG,
    FLOW,
    GAUSSIAN,
    INDEPENDENT,
    MASKED,
    VOCABULARY,
    Numbers,
    batch_of,
    model_of,
    near_lengths,
    ragged,
    sources_of,
)

from lib import decoding
from lib.decoding import Options, hypotheses
from lib.decoding.refinement import refine
from lib.decoding.search import beam_search, greedy
from lib.errors import ConfigError, DataError
from lib.layers import LONGEST
from lib.subword import UNK

pytestmark = pytest.mark.usefixtures("float64")


def test_settings_give_what_they_name(model, sources):
    found = hypotheses(model, *sources_of(sources), ["beam3", "greedy"], Options(1.0))
    assert list(found) == ["beam3", "greedy"]
    assert found["greedy"] == greedy(model, *sources_of(sources))
    assert found["beam3"] == beam_search(model, *sources_of(sources), 3, 1.0)[0]


def test_settings_of_a_latent_model(sources):
    model = model_of(FLOW, VOCABULARY)
    found = hypotheses(model, *sources_of(sources), ["k2", "k0"])
    assert list(found) == ["k2", "k0"]
    expected = refine(model, *sources_of(sources), [0, 2])
    assert found == {"k0": expected[0], "k2": expected[2]}


STEPWISE = ["greedy", "beam3", "sample", "sample@0.7", "nucleus0.8", "nucleus0.8@0.7", "mbr4-chrf",
            "mbr3-chrf-sample@0.5", "mbr4-chrf-nucleus0.7@0.9"]
PARALLEL = ["k0", "k8", "sample", "sample@0.7", "mbr4-chrf", "mbr3-chrf-sample@0.5",
            "k0-samples1@0.5", "k1-lengths1", "k1-lengths3-bound", "k1-lengths3-iw4",
            "k2-lengths2-samples3@0.8-teacher", "k1-samples4-chrf", "k0-lengths2-samples2-chrf",
            "k3-samples3-bound"]
POSITIONS = ["greedy", "sample", "sample@0.7", "mbr4-chrf", "mbr3-chrf-sample@0.5"]
PATHS = ["lookahead", "viterbi", "beam3", *POSITIONS]
ALIGNMENTS = ["beam3", *POSITIONS]
UNMASKING = ["m1", "m3", "mT", *POSITIONS[1:]]
FIXED = {"greedy", "beam3", "k0", "k8", "k1-lengths1", "k1-lengths3-bound", "lookahead", "viterbi",
         "m1", "m3", "mT"}  # those that draw nothing
FAMILIES = pytest.mark.parametrize(("architecture", "settings"), [
    (AUTOREGRESSIVE, STEPWISE), (GAUSSIAN, PARALLEL), (FLOW, PARALLEL), (INDEPENDENT, POSITIONS),
    (DAG, PATHS), (CTC, ALIGNMENTS), (MASKED, UNMASKING)], ids=lambda x: getattr(x, "family", ""))


@FAMILIES
def test_the_company_of_a_sentence_changes_no_hypothesis(architecture, settings, sources,
                                                         monkeypatch):
    """Alone, together, in another order, padded further, in small parts; an empty one among them;
    with other settings or without.
    """
    teacher, model = model_of(AUTOREGRESSIVE, VOCABULARY), model_of(architecture, VOCABULARY)
    if architecture in (INDEPENDENT, MASKED):
        near_lengths(model)  # many passes a draw
    sources = [*sources[:5], [], sources[5]]

    def found(rows, padding=0, names=settings, seed=3):
        return hypotheses(model, *sources_of(rows, padding), names,
                          Options(seed=seed, teacher=teacher, vocabulary=Numbers))

    together = found(sources)
    assert list(together) == settings
    assert all(rows[5] == [] for rows in together.values())
    alone = [found([source]) for source in sources]
    order = [4, 0, 6, 2, 5, 1, 3]
    assert together == {s: [one[s][0] for one in alone] for s in settings}
    assert together == found(sources, padding=20)
    assert found([sources[i] for i in order]) == {
        s: [rows[i] for i in order] for s, rows in together.items()}
    assert found(sources, names=settings[4:5]) == {settings[4]: together[settings[4]]}
    monkeypatch.setattr(decoding, "POSITIONS", 1)
    assert found(sources) == together
    other = found(sources, seed=4)
    assert all(together[s] == other[s] for s in FIXED & set(settings))
    assert together["sample"] != other["sample"]


@pytest.mark.gpu
@FAMILIES
def test_on_a_gpu_the_hypotheses_are_those_of_the_cpu(architecture, settings, sources):
    """What draws nothing, and sampling of a Transformer, whose uniform numbers come from the host;
    in 64 bits and in fp32.
    """
    wanted = settings if architecture is AUTOREGRESSIVE else sorted(FIXED & set(settings))
    model = model_of(architecture, VOCABULARY)
    for dtype in (torch.float64, torch.float32):
        own = copy.deepcopy(model).to(dtype)
        torch.set_default_dtype(dtype)
        given = sources_of(sources)
        expected = hypotheses(own, *given, wanted, Options(vocabulary=Numbers))
        found = hypotheses(own.to("cuda"), *(x.to("cuda") for x in given), wanted,
                           Options(vocabulary=Numbers))
        assert found == expected, dtype


@pytest.mark.gpu
@FAMILIES
def test_on_a_gpu_the_company_of_a_sentence_changes_no_hypothesis(architecture, settings, sources):
    """Draws there are others than on the CPU, and a sentence's own as well."""
    teacher, model = (model_of(a, VOCABULARY).to("cuda") for a in (AUTOREGRESSIVE, architecture))
    if architecture in (INDEPENDENT, MASKED):
        near_lengths(model)
    sources = [*sources[:5], [], sources[5]]

    def found(rows, seed=3):
        source, mask = sources_of(rows)
        return hypotheses(model, source.to("cuda"), None if mask is None else mask.to("cuda"),
                          settings, Options(seed=seed, teacher=teacher, vocabulary=Numbers))

    together = found(sources)
    alone = [found([source]) for source in sources]
    assert together == {s: [one[s][0] for one in alone] for s in settings}
    assert together["sample"] != found(sources, seed=4)["sample"]


# Names ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("setting", ["bean4", "beam", "k", "beam-2", "", "Greedy", "k1 ",
                                     "k1-iw", "k1-samples2-lengths3-bound", "mbr-chrf", "mbr4-bleu",
                                     "nucleus", "sample@", "k1@0.5", "greedy-chrf", "sample@-1"])
def test_unknown_setting_is_refused(model, setting):
    with pytest.raises(ConfigError, match=r"unknown decoding setting .*greedy, beam<width>.*k1"):
        hypotheses(model, *sources_of([[3]]), [setting])


@pytest.mark.parametrize(("architecture", "setting", "fits"), [
    (AUTOREGRESSIVE, "k4", "greedy, beam4"), (GAUSSIAN, "greedy", "k0, k1"),
    (GAUSSIAN, "beam4", "k0, k1"), (FLOW, "nucleus0.9", "k0, k1"),
    (FLOW, "mbr4-chrf-nucleus0.9", "k0, k1"), (INDEPENDENT, "beam4", "greedy, sample"),
    (CTC, "viterbi", "greedy, beam4, sample"),
    (DAG, "k4", "greedy, lookahead, viterbi, beam4, sample"), (DAG, "nucleus0.9", "greedy"),
    (MASKED, "greedy", "m4, mT, sample")])
def test_a_search_that_a_family_cannot_do_is_refused(architecture, setting, fits):
    with pytest.raises(ConfigError, match=f"'{setting}' doesn't fit.*use {fits}"):
        hypotheses(model_of(architecture, VOCABULARY), *sources_of([[3]]), [setting],
                   Options(vocabulary=Numbers))


def test_a_missing_or_unfitting_teacher_is_refused():
    model = model_of(GAUSSIAN, VOCABULARY)
    for teacher, message in ((None, "needs a teacher: give a trained autoregressive model"),
                             (model_of(GAUSSIAN, VOCABULARY), "must be an autoregressive model"),
                             (model_of(AUTOREGRESSIVE, 9), r"\(8 subwords, the teacher has 9\)")):
        with pytest.raises(ConfigError, match=message):
            hypotheses(model, *sources_of([[3]]), ["k1-lengths3-teacher"],
                       Options(teacher=teacher))


@pytest.mark.parametrize("setting", ["mbr4-chrf", "k1-samples3-chrf"])
def test_a_missing_vocabulary_is_refused(setting):
    with pytest.raises(ConfigError, match="compares texts: give the vocabulary"):
        hypotheses(model_of(GAUSSIAN, VOCABULARY), *sources_of([[3]]), [setting])


# Sources -------------------------------------------------------------------------------------

@FAMILIES
def test_empty_sources_have_empty_hypotheses(architecture, settings):
    """Without a look at the model: a source that is only EOS, or only padding, or no source."""
    teacher = model_of(AUTOREGRESSIVE, VOCABULARY)
    model = model_of(architecture, VOCABULARY)
    given = Options(teacher=teacher, vocabulary=Numbers)
    model.encode = None
    padding = torch.zeros(1, 3, dtype=torch.int64)
    for source, mask, count in ((*sources_of([[], []]), 2), (*sources_of([[]], 7), 1),
                                (padding, padding.bool(), 1), (padding[:0], None, 0)):
        assert hypotheses(model, source, mask, settings, given) == {s: [[]] * count
                                                                      for s in settings}


@pytest.mark.parametrize(("architecture", "setting"), [(AUTOREGRESSIVE, "beam2"), (FLOW, "k1")])
def test_a_source_beyond_the_positions_is_refused(architecture, setting):
    model = model_of(architecture, VOCABULARY)
    short, long = [3, 4], [3 + i % 5 for i in range(LONGEST)]
    for rows, message in (([long], "source 1 of the batch has 1025 subwords"),
                          ([short, long], "source 2 of the batch has 1025 subwords")):
        with pytest.raises(DataError, match=f"{message}.*1024 at most: split it"):
            hypotheses(model, *sources_of(rows), [setting])
    padded = sources_of([short], LONGEST + 20)
    assert hypotheses(model, *padded, [setting]) == hypotheses(model, *sources_of([short]),
                                                               [setting])


def test_the_longest_source_has_a_hypothesis():
    """Its target could be longer by 30, for which there are no positions."""
    model = model_of(GAUSSIAN, VOCABULARY)
    with torch.no_grad():
        model.length_predictor.outer.bias[-1] = 1000.0
    source = sources_of([[3] * (LONGEST - 1)])
    with torch.no_grad():
        assert model.length_predictor.predict(model.encode(*source)).tolist() == [LONGEST - 4]


def test_unknown_subwords_are_read_as_any_other():
    for architecture, setting in ((AUTOREGRESSIVE, "greedy"), (GAUSSIAN, "k1")):
        model = model_of(architecture, VOCABULARY)
        rows = hypotheses(model, *sources_of([[UNK, UNK], [UNK, 5]]), [setting])[setting]
        assert len(rows) == 2 and all(isinstance(row, list) for row in rows)


def test_a_batch_of_the_corpus_translates(model):
    """The batch that training uses goes into search as it is."""
    batch = batch_of(ragged(5, VOCABULARY))
    assert len(greedy(model, batch.source, batch.source_mask)) == 5
