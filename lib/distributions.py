"""The distributions that networks return: they hold tensors, no parameters.

`log_prob` is summed over positions and channels of a sentence, in nats, and counts real positions
only. A sentence's samples lie together: shape [batch * samples, ...], the sample index innermost.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .objectives import token_log_prob

__all__ = ["DiagonalGaussian", "Tokens", "exact", "gaussian_kl", "standard_normal_log_prob"]


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
        loc = self.loc.repeat_interleave(samples, 0)
        eps = torch.randn(loc.shape, dtype=loc.dtype, device=loc.device, generator=generator)
        return loc + eps * self.scale.repeat_interleave(samples, 0)

    def log_prob(self, z: Float[Tensor, "samples length channels"]) -> Float[Tensor, " samples"]:
        """log density of each sample."""
        count = z.shape[0] // self.loc.shape[0]
        loc, scale = (x.repeat_interleave(count, 0) if count > 1 else x
                      for x in (self.loc, self.scale))
        eps = (z - loc) / scale
        return _sum(-0.5 * (eps.square() + math.log(2 * math.pi)) - scale.log(), self.mask)


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

    def log_prob(self, target: Int[Tensor, "batch length"],
                 mask: Bool[Tensor, "batch length"] | None) -> Float[Tensor, " samples"]:
        """Summed log-probability of the target, for each of its samples."""
        count = self.states.shape[0] // target.shape[0]
        ids = target.repeat_interleave(count, 0)
        log_probs = token_log_prob(self.states.flatten(0, 1), self.weight, ids.flatten())
        return _sum(log_probs.view(*ids.shape, 1), mask)

    def argmax(self) -> Int[Tensor, "samples length"]:
        """The most probable subword at every position."""
        return F.linear(self.states, self.weight.to(self.states.dtype)).argmax(-1)
