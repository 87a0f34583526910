"""The affine half of a coupling against its formula under autograd, kernels included."""

import pytest
import torch
import torch.nn.functional as F

from lib import kernels
from lib.affine import affine, put_together, split_off, take_apart

MASK = torch.arange(8) < torch.tensor([8, 4, 6])[:, None]
CHANNELS = 12
ASKED = pytest.mark.parametrize(("split", "masked"), [
    (split, masked) for split in "cat" for masked in (True, False)])


def inputs(split, dtype, out_dtype=None, where="cpu"):
    z = torch.randn(3, 8, CHANNELS, dtype=dtype)
    rows, twice = (4, 2 * CHANNELS) if split == "t" else (8, CHANNELS)
    out = (2 * torch.randn(3, rows, twice)).to(out_dtype or dtype)
    mask = MASK[:, ::2] if split == "t" else MASK
    return [x.to(where) for x in (z, out, mask)]


def written_out(z, out, mask, split):
    kept, moved = take_apart(z, split)
    shift, raw = out.to(z.dtype).chunk(2, -1)
    log_scale = F.logsigmoid(raw + 2)
    eps = put_together(kept, (moved + shift) * log_scale.exp(), split)
    return eps, (log_scale if mask is None else log_scale * mask[..., None]).sum((1, 2))


def results(function, z, out, mask, split):
    """Values, and gradients of a sum that weighs all of them."""
    z, out = z.detach().requires_grad_(), out.detach().requires_grad_()
    eps, log_abs_det = function(z, out, mask, split)
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(x.shape, generator=generator).to(x) for x in (eps, log_abs_det)]
    loss = (eps * weights[0]).sum() + (log_abs_det * weights[1]).sum()
    return eps.detach(), log_abs_det.detach(), *torch.autograd.grad(loss, (z, out))


@pytest.mark.usefixtures("float64")
@ASKED
def test_values_and_gradients_are_those_of_the_formula(split, masked):
    z, out, mask = inputs(split, torch.float64)
    mask = mask if masked else None
    for ours, theirs in zip(results(affine, z, out, mask, split),
                            results(written_out, z, out, mask, split), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@ASKED
def test_a_network_in_bf16_gets_its_gradient_in_bf16(split, masked):
    z, out, mask = inputs(split, torch.float32, torch.bfloat16)
    mask = mask if masked else None
    found = results(affine, z, out, mask, split)
    assert [x.dtype for x in found] == [*[torch.float32] * 3, torch.bfloat16]
    for ours, theirs in zip(found, results(written_out, z, out, mask, split), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=1e-5)


@pytest.mark.parametrize("split", "cat")
def test_taking_apart_is_undone(split):
    z = torch.randn(2, 8, 6)
    kept, moved = take_apart(z, split)
    assert kept.numel() == moved.numel() and torch.equal(put_together(kept, moved, split), z)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("split", "cat")
def test_what_is_split_off_gives_its_gradient_back(split):
    z = torch.randn(2, 8, 6, requires_grad=True)
    added = torch.randn(take_apart(z, split)[0].shape[1:])
    x, whole = split_off(z, split, added)
    assert torch.equal(x, take_apart(z, split)[0] + added) and torch.equal(whole, z)
    weights = torch.randn_like(x), torch.randn_like(z)
    found, = torch.autograd.grad((x * weights[0]).sum() + (whole * weights[1]).sum(), z)
    plain = (take_apart(z, split)[0] * weights[0]).sum() + (z * weights[1]).sum()
    torch.testing.assert_close(found, torch.autograd.grad(plain, z)[0], rtol=0, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@ASKED
def test_the_kernels_are_the_formula(split, masked, dtype, monkeypatch):
    z, out, mask = inputs(split, torch.float32, dtype, "cuda")
    mask = mask if masked else None
    found = results(affine, z, out, mask, split)
    monkeypatch.setattr(kernels, "available", lambda *_: False)
    expected = results(affine, z, out, mask, split)
    for ours, theirs in zip(found, expected, strict=True):
        tolerance = 2**-7 if ours.dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=1e-5)
