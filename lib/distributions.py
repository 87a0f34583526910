"""The distributions that networks return: they hold tensors, no parameters.

`log_prob` is summed over positions and channels of a sentence, in nats, and counts real positions
only. A sentence's samples lie together: shape [batch * samples, ...], the sample index innermost.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib.objectives import token_log_prob

__all__ = ["DiagonalGaussian", "Tokens", "draw", "exact", "gaussian_kl", "standard_normal_log_prob"]

LOGITS_AT_ONCE, ON_GPU = 2**24, 2**28  # numbers that a choice of subwords holds together


def exact(x: Tensor) -> Tensor:
    """`x` in at least float32: probabilities are never computed in less."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _sum(terms: Tensor, mask: Tensor | None) -> Tensor:
    """Sum [samples, length, channels] over real positions and channels."""
    terms = terms.sum(-1)
    if mask is not None:
        terms = terms * mask.repeat_interleave(len(terms) // len(mask), 0)
    return terms.sum(-1)


def standard_normal_log_prob(eps: Float[Tensor, "samples length channels"],
                             mask: Bool[Tensor, "batch length"] | None) -> Tensor:
    """log N(eps; 0, I), [samples]."""
    return _sum(-0.5 * (eps.square() + math.log(2 * math.pi)), mask)


def draw(log_probs: Float[Tensor, "*batch classes"], uniform: Float[Tensor, "*batch_and_samples"],
         temperature: float = 1.0, nucleus: float = 1.0) -> Int[Tensor, "*batch_and_samples"]:
    """The class that a uniform number in [0, 1) falls on: the inverse of the cumulative sum.

    `uniform` has shape [*batch], or [*batch, samples] for several draws.

    Classes have probability softmax(log_probs / temperature); `nucleus` below 1 leaves only the
    most probable ones, as few as reach that mass together.
    """
    probs, order = (log_probs.double() / temperature).softmax(-1), None
    if nucleus < 1:
        probs, order = probs.sort(dim=-1, descending=True, stable=True)
        probs = probs.masked_fill(probs.cumsum(-1) - probs >= nucleus, 0.0)
    cumulative = probs.cumsum(-1)
    several = uniform.dim() == log_probs.dim()
    point = (uniform if several else uniform[..., None]).double() * cumulative[..., -1:]
    place = torch.searchsorted(cumulative, point, right=True).clamp(max=probs.shape[-1] - 1)
    place = place if order is None else order.gather(-1, place)
    return place if several else place[..., 0]


@dataclass(frozen=True)
class DiagonalGaussian:
    """N(loc, scale^2) at each position and channel; scale is a standard deviation."""

    loc: Float[Tensor, "batch length channels"]
    scale: Float[Tensor, "batch length channels"]
    mask: Bool[Tensor, "batch length"] | None

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.loc

    def rsample(self, samples: int = 1, generator: torch.Generator | None = None,
                ) -> Float[Tensor, "samples length channels"]:
        """Reparameterised samples, [batch * samples, length, channels]."""
        shape = (self.loc.shape[0] * samples, *self.loc.shape[1:])
        eps = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device, generator=generator)
        return self.from_noise(eps)

    def from_noise(self, eps: Float[Tensor, "samples length channels"]) -> Tensor:
        """The samples that standard normal noise stands for: loc + eps * scale."""
        return self._repeated(self.loc, len(eps)) + eps * self._repeated(self.scale, len(eps))

    def to_noise(self, z: Float[Tensor, "samples length channels"]) -> Tensor:
        """The inverse of `from_noise`: (z - loc) / scale."""
        return (z - self._repeated(self.loc, len(z))) / self._repeated(self.scale, len(z))

    def log_prob(self, z: Float[Tensor, "samples length channels"]) -> Float[Tensor, " samples"]:
        """log density of each sample."""
        return self.log_prob_of_noise(self.to_noise(z))

    def log_prob_of_noise(self, eps: Float[Tensor, "samples length channels"]) -> Tensor:
        """log density of the samples that the noise stands for, [samples]."""
        log_scale = self._repeated(self.scale.log(), len(eps))
        return _sum(-0.5 * (eps.square() + math.log(2 * math.pi)) - log_scale, self.mask)

    def _repeated(self, x: Tensor, samples: int) -> Tensor:
        """`x`, a row a sentence, as a row a sample of so many."""
        count = samples // len(x)
        return x if count == 1 else x.repeat_interleave(count, 0)


def gaussian_kl(q: DiagonalGaussian, p: DiagonalGaussian) -> Float[Tensor, " batch"]:
    """KL[q || p] in closed form, a sentence."""
    ratio = (q.scale / p.scale).square()
    distance = ((q.loc - p.loc) / p.scale).square()
    return _sum(0.5 * (ratio + distance - 1 - ratio.log()), q.mask)


@dataclass(frozen=True)
class Tokens:
    """p(y|z, x): a categorical at each position, softmax(states weight^T)."""

    states: Float[Tensor, "samples length d_model"]
    weight: Float[Tensor, "vocabulary d_model"]
    output: Callable[[Tensor], Tensor] | None = None
    """the product of states and weight^T, where a frozen model has a faster one"""

    def log_prob(self, target: Int[Tensor, "batch length"],
                 mask: Bool[Tensor, "batch length"] | None) -> Float[Tensor, " samples"]:
        """Summed log-probability of the target, for each of its samples."""
        count = self.states.shape[0] // target.shape[0]
        ids = target.repeat_interleave(count, 0)
        log_probs = token_log_prob(self.states.flatten(0, 1), self.weight, ids.flatten())
        return _sum(log_probs.view(*ids.shape, 1), mask)

    def argmax(self) -> Int[Tensor, "samples length"]:
        """The most probable subword at every position."""
        # in bf16 on a CPU max is four times as fast as argmax
        return torch.cat([self.logits(states).max(-1).indices
                          for states in self.states.split(self._at_once)])

    def logits(self, states: Float[Tensor, "samples length d_model"]) -> Tensor:
        """What softmax makes probabilities of, [samples, length, vocabulary]."""
        if self.output is not None:
            return self.output(states)
        return F.linear(states, self.weight.to(states.dtype))

    @property
    def _at_once(self) -> int:
        """Samples whose logits may be in memory together."""
        numbers = ON_GPU if self.states.is_cuda else LOGITS_AT_ONCE
        return max(1, numbers // (self.states.shape[1] * len(self.weight)))

    def sample(self, uniform: Float[Tensor, "samples length"],
               temperature: float = 1.0) -> Int[Tensor, "samples length"]:
        """A subword drawn at every position from softmax(logits / temperature)."""
        parts = zip(self.states.split(self._at_once), uniform.split(self._at_once), strict=True)
        return torch.cat([draw(self.logits(states), u, temperature) for states, u in parts])
