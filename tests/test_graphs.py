"""Decoding through CUDA graphs: the hypotheses of `lib.decoding`, and nothing asked of the host."""

from types import SimpleNamespace

import pytest
import torch
from tiny import AUTOREGRESSIVE, FLOW, GAUSSIAN, model_of, ragged, sources_of, with_actnorms
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.given_length import never_ending
from lib.autoregressive import DecoderState
from lib.decoding import Options, graphs, hypotheses
from lib.decoding.frozen import freeze
from lib.decoding.graphs import GraphedDecoder
from lib.decoding.search import Beams, longest_target
from lib.errors import ConfigError, DataError
from lib.layers import LONGEST, Memory

VOCABULARY = 11
EXACT = pytest.mark.usefixtures("float64")  # "fp32" is the model's own precision: here 64 bits
SETTINGS = [*((AUTOREGRESSIVE, s) for s in ("greedy", "beam3")),
            *((a, k) for a in (GAUSSIAN, FLOW) for k in ("k0", "k1", "k4"))]
ASKED = pytest.mark.parametrize(("architecture", "setting"), SETTINGS,
                                ids=[f"{a.family}-{s}" for a, s in SETTINGS])


def frozen_model(architecture, weights: str = "fp32", where: str = "cpu"):
    """A frozen model none of whose actnorms is the identity."""
    model = with_actnorms(architecture, VOCABULARY)
    return freeze(model.to(where), weights)


@pytest.fixture
def rows():
    """Sources, the last one empty."""
    return [*(source for source, _ in ragged(7, VOCABULARY, 12)), []]


def alone(row) -> torch.Tensor:
    return sources_of([row])[0]


def every_way(decoder, rows, where="cpu") -> list[list[list[int]]]:
    """All rows alone, backwards, in threes (a row of four is empty), and in one batch."""
    def of(some):
        source, mask = sources_of(some)
        return decoder(source.to(where), None if mask is None else mask.to(where))

    return [[words for row in rows for words in of([row])],
            [words for row in rows[::-1] for words in of([row])][::-1],
            [words for at in range(0, len(rows), 3) for words in of(rows[at:at + 3])],
            of(rows)]


@EXACT
@ASKED
def test_hypotheses_are_those_of_decoding_whatever_the_batch_and_the_padding(architecture, setting,
                                                                             rows, monkeypatch):
    """Sources alone, padded to eights, and all to one width; buckets are used again."""
    model = frozen_model(architecture)
    expected = hypotheses(model, *sources_of(rows), [setting])[setting]
    assert len({tuple(row) for row in expected}) > 2, "the model should say more than one thing"
    for bucket in (8, 24):
        monkeypatch.setattr(graphs, "BUCKET", bucket)
        decoder = GraphedDecoder(model, setting)
        for found in every_way(decoder, rows):
            assert found == expected
        widths = {shape[1] for shape in decoder._buckets if shape[0] == 1}
        assert widths == {len(row) + 1 for row in rows if row}
        assert {(shape[0], shape[1] % bucket) for shape in decoder._buckets if shape[0] > 1} == {
            (4, 0), (2, 0), (8, 0)}
        assert decoder.captured == 0


@EXACT
@pytest.mark.parametrize("penalty", [0.0, 2.0])
def test_the_length_penalty_is_that_of_the_options(penalty, rows):
    model, options = frozen_model(AUTOREGRESSIVE), Options(penalty)
    expected = hypotheses(model, *sources_of(rows), ["beam4"], options)["beam4"]
    assert GraphedDecoder(model, "beam4", options)(*sources_of(rows)) == expected
    assert expected != hypotheses(model, *sources_of(rows), ["beam4"], Options(1.0))["beam4"]


