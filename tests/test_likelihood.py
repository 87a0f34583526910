"""The estimators on a linear-Gaussian model, whose marginal and posterior are known exactly."""

import math

import pytest
import torch
from tiny import mean_and_error
from torch.distributions import MultivariateNormal

from lib.likelihood import (
    effective_sample_size,
    elbo,
    iw_bound,
    iw_bound_at,
    released_estimate,
)

pytestmark = pytest.mark.usefixtures("float64")

NOISE = 0.7
W = torch.tensor([[1.0, 0.3], [-0.5, 0.8], [0.2, 1.1]], dtype=torch.float64)
X = torch.tensor([0.4, -1.2, 0.9], dtype=torch.float64)
TOKENS = 3


def prior():
    return MultivariateNormal(torch.zeros(2), torch.eye(2))


def truth():
    """log p(x) of x = W z + noise, z standard normal."""
    covariance = W @ W.T + NOISE**2 * torch.eye(3)
    return float(MultivariateNormal(torch.zeros(3), covariance).log_prob(X))


def posterior():
    precision = torch.eye(2) + W.T @ W / NOISE**2
    covariance = torch.linalg.inv(precision)
    return MultivariateNormal(covariance @ W.T @ X / NOISE**2, covariance)


def wrong_posterior():
    """Shifted, uncorrelated and too wide."""
    right = posterior()
    return MultivariateNormal(right.mean + 0.2, 1.5 * torch.diag(right.covariance_matrix.diag()))


def terms(q, samples, repetitions):
    """log_p_y, log_p_z and log_q_z, each [samples, repetitions]."""
    z = q.sample((samples, repetitions))
    log_p_y = MultivariateNormal(z @ W.T, NOISE**2 * torch.eye(3)).log_prob(X)
    return log_p_y, prior().log_prob(z), q.log_prob(z)


def test_at_the_true_posterior_every_sample_gives_the_exact_marginal():
    found = terms(posterior(), 5, 4)
    exact = torch.full((4,), truth())
    torch.testing.assert_close(elbo(*found), exact, rtol=0, atol=1e-11)
    torch.testing.assert_close(iw_bound(*found), exact, rtol=0, atol=1e-11)
    torch.testing.assert_close(effective_sample_size(*found), torch.full((4,), 5.0), rtol=0,
                               atol=1e-9)


def test_elbo_is_below_the_truth_by_the_divergence():
    q = wrong_posterior()
    mean, error = mean_and_error(elbo(*terms(q, 1, 50_000)))
    gap = float(torch.distributions.kl_divergence(q, posterior()))
    assert error < 0.05 * gap
    assert mean == pytest.approx(truth() - gap, abs=4 * error)


def test_one_sample_makes_the_bound_an_elbo():
    found = terms(wrong_posterior(), 1, 50)
    torch.testing.assert_close(iw_bound(*found), elbo(*found), rtol=0, atol=1e-12)


def test_the_bound_is_never_below_the_elbo_of_the_same_samples():
    found = terms(wrong_posterior(), 6, 200)
    assert (iw_bound(*found) > elbo(*found)).all()


def test_the_bound_rises_with_samples_to_the_truth_and_not_beyond():
    q, repetitions, last = wrong_posterior(), 4000, None
    for samples in (1, 2, 4, 16, 64):
        bound = iw_bound(*terms(q, samples, repetitions))
        mean, error = mean_and_error(bound)
        assert mean < truth() + 4 * error
        if last is not None:
            rise = mean - last[0]
            assert rise > 3 * math.hypot(error, last[1]) or truth() - mean < 0.02
        last = mean, error
    close, error = mean_and_error(iw_bound(*terms(q, 4096, 50)))
    assert error < 0.005
    assert close == pytest.approx(truth(), abs=4 * error + 0.001)


def test_the_bound_rises_sample_for_sample_of_the_same_draws():
    found = terms(wrong_posterior(), 8, 20_000)
    whole = iw_bound(*found)
    halves = sum(iw_bound(*(t[part] for t in found)) for part in (slice(0, 4), slice(4, 8))) / 2
    mean, error = mean_and_error(whole - halves)
    assert mean > 5 * error


