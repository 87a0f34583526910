"""Densities against torch's, against a grid and against sums; padding never counts."""

import math
from itertools import product

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from lib import distributions
from lib.distributions import (
    DiagonalGaussian,
    Tokens,
    draw,
    exact,
    gaussian_kl,
    standard_normal_log_prob,
)

pytestmark = pytest.mark.usefixtures("float64")

MASK = torch.arange(8) < torch.tensor([4, 8, 4])[:, None]


def gaussian(mask=MASK):
    return DiagonalGaussian(torch.randn(3, 8, 5), torch.rand(3, 8, 5) + 0.3, mask)


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("dtype", "expected"), [
    (torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64),
])
def test_exact_is_at_least_float32(dtype, expected):
    assert exact(torch.zeros(1, dtype=dtype)).dtype == expected


@pytest.mark.parametrize("mask", [MASK, None], ids=["ragged", "full"])
@pytest.mark.parametrize("samples", [1, 4])
def test_log_prob_equals_torch_over_real_positions(mask, samples):
    p = gaussian(mask)
    z = torch.randn(3 * samples, 8, 5)
    real = torch.ones(3, 8) if mask is None else mask.double()
    for row in range(3 * samples):
        i = row // samples  # samples of one sentence lie together
        terms = Normal(p.loc[i], p.scale[i]).log_prob(z[row]).sum(-1) * real[i]
        close(p.log_prob(z)[row], terms.sum())
        base = Normal(torch.zeros(5), torch.ones(5)).log_prob(z[row]).sum(-1) * real[i]
        close(standard_normal_log_prob(z, mask)[row], base.sum())


def test_log_prob_ignores_padding():
    p, z = gaussian(), torch.randn(6, 8, 5)
    junk = torch.where(MASK.repeat_interleave(2, 0)[..., None], z, 1e3 * torch.randn(6, 8, 5))
    close(p.log_prob(junk), p.log_prob(z))
    assert not torch.allclose(DiagonalGaussian(p.loc, p.scale, None).log_prob(z), p.log_prob(z))


def test_density_integrates_to_one():
    p = DiagonalGaussian(torch.tensor([[[0.4], [-1.0]]]), torch.tensor([[[0.7], [1.3]]]), None)
    axis = torch.linspace(-10, 10, 401)
    z = torch.cartesian_prod(axis, axis)[:, :, None]
    total = p.log_prob(z).exp().sum() * (axis[1] - axis[0])**2
    assert float(total) == pytest.approx(1, abs=1e-9)


def test_samples_are_reparameterised_and_lie_together():
    p = gaussian()
    p.loc.requires_grad_()
    p.scale.requires_grad_()
    assert p.mean is p.loc
    z = p.rsample(4, torch.Generator().manual_seed(5))
    eps = torch.randn(12, 8, 5, generator=torch.Generator().manual_seed(5))
    for row in range(12):
        close(z[row], p.loc[row // 4] + p.scale[row // 4] * eps[row], 1e-14)
    by_loc, by_scale = torch.autograd.grad(z.sum(), (p.loc, p.scale))
    close(by_loc, torch.full((3, 8, 5), 4.0))
    close(by_scale, eps.view(3, 4, 8, 5).sum(1))


def test_divergence_hand_worked():
    def one(loc, scale):
        return DiagonalGaussian(torch.full((1, 1, 1), loc), torch.full((1, 1, 1), scale), None)

    assert gaussian_kl(one(1.0, 1.0), one(0.0, 2.0)).item() == pytest.approx(
        math.log(2) + 2 / 8 - 0.5, rel=1e-12)
    assert gaussian_kl(one(3.0, 0.5), one(3.0, 0.5)).item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("mask", [MASK, None], ids=["ragged", "full"])
def test_divergence_equals_torch(mask):
    q, p = gaussian(mask), gaussian(mask)
    terms = kl_divergence(Normal(q.loc, q.scale), Normal(p.loc, p.scale)).sum(-1)
    close(gaussian_kl(q, p), (terms if mask is None else terms * mask).sum(-1))


def test_divergence_equals_its_monte_carlo_mean():
    q = gaussian()
    p = DiagonalGaussian(q.loc + 0.1, q.scale * 1.2, MASK)
    z = q.rsample(20_000)
    draws = (q.log_prob(z) - p.log_prob(z)).view(3, -1)
    error = draws.std(1) / math.sqrt(draws.shape[1])
    divergence = gaussian_kl(q, p)
    assert (error < 0.05 * divergence).all()
    assert ((draws.mean(1) - divergence).abs() < 4 * error).all()


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("padded", [True, False])
def test_tokens_log_prob_equals_log_softmax(padded, samples):
    mask = MASK if padded else None
    states, weight = torch.randn(3 * samples, 8, 6), torch.randn(9, 6)
    target = torch.randint(9, (3, 8))
    log_probs = (states @ weight.T).log_softmax(-1)
    found = Tokens(states, weight).log_prob(target, mask)
    for row in range(3 * samples):
        i = row // samples
        expected = sum(log_probs[row, t, target[i, t]] for t in range(8)
                       if mask is None or mask[i, t])
        close(found[row], expected)
    assert torch.equal(Tokens(states, weight).argmax(), log_probs.argmax(-1))


def test_tokens_probabilities_of_all_strings_sum_to_one():
    tokens = Tokens(torch.randn(1, 3, 6), torch.randn(4, 6))
    total = sum(tokens.log_prob(torch.tensor([y]), None).exp().item()
                for y in product(range(4), repeat=3))
    assert total == pytest.approx(1, abs=1e-12)


def test_samples_stand_for_noise():
    p, eps = gaussian(), torch.randn(6, 8, 5)
    close(p.from_noise(eps), p.loc.repeat_interleave(2, 0) + eps * p.scale.repeat_interleave(2, 0))


def test_a_draw_is_the_inverse_of_the_cumulative_sum():
    log_probs = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()
    points = torch.tensor([0.0, 0.0999, 0.1001, 0.4999, 0.5001, 0.6999, 0.7001, 0.9999])
    classes = log_probs.expand(8, 4)
    assert draw(classes, points).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    # half of the mass lies in classes 1 and 3, which share what is left as 4 to 3
    nucleus = [draw(log_probs[None], torch.tensor([u]), nucleus=0.5).item()
               for u in (0.0, 0.571, 0.572, 0.99)]
    assert nucleus == [1, 1, 3, 3]
    # at temperature 1/2 probabilities are squared: 1, 16, 4 and 9 of 30
    cold = [draw(log_probs[None], torch.tensor([u]), temperature=0.5).item()
            for u in (0.033, 0.034, 0.566, 0.567, 0.699, 0.701)]
    assert cold == [0, 1, 1, 2, 2, 3]


def test_the_most_probable_subwords_are_the_same_in_parts(monkeypatch):
    tokens = Tokens(torch.randn(7, 5, 8), torch.randn(30, 8))
    expected = (tokens.states @ tokens.weight.T).argmax(-1)
    for numbers in (1, 300, 2**24):
        monkeypatch.setattr(distributions, "LOGITS_AT_ONCE", numbers)
        assert torch.equal(tokens.argmax(), expected)


def test_subwords_are_drawn_by_their_logits(monkeypatch):
    monkeypatch.setattr(distributions, "LOGITS_AT_ONCE", 20)  # a row at a time
    tokens = Tokens(torch.randn(6, 4, 3), torch.randn(5, 3))
    uniform = torch.rand(6, 4)
    expected = draw(tokens.states @ tokens.weight.T, uniform, 0.7)
    assert torch.equal(tokens.sample(uniform, 0.7), expected)
    assert len(expected.unique()) > 2
