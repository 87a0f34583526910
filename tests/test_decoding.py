"""Search: greedy and beam search against enumeration, refinement against a loop by hand."""

from itertools import product

import pytest
import torch
from tiny import AUTOREGRESSIVE, FLOW, GAUSSIAN, batch_of, model_of, ragged, sources_of

from lib.autoregressive import DecoderState
from lib.batching import Batch
from lib.decoding import (
    beam_search,
    greedy,
    hypotheses,
    length_normaliser,
    longest_target,
    refine,
)
from lib.errors import ConfigError
from lib.subword import BOS, EOS, PAD

VOCABULARY = 8

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def model():
    return model_of(AUTOREGRESSIVE, VOCABULARY)


@pytest.fixture
def sources():
    return [source for source, _ in ragged(9, VOCABULARY)]


@torch.no_grad()
def log_probs(model, source: list[int], targets: list[list[int]]) -> torch.Tensor:
    """log p of targets of one length, exactly as given (EOS where they have one), without cache."""
    target = torch.tensor(targets)
    count, length = target.shape
    batch = Batch(sources_of([source])[0].expand(count, -1), None, target, None,
                  torch.full((count,), length), torch.arange(count))
    return model.log_prob_terms(batch).log_p_y[0]


def greedy_by_hand(model, source: list[int], longest: int) -> list[int]:
    found = []
    while len(found) < longest - 1:
        scores = log_probs(model, source, [[*found, v] for v in range(VOCABULARY)])
        scores[[PAD, BOS]] = -torch.inf
        best = int(scores.argmax())
        if best == EOS:
            break
        found.append(best)
    return found


def test_length_normaliser_by_hand():
    assert length_normaliser(7, 1.0) == 2.0  # ((5 + 7) / 6) ** 1
    assert length_normaliser(7, 0.6) == pytest.approx(2**0.6)
    assert length_normaliser(1, 0.6) == length_normaliser(40, 0.0) == 1.0


def test_longest_target_by_hand():
    assert [longest_target(n) for n in (1, 5, 40, 100)] == [12, 20, 90, 150]


def test_greedy_is_the_loop_by_hand(model, sources):
    expected = [greedy_by_hand(model, s, longest_target(len(s) + 1)) for s in sources]
    assert greedy(model, *sources_of(sources)) == expected
    assert len({tuple(e) for e in expected}) > 3, "the model should say more than one thing"


def test_beam_of_one_is_greedy(model, sources):
    for penalty in (0.0, 1.0):
        found, _ = beam_search(model, *sources_of(sources), width=1, length_penalty=penalty)
        assert found == greedy(model, *sources_of(sources))


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_wide_beam_is_enumeration(penalty, seed):
    """Vocabulary of three words, at most three words a hypothesis: all 40 are enumerated."""
    torch.manual_seed(seed)
    vocabulary, longest = 6, 4
    model = model_of(AUTOREGRESSIVE, vocabulary, spread=0.3)
    sources = [[3, 4, 5], [4], [5, 5, 3, 4]]
    expected = []
    for source in sources:
        scored = {}
        for length in range(longest):
            strings = [list(words) for words in product((3, 4, 5), repeat=length)]
            found = log_probs(model, source, [[*words, EOS] for words in strings])
            for words, score in zip(strings, found.tolist(), strict=True):
                scored[tuple(words)] = score / length_normaliser(length + 1, penalty)
        assert len(scored) == 40
        expected.append(max(scored.items(), key=lambda item: item[1]))
    found, scores = beam_search(model, *sources_of(sources), width=64, length_penalty=penalty,
                                longest=longest)
    assert found == [list(words) for words, _ in expected]
    torch.testing.assert_close(scores, torch.tensor([score for _, score in expected]))


def test_a_length_penalty_lengthens(model, sources):
    """Dividing by a growing number favours long hypotheses: the sum of lengths rises."""
    lengths = [sum(map(len, beam_search(model, *sources_of(sources), width=8,
                                        length_penalty=penalty)[0]))
               for penalty in (0.0, 1.0, 3.0)]
    assert lengths[0] < lengths[1] < lengths[2]


@pytest.mark.parametrize("penalty", [0.0, 0.6])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_scores_are_normalised_log_probs(model, sources, width, penalty):
    found, scores = beam_search(model, *sources_of(sources), width=width, length_penalty=penalty)
    for source, words, score in zip(sources, found, scores.tolist(), strict=True):
        exact = float(log_probs(model, source, [[*words, EOS]])[0])
        lp = length_normaliser(len(words) + 1, penalty)
        assert score == pytest.approx(exact / lp, abs=1e-11)


