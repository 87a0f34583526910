"""Kernels of frozen models on a GPU: a residual sum and the norm after it, an inverse coupling.

A sentence's tensors are small, so its time there is the number of kernels. Without Triton
`available` is False, and nothing else here may be called.
"""

import inspect
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lib import kernels
from lib.affine import put_together, take_apart
from lib.kernels import Pair, grid, layout, power, tl, triton, wave

__all__ = ["add_norm", "affine_inverse", "available"]


def available(x: Tensor) -> bool:
    """Whether they run on this tensor's device, and in its precision."""
    return x.dtype in (torch.float32, torch.bfloat16) and kernels.available(x.device, frozen_trial)


def frozen_trial(where: torch.device) -> Iterator[Pair]:
    """A width that is no power of two; halves, alternate channels and times."""
    x, out = wave(2, 3, 20, where=where), wave(2, 3, 20, where=where, dtype=torch.bfloat16)
    norm = nn.LayerNorm(20, device=where)
    norm.weight.copy_(wave(20, where=where))
    norm.bias.copy_(wave(20, where=where) - 0.5)
    for stream, added in ((x, out), (x, None), (out, out)):
        total = stream if added is None else stream + added
        results = add_norm(stream, added, norm, torch.bfloat16)
        yield results[0], total
        yield results[1], F.layer_norm(total.float(), (20,), norm.weight, norm.bias)
    for split, rows, half in (("c", 4, 6), ("a", 4, 6), ("t", 2, 12)):
        eps, net = wave(1, 4, 12, where=where), wave(1, rows, 2 * half, where=where)
        (shift, raw), (kept, moved) = net.chunk(2, -1), take_apart(eps, split)
        moved = moved * (1.0 + (-2.0 - raw).exp()) - shift
        yield affine_inverse(eps, net, split), put_together(kept, moved, split)


def add_norm(x: Float[Tensor, "*batch d_model"], out: Float[Tensor, "*batch d_model"] | None,
             norm: nn.LayerNorm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x + out (x where there is no `out`) in x's precision, and its norm in `dtype`."""
    x, width = x.contiguous(), x.shape[-1]
    y = torch.empty_like(x, dtype=dtype)
    total = x if out is None else torch.empty_like(x)
    _add_norm[(x.numel() // width,)](
        x, x if out is None else out.contiguous(), norm.weight, norm.bias, total, y, width,
        norm.eps, ADD=out is not None, BLOCK=power(width))
    return total, y


def affine_inverse(eps: Float[Tensor, "batch length channels"],
                   out: Float[Tensor, "batch rows twice"],
                   split: str) -> Float[Tensor, "batch length channels"]:
    """The z whose image under `lib.affine.affine` is eps, without log-determinant."""
    eps = eps.contiguous()
    rows, half, z = out.shape[0] * out.shape[1], out.shape[2] // 2, torch.empty_like(eps)
    _affine_inverse[grid(rows)](eps, out.contiguous(), z, rows, half, **layout(half, split))
    return z


if triton is not None:
    def _add_norm(x, out, weight, bias, total, y, width, eps, ADD: tl.constexpr,
                  BLOCK: tl.constexpr):
        """One position a program."""
        at = tl.arange(0, BLOCK)
        here, real = tl.program_id(0).to(tl.int64) * width + at, at < width
        value = tl.load(x + here, mask=real, other=0.0).to(tl.float32)
        if ADD:
            value += tl.load(out + here, mask=real, other=0.0).to(tl.float32)
            rounded = value.to(total.dtype.element_ty)
            tl.store(total + here, rounded, mask=real)
            value = rounded.to(tl.float32)
        centred = tl.where(real, value - tl.sum(value, 0) / width, 0.0)
        scaled = centred / tl.sqrt(tl.sum(centred * centred, 0) / width + eps)
        scaled = (scaled * tl.load(weight + at, mask=real, other=0.0)
                  + tl.load(bias + at, mask=real, other=0.0))
        tl.store(y + here, scaled.to(y.dtype.element_ty), mask=real)

    def _affine_inverse(eps, out, z, rows, half, APART: tl.constexpr, ALTERNATE: tl.constexpr,
                        ROWS: tl.constexpr, BLOCK: tl.constexpr):
        """Some positions a program, all channels of each; 1 / sigmoid(r + 2) = 1 + exp(-2 - r)."""
        row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        column = tl.arange(0, BLOCK)[None, :]
        real = (row < rows) & (column < half)
        kept = row * 2 * half + column * APART
        moved = kept + (1 if ALTERNATE else half)
        there = row * 2 * half + column
        shift = tl.load(out + there, mask=real, other=0.0).to(tl.float32)
        raw = tl.load(out + there + half, mask=real, other=0.0).to(tl.float32)
        x = tl.load(eps + moved, mask=real, other=0.0)
        tl.store(z + kept, tl.load(eps + kept, mask=real, other=0.0), mask=real)
        tl.store(z + moved, x + x * tl.exp(-2.0 - raw) - shift, mask=real)

    _add_norm, _affine_inverse = (
        triton.jit(inspect.unwrap(function))  # of its own code, not of a check around it
        for function in (_add_norm, _affine_inverse))
