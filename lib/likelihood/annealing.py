"""Annealed importance sampling and its reverse: log p(y|x) of a latent model between two bounds.

Algorithms on callables, with no model in them. The path leads from q(z|y,x) to p(y,z|x), so that
one temperature is plain importance sampling and more can only be tighter, in expectation, where
the chains mix. All in the coordinates eps = (z - loc) / scale of q, in which q is N(0, I): HMC is
preconditioned by q's standard deviations, and exact for q itself.
Source: Neal (2001), "Annealed importance sampling"; Grosse, Ghahramani and Adams (2015),
"Sandwiching the marginal likelihood using bidirectional Monte Carlo"; Wu et al. (2017), "On the
quantitative analysis of decoder-based generative models"; for the integrator Shahbaba et al.
(2014), "Split Hamiltonian Monte Carlo".
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lib.distributions import DiagonalGaussian
from lib.errors import ConfigError, check_least

__all__ = ["AnnealedWeights", "Annealing", "GeometricPath", "forward_annealing",
           "reverse_annealing", "tune_step_sizes"]

TUNING, FORWARD, REVERSE = range(3)  # random streams of one sentence
ADAPTATION = 0.5  # change of the log step size per unit of acceptance above its target


@dataclass(frozen=True)
class Annealing:
    """How to anneal. Errors: ConfigError for a value out of its range."""

    temperatures: int = 100  # steps from q to the joint, T; 1 is importance sampling
    chains: int = 16  # chains a sentence, K
    leapfrog_steps: int = 3  # gradients a transition
    target_acceptance: float = 0.8  # what step sizes are tuned to
    tuning_chains: int = 4  # chains a sentence of the preliminary run

    def __post_init__(self):
        check_least(self, temperatures=1, chains=1, leapfrog_steps=1, tuning_chains=1)
        if not 0 < self.target_acceptance < 1:
            raise ConfigError(f"target_acceptance is {self.target_acceptance}: give a share "
                              "between 0 and 1, such as 0.8")

    @property
    def ladder(self) -> Float[Tensor, " temperatures_and_zero"]:
        """b_0 = 0, ..., b_T = 1 in float64, equally spaced."""
        return torch.linspace(0, 1, self.temperatures + 1, dtype=torch.float64)


@dataclass(frozen=True)
class GeometricPath:
    """f_b(z) = q(z|y,x)^(1-b) [p(y|z,x) p(z|x)]^b for a batch of sentences.

    Samples of a sentence lie together, as everywhere: [batch * chains, length, channels]. On
    padding eps is 0, and no density counts it.
    """

    q: DiagonalGaussian
    log_joint: Callable[[Tensor], Tensor]
    """log p(y|z,x) + log p(z|x) in nats of z [batch * chains, ...], as [batch * chains]."""

    def __len__(self) -> int:
        return self.q.loc.shape[0]

    def log_ratio(self, eps: Float[Tensor, "samples length channels"]) -> Float[Tensor, " samples"]:
        """log p(y,z|x) - log q(z|y,x): the log weight of importance sampling."""
        return self.log_joint(self.q.from_noise(eps)) - self.q.log_prob_of_noise(eps)

    def real(self, x: Float[Tensor, "samples length channels"]) -> Tensor:
        """`x` with 0 on padding."""
        mask = self.q.mask
        return x if mask is None else x * mask.repeat_interleave(len(x) // len(mask), 0)[..., None]


@dataclass(frozen=True)
class AnnealedWeights:
    """What one run of the chains gives for each sentence."""

    log_weights: Float[Tensor, "chains batch"]  # nats; E[w] = p(y|x), reverse E[1/w] = 1 / p(y|x)
    acceptance: Float[Tensor, "transitions batch"]  # mean over chains; T - 1 transitions
    step_size: Float[Tensor, "transitions batch"]  # angle of a leapfrog step, radians
    reverse: bool

    @property
    def log_bound(self) -> Float[Tensor, " batch"]:
        """Forward: log 1/K sum_k w_k, a lower bound on log p(y|x) in expectation.

        Reverse: -log 1/K sum_k 1/w_k, an upper bound in expectation. By Markov's inequality a
        lower bound exceeds the truth by b nats with probability at most exp(-b), and an upper
        bound falls short of it no more often (Grosse et al. 2015, section 3).
        """
        sign = -1.0 if self.reverse else 1.0
        return sign * ((sign * self.log_weights).logsumexp(0) - math.log(len(self.log_weights)))

    @property
    def effective_sample_size(self) -> Float[Tensor, " batch"]:
        """(sum_k w_k)^2 / sum_k w_k^2, between 1 and K; of 1/w_k for the reverse chains."""
        terms = -self.log_weights if self.reverse else self.log_weights
        return (2 * terms.logsumexp(0) - (2 * terms).logsumexp(0)).exp()

    @property
    def standard_error(self) -> Float[Tensor, " batch"]:
        """Of `log_bound`, nats, by the delta method from the spread of the K weights; NaN at K = 1.

        Too small where the effective sample size is: a weight that was never met isn't in it.
        """
        chains = len(self.log_weights)
        excess = (chains / self.effective_sample_size - 1).clamp(min=0)
        return (excess / (chains - 1)).sqrt() if chains > 1 else torch.full_like(excess, math.nan)


# ---- the three runs ----

def tune_step_sizes(path: GeometricPath, settings: Annealing, seeds: Sequence[int],
                    ) -> Float[Tensor, "transitions batch"]:
    """Step sizes by temperature and sentence, from a preliminary run with chains of its own.

    Along the ladder log h changes by 0.5 (acceptance - target). The weights of later runs stay
    unbiased because their chains never touch h: it depends on y, x and this run's own random
    numbers, and given h every transition leaves its f_b invariant.
    """
    draws = _Draws(path, settings.tuning_chains, seeds, TUNING)
    return _anneal(path, settings, draws.normal(), draws, settings.ladder, None)[2]


def forward_annealing(path: GeometricPath, settings: Annealing,
                      step_size: Float[Tensor, "transitions batch"], seeds: Sequence[int],
                      ) -> AnnealedWeights:
    """Annealed importance sampling from q to the joint: `log_bound` is a stochastic lower bound.

    log w = sum_t (b_t - b_(t-1)) log_ratio(z_(t-1)), z_0 ~ q, z_t by HMC at b_t (Neal 2001, section
    2: his weights on a geometric path).
    seeds: one a sentence. Its numbers depend on its seed alone, not on padding or neighbours.
    """
    draws = _Draws(path, settings.chains, seeds, FORWARD)
    annealed = _anneal(path, settings, draws.normal(), draws, settings.ladder, step_size)
    return AnnealedWeights(*annealed, reverse=False)


def reverse_annealing(path: GeometricPath, settings: Annealing,
                      step_size: Float[Tensor, "transitions batch"], seeds: Sequence[int],
                      z: Float[Tensor, "batch length channels"]) -> AnnealedWeights:
    """The same chain backwards from an exact posterior sample: a stochastic upper bound.

    z: the latents from which y was drawn, z ~ p(z|x) and then y ~ p(y|z,x), so that z ~ p(z|y,x).
    With any other z (that of q, say) the bound says nothing. All K chains of a sentence start at
    its one z: each 1/w is unbiased by itself, therefore so is their mean.
    """
    draws = _Draws(path, settings.chains, seeds, REVERSE)
    start = path.real(path.q.to_noise(z.repeat_interleave(settings.chains, 0)))
    annealed = _anneal(path, settings, start, draws, settings.ladder.flip(0), step_size.flip(0))
    weights, acceptance, used = annealed
    return AnnealedWeights(weights, acceptance.flip(0), used.flip(0), reverse=True)


# ---- one sweep and one transition ----

class _Draws:
    """Random numbers of all chains, every sentence's from a generator of its own."""

    def __init__(self, path: GeometricPath, chains: int, seeds: Sequence[int], stream: int):
        self.path, self.chains = path, chains
        states = (np.random.SeedSequence([seed, stream]).generate_state(1)[0] for seed in seeds)
        device = path.q.loc.device
        self.generators = [torch.Generator(device).manual_seed(int(state)) for state in states]
        length = path.q.loc.shape[1]
        self.lengths = [length] * len(path) if path.q.mask is None else path.q.mask.sum(1).tolist()

    def normal(self) -> Float[Tensor, "samples length channels"]:
        """Standard normal on real positions, 0 on padding."""
        like, channels = self.path.q.loc, self.path.q.loc.shape[2]
        result = like.new_zeros(len(self.path), self.chains, *like.shape[1:])
        for row, length, generator in zip(result, self.lengths, self.generators, strict=True):
            row[:, :length] = torch.randn(self.chains, length, channels, dtype=like.dtype,
                                          device=like.device, generator=generator)
        return result.flatten(0, 1)

    def uniform(self) -> Float[Tensor, " samples"]:
        """Uniform on [0, 1)."""
        like = self.path.q.loc
        return torch.cat([torch.rand(self.chains, dtype=like.dtype, device=like.device,
                                     generator=generator) for generator in self.generators])


