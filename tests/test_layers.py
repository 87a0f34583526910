"""Attention, norms and positions against formulas written out; nothing looks at padding."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib import layers
from lib.errors import DataError
from lib.layers import Decoder, Dropout, Embedding, Encoder, Memory, WeightNormLinear

pytestmark = pytest.mark.usefixtures("float64")

LENGTHS = torch.tensor([3, 7, 5])


def ragged(lengths, longest=None):
    longest = int(lengths.max()) if longest is None else longest
    return torch.arange(longest) < lengths[:, None]


def close(a, b, tolerance=1e-11):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


# Attention -----------------------------------------------------------------------------------

@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("length", [7, 260])  # written out, and by the fused kernel
def test_attention_equals_the_formula_and_torch(length, padded, causal):
    query, key, value = torch.randn(3, 3, 2, length, 4).unbind(0)
    allowed = torch.ones(3, 1, length, length, dtype=torch.bool)
    mask = ragged(torch.tensor([3, length, 5]), length) if padded else None
    if padded:
        allowed = allowed & mask[:, None, None, :]
    if causal:
        allowed = allowed & torch.ones(length, length, dtype=torch.bool).tril()
    ours = layers.attend(query, key, value, layers.mask_bias(mask), causal)
    close(ours, F.scaled_dot_product_attention(query, key, value, allowed))
    weights = torch.einsum("bhqw,bhkw->bhqk", query, key).div(2).exp() * allowed
    close(ours, torch.einsum("bhqk,bhkw->bhqw", weights / weights.sum(-1, keepdim=True), value))


def test_attention_drops_weights_in_training_only():
    query, key, value = torch.randn(3, 1, 1, 5, 4).unbind(0)
    dropout = Dropout(0.5)
    assert not torch.allclose(layers.attend(query, key, value, dropout=dropout),
                              layers.attend(query, key, value))
    close(layers.attend(query, key, value, dropout=dropout.eval()),
          layers.attend(query, key, value))


def test_mask_bias_values():
    assert layers.mask_bias(None) is None
    bias = layers.mask_bias(torch.tensor([[True, False]]))
    assert bias.tolist() == [[[[0.0, layers.NOTHING]]]]
    filler = layers.mask_bias(torch.tensor([[True, False], [False, False]]))
    assert filler.flatten(1).tolist() == [[0.0, layers.NOTHING], [0.0, 0.0]]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_without_a_key_leave_gradients_finite_in_fused_attention(dtype):
    torch.manual_seed(0)
    inputs = [torch.randn(250, 4, 8, 48, device="cuda", dtype=dtype, requires_grad=True)
              for _ in range(3)]
    mask = torch.arange(8, device="cuda") < torch.randint(0, 9, (250, 1), device="cuda")
    out = layers.attend(*inputs, layers.mask_bias(mask))
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(out.float().sum(), inputs))


def test_source_keys_and_values_equal_separate_products():
    source = layers.SourceKeysValues(6, [8, 4], heads=2)
    states = torch.randn(3, 5, 6)
    weights = source.weight.split([8, 8, 4, 4])
    for (key, value), w_key, w_value in zip(source(states), weights[::2], weights[1::2],
                                            strict=True):
        for ours, weight in ((key, w_key), (value, w_value)):
            assert ours.shape == (3, 2, 5, len(weight) // 2)
            for head, rows in enumerate(weight.chunk(2)):
                close(ours[:, head], states @ rows.T)


# Encoder and decoder -------------------------------------------------------------------------

def encoder():
    return Encoder(2, 8, 12, 2, 0.0)


def decoder():
    return Decoder(2, 8, 12, 2, 0.0)


def test_encoder_ignores_padding():
    model, mask = encoder(), ragged(LENGTHS)
    x = torch.randn(3, 7, 8)
    states = model(x, mask).states
    assert not torch.allclose(model(x, None).states[0, :3], states[0, :3])
    junk = torch.where(mask[..., None], x, 100 * torch.randn(3, 7, 8))
    close(model(junk, mask).states[mask], states[mask])
    for row, length in enumerate(LENGTHS):
        close(model(x[row:row + 1, :length], None).states[0], states[row, :length])


@pytest.mark.parametrize("causal", [False, True])
def test_decoder_ignores_padding_of_source_and_target(causal):
    model, mask, source_mask = decoder(), ragged(LENGTHS), ragged(LENGTHS.flip(0))
    x, source = torch.randn(3, 7, 8), torch.randn(3, 7, 8)
    states = model(x, Memory(source, source_mask), mask, causal)
    junk = torch.where(source_mask[..., None], source, 100 * torch.randn(3, 7, 8))
    other = torch.where(mask[..., None], x, 100 * torch.randn(3, 7, 8))
    close(model(other, Memory(junk, source_mask), mask, causal)[mask], states[mask])
    for row, length in enumerate(LENGTHS):
        memory = Memory(source[row:row + 1, :LENGTHS.flip(0)[row]], None)
        close(model(x[row:row + 1, :length], memory, None, causal)[0], states[row, :length])
    changed = model(x, Memory(source + torch.randn(8), source_mask), mask, causal)
    assert (changed - states)[mask].abs().amax(-1).min() > 1e-3  # every position reads the source


@pytest.mark.parametrize("causal", [False, True])
def test_causal_states_depend_on_no_later_position(causal):
    x = torch.randn(1, 6, 8, requires_grad=True)
    states = decoder()(x, Memory(torch.randn(1, 4, 8), None), None, causal)
    direction = torch.randn(8)  # the sum of a normalised state is constant
    reached = torch.stack([torch.autograd.grad((states[0, t] * direction).sum(), x,
                                               retain_graph=True)[0][0].abs().sum(-1)
                           for t in range(6)])
    later = torch.ones(6, 6).triu(1).bool()
    assert (reached[~later] > 1e-6).all()
    assert (reached[later] == 0).all() if causal else (reached[later] > 1e-6).all()


@pytest.mark.parametrize("samples", [1, 4])
def test_samples_that_share_a_source_equal_repeated_sources(samples):
    model, mask = decoder(), ragged(LENGTHS)
    x, source = torch.randn(3 * samples, 4, 8), torch.randn(3, 7, 8)
    repeated = Memory(source.repeat_interleave(samples, 0), mask.repeat_interleave(samples, 0))
    close(model(x, Memory(source, mask)), model(x, repeated))


def test_self_attention_by_steps_equals_all_at_once():
    model, x = layers.SelfAttention(8, 2, 0.0), torch.randn(3, 5, 8)
    cache = torch.full((2, 3, 2, 5, 4), math.nan)
    steps = [model.step(x[:, t:t + 1], cache, t) for t in range(5)]
    close(torch.cat(steps, 1), model(x, causal=True))


def test_decoder_layer_by_steps_equals_all_at_once():
    model, x = layers.DecoderLayer(8, 12, 2, 0.0), torch.randn(3, 5, 8)
    source = tuple(torch.randn(2, 3, 2, 7, 4).unbind(0))
    bias = layers.mask_bias(ragged(LENGTHS))
    cache = torch.full((2, 3, 2, 5, 4), math.nan)
    steps = [model.step(x[:, t:t + 1], cache, t, source, bias) for t in range(5)]
    close(torch.cat(steps, 1), model(x, None, source, bias, causal=True))


# Dropout -------------------------------------------------------------------------------------

def test_dropout_zeroes_its_rate_and_keeps_the_mean():
    x = torch.full((400, 500), 3.0)
    for rate in (0.1, 0.5):
        y = Dropout(rate)(x)
        error = math.sqrt(rate * (1 - rate) / x.numel())
        assert abs(float((y == 0).double().mean()) - rate) < 5 * error
        close(y[y != 0], torch.full_like(y[y != 0], 3.0 / (1 - rate)))
        assert abs(float(y.mean()) / 3 - 1) < 5 * error / (1 - rate)


def test_dropout_is_the_identity_in_evaluation_and_at_rate_0():
    x = torch.randn(4, 5)
    assert torch.equal(Dropout(0.3).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_dropout_repeats_from_a_restored_state_and_only_then():
    dropout, x = Dropout(0.3), torch.ones(50, 50)
    state = torch.get_rng_state()
    first, second = dropout(x), dropout(x)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(dropout(x), first)
    assert torch.equal(dropout(x), second)


@pytest.mark.parametrize("size", [1, 2**20, 2**20 + 1])
def test_dropout_reaches_the_last_window_of_its_pool(size, monkeypatch):
    monkeypatch.setattr(layers.torch, "randint", lambda high, _: torch.tensor(high - 1))
    assert Dropout(0.5)(torch.ones(size, dtype=torch.float32)).shape == (size,)


# Positions and embeddings --------------------------------------------------------------------

def test_positions_hand_worked():
    table = layers.positions(3, 5)  # rates 1, 1/100 and 1/10000; the last cosine doesn't fit
    for t in range(3):
        expected = [math.sin(t), math.sin(t / 100), math.sin(t / 10_000), math.cos(t),
                    math.cos(t / 100)]
        close(table[t], torch.tensor(expected), 1e-14)


def test_positions_come_in_todays_precision():
    assert layers.positions(4, 6).dtype == torch.float64
    torch.set_default_dtype(torch.float32)
    assert layers.positions(4, 6).dtype == torch.float32
    assert layers.positions(4, 6, dtype=torch.float64).dtype == torch.float64


def test_positions_first_used_in_inference_can_be_trained_with():
    with torch.inference_mode():
        layers.positions(7, 9)
    gain = torch.ones(9, requires_grad=True)
    (gain * layers.positions(7, 9)).sum().backward()
    close(gain.grad, layers.positions(7, 9).sum(0))


def test_a_sentence_beyond_the_longest_is_refused():
    assert layers.positions(layers.LONGEST, 4).shape == (layers.LONGEST, 4)
    with pytest.raises(DataError, match="has 1025 subwords, models take 1024 at most"):
        layers.positions(layers.LONGEST + 1, 4)


def test_embedding_scales_and_adds_positions():
    model = Embedding(11, 16, 0.0)
    ids = torch.randint(11, (3, 5))
    close(model(ids), 4 * model.weight[ids] + layers.positions(5, 16))


def test_embedding_drops_whole_words_in_training_and_keeps_their_positions():
    model, ids = Embedding(11, 16, 0.0), torch.randint(11, (300, 20))
    words = model.train()(ids, 0.2) - layers.positions(20, 16)
    dropped = (words.abs() < 1e-12).all(-1)
    close(words[~dropped], 5 * model.weight[ids][~dropped])  # 4 / (1 - 0.2)
    assert abs(float(dropped.double().mean()) - 0.2) < 4 * math.sqrt(0.2 * 0.8 / ids.numel())
    close(model.eval()(ids, 0.2), model(ids))


# Weight normalisation ------------------------------------------------------------------------

def test_weight_norm_is_the_formula_and_starts_at_zero():
    model, x = WeightNormLinear(5, 3), torch.randn(2, 4, 5)
    assert torch.equal(model(x), torch.zeros(2, 4, 3))
    for parameter in (model.g, model.b):
        nn.init.normal_(parameter)
    length = model.v.square().sum(1).sqrt()
    expected = model.g * (x @ model.v.T) / length + model.b
    close(model(x), expected)
    with torch.no_grad():
        model.v *= 7.0  # only the direction counts
    close(model(x), expected)


def test_moments_and_initialisation_count_real_positions_only():
    mask = ragged(LENGTHS)
    x = (3 * torch.randn(3, 7, 5) + 2).masked_fill(~mask[..., None], 1e6)
    mean, variance = layers.masked_moments(x, mask)
    real = torch.cat([x[row, :length] for row, length in enumerate(LENGTHS)])
    close(mean, real.mean(0))
    close(variance, (real - real.mean(0)).square().mean(0))
    model = WeightNormLinear(5, 4)
    model.initialise(x, mask)
    outputs = model(real)
    close(outputs.mean(0), torch.zeros(4), 1e-9)
    close(outputs.var(0, unbiased=False), torch.ones(4), 1e-9)
    model.initialise(x[:, :3], None)
    close(model(x[:, :3]).flatten(0, 1).var(0, unbiased=False), torch.ones(4), 1e-9)


# Compiled layers -----------------------------------------------------------------------------

def test_one_compiled_function_a_kind_of_layer_in_training_only(monkeypatch):
    made, calls = [], []

    def compiled(function, **options):
        made.append((function, options))
        return lambda layer, *arguments: (calls.append(layer), function(layer, *arguments))[1]

    monkeypatch.setattr(torch, "compile", compiled)
    memory, x = Memory(torch.randn(2, 3, 8), None), torch.randn(2, 4, 8)
    model = nn.ModuleList([Encoder(2, 8, 12, 2, 0.0), Decoder(3, 8, 12, 2, 0.0)])
    expected = model[0](x, None).states, model[1](x, memory, causal=True)
    layers.compile_layers(model)
    assert len(made) == 2
    for found in ((model[0](x, None).states, model[1](x, memory, causal=True)),
                  (model.eval()[0](x, None).states, model[1](x, memory, causal=True))):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert calls == [*model[0].layers, *model[1].layers]
    twin = copy.deepcopy(model).train()
    assert torch.equal(twin[0](x, None).states, expected[0]) and calls[-1] is twin[0].layers[-1]
