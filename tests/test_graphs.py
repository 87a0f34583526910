"""Decoding through CUDA graphs: the hypotheses of `lib.decoding`, and nothing asked of the host."""

import pytest
import torch
from tiny import AUTOREGRESSIVE, FLOW, GAUSSIAN, model_of, ragged, sources_of
from torch.utils._python_dispatch import TorchDispatchMode

from lib.autoregressive import DecoderState
from lib.decoding import graphs, hypotheses
from lib.decoding.frozen import freeze
from lib.decoding.graphs import GraphedDecoder
from lib.decoding.search import longest_target
from lib.errors import ConfigError, DataError
from lib.flows import ActNorm
from lib.layers import LONGEST, Memory

VOCABULARY = 11
EXACT = pytest.mark.usefixtures("float64")  # "fp32" is the model's own precision: here 64 bits
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
ASKED = pytest.mark.parametrize(
    ("architecture", "setting"),
    [(AUTOREGRESSIVE, "greedy"), *((a, k) for a in (GAUSSIAN, FLOW) for k in ("k0", "k1", "k4"))],
    ids=["greedy", *(f"{a}-{k}" for a in ("gaussian", "flow") for k in ("k0", "k1", "k4"))])


def frozen_model(architecture, weights: str = "fp32", where: str = "cpu"):
    """A frozen model none of whose actnorms is the identity."""
    model = model_of(architecture, VOCABULARY)
    for module in model.modules():
        if isinstance(module, ActNorm):
            torch.nn.init.normal_(module.log_scale, std=0.3)
            torch.nn.init.normal_(module.b, std=0.5)
    return freeze(model.to(where), weights)


@pytest.fixture
def rows():
    """Sources, the last one empty."""
    return [*(source for source, _ in ragged(9, VOCABULARY, 12)), []]


def alone(row) -> torch.Tensor:
    return sources_of([row])[0]


@EXACT
@ASKED
def test_hypotheses_are_those_of_decoding_whatever_the_padding(architecture, setting, rows):
    """Sources unpadded, padded to eights, and all to one width; buckets are used again."""
    model = frozen_model(architecture)
    expected = hypotheses(model, *sources_of(rows), [setting])[setting]
    assert len({tuple(row) for row in expected}) > 3, "the model should say more than one thing"
    for bucket in (1, 8, 24):
        decoder = GraphedDecoder(model, setting, bucket=bucket)
        assert [decoder(alone(row)) for row in rows] == expected
        assert [decoder(alone(row)) for row in rows[::-1]] == expected[::-1]
        widths = {-(-(len(row) + 1) // bucket) * bucket for row in rows if row}
        assert set(decoder._buckets) == widths and decoder.captured == 0


@EXACT
def test_refinement_changes_the_hypotheses_that_are_compared(rows):
    model = frozen_model(GAUSSIAN)
    found = [[GraphedDecoder(model, setting)(alone(row)) for row in rows]
             for setting in ("k0", "k1", "k4")]
    assert found[0] != found[1] != found[2]


@EXACT
def test_greedy_search_gives_up_where_beam_search_does(rows):
    """A model that never says EOS, beyond the padded source's own limit too."""
    model = frozen_model(AUTOREGRESSIVE)
    plain = model._logits

    def endless(states):
        logits = plain(states).clone()
        logits[..., 2] = -100.0
        return logits

    model._logits = endless
    decoder = GraphedDecoder(model, "greedy")
    for row in rows[:3]:
        assert len(decoder(alone(row))) == longest_target(len(row) + 1) - 1
        assert decoder(alone(row)) == hypotheses(model, alone(row), None, ["greedy"])["greedy"][0]


def tensors(result) -> list[torch.Tensor]:
    """All tensors that a stage gives."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, Memory):
        return [result.states, result.mask]
    if isinstance(result, DecoderState):
        return [*tensors(result.sources), result.bias]
    return [tensor for part in result for tensor in tensors(part)]


class Replayed(graphs._Stage):
    """What a captured stage does, without a GPU: new values in the tensors of its first run."""

    def __init__(self, function, pool):
        super().__init__(function, None)
        self.result = function()
        for tensor in tensors(self.result):
            tensor.fill_(torch.nan if tensor.is_floating_point() else 0)  # a capture runs nothing

    def __call__(self):
        pairs = zip(tensors(self.result), tensors(self.function()), strict=True)
        for place, value in pairs:
            place.copy_(value)
        return self.result


@EXACT
@ASKED
def test_stages_whose_results_stay_in_their_places_give_the_same(architecture, setting, rows,
                                                                 monkeypatch):
    model = frozen_model(architecture)
    expected = hypotheses(model, *sources_of(rows), [setting])[setting]
    monkeypatch.setattr(graphs, "_Stage", Replayed)
    decoder = GraphedDecoder(model, setting)
    for _ in range(2):
        assert [decoder(alone(row)) for row in rows] == expected


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
    expected = [decoder(alone(row)) for row in rows]  # and tables are there
    calls, plain = [], graphs._Stage.__call__

    def watched(stage):
        calls.append(stage)
        with Watch():
            return plain(stage)

    monkeypatch.setattr(graphs._Stage, "__call__", watched)
    assert [decoder(alone(row)) for row in rows] == expected
    assert len(calls) >= 2 * (len(rows) - 1)


def test_the_watch_sees_the_questions_of_eager_decoding(rows):
    """Refinement's early end, and the comparison of a trainable flow's weights."""
    for model in (frozen_model(GAUSSIAN), model_of(FLOW, VOCABULARY)):
        with pytest.raises(AssertionError, match="asks the host"), Watch():
            hypotheses(model, alone(rows[0]), None, ["k1"])


def test_what_has_no_graphs_is_refused():
    latent, transformer = frozen_model(GAUSSIAN), frozen_model(AUTOREGRESSIVE)
    for setting in ("beam4", "sample"):
        with pytest.raises(ConfigError, match=f"'{setting}' can't go through CUDA graphs"):
            GraphedDecoder(transformer, setting)
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
        GraphedDecoder(frozen_model(GAUSSIAN), "k0", bucket=1)(torch.full((1, LONGEST + 1), 5))


@GPU
@EXACT
@ASKED
def test_graphs_give_the_hypotheses_of_decoding(architecture, setting, rows):
    """On a GPU, in 64 bits: every bucket captured, then replayed in another order."""
    model = frozen_model(architecture, where="cuda")
    expected = [hypotheses(model, alone(row).cuda(), None, [setting])[setting][0] for row in rows]
    decoder = GraphedDecoder(model, setting)
    assert [decoder(alone(row).cuda()) for row in rows] == expected
    captured = decoder.captured
    assert captured >= 2
    assert [decoder(alone(row).cuda()) for row in rows[::-1]] == expected[::-1]
    assert decoder.captured == captured


@GPU
def test_graphs_in_bf16_give_what_plain_calls_of_them_give(rows):
    for architecture, setting in ((AUTOREGRESSIVE, "greedy"), (GAUSSIAN, "k4"), (FLOW, "k4")):
        model = frozen_model(architecture, "bf16", "cuda")
        decoder, plain = GraphedDecoder(model, setting), GraphedDecoder(model, setting, False)
        for row in rows:
            assert decoder(alone(row).cuda()) == plain(alone(row).cuda())
