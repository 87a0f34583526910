"""The kernels against torch, in value and in gradient."""

import pytest
import torch
import torch.nn.functional as F

from lib import kernels, objectives
from lib.attention import attention_trial
from lib.objectives import token_losses

SIZES = [(5, 9), (3, 4096), (4, 9000)]  # rows, vocabulary: below, at and beyond a block


def test_there_are_none_on_a_cpu():
    assert not kernels.available(torch.device("cpu"), kernels.norm_trial)


def failing(where):
    raise RuntimeError("failed to find C compiler.\nset CC")


def wrong(where):
    yield torch.ones(2), torch.ones(2)
    yield torch.ones(2), torch.tensor([1.0, 1.1])


def right(where):
    yield torch.ones(2), torch.ones(2)
    yield torch.ones(2), torch.tensor([1.0, 1.001])


@pytest.mark.parametrize(("trial", "reason"), [(failing, "set CC"), (wrong, "other numbers")])
def test_a_kernel_that_fails_its_trial_is_left_alone_with_one_line(trial, reason):
    with pytest.warns(UserWarning, match=rf"torch's operations .*\({trial.__name__}\): .*{reason}"):
        assert not kernels._passes(trial, torch.device("cpu"))
    assert kernels._passes(right, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.parametrize("trial", [kernels.softmax_trial, kernels.affine_trial, kernels.norm_trial,
                                   attention_trial])
def test_every_kernel_passes_its_trial(trial):
    assert kernels.available(torch.device("cuda"), trial)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("rows", "vocabulary"), SIZES)
def test_softmax_slope_is_that_of_torch(rows, vocabulary, smoothing, dtype):
    logits = (3 * torch.randn(rows, vocabulary)).to(dtype).cuda()
    target = torch.randint(vocabulary, (rows,)).cuda()
    keep = (torch.arange(rows) != 1).cuda()
    for kept in (None, keep):
        exact = logits.double().requires_grad_()
        nll = F.cross_entropy(exact, target, reduction="none")
        uniform = exact.logsumexp(-1) - exact.mean(-1)
        loss = (1 - smoothing) * nll + smoothing * uniform
        (loss if kept is None else loss * kept).sum().backward()
        slope = logits.clone()
        found = kernels.softmax_slope(slope, target, kept, smoothing)
        for ours, theirs in zip(found, (nll, uniform), strict=True):
            expected = theirs if kept is None else theirs * kept
            torch.testing.assert_close(ours.double(), expected.detach(), rtol=1e-5, atol=1e-5)
        rounding = 2**-8 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(slope.double(), exact.grad, rtol=rounding, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_token_losses_with_the_kernel_are_those_without(smoothing, monkeypatch):
    monkeypatch.setattr(objectives, "_chunk", lambda vocabulary, on_gpu: 64)
    weight = torch.randn(5000, 32).cuda().requires_grad_()
    hidden = torch.randn(150, 32).cuda().requires_grad_()
    target, keep = torch.randint(5000, (150,)).cuda(), (torch.arange(150) % 7 > 0).cuda()
    found = []
    for use in (True, False):
        with monkeypatch.context() as patch:
            patch.setattr(objectives, "available", lambda *_, use=use: use)
            loss, nll = token_losses(hidden, weight, target, smoothing, keep)
        found.append((loss, nll, *torch.autograd.grad(loss, (hidden, weight))))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
