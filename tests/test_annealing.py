"""Annealing on linear-Gaussian models, whose marginal and posterior are known exactly."""

import math

import pytest
import torch
from tiny import mean_and_error
from torch.distributions import MultivariateNormal

from lib.distributions import DiagonalGaussian
from lib.errors import ConfigError
from lib.likelihood import iw_bound
from lib.likelihood.annealing import (
    AnnealedWeights,
    Annealing,
    GeometricPath,
    forward_annealing,
    reverse_annealing,
    tune_step_sizes,
)

pytestmark = pytest.mark.usefixtures("float64")

NOISE = 0.7
W = torch.tensor([[1.0, 0.3], [-0.5, 0.8], [0.2, 1.1]], dtype=torch.float64)
B = torch.tensor([0.1, -0.4, 0.3], dtype=torch.float64)
WRONG = {"shifted": (0.5, 1.0), "too wide": (0.2, 1.6), "too narrow": (0.2, 0.6)}


class Linear:
    """y_t = W z_t + b + noise at each real position, z_t ~ N(0, I); y and z drawn from it."""

    def __init__(self, lengths, width=None):
        self.lengths = torch.tensor(lengths)
        width = width or int(self.lengths.max())
        mask = torch.arange(width) < self.lengths[:, None]
        self.mask = None if bool(mask.all()) else mask
        self.real = mask[..., None].double()
        self.z = torch.randn(len(lengths), width, 2) * self.real
        self.y = self.z @ W.T + B + NOISE * torch.randn(len(lengths), width, 3)

    def truth(self):
        """log p(y), [batch]."""
        marginal = MultivariateNormal(B, W @ W.T + NOISE**2 * torch.eye(3))
        return (marginal.log_prob(self.y) * self.real[..., 0]).sum(1)

    def terms(self, z):
        """log p(y|z) and log p(z) of z [batch * samples, ...]."""
        count = len(z) // len(self.y)
        y, real = (x.repeat_interleave(count, 0) for x in (self.y, self.real))
        log_p_y = torch.distributions.Normal(z @ W.T + B, NOISE).log_prob(y)
        log_p_z = torch.distributions.Normal(0.0, 1.0).log_prob(z)
        return (log_p_y * real).sum((1, 2)), (log_p_z * real).sum((1, 2))

    def posterior(self):
        """Mean [batch, length, 2] and covariance [2, 2]."""
        covariance = torch.linalg.inv(torch.eye(2) + W.T @ W / NOISE**2)
        return (self.y - B) @ W / NOISE**2 @ covariance, covariance

    def path(self, shift, widening):
        """From a wrong q: shifted, uncorrelated, too wide or too narrow."""
        mean, covariance = self.posterior()
        scale = widening * covariance.diag().sqrt().expand_as(mean).contiguous()
        q = DiagonalGaussian(mean + shift * scale, scale, self.mask)
        return GeometricPath(q, lambda z: sum(self.terms(z)))


def annealed(path, settings, seeds=None):
    seeds = seeds or list(range(len(path)))
    return forward_annealing(path, settings, tune_step_sizes(path, settings, seeds), seeds)


def both(model, shift, widening, settings, seeds=None):
    seeds = seeds or list(range(len(model.y)))
    path = model.path(shift, widening)
    step_size = tune_step_sizes(path, settings, seeds)
    return (forward_annealing(path, settings, step_size, seeds),
            reverse_annealing(path, settings, step_size, seeds, model.z))


# The estimate --------------------------------------------------------------------------------

@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_estimate_lies_within_a_fiftieth_of_a_nat_of_the_truth(wrong):
    model = Linear([1, 3, 2])
    found = annealed(model.path(*wrong), Annealing(50, 1600, 2))
    assert float(found.standard_error.max()) < 0.012
    torch.testing.assert_close(found.log_bound, model.truth(), rtol=0, atol=0.02)


def test_annealing_beats_importance_sampling_with_as_many_chains():
    model = Linear([20] * 8)
    path, truth = model.path(0.5, 1.6), model.truth()
    plain = annealed(path, Annealing(1, 32))
    better = annealed(path, Annealing(60, 32))
    assert float((plain.log_bound - truth).mean()) < -3
    assert abs(float((better.log_bound - truth).mean())) < 0.3
    assert (better.effective_sample_size > plain.effective_sample_size).all()


