"""Schedules by hand; losses and gradients against torch, over every chunk boundary."""

import math

import pytest
import torch
import torch.nn.functional as F

from lib import objectives
from lib.objectives import kl_weight, learning_rate, token_log_prob, token_losses

pytestmark = pytest.mark.usefixtures("float64")

CHUNKS = [1, 4, 12, 13, 64]  # for 13 rows


@pytest.mark.parametrize(("step", "expected"), [
    (1, 1e-5), (50, 5e-4), (100, 1e-3), (400, 5e-4), (10_000, 1e-4),
])
def test_learning_rate_hand_worked(step, expected):
    assert learning_rate(step, 1e-3, 100) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("step", "expected"), [
    (50, 5e-4), (100, 1e-3), (150, 1e-3 * math.sqrt(100 / 150)), (151, 1e-5), (250, 1e-3),
    (550, 5e-4)])
def test_learning_rate_starts_again(step, expected):
    assert learning_rate(step, 1e-3, 100, restart=150) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("step", "start", "ramp", "expected"), [
    (1, 5000, 20_000, 0.0), (5000, 5000, 20_000, 0.0), (5001, 5000, 20_000, 1 / 20_000),
    (15_000, 5000, 20_000, 0.5), (25_000, 5000, 20_000, 1.0), (90_000, 5000, 20_000, 1.0),
    (1, 0, 4, 0.25), (1, 0, 0, 1.0), (7, 7, 0, 0.0), (8, 7, 0, 1.0),
])
def test_kl_weight_hand_worked(step, start, ramp, expected):
    assert kl_weight(step, start, ramp) == pytest.approx(expected, rel=1e-12)


def rows():
    hidden = torch.randn(13, 6, requires_grad=True)
    weight = torch.randn(9, 6, requires_grad=True)
    return hidden, weight, torch.randint(9, (13,))


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_token_losses_equal_torch_in_value_and_gradient(smoothing, chunk, monkeypatch):
    monkeypatch.setattr(objectives, "_chunk", lambda vocabulary, on_gpu: chunk)
    hidden, weight, target = rows()
    loss, nll = token_losses(hidden, weight, target, smoothing)
    ours = torch.autograd.grad(2.5 * loss, (hidden, weight))
    logits = hidden @ weight.T
    theirs = F.cross_entropy(logits, target, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(loss, theirs, rtol=1e-12, atol=0)
    for a, b in zip(ours, torch.autograd.grad(2.5 * theirs, (hidden, weight)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    unsmoothed = F.cross_entropy(logits, target, reduction="sum")
    torch.testing.assert_close(nll, unsmoothed.detach(), rtol=1e-12, atol=0)
    assert (abs(loss.item() - nll.item()) > 0.1) == (smoothing > 0)


def test_only_the_loss_can_be_minimised():
    hidden, weight, target = rows()
    loss, nll = token_losses(hidden, weight, target, 0.1)
    assert loss.requires_grad
    assert not nll.requires_grad


def test_smoothing_hand_worked():
    # logits 0 and log 3: probabilities 1/4 and 3/4, target the second
    hidden, weight = torch.ones(1, 1), torch.tensor([[0.0], [math.log(3)]])
    loss, nll = token_losses(hidden, weight, torch.tensor([1]), 0.2)
    assert float(nll) == pytest.approx(-math.log(0.75), rel=1e-12)
    assert float(loss) == pytest.approx(-0.9 * math.log(0.75) - 0.1 * math.log(0.25), rel=1e-12)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_token_log_prob_equals_log_softmax(chunk, monkeypatch):
    monkeypatch.setattr(objectives, "_chunk", lambda vocabulary, on_gpu: chunk)
    hidden, weight, target = rows()
    expected = (hidden @ weight.T).log_softmax(-1).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(token_log_prob(hidden, weight, target), expected, rtol=0,
                               atol=1e-12)


def test_no_tokens_give_zero():
    hidden, weight, target = torch.zeros(0, 6), torch.randn(9, 6), torch.zeros(0, dtype=torch.long)
    assert [x.item() for x in token_losses(hidden, weight, target, 0.1)] == [0.0, 0.0]
    assert token_log_prob(hidden, weight, target).shape == (0,)


def test_bf16_products_give_float32_probabilities():
    hidden, weight, target = (x.detach().float() if x.is_floating_point() else x for x in rows())
    hidden.requires_grad_()
    exact = token_log_prob(hidden, weight, target)
    with torch.autocast("cpu", torch.bfloat16):
        loss, nll = token_losses(hidden, weight, target, 0.1)
        log_prob = token_log_prob(hidden, weight, target)
    assert loss.dtype == nll.dtype == log_prob.dtype == torch.float32
    torch.testing.assert_close(log_prob, exact, rtol=0.02, atol=0.05)
    assert torch.autograd.grad(loss, hidden)[0].dtype == torch.float32


def test_chunks_shrink_with_the_vocabulary_but_not_below_64_rows():
    assert objectives._chunk(2**15, False) == 128
    assert objectives._chunk(10**9, False) == 64
    assert objectives._chunk(2**15, True) > objectives._chunk(2**15, False)
