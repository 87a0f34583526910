"""Kernels of our own for a GPU, in Triton: the output layer's softmax in two passes over memory.

Where there is no Triton (torch for a CPU comes without), `available` says so and nothing else here
may be called.
"""

import inspect

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

__all__ = ["available", "softmax_slope"]

BLOCK = 4096  # columns that a program holds together
WARPS = 8


def available(where: torch.device) -> bool:
    """Whether kernels run on tensors of this device."""
    return triton is not None and where.type == "cuda"


def softmax_slope(logits: Float[Tensor, "rows vocabulary"], target: Int[Tensor, " rows"],
                  keep: Bool[Tensor, " rows"] | None, smoothing: float,
                  ) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Cross-entropy of each row to its target and to the uniform distribution, in nats, float32.

    `logits`, contiguous, becomes in place the slope of (1 - smoothing) times the first plus
    smoothing times the second. Rows that aren't kept have 0 everywhere. Read twice, written once:
    the maximum and the sum of exponentials are found together (Milakov and Gimelshein 2018).
    """
    rows, vocabulary = logits.shape
    nll, uniform = torch.empty(2, rows, dtype=torch.float32, device=logits.device).unbind()
    _softmax_slope[(rows,)](logits, target, target if keep is None else keep, nll, uniform,
                            vocabulary, smoothing, KEEP_ALL=keep is None, BLOCK=BLOCK,
                            num_warps=WARPS)
    return nll, uniform


if triton is not None:
    def _softmax_slope(logits, target, keep, nll, uniform, vocabulary, smoothing,
                       KEEP_ALL: tl.constexpr, BLOCK: tl.constexpr):
        """One row a program."""
        row = tl.program_id(0).to(tl.int64)
        here = logits + row * vocabulary
        wanted = tl.load(target + row)
        hit = tl.load(here + wanted).to(tl.float32)  # before anything is overwritten
        kept = row >= 0
        if not KEEP_ALL:
            kept = tl.load(keep + row) != 0
        top, total, plain = float("-inf"), 0.0, 0.0
        for start in range(0, vocabulary, BLOCK):
            at = start + tl.arange(0, BLOCK)
            x = tl.load(here + at, mask=at < vocabulary, other=float("-inf")).to(tl.float32)
            higher = tl.maximum(top, tl.max(x, 0))
            total = total * tl.exp(top - higher) + tl.sum(tl.exp(x - higher), 0)
            plain += tl.sum(tl.where(at < vocabulary, x, 0.0), 0)
            top = higher
        log_z = top + tl.log(total)
        tl.store(nll + row, tl.where(kept, log_z - hit, 0.0))
        tl.store(uniform + row, tl.where(kept, log_z - plain / vocabulary, 0.0))
        for start in range(0, vocabulary, BLOCK):
            at = start + tl.arange(0, BLOCK)
            x = tl.load(here + at, mask=at < vocabulary, other=0.0).to(tl.float32)
            slope = tl.exp(x - log_z) - smoothing / vocabulary
            slope = tl.where(at == wanted, slope - (1.0 - smoothing), slope)
            tl.store(here + at, tl.where(kept, slope, 0.0).to(logits.dtype.element_ty),
                     mask=at < vocabulary)

    _softmax_slope = triton.jit(inspect.unwrap(_softmax_slope))  # of its own code, not of a check
