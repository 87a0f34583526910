"""Layer normalisation: torch's, and on a GPU rounded once."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib.norm import Norm


def test_on_a_cpu_it_is_that_of_torch():
    norm, plain = Norm(6), nn.LayerNorm(6)
    norm.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 6)
    assert torch.equal(norm(x), plain(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert norm(x).dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.parametrize("width", [6, 64, 320])
@pytest.mark.parametrize("rows", [1, 5, 3000])
def test_the_kernels_are_torch_rounded(rows, width):
    norm = Norm(width).cuda()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = (2 * torch.randn(1, rows, width) + 1).cuda().requires_grad_()
    weigh = torch.randn(1, rows, width).cuda().bfloat16()
    with torch.autocast("cuda", torch.bfloat16):
        y = norm(x)
    found = torch.autograd.grad((y * weigh).float().sum(), [x, norm.weight, norm.bias])
    exact = [t.detach().double().requires_grad_() for t in (x, norm.weight, norm.bias)]
    expected = F.layer_norm(exact[0], (width,), exact[1], exact[2], norm.eps)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=1e-6)
    for ours, theirs in zip(found, torch.autograd.grad((expected * weigh.double()).sum(), exact),
                            strict=True):
        assert ours.dtype == torch.float32
        scale = float(theirs.abs().max())
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=1e-4 * scale)
