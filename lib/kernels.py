"""Kernels of our own for a GPU, in Triton: the output layer's softmax, norms, affine couplings.

Where there is no Triton (torch for a CPU comes without), `available` says so and nothing else here
may be called.
"""

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

__all__ = ["Pair", "affine", "affine_backward", "affine_trial", "available", "grid",
           "layer_norm", "layer_norm_backward", "layout", "norm_trial", "power", "softmax_slope",
           "softmax_trial", "wave"]

Pair = tuple[Tensor, Tensor]

BLOCK = 4096  # columns of logits that a program holds together
WARPS = 8
ROWS = 4  # positions that a program takes together
PROGRAMS = 512  # that share the sums over all positions


_TRIED: dict[str, bool] = {}


def available(where: torch.device, trial: Callable[[torch.device], Iterable[Pair]]) -> bool:
    """Whether kernels run on tensors of this device and are right.

    `trial` gives pairs of a kernel's result and torch's, for a small case. It is made once a
    process: Triton needs a C compiler, and knows some cards better than others. Kernels that fail
    it are left alone, with a warning.
    """
    if triton is None or where.type != "cuda":
        return False
    if trial.__name__ not in _TRIED:
        if torch.cuda.is_current_stream_capturing():
            return False  # results can't be compared now
        _TRIED[trial.__name__] = _passes(trial, where)
    return _TRIED[trial.__name__]


@torch.no_grad()
def _passes(trial: Callable[[torch.device], Iterable[Pair]], where: torch.device) -> bool:
    reason = "it gives other numbers than torch"
    try:
        with torch.autocast(where.type, enabled=False):
            good = all(torch.allclose(result.double(), expected.double(), rtol=0.02,
                                      atol=0.02 * float(expected.abs().max()))
                       for result, expected in trial(where))
    except Exception as error:  # of many kinds, none of which should end a training
        good, reason = False, (str(error).strip().splitlines() or [type(error).__name__])[-1]
    if not good:
        warnings.warn(f"torch's operations in place of a kernel of our own ({trial.__name__}): "
                      f"{reason}", stacklevel=4)
    return good