@pytest.mark.parametrize("width", [1, 4])
def test_the_company_of_a_sentence_changes_nothing(model, sources, width, monkeypatch):
    """Alone, together, in another order, and padded further; and done sentences leave the batch."""
    kept = []
    keep = DecoderState.keep

    def spy(self, sentences, rows):
        kept.append(len(sentences))
        keep(self, sentences, rows)

    monkeypatch.setattr(DecoderState, "keep", spy)

    def search(rows, padding=0):
        return beam_search(model, *sources_of(rows, padding), width=width)

    alone = [search([s]) for s in sources]
    expected = [words for (words,), _ in alone]
    assert not kept
    found, scores = search(sources)
    assert kept, "no sentence left the batch: the test shows nothing"
    assert found == expected
    torch.testing.assert_close(scores, torch.cat([score for _, score in alone]))
    order = torch.randperm(len(sources)).tolist()
    assert search([sources[i] for i in order])[0] == [expected[i] for i in order]
    assert search(sources, padding=30)[0] == expected
    assert search([sources[0]], padding=30)[0] == expected[:1]


def test_a_long_neighbour_lends_no_length():
    """Where the model would never stop, each sentence stops at the limit of its own length."""
    model = endless()
    short, long = [3, 4], [3, 4, 5, 6, 7, 3, 4, 5]
    found, _ = beam_search(model, *sources_of([short, long]), width=3)
    assert [len(words) + 1 for words in found] == [longest_target(3), longest_target(9)]
    assert found[0] == beam_search(model, *sources_of([short]), width=3)[0][0]


def endless() -> torch.nn.Module:
    """A model that gives EOS hardly any probability."""
    model = model_of(AUTOREGRESSIVE, VOCABULARY)
    with torch.no_grad():
        model.decoder.norm.bias[0] = 20.0
        model.embedding.weight[:, 0] = 0.0
        model.embedding.weight[EOS, 0] = -2.0
    return model


@pytest.mark.parametrize("width", [1, 4])
def test_the_length_limit_forces_an_end(width):
    model, source = endless(), [3, 4, 5]
    (words,), (score,) = beam_search(model, *sources_of([source]), width=width, longest=6,
                                     length_penalty=0.0)
    assert len(words) == 5
    assert EOS not in words
    exact = float(log_probs(model, source, [[*words, EOS]])[0])
    assert float(score) == pytest.approx(exact, abs=1e-9)
    assert exact < -30


def test_padding_and_beginning_are_never_produced(sources):
    model = model_of(AUTOREGRESSIVE, VOCABULARY)
    with torch.no_grad():
        model.decoder.norm.bias[0] = 20.0
        model.embedding.weight[[PAD, BOS], 0] = 2.0
    for width in (1, 4):
        found, _ = beam_search(model, *sources_of(sources), width=width)
        assert not any({PAD, BOS, EOS} & set(words) for words in found)


@pytest.mark.parametrize(("width", "penalty"), [(0, 0.6), (4, -0.1)])
def test_a_beam_that_makes_no_sense_is_refused(model, width, penalty):
    with pytest.raises(ConfigError, match="beam width .* length penalty"):
        beam_search(model, *sources_of([[3]]), width=width, length_penalty=penalty)


# Refinement ----------------------------------------------------------------------------------

LATENT = pytest.mark.parametrize("architecture", [GAUSSIAN, FLOW], ids=["gaussian", "flow"])


@torch.no_grad()
def refined_by_hand(model, source: list[int], steps: int, length: int) -> list[list[int]]:
    """Subwords of one sentence before the first EOS, after 0, 1, ... `steps` steps."""
    memory = model.encode(*sources_of([source]))
    z, found = model.prior(memory, length, None).mean, []
    for _ in range(steps + 1):
        states = model.decode(z, memory, None).states
        y = (states @ model.embedding.weight.T).argmax(-1)
        words = y[0].tolist()
        words = words[:words.index(EOS)] if EOS in words else words
        found.append([w for w in words if w not in (PAD, BOS)])
        z = model.posterior(memory, y, None).mean
    return found


@LATENT
def test_refinement_is_the_loop_by_hand(architecture, sources):
    model = model_of(architecture, VOCABULARY)
    steps = [0, 1, 2, 4]
    lengths = torch.tensor([4 * (1 + i % 3) for i in range(len(sources))])
    found = refine(model, *sources_of(sources), steps, lengths)
    assert list(found) == steps
    expected = [refined_by_hand(model, s, 4, int(n))
                for s, n in zip(sources, lengths, strict=True)]
    for k in steps:
        assert found[k] == [rows[k] for rows in expected], f"k = {k}"
    assert found[0] != found[1], "refinement should change something"


