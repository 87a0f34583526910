"""The priors p(z|x): diagonal Gaussian, and normalizing flow.

Each is a network called with the encoded source and a length, and returns a distribution with
`mean`, `log_prob(z)` and `rsample()`. `initialise` sets data-dependent parameters from latents.
The mask may have several rows a source, which lie together: one distribution each, for candidates
of different lengths.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lib.config import Architecture
from lib.distributions import DiagonalGaussian, exact, standard_normal_log_prob
from lib.flows import Glow, squeeze
from lib.layers import Decoder, KeysValues, Memory, WeightNormLinear, positions

__all__ = ["FlowDistribution", "FlowPrior", "GaussianHead", "GaussianPrior", "build_prior"]

SMALLEST_SCALE = 1.0e-3


class GaussianHead(nn.Module):
    """Weight-normalised linear head: mean, and standard deviation through a softplus.

    softplus(raw + log(e - 1)) is 1 at raw = 0 and grows linearly, so bf16 products can't overflow.
    """

    def __init__(self, d_model: int, d_latent: int):
        super().__init__()
        self.out = WeightNormLinear(d_model, 2 * d_latent)

    def forward(self, states: Float[Tensor, "batch length d_model"],
                mask: Bool[Tensor, "batch length"] | None) -> DiagonalGaussian:
        """The distribution over z."""
        loc, raw = exact(self.out(states)).chunk(2, -1)
        scale = F.softplus(raw + math.log(math.e - 1)) + SMALLEST_SCALE
        return DiagonalGaussian(loc, scale, mask)


class GaussianPrior(nn.Module):
    """Transformer decoder over positional encodings, then mean and deviation a position."""

    def __init__(self, a: Architecture, dropout: float):
        super().__init__()
        self.d_model = a.d_model
        self.decoder = Decoder(a.posterior_layers, a.d_model, a.d_filter, a.heads, dropout)
        self.head = GaussianHead(a.d_model, a.d_latent)

    def _states(self, memory: Memory, length: int, mask: Tensor | None) -> Tensor:
        states = exact(memory.states)
        x = positions(length, self.d_model, states.device, states.dtype)
        return self.decoder(x.expand(_rows(memory, mask), -1, -1), memory, mask)

    def forward(self, memory: Memory, length: int,
                mask: Bool[Tensor, "batch length"] | None) -> DiagonalGaussian:
        """p(z|x) for targets of `length` positions."""
        return self.head(self._states(memory, length, mask), mask)

    def initialise(self, z: Tensor, memory: Memory, mask: Tensor | None) -> None:
        """Data-dependent initialisation of the head."""
        self.head.out.initialise(self._states(memory, z.shape[1], mask), mask)


@dataclass(frozen=True)
class FlowDistribution:
    """p(z|x) by change of variables: log p(z) = log N(eps; 0, I) + log|det d eps / d z|."""

    glow: Glow
    sources: list[KeysValues]
    source_mask: Tensor | None
    shape: tuple[int, int, int]  # batch, length, channels
    mask: Tensor | None

    def _conditions(self, samples: int):
        count = samples // self.shape[0]
        mask = self.mask if self.mask is None else self.mask.repeat_interleave(count, 0)
        return self.glow.conditions(self.sources, self.source_mask, mask)

    def log_prob(self, z: Float[Tensor, "samples length channels"],
                 initialise: bool = False) -> Float[Tensor, " samples"]:
        """log density of each sample."""
        conditions = self._conditions(z.shape[0])
        noise, total = self.glow(z, conditions, initialise)
        for level, eps in enumerate(noise):
            here = self.mask if self.mask is None else self.mask[:, ::2**level]
            total = total + standard_normal_log_prob(eps, here)
        return total

    def _transform(self, noise: list[Tensor]) -> Tensor:
        return self.glow.inverse(noise, self._conditions(noise[0].shape[0]))[0]

    @property
    def mean(self) -> Float[Tensor, "batch length channels"]:
        """The transform of the base distribution's mean (where decoding starts)."""
        like = exact(self.sources[0][0])
        return self._transform([like.new_zeros(s) for s in self.glow.noise_shapes(*self.shape)])

    def rsample(self, samples: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Samples [batch * samples, length, channels]."""
        batch, length, channels = self.shape
        like = exact(self.sources[0][0])
        return self._transform([
            torch.randn(s, dtype=like.dtype, device=like.device, generator=generator)
            for s in self.glow.noise_shapes(batch * samples, length, channels)])

    def from_noise(self, eps: Float[Tensor, "samples length channels"]) -> Tensor:
        """The samples that standard normal noise stands for.

        The noise is laid out as z is: half of the channels of a position are its noise of the first
        level, the rest is squeezed by two in time for the next level.
        """
        noise = []
        for _ in range(len(self.glow.levels) - 1):
            eps, leaving = eps.chunk(2, -1)
            noise.append(leaving)
            eps = squeeze(eps)
        return self._transform([*noise, eps])


class FlowPrior(nn.Module):
    """Glow from latents to a standard Gaussian, every coupling reading the source."""

    def __init__(self, a: Architecture):
        super().__init__()
        self.channels = a.d_latent
        self.glow = Glow(a.d_latent, a.d_model, a.flow_steps, a.flow_plans, a.flow_heads,
                         a.flow_d_filter)

    def forward(self, memory: Memory, length: int,
                mask: Bool[Tensor, "batch length"] | None) -> FlowDistribution:
        """p(z|x) for targets of `length` positions, a multiple of 2^(levels - 1)."""
        shape = (_rows(memory, mask), length, self.channels)
        return FlowDistribution(self.glow, self.glow.source(memory.states), memory.mask, shape,
                                mask)

    def initialise(self, z: Tensor, memory: Memory, mask: Tensor | None) -> None:
        """Data-dependent initialisation of every actnorm, in the order of the density direction."""
        self(memory, z.shape[1], mask).log_prob(z, initialise=True)


def build_prior(a: Architecture, dropout: float) -> nn.Module:
    """The prior of a latent family."""
    return GaussianPrior(a, dropout) if a.family == "gaussian" else FlowPrior(a)


def _rows(memory: Memory, mask: Tensor | None) -> int:
    """How many distributions: one a source, or one a row of the mask."""
    return memory.states.shape[0] if mask is None else mask.shape[0]