def test_one_temperature_is_importance_sampling():
    model = Linear([2, 4])
    path, z = model.path(0.5, 1.6), torch.randn(2 * 7, 4, 2)
    q = torch.distributions.Normal(path.q.loc.repeat_interleave(7, 0),
                                   path.q.scale.repeat_interleave(7, 0))
    log_q_z = (q.log_prob(z) * model.real.repeat_interleave(7, 0)).sum((1, 2))
    log_p_y, log_p_z = model.terms(z)
    log_weights = path.log_ratio(path.q.to_noise(z))
    torch.testing.assert_close(log_weights, log_p_y + log_p_z - log_q_z)
    found = annealed(path, Annealing(1, 7))
    assert found.acceptance.shape == found.step_size.shape == (0, 2)
    zeros = torch.zeros_like(found.log_weights)
    torch.testing.assert_close(found.log_bound, iw_bound(found.log_weights, zeros, zeros))


def test_at_the_true_posterior_every_weight_is_the_marginal():
    model = Linear([3, 5])
    mean, _ = model.posterior()
    diagonal = Linear.path(model, 0.0, 1.0)
    # a model without correlation between the channels, so that q can be its posterior
    joint = torch.distributions.Normal(mean, diagonal.q.scale)

    def log_joint(z):
        count = len(z) // 2
        terms = joint.log_prob(z.view(2, count, *z.shape[1:]).transpose(0, 1))
        return ((terms * model.real).sum((2, 3)).T - 1.25).flatten()

    path = GeometricPath(DiagonalGaussian(mean, diagonal.q.scale, model.mask), log_joint)
    seeds, settings = [1, 2], Annealing(5, 3)
    found = annealed(path, settings, seeds)
    expected = torch.full((3, 2), -1.25)
    torch.testing.assert_close(found.log_weights, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.acceptance, torch.ones(4, 2), rtol=0, atol=1e-10)
    back = reverse_annealing(path, settings, found.step_size, seeds, mean + diagonal.q.scale)
    torch.testing.assert_close(back.log_weights, expected, rtol=0, atol=1e-10)


# Both bounds ---------------------------------------------------------------------------------

@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_weights_are_unbiased_in_both_directions(wrong):
    """E[w] = p(y) and E[1/w] = 1 / p(y): exact identities of a right sampler, fatal to a wrong one.

    Few temperatures, so that any bias would show; the sentences are drawn from the model.
    """
    model = Linear([2] * 3000)
    forward, backward = both(model, *wrong, Annealing(6, 2, 2))
    truth = model.truth()
    for ratios in ((forward.log_weights - truth).exp(), (truth - backward.log_weights).exp()):
        mean, error = mean_and_error(ratios.mean(0))
        assert error < 0.06
        assert mean == pytest.approx(1, abs=4 * error)


def test_bounds_hold_the_truth_and_close_with_temperatures():
    model, gaps = Linear([6] * 200), []
    truth = model.truth()
    for temperatures in (2, 8, 32):
        forward, backward = both(model, 0.5, 1.6, Annealing(temperatures, 4))
        below, below_error = mean_and_error(truth - forward.log_bound)
        above, above_error = mean_and_error(backward.log_bound - truth)
        assert below > -4 * below_error
        assert above > -4 * above_error
        gaps.append(below + above)
    assert gaps[0] > 2
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2] > 0


def test_the_upper_bound_needs_an_exact_sample():
    """Started where q is, not at the latents behind y, the chains give no bound from above."""
    model = Linear([6] * 200)
    path, settings, seeds = model.path(0.2, 0.3), Annealing(2, 4), list(range(200))
    z = path.q.from_noise(torch.randn_like(path.q.loc))
    step_size = tune_step_sizes(path, settings, seeds)
    wrong = reverse_annealing(path, settings, step_size, seeds, z)
    right = reverse_annealing(path, settings, step_size, seeds, model.z)
    assert float((wrong.log_bound - model.truth()).mean()) < -1
    assert float((right.log_bound - model.truth()).mean()) > 0


# Step sizes ----------------------------------------------------------------------------------

def test_step_sizes_are_tuned_to_the_acceptance_and_then_frozen():
    model = Linear([30] * 3)
    path, settings = model.path(0.5, 2.5), Annealing(60, 16, 3)
    step_size = tune_step_sizes(path, settings, [1, 2, 3])
    assert step_size.shape == (59, 3)
    assert float(step_size.max()) <= math.pi / 6 + 1e-9
    found = forward_annealing(path, settings, step_size, [1, 2, 3])
    torch.testing.assert_close(found.step_size, step_size, rtol=0, atol=0)
    assert float(found.acceptance[20:].mean()) == pytest.approx(0.8, abs=0.07)


