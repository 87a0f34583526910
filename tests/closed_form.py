"""A latent model with the protocol of `lib.latent` whose log p(y|x) is known in closed form.

z_t ~ N(0, 1) at each position, and y_t is an even or an odd subword, each of its kind equally
likely, with P(even | z_t) = Phi(slope z_t + offset). The integral over z_t is
Phi(offset / sqrt(1 + slope^2)), and positions are independent. The approximate posterior is a
Gaussian, which the true one is not, so the ELBO is loose.
"""

import math
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import nn

from lib.distributions import DiagonalGaussian
from lib.latent import LatentModel
from lib.layers import Memory

SLOPE, OFFSET = 2.0, 0.7


@dataclass(frozen=True)
class Parity:
    """p(y|z): even with probability Phi(logit), then any subword of that kind."""

    logit: torch.Tensor  # [samples, length]
    kinds: int  # subwords of one kind

    def log_prob(self, target, mask):
        ids = target.repeat_interleave(len(self.logit) // len(target), 0)
        log_p = torch.special.log_ndtr(_sign(ids) * self.logit) - math.log(self.kinds)
        if mask is not None:
            log_p = log_p * mask.repeat_interleave(len(self.logit) // len(target), 0)
        return log_p.sum(1)

    def sample(self, uniform):
        even = uniform < torch.special.ndtr(self.logit)
        return torch.where(even, 4, 5)


class ParityModel(LatentModel):
    """Networks without weights; log p(T|x) = 0."""

    def __init__(self, vocabulary: int = 12):
        nn.Module.__init__(self)
        self.unused = nn.Parameter(torch.zeros(1))
        self.kinds = vocabulary // 2
        self.architecture = SimpleNamespace(d_latent=1)

    def encode(self, source, mask):
        return Memory(torch.zeros(*source.shape, 1, dtype=self.unused.dtype), mask)

    def posterior(self, memory, target, mask):
        loc = 0.9 * _sign(target).to(self.unused.dtype)[..., None]
        return DiagonalGaussian(loc, torch.full_like(loc, 0.7), mask)

    def prior(self, memory, length, mask):
        zeros = torch.zeros(len(memory.states), length, 1, dtype=self.unused.dtype)
        return DiagonalGaussian(zeros, torch.ones_like(zeros), mask)

    def decode(self, z, memory, mask):
        return Parity(SLOPE * z[..., 0] + OFFSET, self.kinds)

    @property
    def length_predictor(self):
        return SimpleNamespace(log_prob=lambda memory, lengths: torch.zeros(
            len(lengths), dtype=self.unused.dtype))

    def exact(self, target, mask) -> torch.Tensor:
        """log p(y|x) of every target, in nats."""
        marginal = torch.tensor(OFFSET / math.sqrt(1 + SLOPE**2), dtype=torch.float64)
        log_p = torch.special.log_ndtr(_sign(target) * marginal) - math.log(self.kinds)
        return (log_p if mask is None else log_p * mask).sum(1)


def _sign(ids):
    return 1.0 - 2.0 * (ids % 2)