@dataclass(frozen=True)
class _Point:
    """Where the chains are, with log_ratio and its gradient there: at any b they serve again."""

    eps: Float[Tensor, "samples length channels"]
    log_ratio: Float[Tensor, " samples"]
    slope: Float[Tensor, "samples length channels"]


def _at(path: GeometricPath, eps: Tensor) -> _Point:
    with torch.enable_grad():
        eps = eps.detach().requires_grad_()
        log_ratio = path.log_ratio(eps)
        slope, = torch.autograd.grad(log_ratio.sum(), eps)
    return _Point(eps.detach(), log_ratio.detach(), path.real(slope))


@torch.no_grad()
def _anneal(path: GeometricPath, settings: Annealing, eps: Tensor, draws: _Draws, ladder: Tensor,
            step_size: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Log weights [chains, batch]; acceptance and step sizes [transitions, batch].

    ladder: rising (forward) or falling (reverse); without `step_size` it is adapted on the way.
    """
    shape = len(path), draws.chains
    point = _at(path, eps)
    log_weights = point.log_ratio.new_zeros(shape[0] * shape[1], dtype=torch.float64)
    longest = math.pi / 2 / settings.leapfrog_steps  # beyond it a trajectory turns back
    log_step = path.q.loc.new_full((shape[0],), math.log(longest))
    acceptances, used = [], []
    for place in range(settings.temperatures):
        log_weights += abs(float(ladder[place + 1] - ladder[place])) * point.log_ratio.double()
        if place == settings.temperatures - 1:
            break
        step = log_step.exp() if step_size is None else step_size[place]
        point, accepted = _transition(path, point, float(ladder[place + 1]), step,
                                      settings.leapfrog_steps, draws)
        mean = accepted.view(shape).mean(1)
        acceptances.append(mean)
        used.append(step)
        log_step = log_step + ADAPTATION * (mean - settings.target_acceptance)
        log_step = log_step.clamp(max=math.log(longest))
    none = path.q.loc.new_zeros(0, shape[0])
    return (log_weights.view(shape).T, torch.stack(acceptances) if acceptances else none,
            torch.stack(used) if used else none)


def _transition(path: GeometricPath, start: _Point, b: float, step: Tensor, leapfrog_steps: int,
                draws: _Draws) -> tuple[_Point, Float[Tensor, " samples"]]:
    """One HMC transition that leaves f_b invariant, and its acceptance probability.

    In eps, log f_b = log N(eps; 0, I) + b log_ratio(eps). A leapfrog step kicks the momentum by
    half of b's part, follows the normal's own dynamics exactly (a rotation of position and momentum
    by the step size), and kicks again: reversible, and it keeps volume.
    """
    angle = step.repeat_interleave(draws.chains)[:, None, None]
    cos, sin = angle.cos(), angle.sin()
    momentum = first = draws.normal()
    point = start
    for _ in range(leapfrog_steps):
        momentum = momentum + 0.5 * b * angle * point.slope
        eps, momentum = cos * point.eps + sin * momentum, cos * momentum - sin * point.eps
        point = _at(path, eps)
        momentum = momentum + 0.5 * b * angle * point.slope
    log_accept = _log_density(point, momentum, b) - _log_density(start, first, b)
    acceptance = log_accept.nan_to_num(-math.inf, 0.0).clamp(max=0).exp().to(step.dtype)
    moved = draws.uniform() < acceptance
    where = moved[:, None, None]
    return _Point(torch.where(where, point.eps, start.eps),
                  torch.where(moved, point.log_ratio, start.log_ratio),
                  torch.where(where, point.slope, start.slope)), acceptance


def _log_density(point: _Point, momentum: Tensor, b: float) -> Float[Tensor, " samples"]:
    """log f_b(eps) + log N(momentum; 0, I) up to a constant, in float64."""
    squares = point.eps.double().square() + momentum.double().square()
    return b * point.log_ratio.double() - 0.5 * squares.sum((1, 2))
