"""The kernels of frozen models against torch and against the coupling that they undo."""

import pytest
import torch

from lib.affine import affine, take_apart
from lib.decoding import fused


def test_there_are_none_on_a_cpu_or_in_64_bits():
    assert not fused.available(torch.zeros(1))
    assert not fused.available(torch.zeros(1, dtype=torch.float64))


@pytest.mark.gpu
def test_the_trial_is_passed():
    assert fused.available(torch.zeros(1, device="cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [16, 160, 320, 512])
def test_a_sum_and_its_norm_are_those_of_torch(width, dtype):
    norm = torch.nn.LayerNorm(width).cuda().requires_grad_(False)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x, out = 3 * torch.randn(2, 5, width).cuda(), torch.randn(2, 5, width).cuda().to(dtype)
    for stream, added in ((x, None), (x, out), (out, out)):
        total, y = fused.add_norm(stream, added, norm, dtype)
        expected = stream if added is None else stream + added
        torch.testing.assert_close(total, expected)
        assert y.dtype == dtype
        rounding = 2**-7 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(y.float(), norm(expected.float()), rtol=rounding, atol=rounding)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("split", ["c", "a", "t"])
def test_the_inverse_of_a_coupling_goes_back(split, dtype):
    z = torch.randn(3, 8, 32).cuda()
    kept, _ = take_apart(z, split)
    out = torch.randn(*kept.shape[:2], 2 * kept.shape[2]).cuda().to(dtype)
    eps, _ = affine(z, out, None, split)
    torch.testing.assert_close(fused.affine_inverse(eps, out, split), z, rtol=1e-4, atol=1e-4)
