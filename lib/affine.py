"""The affine half of a coupling, one operation in each direction of autograd.

By torch's own operations it would keep seven tensors as large as the half for the backward pass;
here it keeps the output, which the next layer keeps anyway, and what the network gave.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from lib import kernels

__all__ = ["affine", "put_together", "split_off", "take_apart"]


def take_apart(z: Tensor, split: str) -> tuple[Tensor, Tensor]:
    """The part that a coupling leaves alone, and the part that it moves."""
    if split == "c":
        kept, moved = z.chunk(2, -1)
        return kept, moved
    if split == "a":
        return z[..., 0::2], z[..., 1::2]
    return z[:, 0::2], z[:, 1::2]


def put_together(kept: Tensor, moved: Tensor, split: str) -> Tensor:
    """The inverse of `take_apart`."""
    if split == "c":
        return torch.cat([kept, moved], -1)
    if split == "a":
        return torch.stack([kept, moved], -1).reshape(*kept.shape[:-1], -1)
    return torch.stack([kept, moved], 2).reshape(len(kept), -1, kept.shape[-1])


def split_off(z: Float[Tensor, "batch length channels"], split: str,
              added: Float[Tensor, "rows width"]) -> tuple[Tensor, Tensor]:
    """The part that a coupling leaves alone plus `added` (a constant), for its network to read, and
    z for `affine` to move the rest of.

    Their gradients meet in one sum, without a tensor of zeros in z's size.
    """
    return _SplitOff.apply(z, split, added)


class _SplitOff(torch.autograd.Function):
    """One half and the whole."""

    @staticmethod
    def forward(ctx, z, split, added):
        ctx.split = split
        return take_apart(z, split)[0] + added, z.view_as(z)

    @staticmethod
    def backward(ctx, grad_kept, grad_z):
        kept, moved = take_apart(grad_z, ctx.split)
        return put_together(kept + grad_kept, moved, ctx.split), None, None


def affine(z: Float[Tensor, "batch length channels"], out: Float[Tensor, "batch rows twice"],
           mask: Bool[Tensor, "batch rows"] | None,
           split: str) -> tuple[Float[Tensor, "batch length channels"], Float[Tensor, " batch"]]:
    """eps_b = (z_b + shift) * sigmoid(raw + 2) in the moved half, and log|det d eps / d z|.

    out: shift and raw scale side by side, from the network that reads the other half.
    mask: False where a position of the moved half counts nothing in the log-determinant.
    """
    return _Affine.apply(z, out, mask, split)


class _Affine(torch.autograd.Function):
    """Values and gradients written out; the derivative of log sigmoid(x) is 1 - sigmoid(x)."""

    @staticmethod
    def forward(ctx, z, out, mask, split):
        if z.dtype == torch.float32 and kernels.available(z.device, kernels.affine_trial):
            eps, log_abs_det = kernels.affine(z.contiguous(), out.contiguous(), mask, split)
        else:
            kept, moved = take_apart(z, split)
            shift, raw = out.to(z.dtype).chunk(2, -1)
            log_scale = F.logsigmoid(raw + 2.0)
            eps = put_together(kept, (moved + shift) * log_scale.exp(), split)
            if mask is not None:
                log_scale = log_scale * mask[..., None]
            log_abs_det = log_scale.sum((1, 2))
        ctx.save_for_backward(eps, out, mask)
        ctx.split = split
        return eps, log_abs_det

    @staticmethod
    def backward(ctx, grad_eps, grad_log_abs_det):
        eps, out, mask = ctx.saved_tensors
        # d loss / d log scale of each real position, by way of the log-determinant
        direct = grad_log_abs_det[:, None, None]
        if mask is not None:
            direct = direct * mask[..., None]
        if eps.dtype == torch.float32 and kernels.available(eps.device, kernels.affine_trial):
            rows = direct.expand(-1, out.shape[1], 1).contiguous()
            return *kernels.affine_backward(grad_eps.contiguous(), eps, out.contiguous(), rows,
                                            ctx.split), None, None
        kept, moved = take_apart(grad_eps, ctx.split)
        scale = (out.chunk(2, -1)[1].to(eps.dtype) + 2.0).sigmoid()
        by_shift = moved * scale
        by_raw = (moved * take_apart(eps, ctx.split)[1] + direct) * (1 - scale)
        by_out = torch.cat([by_shift, by_raw], -1).to(out.dtype)
        return put_together(kept, by_shift, ctx.split), by_out, None, None