@LATENT
def test_the_start_is_the_most_probable_output_at_the_prior_mean(architecture):
    model = model_of(architecture, VOCABULARY)
    memory = model.encode(*sources_of([[3, 4, 5]]))
    length = int(model.length_predictor.predict(memory)[0])
    assert refine(model, *sources_of([[3, 4, 5]]), [0]) == {
        0: [refined_by_hand(model, [3, 4, 5], 0, length)[0]]}


@LATENT
def test_the_company_of_a_sentence_changes_no_refinement(architecture, sources):
    model = model_of(architecture, VOCABULARY)
    together = refine(model, *sources_of(sources), [0, 2])
    further = refine(model, *sources_of(sources, 20), [0, 2])
    assert together == further
    for place, source in enumerate(sources):
        alone = refine(model, *sources_of([source]), [0, 2])
        assert {k: rows[0] for k, rows in alone.items()} == {
            k: rows[place] for k, rows in together.items()}


def test_one_pass_serves_all_steps(sources):
    model = model_of(GAUSSIAN, VOCABULARY)
    together = refine(model, *sources_of(sources), [4, 0, 1])
    assert list(together) == [4, 0, 1]
    for k in (0, 1, 4):
        assert refine(model, *sources_of(sources), [k])[k] == together[k]


def test_refinement_ends_when_nothing_changes(sources, monkeypatch):
    model = model_of(GAUSSIAN, VOCABULARY)
    torch.nn.init.zeros_(model.latent.weight)  # the output no longer depends on z
    calls = []
    posterior = type(model).posterior
    monkeypatch.setattr(type(model), "posterior",
                        lambda self, *a: calls.append(1) or posterior(self, *a))
    found = refine(model, *sources_of(sources), [0, 3, 8])
    assert len(calls) == 1
    assert found[0] == found[3] == found[8]


def test_given_lengths_are_used(monkeypatch):
    model = model_of(GAUSSIAN, VOCABULARY)
    with torch.no_grad():  # every position is a word: EOS, PAD and BOS never win
        model.decoder.norm.bias[0] = 20.0
        model.embedding.weight[[PAD, BOS, EOS], 0] = -2.0
    monkeypatch.setattr(model.length_predictor, "predict", None)
    found = refine(model, *sources_of([[3], [4, 5]]), [0, 1], torch.tensor([4, 8]))
    assert [[len(row) for row in rows] for rows in found.values()] == [[4, 8], [4, 8]]


@pytest.mark.parametrize("steps", [[], [-1], [0, -2]])
def test_refinement_steps_that_make_no_sense_are_refused(steps):
    with pytest.raises(ConfigError, match="at least one number, 0 or more"):
        refine(model_of(GAUSSIAN, VOCABULARY), *sources_of([[3]]), steps)


# Settings ------------------------------------------------------------------------------------

def test_settings_give_what_they_name(model, sources):
    found = hypotheses(model, *sources_of(sources), ["beam3", "greedy"], length_penalty=1.0)
    assert list(found) == ["beam3", "greedy"]
    assert found["greedy"] == greedy(model, *sources_of(sources))
    assert found["beam3"] == beam_search(model, *sources_of(sources), 3, 1.0)[0]


def test_settings_of_a_latent_model(sources):
    model = model_of(FLOW, VOCABULARY)
    found = hypotheses(model, *sources_of(sources), ["k2", "k0"])
    assert list(found) == ["k2", "k0"]
    expected = refine(model, *sources_of(sources), [0, 2])
    assert found == {"k0": expected[0], "k2": expected[2]}


@pytest.mark.parametrize("setting", ["bean4", "beam", "k", "k-1", "beam-2", "", "Greedy", "k1 "])
def test_unknown_setting_is_refused(model, setting):
    with pytest.raises(ConfigError, match=r"unknown decoding setting .*greedy, beam<width>.*k1"):
        hypotheses(model, *sources_of([[3]]), [setting])


@pytest.mark.parametrize("setting", ["greedy", "beam4"])
def test_search_of_a_latent_model_is_refused(setting):
    with pytest.raises(ConfigError, match=f"'{setting}' doesn't fit.*use k0, k1"):
        hypotheses(model_of(GAUSSIAN, VOCABULARY), *sources_of([[3]]), [setting])


def test_refinement_of_a_transformer_is_refused(model):
    with pytest.raises(ConfigError, match=r"'k4' doesn't fit.*use greedy, beam4"):
        hypotheses(model, *sources_of([[3]]), ["k4"])


def test_an_empty_beam_is_refused(model):
    with pytest.raises(ConfigError, match="beam width 0"):
        hypotheses(model, *sources_of([[3]]), ["beam0"])


def test_a_batch_of_the_corpus_translates(model):
    """The batch that training uses goes into search as it is."""
    batch = batch_of(ragged(5, VOCABULARY))
    assert len(greedy(model, batch.source, batch.source_mask)) == 5