@EXACT
def test_a_length_that_is_asked_for_is_kept(rows):
    """Longer than search would go, and for latent models padded to a multiple of 4."""
    search = GraphedDecoder(never_ending(frozen_model(AUTOREGRESSIVE)), "beam3")
    latent = GraphedDecoder(frozen_model(GAUSSIAN), "k1")
    latent.model.decode = lambda z, *rest: SimpleNamespace(
        argmax=lambda: torch.full(z.shape[:2], 5))
    for length in (1, 6, 33):
        assert {len(words) for words in search(*sources_of(rows[:3]), length)} == {length - 1}
        assert {len(words) for words in latent(*sources_of(rows[:3]), length)} == {
            -(-length // 4) * 4}


@EXACT
def test_refinement_changes_the_hypotheses_that_are_compared(rows):
    model = frozen_model(GAUSSIAN)
    found = [GraphedDecoder(model, setting)(*sources_of(rows))
             for setting in ("k0", "k1", "k4")]
    assert found[0] != found[1] != found[2]


@EXACT
def test_greedy_search_gives_up_where_beam_search_does(rows):
    """A model that never says EOS, beyond the padded source's own limit too."""
    model = frozen_model(AUTOREGRESSIVE)
    plain = model.output.forward

    def endless(states):
        logits = plain(states).clone()
        logits[..., 2] = -100.0
        return logits

    model.output.forward = endless
    decoder = GraphedDecoder(model, "greedy")
    for row in rows[:3]:
        assert len(decoder(alone(row))[0]) == longest_target(len(row) + 1) - 1
        assert decoder(alone(row)) == hypotheses(model, alone(row), None, ["greedy"])["greedy"]


def tensors(result, other=None) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """All tensors that a stage gives, and beside each that of another result."""
    other = result if other is None else other
    if isinstance(result, torch.Tensor):
        return [(result, other)]
    if isinstance(result, Memory | DecoderState | Beams):
        names = [name for name, value in vars(other).items() if value is not None]
        return [pair for name in names
                for pair in tensors(vars(result)[name], vars(other)[name])]
    if isinstance(result, list | tuple):
        return [pair for both in zip(result, other, strict=True) for pair in tensors(*both)]
    return []


class Replayed(graphs._Stage):
    """What a captured stage does, without a GPU: new values in the tensors of its first run."""

    def __init__(self, function, decoder, writes=()):
        super().__init__(function, decoder)
        before = [tensor.clone() for tensor in writes]
        self.result = function()
        for tensor, value in zip(writes, before, strict=True):  # a capture runs nothing
            tensor.copy_(value)
        if not writes:
            for tensor, _ in tensors(self.result):
                tensor.fill_(torch.nan if tensor.is_floating_point() else 0)

    def __call__(self):
        for place, value in tensors(self.result, self.function()):
            place.copy_(value)
        return self.result


@EXACT
@ASKED
def test_stages_whose_results_stay_in_their_places_give_the_same(architecture, setting, rows,
                                                                 monkeypatch):
    """A replay changes tensors in their places, and nothing of what Python holds."""
    steps = graphs._Searched._steps

    def replayed(self, first):
        beams = self.encode.result
        before = dict(vars(beams)), dict(vars(beams.state))
        result = steps(self, first)
        vars(beams).update(before[0])
        vars(beams.state).update({k: v for k, v in before[1].items() if v is not None})
        return result

    model = frozen_model(architecture)
    expected = hypotheses(model, *sources_of(rows), [setting])[setting]
    monkeypatch.setattr(graphs, "_Stage", Replayed)
    monkeypatch.setattr(graphs._Searched, "_steps", replayed)
    decoder = GraphedDecoder(model, setting)
    for _ in range(2):
        for found in every_way(decoder, rows):
            assert found == expected


class Watch(TorchDispatchMode):
    """Refuses what makes a GPU's stream wait for the host, or takes its shape from values."""

    ASKING = ("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "unique",
              "lift_fresh", "lift_fresh_copy", "repeat_interleave.Tensor")

    def __torch_dispatch__(self, function, types, given=(), named=None):
        name = str(function).removeprefix("aten.")
        assert not any(name == asking or name.startswith(f"{asking}.") for asking in self.ASKING), (
            f"{function} asks the host")
        return function(*given, **(named or {}))


@EXACT
@ASKED
def test_a_stage_asks_nothing_of_the_host(architecture, setting, rows, monkeypatch):
    decoder = GraphedDecoder(frozen_model(architecture), setting)
    expected = every_way(decoder, rows)  # and tables are there
    calls, plain = [], graphs._Stage.__call__

    def watched(stage):
        calls.append(stage)
        with Watch():
            return plain(stage)

    monkeypatch.setattr(graphs._Stage, "__call__", watched)
    assert every_way(decoder, rows) == expected
    assert len(calls) >= 4 * len(rows)


@EXACT
def test_a_sentence_alone_is_cut_to_its_own_width(rows):
    decoder = GraphedDecoder(frozen_model(GAUSSIAN), "k1")
    source, mask = sources_of(rows[:1], 30)
    assert decoder(source, mask) == decoder(alone(rows[0]))
    assert len(decoder._buckets) == 1


def test_the_watch_sees_the_questions_of_eager_decoding(rows):
    """Refinement's early end, and the comparison of a trainable flow's weights."""
    for model in (frozen_model(GAUSSIAN), model_of(FLOW, VOCABULARY)):
        with pytest.raises(AssertionError, match="asks the host"), Watch():
            hypotheses(model, alone(rows[0]), None, ["k1"])


def test_what_has_no_graphs_is_refused():
    latent, transformer = frozen_model(GAUSSIAN), frozen_model(AUTOREGRESSIVE)
    with pytest.raises(ConfigError, match="'sample' can't go through CUDA graphs"):
        GraphedDecoder(transformer, "sample")
    with pytest.raises(ConfigError, match="'k1-lengths3-bound' can't go through CUDA graphs"):
        GraphedDecoder(latent, "k1-lengths3-bound")
    with pytest.raises(ConfigError, match="doesn't fit"):
        GraphedDecoder(latent, "greedy")
    with pytest.raises(ConfigError, match=r"give freeze\(model\)"):
        GraphedDecoder(model_of(GAUSSIAN, VOCABULARY), "k1")
    with pytest.raises(ConfigError, match="no CUDA graphs on cpu"):
        GraphedDecoder(latent, "k1", graphs=True)


def test_a_source_beyond_the_positions_is_refused():
    with pytest.raises(DataError, match=f"{LONGEST + 1} subwords"):
        GraphedDecoder(frozen_model(GAUSSIAN), "k0")(torch.full((1, LONGEST + 1), 5))


@pytest.mark.gpu
@EXACT
@ASKED
def test_graphs_give_the_hypotheses_of_decoding_on_the_cpu(architecture, setting, rows):
    """In 64 bits: every shape captured, then replayed in another order."""
    model = frozen_model(architecture)
    expected = hypotheses(model, *sources_of(rows), [setting])[setting]
    decoder, captured = GraphedDecoder(model.to("cuda"), setting), []
    for order in (1, -1, 1):
        for found in every_way(decoder, rows[::order], "cuda"):
            assert found == expected[::order]
        captured.append(decoder.captured)
    assert captured[0] >= 6
    assert captured[2] == captured[1]


@pytest.mark.gpu
@pytest.mark.parametrize("weights", ["fp32", "bf16"])
@ASKED
def test_graphs_give_what_plain_calls_of_them_give(architecture, setting, weights, rows):
    model = frozen_model(architecture, weights, "cuda")
    decoder, plain = GraphedDecoder(model, setting), GraphedDecoder(model, setting, graphs=False)
    assert every_way(decoder, rows, "cuda") == every_way(plain, rows, "cuda")