def wave(*shape: int, where: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers for a trial that no random state has to give."""
    place = torch.arange(math.prod(shape), device=where, dtype=torch.float64)
    return (2.0 * (place * 0.37 + place.square() * 0.011).sin()).to(dtype).view(shape)


# ---- the output layer ----

def softmax_trial(where: torch.device) -> Iterator[Pair]:
    """A row that isn't kept, and more columns than a block."""
    logits, target = wave(3, BLOCK + 100, where=where), torch.tensor([5, 0, BLOCK], device=where)
    keep, slope = torch.tensor([True, False, True], device=where), logits.clone()
    nll, uniform = softmax_slope(slope, target, keep, 0.1)
    expected = logits.log_softmax(1)
    yield nll, -expected.gather(1, target[:, None])[:, 0] * keep
    yield uniform, -expected.mean(1) * keep
    hits = F.one_hot(target, logits.shape[1])
    yield slope, (expected.exp() - 0.1 / logits.shape[1] - 0.9 * hits) * keep[:, None]


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
    _softmax_slope[(rows,)](logits, target, _bytes(keep, target), nll, uniform, vocabulary,
                            smoothing, KEEP_ALL=keep is None, BLOCK=BLOCK, num_warps=WARPS)
    return nll, uniform


# ---- couplings ----

def affine_trial(where: torch.device) -> Iterator[Pair]:
    """Alternate channels, a position masked, the network in bf16."""
    z, out = wave(1, 3, 12, where=where), wave(1, 3, 12, where=where, dtype=torch.bfloat16)
    mask = torch.tensor([[True, True, False]], device=where)
    eps, log_abs_det = affine(z, out, mask, "a")
    shift, raw = out.float().chunk(2, -1)
    scale = (raw + 2.0).sigmoid()
    yield eps[..., 1::2], (z[..., 1::2] + shift) * scale
    yield eps[..., 0::2], z[..., 0::2]
    yield log_abs_det, (scale.log() * mask[..., None]).sum((1, 2))
    grad, direct = wave(1, 3, 12, where=where) + 0.5, 0.7 * mask[..., None].float()
    by_z, by_out = affine_backward(grad, eps, out, direct, "a")
    moved = grad[..., 1::2]
    yield by_z[..., 1::2], moved * scale
    yield by_out, torch.cat([moved * scale, (moved * eps[..., 1::2] + direct) * (1 - scale)], -1)


def affine(z: Float[Tensor, "batch length channels"], out: Float[Tensor, "batch rows twice"],
           mask: Bool[Tensor, "batch rows"] | None,
           split: str) -> tuple[Float[Tensor, "batch length channels"], Float[Tensor, " batch"]]:
    """`lib.affine.affine`; all tensors are contiguous."""
    batch, rows, twice = out.shape
    eps = torch.empty_like(z)
    log_scale = torch.empty(batch, rows, dtype=z.dtype, device=z.device)
    _affine[grid(batch * rows)](z, out, _bytes(mask, out), eps, log_scale, batch * rows,
                                twice // 2, KEEP_ALL=mask is None, **layout(twice // 2, split))
    return eps, log_scale.sum(1)


def affine_backward(grad: Float[Tensor, "batch length channels"],
                    eps: Float[Tensor, "batch length channels"],
                    out: Float[Tensor, "batch rows twice"], direct: Float[Tensor, "batch rows 1"],
                    split: str) -> tuple[Tensor, Tensor]:
    """Gradients of z and `out`; direct: that of each position's summed log scale."""
    batch, rows, twice = out.shape
    by_z, by_out = torch.empty_like(eps), torch.empty_like(out)
    _affine_backward[grid(batch * rows)](grad, eps, out, direct, by_z, by_out, batch * rows,
                                         twice // 2, **layout(twice // 2, split))
    return by_z, by_out


# ---- norms ----

def norm_trial(where: torch.device) -> Iterator[Pair]:
    """More rows than one program takes."""
    x, grad = wave(3 * ROWS + 1, 20, where=where), wave(3 * ROWS + 1, 20, where=where) + 0.3
    weight, bias = wave(20, where=where) + 1.0, wave(20, where=where)
    y, mean, scale = layer_norm(x, weight, bias, 1e-5, torch.bfloat16)
    yield y, F.layer_norm(x, (20,), weight, bias, 1e-5)
    plain = torch.ops.aten.native_layer_norm_backward(
        grad, x, [20], mean[:, None], scale[:, None], weight, bias, [True] * 3)
    yield from zip(layer_norm_backward(grad, x, weight, mean, scale), plain, strict=True)


def layer_norm(x: Float[Tensor, "rows width"], weight: Tensor, bias: Tensor, eps: float,
               dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised rows in `dtype`, and each row's mean and 1 / standard deviation."""
    rows, width = x.shape
    y = torch.empty(rows, width, dtype=dtype, device=x.device)
    mean, scale = torch.empty(2, rows, dtype=torch.float32, device=x.device).unbind()
    _layer_norm[grid(rows)](x, weight, bias, y, mean, scale, rows, width, eps, ROWS=ROWS,
                            BLOCK=power(width))
    return y, mean, scale


def layer_norm_backward(grad: Float[Tensor, "rows width"], x: Float[Tensor, "rows width"],
                        weight: Tensor, mean: Tensor,
                        scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias, in float32."""
    rows, width = x.shape
    programs = min(PROGRAMS, *grid(rows))
    by_x = torch.empty_like(x)
    parts = torch.empty(2, programs, width, dtype=torch.float32, device=x.device)
    _layer_norm_backward[(programs,)](grad, x, weight, mean, scale, by_x, parts, rows, width,
                                      programs, ROWS=ROWS, BLOCK=power(width))
    return by_x, *parts.sum(1).unbind()


def _bytes(mask: Tensor | None, otherwise: Tensor) -> Tensor:
    """A mask as numbers; any tensor in its place where there is none."""
    return otherwise if mask is None else mask.contiguous().view(torch.uint8)


def power(width: int) -> int:
    """The next power of two, as blocks must be."""
    return 1 << (width - 1).bit_length()


def grid(rows: int) -> tuple[int]:
    """The programs that take `ROWS` of so many rows each."""
    return (-(-rows // ROWS),)


def layout(half: int, split: str) -> dict[str, int]:
    """Where the halves lie: of `2 half` numbers, the kept ones first or each before its moved one.

    Halves of the channels and two times side by side look alike in memory.
    """
    return {"APART": 2 if split == "a" else 1, "ALTERNATE": split == "a", "ROWS": ROWS,
            "BLOCK": power(half)}


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

    def _affine(z, out, keep, eps, log_scale, rows, half, KEEP_ALL: tl.constexpr,
                APART: tl.constexpr, ALTERNATE: tl.constexpr, ROWS: tl.constexpr,
                BLOCK: tl.constexpr):
        """Some positions a program, all channels of each."""
        row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        column = tl.arange(0, BLOCK)[None, :]
        real = (row < rows) & (column < half)
        kept = row * 2 * half + column * APART
        moved = kept + (1 if ALTERNATE else half)
        there = row * 2 * half + column
        x = tl.load(z + moved, mask=real, other=0.0)
        shift = tl.load(out + there, mask=real, other=0.0).to(tl.float32)
        raw = tl.load(out + there + half, mask=real, other=0.0).to(tl.float32) + 2.0
        # log sigmoid(raw), and its exponential
        lower = tl.minimum(raw, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(raw)))
        tl.store(eps + kept, tl.load(z + kept, mask=real, other=0.0), mask=real)
        tl.store(eps + moved, (x + shift) * tl.exp(lower), mask=real)
        summed = tl.sum(tl.where(real, lower, 0.0), 1)[:, None]
        if not KEEP_ALL:
            counts = tl.load(keep + row, mask=row < rows, other=0) != 0
            summed = tl.where(counts, summed, 0.0)
        tl.store(log_scale + row, summed, mask=row < rows)

    def _affine_backward(grad, eps, out, direct, by_z, by_out, rows, half, APART: tl.constexpr,
                         ALTERNATE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
        """The same positions."""
        row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        column = tl.arange(0, BLOCK)[None, :]
        real = (row < rows) & (column < half)
        kept = row * 2 * half + column * APART
        moved = kept + (1 if ALTERNATE else half)
        there = row * 2 * half + column
        raw = tl.load(out + there + half, mask=real, other=0.0).to(tl.float32) + 2.0
        scale = 1.0 / (1.0 + tl.exp(-raw))
        above = tl.load(grad + moved, mask=real, other=0.0)
        log_det = tl.load(direct + row, mask=row < rows, other=0.0)
        by_raw = (above * tl.load(eps + moved, mask=real, other=0.0) + log_det) * (1.0 - scale)
        tl.store(by_z + kept, tl.load(grad + kept, mask=real, other=0.0), mask=real)
        tl.store(by_z + moved, above * scale, mask=real)
        tl.store(by_out + there, (above * scale).to(out.dtype.element_ty), mask=real)
        tl.store(by_out + there + half, by_raw.to(out.dtype.element_ty), mask=real)

    def _layer_norm(x, weight, bias, y, mean, scale, rows, width, eps, ROWS: tl.constexpr,
                    BLOCK: tl.constexpr):
        """Some rows a program."""
        row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        column = tl.arange(0, BLOCK)[None, :]
        real = (row < rows) & (column < width)
        values = tl.load(x + row * width + column, mask=real, other=0.0)
        middle = tl.sum(values, 1)[:, None] / width
        centred = tl.where(real, values - middle, 0.0)
        inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, 1)[:, None] / width + eps)
        w = tl.load(weight + column, mask=column < width, other=0.0)
        b = tl.load(bias + column, mask=column < width, other=0.0)
        normal = centred * inverse * w + b
        tl.store(y + row * width + column, normal.to(y.dtype.element_ty), mask=real)
        tl.store(mean + row, middle, mask=row < rows)
        tl.store(scale + row, inverse, mask=row < rows)

    def _layer_norm_backward(grad, x, weight, mean, scale, by_x, parts, rows, width, programs,
                             ROWS: tl.constexpr, BLOCK: tl.constexpr):
        """Every so many-th rows a program, their sums for the weight and bias kept together."""
        column = tl.arange(0, BLOCK)[None, :]
        w = tl.load(weight + column, mask=column < width, other=0.0)
        by_weight = tl.zeros((1, BLOCK), dtype=tl.float32)
        by_bias = tl.zeros((1, BLOCK), dtype=tl.float32)
        first = tl.program_id(0)
        for block in range(first, tl.cdiv(rows, ROWS), programs):
            row = (block * ROWS + tl.arange(0, ROWS)[:, None]).to(tl.int64)
            real = (row < rows) & (column < width)
            above = tl.load(grad + row * width + column, mask=real, other=0.0).to(tl.float32)
            values = tl.load(x + row * width + column, mask=real, other=0.0)
            middle = tl.load(mean + row, mask=row < rows, other=0.0)
            inverse = tl.load(scale + row, mask=row < rows, other=0.0)
            normal = tl.where(real, (values - middle) * inverse, 0.0)
            weighed = above * w
            along = tl.sum(weighed * normal, 1)[:, None] / width
            level = tl.sum(weighed, 1)[:, None] / width
            tl.store(by_x + row * width + column, (weighed - normal * along - level) * inverse,
                     mask=real)
            by_weight += tl.sum(above * normal, 0)[None, :]
            by_bias += tl.sum(above, 0)[None, :]
        here = parts + first * width + column
        tl.store(here, by_weight, mask=column < width)
        tl.store(here + programs * width, by_bias, mask=column < width)

    _softmax_slope, _affine, _affine_backward, _layer_norm, _layer_norm_backward = (
        triton.jit(inspect.unwrap(function))  # of its own code, not of a check around it
        for function in (_softmax_slope, _affine, _affine_backward, _layer_norm,
                         _layer_norm_backward))