def test_the_bound_with_fewer_samples_is_the_mean_over_blocks_of_the_same_draws():
    found = terms(wrong_posterior(), 12, 50)
    torch.testing.assert_close(iw_bound_at(1, *found), elbo(*found), rtol=0, atol=1e-12)
    torch.testing.assert_close(iw_bound_at(12, *found), iw_bound(*found), rtol=0, atol=1e-12)
    for samples in (4, 5):  # of 12 draws: three blocks of 4, two of 5 and a rest
        blocks = [iw_bound(*(t[start:start + samples] for t in found))
                  for start in range(0, 13 - samples, samples)]
        torch.testing.assert_close(iw_bound_at(samples, *found), torch.stack(blocks).mean(0),
                                   rtol=0, atol=1e-12)
    assert (iw_bound_at(4, *found) <= iw_bound(*found)).all()


def test_tiny_probabilities_do_not_underflow():
    found = terms(wrong_posterior(), 8, 5)
    shifted = found[0] - 1e5, *found[1:]
    torch.testing.assert_close(iw_bound(*shifted), iw_bound(*found) - 1e5, rtol=0, atol=1e-8)
    torch.testing.assert_close(effective_sample_size(*shifted), effective_sample_size(*found),
                               rtol=1e-8, atol=0)


def test_bound_hand_worked():
    log_p_y = torch.tensor([[0.1], [0.3]]).log()
    log_p_z = torch.tensor([[0.5], [0.2]]).log()
    log_q_z = torch.tensor([[0.25], [0.1]]).log()  # weights 0.2 and 0.6
    found = log_p_y, log_p_z, log_q_z
    assert float(iw_bound(*found)) == pytest.approx(math.log(0.4), rel=1e-12)
    assert float(elbo(*found)) == pytest.approx(math.log(0.12) / 2, rel=1e-12)
    assert float(effective_sample_size(*found)) == pytest.approx(0.64 / 0.4, rel=1e-12)


# What the released code computes -------------------------------------------------------------

def test_released_estimate_hand_worked():
    # T = 2: reconstruction a token -1 and -2; weights 1 and 3, a quarter and three quarters
    log_p_y, log_p_z = torch.tensor([[-2.0], [-4.0]]), torch.tensor([[-5.0], [-6.0]])
    log_q_z = log_p_z - torch.tensor([[0.0], [2 * math.log(3)]])
    found = released_estimate(log_p_y, log_p_z, log_q_z, torch.tensor([2]))
    expected = math.log(0.25 * math.exp(-1) + 0.75 * math.exp(-2))
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_released_estimate_of_one_sample_is_the_reconstruction_alone():
    log_p_y, log_p_z, log_q_z = terms(wrong_posterior(), 1, 5)
    lengths = torch.tensor([4, 8, 4, 12, 4])
    found = released_estimate(log_p_y, log_p_z, log_q_z, lengths)
    torch.testing.assert_close(found, log_p_y[0] / lengths, rtol=0, atol=1e-12)
    assert not torch.allclose(found, elbo(log_p_y, log_p_z, log_q_z) / lengths)


@pytest.mark.parametrize("samples", [1, 64])
def test_released_estimate_exceeds_the_truth(samples):
    found = released_estimate(*terms(posterior(), samples, 500), torch.full((500,), TOKENS))
    mean, error = mean_and_error(found)
    assert mean > truth() / TOKENS + 20 * error


# Effective sample size -----------------------------------------------------------------------

@pytest.mark.parametrize(("weights", "expected"), [
    ([1, 1, 2], 16 / 6), ([1, 1, 1, 1], 4), ([1, 1e-12], 1), ([5], 1),
])
def test_effective_sample_size_hand_worked(weights, expected):
    log_p_y = torch.tensor(weights, dtype=torch.float64).log()[:, None]
    zeros = torch.zeros_like(log_p_y)
    found = effective_sample_size(log_p_y, zeros, zeros)
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_effective_sample_size_lies_between_1_and_the_samples():
    found = effective_sample_size(*terms(wrong_posterior(), 20, 300))
    assert (found > 1).all()
    assert (found < 20).all()
