"""Layer normalisation that hands its result on in the precision of the products that read it.

Under autocast torch normalises into fp32 and rounds in a pass of its own, and rounds back on the
way back. On a GPU one kernel does either; the normalisation itself is in fp32 as before.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lib import kernels

__all__ = ["Norm"]


class Norm(nn.LayerNorm):
    """`nn.LayerNorm` over the last dimension, before products."""

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Normalised; on a GPU under autocast in its precision."""
        rounded = (x.dtype == torch.float32 and torch.is_autocast_enabled(x.device.type)
                   and not torch.compiler.is_compiling()
                   and kernels.available(x.device, kernels.norm_trial))
        if not rounded:
            return super().forward(x)
        dtype = torch.get_autocast_dtype(x.device.type)
        return _Norm.apply(x, self.weight, self.bias, self.eps, dtype)


class _Norm(torch.autograd.Function):
    """The kernels in both directions."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps, dtype):
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        y, mean, scale = kernels.layer_norm(rows, weight, bias, eps, dtype)
        ctx.save_for_backward(rows, weight, mean, scale)
        return y.view(x.shape)

    @staticmethod
    def backward(ctx, grad):
        rows, weight, mean, scale = ctx.saved_tensors
        by_x, by_weight, by_bias = kernels.layer_norm_backward(
            grad.reshape(rows.shape).contiguous(), rows, weight, mean, scale)
        return by_x.view(grad.shape), by_weight, by_bias, None, None
