"""Emissions: a categorical over subwords at each position, without the special ones.

A dynamic programme over positions needs a few columns of the [positions, vocabulary] matrix, the
target's, and every row's normaliser. So the matrix never exists as a whole: the columns are a
product of their own, and the normaliser is taken a chunk of rows at a time, in both passes.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib.distributions import LOGITS_AT_ONCE, draw, exact
from lib.layers import taken
from lib.objectives import compute_dtype
from lib.subword import EOS, UNK

__all__ = ["Emissions", "log_normaliser"]

FORWARD, BACKWARD = 2**20, 2**22  # numbers of a chunk in each pass, on a CPU: they stay in a cache
ON_GPU = 2**27


class _LogNormaliser(torch.autograd.Function):
    """logsumexp of each row of hidden weight^T; the backward pass computes the product again."""

    @staticmethod
    def forward(ctx, hidden, weight, dtype):
        h, w = hidden.to(dtype), weight.to(dtype)
        log_z = torch.cat([exact(part @ w.T).logsumexp(-1) for part in h.split(_rows(w, FORWARD))])
        ctx.save_for_backward(h, w, log_z)
        ctx.dtypes = hidden.dtype, weight.dtype
        return log_z

    @staticmethod
    def backward(ctx, grad):
        h, w, log_z = ctx.saved_tensors
        grad_h, grad_w = torch.empty_like(h), torch.zeros_like(w, dtype=log_z.dtype)
        rows = _rows(w, BACKWARD)
        for start in range(0, len(h), rows):
            some = slice(start, start + rows)
            slope = exact(h[some] @ w.T).sub_(log_z[some, None]).exp_().mul_(grad[some, None])
            slope = slope.to(h.dtype)
            torch.mm(slope, w, out=grad_h[some])
            grad_w += slope.T @ h[some]
        return grad_h.to(ctx.dtypes[0]), grad_w.to(ctx.dtypes[1]), None


def _rows(weight: Tensor, numbers: int) -> int:
    return max(64, (ON_GPU if weight.is_cuda else numbers) // len(weight))


def _product(rows: Tensor, columns: Tensor) -> Tensor:
    """Logits of a column a row, rounded as the products are that the normaliser sums: rounded less
    they would be those of another distribution, which doesn't sum to one.
    """
    return exact((exact(rows) * exact(columns)).sum(-1).to(rows.dtype))


def log_normaliser(hidden: Float[Tensor, "rows d_model"],
                   weight: Float[Tensor, "classes d_model"]) -> Float[Tensor, " rows"]:
    """log sum_v exp(hidden . weight_v) of each row, in at least fp32, with gradient."""
    return _LogNormaliser.apply(hidden, weight, compute_dtype(hidden))


@dataclass(frozen=True)
class Emissions:
    """log p(subword) at each position: softmax of states weight^T over the subwords from `first`.

    For strings of a length chosen beforehand (`lib.lengths.endings`) `first` is EOS, and is
    possible where `may_end` alone; where `must_end` it is the only one.
    """

    states: Float[Tensor, "batch length d_model"]
    weight: Float[Tensor, "vocabulary d_model"]
    first: int = UNK
    may_end: Bool[Tensor, "batch length"] | None = None
    must_end: Bool[Tensor, "batch length"] | None = None
    output: Callable[[Tensor], Tensor] | None = None
    """the product of states and weight^T, where a frozen model has a faster one"""

    def at(self, places: Int[Tensor, "batch places"]) -> "Emissions":
        """Those of some positions of each row."""
        ends = {} if self.may_end is None else {
            name: getattr(self, name).gather(1, places) for name in ("may_end", "must_end")}
        return replace(self, states=taken(self.states, places), **ends)

    # ---- of given subwords, with gradient ----

    def log_prob(self, ids: Int[Tensor, "batch subwords"],
                 ) -> Float[Tensor, "batch length subwords"]:
        """log p(subword) of each position (rows) and each of some subwords (columns)."""
        columns = F.embedding(ids, self.weight)
        logits = exact(self.states @ columns.to(self.states.dtype).transpose(1, 2))
        rows = log_normaliser(self.states.flatten(0, 1), self.weight[self.first:])
        return logits - rows.view(*self.states.shape[:2], 1)

    def log_prob_at(self, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length"]:
        """log p(subword) of one subword a position: of the one that stands there."""
        dtype = compute_dtype(self.states)
        rows, columns = self.states.to(dtype), F.embedding(ids, self.weight).to(dtype)
        logits = _product(rows, columns)
        first = self.first if self.may_end is None else UNK
        total = log_normaliser(rows.flatten(0, 1), self.weight[first:]).view(logits.shape)
        if self.may_end is None:
            return logits - total
        end = _product(rows, self.weight[EOS].to(dtype))
        total = torch.where(self.may_end, torch.logaddexp(total, end), total)
        return (logits - total).masked_fill(self.must_end, 0.0)

    # ---- of all subwords, for search ----

    def best(self) -> tuple[Float[Tensor, "batch length"], Int[Tensor, "batch length"]]:
        """The most probable subword of each position: its log-probability, and itself."""
        values, ids = self.top(1)
        return values[..., 0], ids[..., 0]

    def top(self, count: int) -> tuple[Float[Tensor, "batch length count"],
                                       Int[Tensor, "batch length count"]]:
        """The `count` most probable subwords of each position, best first (all, if fewer)."""
        count = min(count, len(self.weight))
        tops = [log_probs.topk(count, -1) for log_probs in self._log_probs()]
        shape = *self.states.shape[:2], count
        return (torch.cat([part.values for part in tops]).view(shape),
                torch.cat([part.indices for part in tops]).view(shape))

    def sample(self, uniform: Float[Tensor, "batch length *samples"],
               temperature: float = 1.0) -> Int[Tensor, "batch length *samples"]:
        """Subwords drawn at each position from p(subword)^(1 / temperature), normalised anew."""
        parts = zip(self._log_probs(), uniform.flatten(0, 1).split(self._at_once()), strict=True)
        drawn = [draw(log_probs, u, temperature) for log_probs, u in parts]
        return torch.cat(drawn).view(uniform.shape)

    def _at_once(self) -> int:
        """Positions whose log-probabilities are in memory together."""
        return max(1, LOGITS_AT_ONCE // len(self.weight))

    def _log_probs(self) -> Iterator[Float[Tensor, "rows vocabulary"]]:
        """log p of all subwords, -inf for impossible ones, some positions at a time."""
        weight = self.weight.to(self.states.dtype)
        for start in range(0, self.states.shape[:2].numel(), self._at_once()):
            some = slice(start, start + self._at_once())
            states = self.states.flatten(0, 1)[some]
            logits = exact(F.linear(states, weight) if self.output is None else self.output(states))
            logits[:, :self.first] = -math.inf
            if self.may_end is not None:
                logits[:, EOS].masked_fill_(~self.may_end.flatten()[some], -math.inf)
                must = self.must_end.flatten()[some, None].expand(-1, len(weight) - UNK)
                logits[:, UNK:].masked_fill_(must, -math.inf)
            yield logits.log_softmax(-1)
