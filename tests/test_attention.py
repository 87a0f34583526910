"""Attention by a program a sentence and head against torch's, in value and gradient."""

import pytest
import torch
from test_layers import ragged

from lib import attention, layers
from lib.layers import SelfAttention, SourceAttention, mask_bias

BATCH = 3
SIZES = [(7, 5, 2, 20), (1, 9, 3, 8), (33, 40, 2, 64), (64, 64, 1, 128)]  # T, S, heads, width


def test_none_of_it_on_a_cpu():
    assert not attention.fits(torch.device("cpu"), 4, 4, 8)


def inputs(queries, keys, heads, width, dtype=torch.float32, where="cuda"):
    """Queries [batch, heads, length, width], keys and values as they come from one product."""
    query = torch.randn(BATCH, queries, heads, width).to(where, dtype).transpose(1, 2)
    pair = torch.randn(BATCH, keys, 2, heads, width).to(where, dtype).permute(2, 0, 3, 1, 4)
    bias = mask_bias(ragged(torch.tensor([keys, max(1, keys // 2), 1]), keys)).to(where, dtype)
    return query, *pair, bias


def plain(query, key, value, bias, causal=False):
    scores = query.double() @ key.double().transpose(2, 3) * query.shape[-1]**-0.5
    if bias is not None:
        scores = scores + bias.double()
    if causal:
        scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -torch.inf)
    return (scores.softmax(-1) @ value.double()).transpose(1, 2)


def compare(actual, expected, leaves, tolerance):
    weigh = torch.randn(actual.shape, generator=torch.Generator().manual_seed(1)).to(actual.device)
    ours = [actual, *torch.autograd.grad((actual.float() * weigh).sum(), leaves)]
    theirs = [expected, *torch.autograd.grad((expected * weigh).sum(), leaves)]
    for a, b in zip(ours, theirs, strict=True):
        scale = float(b.detach().abs().max())
        torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance * scale)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("queries", "keys", "heads", "width"), SIZES)
def test_to_a_source(queries, keys, heads, width, masked, dtype, tolerance, where="cuda"):
    *leaves, bias = inputs(queries, keys, heads, width, dtype, where)
    leaves, bias = [x.requires_grad_() for x in leaves], bias if masked else None
    actual = attention.attention(*leaves, bias, False, 0.0)
    compare(actual, plain(*leaves, bias), leaves, tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize(("masked", "causal"), [(False, True), (True, False), (True, True)])
@pytest.mark.parametrize(("queries", "keys", "heads", "width"), SIZES)
def test_to_itself(queries, keys, heads, width, masked, causal, dtype, tolerance, where="cuda"):
    qkv = torch.randn(BATCH, keys, 3, heads, width).to(where, dtype).requires_grad_()
    bias = inputs(queries, keys, heads, width, dtype, where)[-1] if masked else None
    actual = attention.self_attention(qkv, bias, causal, 0.0)
    compare(actual, plain(*qkv.permute(2, 0, 3, 1, 4), bias, causal), [qkv], tolerance)


@pytest.mark.gpu
def test_dropout_drops_its_share_and_goes_back_over_the_same(where="cuda"):
    """One channel a key shows every weight: the gradient is linear in what was kept."""
    keys, rate = 32, 0.25
    query, key, _, _ = inputs(32, keys, 2, 32, where=where)
    value = torch.eye(keys).expand(BATCH, 2, -1, -1).to(where).contiguous().requires_grad_()
    torch.manual_seed(5)
    weights = attention.attention(query, key, value, None, False, rate).transpose(1, 2)
    exact = (query @ key.transpose(2, 3) * 32**-0.5).softmax(-1)
    kept = weights.detach() > 0
    assert float(kept.double().mean()) == pytest.approx(1 - rate, abs=0.02)
    torch.testing.assert_close(weights.detach(), exact * kept / (1 - rate), rtol=1e-4, atol=1e-6)
    above = torch.randn(BATCH, 2, 32, keys).to(where)
    by_value, = torch.autograd.grad((weights * above).sum(), value)
    expected = (exact * kept / (1 - rate)).transpose(2, 3) @ above
    torch.testing.assert_close(by_value, expected, rtol=1e-3, atol=1e-4)
    torch.manual_seed(5)
    again = attention.attention(query, key, value, None, False, rate).transpose(1, 2)
    assert torch.equal(again, weights)


@pytest.mark.gpu
def test_layers_are_the_same_with_it_and_without(monkeypatch):
    """Heads 20 wide, ragged; and what is too long goes the other way."""
    to_itself, to_source = SelfAttention(40, 2, 0.0).cuda(), SourceAttention(40, 2, 0.0).cuda()
    x = torch.randn(BATCH, 9, 40).cuda()
    bias = mask_bias(ragged(torch.tensor([9, 4, 1]))).cuda()
    source = [torch.randn(BATCH, 2, 9, 20).cuda() for _ in range(2)]
    actual = to_itself(x, bias), to_source(x, tuple(source), bias)
    monkeypatch.setattr(attention, "fits", lambda *_: False)
    for ours, theirs in zip(actual, (to_itself(x, bias), to_source(x, tuple(source), bias)),
                            strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    monkeypatch.undo()
    long = torch.randn(1, 65, 40).cuda()
    assert to_itself(long).shape == long.shape
    assert layers.LONGEST > attention.LONGEST
