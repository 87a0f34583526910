"""What training minimises and how it is scheduled; nothing here is reported as a likelihood."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib.batching import Batch
from lib.kernels import available, softmax_slope, softmax_trial

__all__ = ["compute_dtype", "kl_weight", "learning_rate", "target_losses", "token_log_prob",
           "token_losses"]


def learning_rate(step: int, peak: float, warmup_steps: int, restart: int = 0) -> float:
    """Linear warm-up from step 1, then inverse square root (Vaswani et al. 2017, eq. 3); the same
    again after step `restart`, if it isn't 0.
    """
    step -= restart if step > restart else 0
    return peak * min(step / warmup_steps, math.sqrt(warmup_steps / step))


def kl_weight(step: int, start: int, ramp: int) -> float:
    """Weight of the KL term at `step` (from 1): 0 up to `start`, then linear to 1 over `ramp`."""
    if step <= start:
        return 0.0
    return 1.0 if ramp == 0 else min(1.0, (step - start) / ramp)


class _TokenLosses(torch.autograd.Function):
    """Summed cross-entropy of a linear output layer, its gradient taken in the forward pass.

    Chunks of rows stay in cache, and the [rows, vocabulary] matrix never exists as a whole. Valid
    because the sum has one upstream gradient, a scalar.
    """

    @staticmethod
    def forward(ctx, hidden, weight, target, keep, smoothing, dtype, differentiable):
        rows, vocabulary = hidden.shape[0], weight.shape[0]
        exact = torch.promote_types(dtype, torch.float32)
        h, w = hidden.to(dtype), weight.to(dtype)
        grad_h = torch.empty_like(h)
        grad_w = torch.zeros_like(weight, dtype=exact)
        nll = torch.zeros((), dtype=exact, device=h.device)
        uniform = torch.zeros_like(nll)
        chunk = _chunk(vocabulary, h.is_cuda)
        fused = exact == torch.float32 and available(h.device, softmax_trial)
        for start in range(0, rows, chunk):
            part, ids = h[start:start + chunk], target[start:start + chunk]
            kept = None if keep is None else keep[start:start + chunk]
            logits = part @ w.T
            if fused:
                parts, slope = softmax_slope(logits, ids, kept, smoothing), logits
                here, even = parts[0].sum(), parts[1].sum()
            else:
                here, even, slope = _slope(logits.to(exact), ids[:, None], kept, smoothing)
            nll += here
            uniform += even
            if differentiable:
                slope = slope.to(dtype)
                torch.mm(slope, w, out=grad_h[start:start + chunk])
                grad_w += slope.T @ part
        ctx.save_for_backward(grad_h, grad_w)
        ctx.dtypes = hidden.dtype, weight.dtype
        loss = (1.0 - smoothing) * nll + smoothing * uniform
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx, grad_loss, _):
        grad_h, grad_w = ctx.saved_tensors
        return ((grad_h * grad_loss).to(ctx.dtypes[0]), (grad_w * grad_loss).to(ctx.dtypes[1]),
                None, None, None, None, None)


def _slope(logits: Tensor, ids: Tensor, keep: Tensor | None,
           smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
    """What `kernels.softmax_slope` gives, its terms summed, by torch's own operations."""
    vocabulary, out = logits.shape[1], None if keep is None else ~keep[:, None]
    log_z = logits.logsumexp(-1, keepdim=True)
    nll = _without(log_z - logits.gather(-1, ids), out).sum()
    uniform = torch.zeros_like(nll)
    if smoothing:
        uniform = _without(log_z, out).sum() - _without(logits, out).sum() / vocabulary
    slope = logits.sub_(log_z).exp_()
    if smoothing:
        slope -= smoothing / vocabulary
    hits = torch.full_like(ids, -(1.0 - smoothing), dtype=logits.dtype)
    return nll, uniform, _without(slope.scatter_add_(-1, ids, hits), out)


def _without(terms: Tensor, out: Tensor | None) -> Tensor:
    """`terms` with 0 where `out`; in place."""
    return terms if out is None else terms.masked_fill_(out, 0.0)


def _chunk(vocabulary: int, on_gpu: bool) -> int:
    return max(64, (2**27 if on_gpu else 2**22) // vocabulary)


def token_losses(hidden: Float[Tensor, "tokens d_model"],
                 weight: Float[Tensor, "vocabulary d_model"],
                 target: Int[Tensor, " tokens"], smoothing: float = 0.0,
                 keep: Bool[Tensor, " tokens"] | None = None) -> tuple[Tensor, Tensor]:
    """Label-smoothed loss (with gradient) and unsmoothed nll (without), summed, in nats.

    The loss is (1 - s) * nll + s * cross-entropy to the uniform distribution over the vocabulary
    (Szegedy et al. 2016). Only the first may be minimised, only the second may be reported.
    Where `keep` is False a row counts nowhere.
    """
    return _TokenLosses.apply(hidden, weight, target, keep, smoothing, compute_dtype(hidden),
                              torch.is_grad_enabled())


def target_losses(states: Float[Tensor, "batch length d_model"],
                  weight: Float[Tensor, "vocabulary d_model"], batch: Batch,
                  smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """`token_losses` of a batch's targets, padding left out.

    Padded positions are taken out where that saves their products; in a batch of fixed shape they
    stay, and count nothing.
    """
    rows, target = states.flatten(0, 1), batch.target.flatten()
    real = None if batch.target_mask is None else batch.target_mask.flatten()
    if real is not None and not batch.fixed:
        rows, target, real = rows[real], target[real], None
    return token_losses(rows, weight, target, smoothing, real)


def token_log_prob(hidden: Float[Tensor, "tokens d_model"],
                   weight: Float[Tensor, "vocabulary d_model"],
                   target: Int[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    """log softmax(hidden weight^T)[target], in nats, a chunk of rows at a time; for evaluation."""
    dtype = compute_dtype(hidden)
    h, w = hidden.to(dtype), weight.to(dtype)
    parts = []
    # on a CPU in a core's own cache: a quarter less time
    chunk = _chunk(len(weight) * (1 if h.is_cuda else 8), h.is_cuda)
    for start in range(0, h.shape[0], chunk):
        logits = (h[start:start + chunk] @ w.T).to(torch.promote_types(dtype, torch.float32))
        # one fused pass: half of the time of gather and logsumexp on a CPU
        parts.append(-F.cross_entropy(logits, target[start:start + chunk], reduction="none"))
    return torch.cat(parts) if parts else hidden.new_zeros(0)


def compute_dtype(x: Tensor) -> torch.dtype:
    """What the products of `x` are computed in: autocast's type where that is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