def test_tuning_uses_random_numbers_of_its_own():
    """Other chains than those that are weighted: their number doesn't change the tuned sizes."""
    path = Linear([3, 2]).path(0.5, 1.6)
    few, many = (tune_step_sizes(path, Annealing(8, chains), [1, 2]) for chains in (2, 50))
    torch.testing.assert_close(few, many, rtol=0, atol=0)


# Padding, seeds, shapes ----------------------------------------------------------------------

def test_padding_and_neighbours_change_nothing():
    model = Linear([2, 5, 3])
    settings = Annealing(7, 5)
    whole, seeds = both(model, 0.5, 1.6, settings, [11, 12, 13]), [11, 12, 13]
    for row, length in enumerate([2, 5, 3]):
        alone = Linear([length])
        alone.y, alone.z = model.y[row:row + 1, :length], model.z[row:row + 1, :length]
        assert alone.mask is None
        for one, all_three in zip(both(alone, 0.5, 1.6, settings, seeds[row:row + 1]), whole,
                                  strict=True):
            torch.testing.assert_close(one.log_weights[:, 0], all_three.log_weights[:, row],
                                       rtol=0, atol=1e-9)


def test_padded_latents_never_move():
    model = Linear([2, 5])
    path, seen = model.path(0.5, 1.6), []
    spy = GeometricPath(path.q, lambda z: seen.append(z.detach()) or path.log_joint(z))
    annealed(spy, Annealing(4, 3))
    for z in seen:
        first = z.view(2, -1, 5, 2)[0]
        torch.testing.assert_close(first[:, 2:], path.q.loc[0, 2:].expand_as(first[:, 2:]))


def test_seeds_determine_the_weights():
    path, settings = Linear([2, 3]).path(0.5, 1.6), Annealing(5, 4)
    first, again, other = (annealed(path, settings, seeds)
                           for seeds in ([1, 2], [1, 2], [1, 3]))
    torch.testing.assert_close(first.log_weights, again.log_weights, rtol=0, atol=0)
    torch.testing.assert_close(first.log_weights[:, 0], other.log_weights[:, 0], rtol=0, atol=0)
    assert not torch.allclose(first.log_weights[:, 1], other.log_weights[:, 1])


def test_impossible_latents_are_left():
    """Half of the latent space has density 0: log 1/2 is lost, and no NaN comes in."""
    q = DiagonalGaussian(torch.zeros(1, 1, 1), torch.ones(1, 1, 1), None)
    path = GeometricPath(q, lambda z: torch.where(
        z > 0, -0.5 * (z.square() + math.log(2 * math.pi)), -math.inf).sum((1, 2)))
    found = annealed(path, Annealing(4, 4000))
    assert not found.log_weights.isnan().any()
    assert float(found.log_bound) == pytest.approx(math.log(0.5), abs=0.05)


def test_bounds_hand_worked():
    log_weights = torch.tensor([[0.2], [0.6]]).log()
    none = torch.zeros(0, 1)
    forward = AnnealedWeights(log_weights, none, none, reverse=False)
    assert float(forward.log_bound) == pytest.approx(math.log(0.4), rel=1e-12)
    assert float(forward.effective_sample_size) == pytest.approx(0.64 / 0.4, rel=1e-12)
    # mean 0.4, variance 0.08 with n - 1, so that of the mean is 0.04: half of the mean
    assert float(forward.standard_error) == pytest.approx(0.5, rel=1e-12)
    backward = AnnealedWeights(log_weights, none, none, reverse=True)
    assert float(backward.log_bound) == pytest.approx(-math.log((5 + 5 / 3) / 2), rel=1e-12)
    assert float(backward.effective_sample_size) == pytest.approx(1.6, rel=1e-12)
    single = AnnealedWeights(log_weights[:1], none, none, reverse=False)
    assert single.standard_error.isnan().all()


@pytest.mark.parametrize(("wrong", "name"), [
    ({"temperatures": 0}, "temperatures"), ({"chains": 0}, "chains"),
    ({"leapfrog_steps": 0}, "leapfrog_steps"), ({"tuning_chains": 0}, "tuning_chains"),
    ({"target_acceptance": 1.0}, "target_acceptance"),
])
def test_settings_out_of_range_are_refused(wrong, name):
    with pytest.raises(ConfigError, match=name):
        Annealing(**wrong)
