"""The two priors: densities against autograd, samples, initialisation, nothing from padding."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_latent import architecture
from tiny import close
from torch import nn

from lib.distributions import DiagonalGaussian
from lib.flows import ActNorm, InvertibleLinear
from lib.layers import Memory
from lib.priors import FlowPrior, GaussianHead, GaussianPrior, build_prior

pytestmark = pytest.mark.usefixtures("float64")

PRIORS = ["gaussian", "flow"]
LENGTHS = torch.tensor([4, 12, 8])
SOURCE_LENGTHS = torch.tensor([5, 2, 3])
MASK = torch.arange(12) < LENGTHS[:, None]
SOURCE_MASK = torch.arange(5) < SOURCE_LENGTHS[:, None]
LATENT = 32


def build(prior):
    """A prior with every parameter away from its initial value."""
    model = build_prior(architecture(prior, LATENT), 0.0)
    with torch.no_grad():
        for module in model.modules():  # a product of triangles is soon ill-conditioned
            size = 0.05 if isinstance(module, InvertibleLinear) else 0.2
            for parameter in module.parameters(recurse=False):
                parameter += size * torch.randn(parameter.shape)
    return model


def memory():
    states = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(4))
    return Memory(states, SOURCE_MASK)


def test_build_prior_gives_that_of_the_family():
    kinds = [type(build_prior(architecture(prior, LATENT), 0.0)) for prior in PRIORS]
    assert kinds == [GaussianPrior, FlowPrior]


# All of them ---------------------------------------------------------------------------------

@pytest.mark.parametrize("prior", PRIORS)
def test_log_prob_looks_at_no_padding_and_no_batch_mate(prior):
    model, here = build(prior), memory()
    z = torch.randn(6, 12, LATENT)  # two samples a sentence
    log_prob = model(here, 12, MASK).log_prob(z)
    real = MASK.repeat_interleave(2, 0)[..., None]
    junk = torch.where(real, z, 100 * torch.randn(z.shape))
    states = torch.where(SOURCE_MASK[..., None], here.states, 100 * torch.randn(3, 5, 8))
    close(model(Memory(states, SOURCE_MASK), 12, MASK).log_prob(junk), log_prob)
    for row, length in enumerate(LENGTHS):
        alone = Memory(here.states[row:row + 1, :SOURCE_LENGTHS[row]], None)
        found = model(alone, int(length), None).log_prob(z[2 * row:2 * row + 2, :length])
        close(found, log_prob[2 * row:2 * row + 2])


@pytest.mark.parametrize("prior", PRIORS)
def test_the_source_matters(prior):
    model, z = build(prior), torch.randn(3, 12, LATENT)
    other = Memory(memory().states + torch.randn(8), SOURCE_MASK)
    change = model(other, 12, MASK).log_prob(z) - model(memory(), 12, MASK).log_prob(z)
    assert (change.abs() > 1e-6).all()


@pytest.mark.parametrize("prior", PRIORS)
def test_samples_of_one_source_equal_separate_calls(prior):
    p, z = build(prior)(memory(), 12, MASK), torch.randn(9, 12, LATENT)
    log_prob = p.log_prob(z)
    for k in range(3):
        close(log_prob[k::3], p.log_prob(z[k::3]))


@pytest.mark.parametrize("prior", PRIORS)
def test_samples_stand_for_standard_normal_noise(prior):
    p, samples = build(prior)(memory(), 12, MASK), 200
    with torch.no_grad():
        z = p.rsample(samples, torch.Generator().manual_seed(1))
        assert z.shape == (3 * samples, 12, LATENT)
        assert torch.equal(z, p.rsample(samples, torch.Generator().manual_seed(1)))
        if prior == "flow":
            noise, _ = p.glow(z, p._conditions(3 * samples))
        else:
            loc, scale = (x.repeat_interleave(samples, 0) for x in (p.loc, p.scale))
            noise = [(z - loc) / scale]
    eps = torch.cat([x[MASK[:, ::2**level].repeat_interleave(samples, 0)].flatten()
                     for level, x in enumerate(noise)])
    assert len(eps) == samples * LENGTHS.sum() * LATENT
    assert abs(float(eps.mean())) < 5 / math.sqrt(len(eps))
    assert abs(float(eps.square().mean()) - 1) < 5 * math.sqrt(2 / len(eps))


# Gaussian ------------------------------------------------------------------------------------

def test_gaussian_head_hand_worked():
    head, states = GaussianHead(6, 4), torch.randn(2, 3, 6)
    start = head(states, None)
    close(start.loc, torch.zeros(2, 3, 4))
    close(start.scale, torch.full((2, 3, 4), 1.001), 1e-12)  # 1 and the smallest scale
    nn.init.normal_(head.out.g)
    nn.init.normal_(head.out.b)
    found = head(states, None)
    loc, raw = head.out(states).split(4, -1)
    close(found.loc, loc)
    close(found.scale, F.softplus(raw + math.log(math.e - 1)) + 0.001)
    nn.init.constant_(head.out.b, -1e4)
    assert head(states, None).scale.min() >= 0.001


def test_gaussian_prior_tells_positions_apart():
    p = build("gaussian")(memory(), 12, MASK)
    assert isinstance(p, DiagonalGaussian)
    assert (p.loc[1, 1:] - p.loc[1, :-1]).abs().amax(-1).min() > 1e-3


def test_gaussian_prior_initialises_its_head_over_real_positions():
    model = build("gaussian")
    model.initialise(torch.full((3, 12, LATENT), 1e6), memory(), MASK)
    p = model(memory(), 12, MASK)
    close(p.loc[MASK].mean(0), torch.zeros(LATENT), 1e-8)
    close(p.loc[MASK].var(0, unbiased=False), torch.ones(LATENT), 1e-6)


# Flow ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("mask", [MASK, None], ids=["ragged", "full"])
def test_flow_samples_have_the_density_of_the_change_of_variables(mask):
    p = build("flow")(memory(), 12, mask)
    z = p.rsample(1, torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(2)
    base = [torch.randn(shape, generator=generator) for shape in p.glow.noise_shapes(*p.shape)]
    log_prob = p.log_prob(z)
    for row, length in enumerate(LENGTHS.tolist() if mask is not None else [12] * 3):
        real = [eps[row, :length >> level].flatten() for level, eps in enumerate(base)]

        def sample(flat, row=row, real=real, length=length):
            """z's real positions as a function of the sentence's noise."""
            noise = [eps.clone() for eps in base]
            for level, part in enumerate(flat.split([len(r) for r in real])):
                noise[level][row, :length >> level] = part.view(length >> level, -1)
            return p._transform(noise)[row, :length].flatten()

        flat = torch.cat(real)
        jacobian = torch.autograd.functional.jacobian(sample, flat, vectorize=True)
        expected = -0.5 * (flat.square() + math.log(2 * math.pi)).sum()
        expected = expected - torch.linalg.slogdet(jacobian)[1]
        close(log_prob[row], expected, 1e-7)
        close(sample(flat), z[row, :length].flatten())


def test_flow_mean_is_the_transform_of_zero():
    p = build("flow")(memory(), 12, MASK)
    assert p.mean.shape == (3, 12, LATENT)
    assert p.mean.abs().max() > 0.1
    noise, log_abs_det = p.glow(p.mean, p._conditions(3))
    for eps in noise:
        close(eps, torch.zeros_like(eps))
    real = LENGTHS * LATENT
    close(p.log_prob(p.mean), log_abs_det - 0.5 * math.log(2 * math.pi) * real)


def test_flow_initialises_the_first_actnorm_from_real_positions_only():
    model = build("flow")
    z = 3 * torch.randn(3, 12, LATENT) + 2
    model.initialise(z.masked_fill(~MASK[..., None], 1e6), memory(), MASK)
    first = model.glow.levels[0][0]
    assert isinstance(first, ActNorm)
    eps = ((z + first.b) * first.log_scale.exp())[MASK]
    close(eps.mean(0), torch.zeros(LATENT), 1e-8)
    close(eps.var(0, unbiased=False), torch.ones(LATENT), 1e-5)
    before = {name: p.clone() for name, p in model.named_parameters()}
    model.initialise(z, memory(), MASK)  # other padding, the same parameters
    for name, parameter in model.named_parameters():
        close(parameter, before[name], 1e-8)
    kept = [p.clone() for p in model.parameters()]
    model(memory(), 12, MASK).log_prob(z * 5)  # only initialisation sets anything
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), kept, strict=True))


@pytest.mark.parametrize("prior", PRIORS)
def test_noise_of_0_stands_for_the_mean(prior):
    p = build(prior)(memory(), 12, MASK)
    close(p.from_noise(torch.zeros(3, 12, LATENT)), p.mean)


@pytest.mark.parametrize("prior", PRIORS)
def test_several_lengths_of_a_source_are_priors_of_their_own(prior):
    """Two rows of the mask a source: each is the prior of its length alone."""
    model, here = build(prior), memory()
    lengths = torch.tensor([4, 12, 8, 4, 12, 8])
    together = model(here, 12, torch.arange(12) < lengths[:, None])
    z = torch.randn(6, 12, LATENT)
    for row, length in enumerate(lengths.tolist()):
        source = slice(row // 2, row // 2 + 1)
        alone = model(Memory(here.states[source], SOURCE_MASK[source]), length, None)
        close(together.mean[row, :length], alone.mean[0])
        close(together.log_prob(z)[row], alone.log_prob(z[row:row + 1, :length])[0])
