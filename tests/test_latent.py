"""The latent models: loss and gradients by hand, lengths, bounds, strings that sum to one."""

from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch
from tiny import close, mean_and_error, training
from torch.distributions import Normal, kl_divergence

from lib.batching import Batch
from lib.config import Architecture
from lib.flows import ActNorm, Coupling, InvertibleLinear
from lib.latent import LatentModel
from lib.likelihood import elbo, iw_bound

pytestmark = pytest.mark.usefixtures("float64")

PRIORS = ["gaussian", "flow"]
EOS, PAD, VOCABULARY = 2, 0, 9
SOURCE_LENGTHS = torch.tensor([5, 2, 7])
TARGET_TOKENS = torch.tensor([3, 6, 8])  # with one EOS; padded to 4, 8 and 8
PADDED = torch.tensor([4, 8, 8])


def architecture(prior, d_latent=None):
    d_latent = d_latent or (32 if prior == "flow" else 6)
    return Architecture(
        family=prior, d_model=8, d_filter=12, heads=2, encoder_layers=1, decoder_layers=1,
        d_latent=d_latent, posterior_layers=1, flow_steps=(1, 1, 1), flow_d_filter=12, flow_heads=2)


def build(prior, size=0.2, vocabulary=VOCABULARY):
    """A model in which every parameter is away from its initial value."""
    model = LatentModel(architecture(prior), vocabulary)
    with torch.no_grad():
        for module in model.modules():
            here = size**2 if isinstance(module, InvertibleLinear) else size
            for parameter in module.parameters(recurse=False):
                parameter += here * torch.randn(parameter.shape)
    return model


def batch():
    generator = torch.Generator().manual_seed(7)
    source = torch.randint(3, VOCABULARY, (3, 7), generator=generator)
    target = torch.randint(3, VOCABULARY, (3, 8), generator=generator)
    source_mask = torch.arange(7) < SOURCE_LENGTHS[:, None]
    target_mask = torch.arange(8) < PADDED[:, None]
    source[torch.arange(3), SOURCE_LENGTHS - 1] = EOS
    source[~source_mask] = PAD
    target[torch.arange(8) >= TARGET_TOKENS[:, None] - 1] = EOS
    target[~target_mask] = PAD
    return Batch(source, source_mask, target, target_mask, TARGET_TOKENS, torch.arange(3))


def one(row):
    """One sentence of the batch, without padding."""
    whole = batch()
    return Batch(whole.source[row:row + 1, :SOURCE_LENGTHS[row]], None,
                 whole.target[row:row + 1, :PADDED[row]], None, TARGET_TOKENS[row:row + 1],
                 whole.index[row:row + 1])


def copies(short, count):
    return Batch(short.source.repeat(count, 1), None, short.target.repeat(count, 1), None,
                 short.target_tokens.repeat(count), torch.arange(count))


# The loss ------------------------------------------------------------------------------------

def by_hand(model, data, seed):
    """Reconstruction, KL and length terms from probabilities written out; q and its sample."""
    torch.manual_seed(seed)
    memory = model.encode(data.source, data.source_mask)
    q = model.posterior(memory, data.target, data.target_mask)
    z = q.loc + q.scale * torch.randn(q.loc.shape)
    states = model.decode(z, memory, data.target_mask).states
    log_probs = (states @ model.embedding.weight.T).log_softmax(-1)
    p = model.prior(memory, 8, data.target_mask)
    posterior = Normal(q.loc, q.scale)
    reconstruction = kl = length = 0.0
    for row, padded in enumerate(PADDED.tolist()):
        reconstruction -= sum(log_probs[row, t, data.target[row, t]] for t in range(padded))
        if model.architecture.family == "flow":
            kl += posterior.log_prob(z)[row, :padded].sum() - p.log_prob(z)[row]
        else:
            kl += kl_divergence(posterior, Normal(p.loc, p.scale))[row, :padded].sum()
        difference = int(TARGET_TOKENS[row] - SOURCE_LENGTHS[row])
        length -= model.length_predictor(memory)[row, difference + 30]
    standard = kl_divergence(posterior, Normal(0.0, 1.0)).sum(-1)[data.target_mask].sum()
    return reconstruction, kl, length, standard, log_probs


@pytest.mark.parametrize("prior", PRIORS)
def test_loss_is_the_negative_elbo_worked_by_hand(prior):
    model, data = build(prior), batch()
    reconstruction, kl, length, _, _ = by_hand(model, data, 5)
    torch.manual_seed(5)
    terms = model.loss_terms(data, training(), 1.0)
    close(terms["reconstruction"], reconstruction.detach())
    close(terms["kl"], kl.detach())
    close(terms["length"], length.detach())
    close(terms["loss"], reconstruction + kl + length)
    assert int(terms["tokens"]) == 17


@pytest.mark.parametrize("prior", PRIORS)
def test_weights_smoothing_and_penalty_enter_the_loss_alone(prior):
    model, data = build(prior), batch()
    reconstruction, kl, length, standard, log_probs = by_hand(model, data, 5)
    uniform = -log_probs.mean(-1)[data.target_mask].sum()
    smoothed = 0.9 * reconstruction + 0.1 * uniform
    assert abs(smoothed.item() - reconstruction.item()) > 0.1
    settings = training(label_smoothing=0.1, posterior_penalty=0.03)
    for weight in (0.0, 0.25, 1.0):
        torch.manual_seed(5)
        terms = model.loss_terms(data, settings, weight)
        close(terms["loss"], smoothed + weight * kl + length + 0.03 * standard)
        close(terms["reconstruction"], reconstruction.detach())
        assert ("kl" in terms) == (weight > 0)
        assert not any(v.requires_grad for k, v in terms.items() if k != "loss")


@pytest.mark.parametrize("prior", PRIORS)
def test_the_penalty_of_the_prior_has_the_weight_of_the_kl_too(prior):
    model, data = build(prior), batch()
    memory = model.encode(data.source, data.source_mask)
    torch.manual_seed(5)
    q = model.posterior(memory, data.target, data.target_mask)
    z = q.loc + q.scale * torch.randn(q.loc.shape)
    standard = Normal(0.0, 1.0).log_prob(z).sum(-1)[data.target_mask].sum()
    log_ratio = model.prior(memory, 8, data.target_mask).log_prob(z).sum() - standard
    for weight in (0.0, 0.25, 1.0):
        losses = []
        for settings in (training(), training(prior_penalty=0.03)):
            torch.manual_seed(5)
            losses.append(model.loss_terms(data, settings, weight)["loss"])
        close(losses[1] - losses[0], 0.03 * weight * log_ratio)


@pytest.mark.parametrize("prior", PRIORS)
def test_in_training_the_posterior_alone_does_without_a_share_of_words(prior, monkeypatch):
    model, data = build(prior), batch()
    asked, embed = [], type(model.embedding).forward

    def recorded(self, ids, word_dropout=0.0):
        asked.append((ids is data.target, word_dropout))
        return embed(self, ids, word_dropout)

    monkeypatch.setattr(type(model.embedding), "forward", recorded)
    model.train()
    model.loss_terms(data, training(posterior_word_dropout=0.2), 1.0)
    assert asked == [(False, 0.0), (True, 0.2)]


@pytest.mark.parametrize("prior", PRIORS)
def test_prior_keeps_pace_while_the_posterior_is_slowed(prior):
    model, data = build(prior), batch()

    def gradients(weight, keeps_pace):
        model.zero_grad()
        torch.manual_seed(5)
        loss = model.loss_terms(data, training(prior_keeps_pace=keeps_pace), weight)["loss"]
        loss.backward()
        return loss.item(), {n: torch.zeros_like(p) if p.grad is None else p.grad.clone()
                             for n, p in model.named_parameters()}

    without, g_without = gradients(0.0, True)
    full, g_full = gradients(1.0, True)
    slowed, g_slowed = gradients(0.3, False)
    kept, g_kept = gradients(0.3, True)
    assert kept == pytest.approx(full, rel=1e-12)
    assert slowed == pytest.approx(without + 0.3 * (full - without), rel=1e-12)
    for name, gradient in g_kept.items():
        if name.startswith("prior."):
            close(gradient, g_full[name])
            close(g_slowed[name], 0.3 * g_full[name])
        elif name.startswith("posterior"):
            close(gradient, g_without[name] + 0.3 * (g_full[name] - g_without[name]))
            close(g_slowed[name], gradient)
    for part in ("prior.", "posterior"):
        changed = [(g_full[n] - g_kept[n]).abs().max() for n in g_kept if n.startswith(part)]
        assert (max(changed) > 1e-3) == (part == "posterior")


# Likelihood ----------------------------------------------------------------------------------

@pytest.mark.parametrize("prior", PRIORS)
def test_content_of_padding_changes_nothing(prior):
    model, data = build(prior), batch()
    junk = replace(data, source=data.source.masked_fill(~data.source_mask, 5),
                   target=data.target.masked_fill(~data.target_mask, 7))
    found, expected = (model.log_prob_terms(b, 3, torch.Generator().manual_seed(1))
                       for b in (junk, data))
    for name, value in vars(expected).items():
        close(getattr(found, name), value)
    losses = []
    for b in (junk, data):
        torch.manual_seed(2)
        losses.append(model.loss_terms(b, training(posterior_penalty=0.1), 1.0)["loss"])
    close(*losses)


@pytest.mark.parametrize("prior", PRIORS)
def test_a_sentence_alone_equals_the_same_in_a_batch(prior):
    model, data = build(prior), batch()
    memory = model.encode(data.source, data.source_mask)
    q = model.posterior(memory, data.target, data.target_mask)
    p = model.prior(memory, 8, data.target_mask)
    z = q.rsample(2)
    log_p_y = model.decode(z, memory, data.target_mask).log_prob(data.target, data.target_mask)
    log_p_length = model.length_predictor.log_prob(memory, PADDED)
    for row, padded in enumerate(PADDED.tolist()):
        pair, single, here = slice(2 * row, 2 * row + 2), one(row), None
        here = model.encode(single.source, None)
        alone = model.posterior(here, single.target, None)
        close(alone.loc[0], q.loc[row, :padded])
        close(alone.scale[0], q.scale[row, :padded])
        part = z[pair, :padded]
        close(alone.log_prob(part), q.log_prob(z)[pair])
        close(model.prior(here, padded, None).log_prob(part), p.log_prob(z)[pair])
        close(model.decode(part, here, None).log_prob(single.target, None), log_p_y[pair])
        close(model.length_predictor.log_prob(here, PADDED[row:row + 1])[0], log_p_length[row])


@pytest.mark.parametrize("prior", PRIORS)
def test_terms_are_those_of_the_distributions_whatever_the_chunk(prior):
    model, data, samples = build(prior), batch(), 7
    memory = model.encode(data.source, data.source_mask)
    q = model.posterior(memory, data.target, data.target_mask)
    p = model.prior(memory, 8, data.target_mask)
    generator = torch.Generator().manual_seed(3)
    expected = []
    for _ in range(samples):
        z = q.loc + q.scale * torch.randn(q.loc.shape, generator=generator)
        log_p_y = model.decode(z, memory, data.target_mask).log_prob(data.target, data.target_mask)
        expected.append(torch.stack([log_p_y, p.log_prob(z), q.log_prob(z)]).detach())
    expected = torch.stack(expected, 1)
    for chunk in (1, 3, 7, 16):
        terms = model.log_prob_terms(data, samples, torch.Generator().manual_seed(3), chunk)
        close(terms.log_p_y, expected[0])
        close(terms.log_p_z, expected[1])
        close(terms.log_q_z, expected[2])
        close(terms.log_p_length, model.length_predictor.log_prob(memory, PADDED).detach())
    assert (expected[:, 0] - expected[:, 1]).abs().min() > 1e-6


@pytest.mark.parametrize("prior", PRIORS)
def test_with_a_generator_each_a_sentence_draws_alike_in_any_batch(prior):
    model, three = build(prior), copies(one(1), 3)

    def terms(data, seeds, chunk):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return model.log_prob_terms(data, 5, generators, chunk)

    together = terms(three, (1, 2, 1), 2)
    for row, seed in enumerate((1, 2, 1)):
        alone = terms(one(1), (seed,), 5)
        for name, value in vars(alone).items():
            close(getattr(together, name)[..., row], value[..., 0])
    assert (together.log_q_z[:, 0] - together.log_q_z[:, 1]).abs().min() > 1e-6


@pytest.mark.parametrize("prior", PRIORS)
def test_the_bound_rises_with_samples_in_expectation(prior):
    model, repeated = build(prior, 0.1), copies(one(0), 200)
    terms = model.log_prob_terms(repeated, 32, torch.Generator().manual_seed(1))
    found = terms.log_p_y, terms.log_p_z, terms.log_q_z
    parts = [iw_bound(*(t[k:k + 4] for t in found)) for k in range(0, 32, 4)]
    bounds = [elbo(*found), torch.stack(parts).mean(0), iw_bound(*found)]
    for lower, upper in pairwise(bounds):
        rise, error = mean_and_error(upper - lower)
        assert rise > 4 * error


@pytest.mark.parametrize("prior", PRIORS)
def test_probabilities_of_all_strings_sum_to_one(prior):
    """sum_y p(y|T,x) = 1, each p(y|T,x) by unbiased importance sampling from q(z|y,x)."""
    words, samples = 3, 300 if prior == "flow" else 800
    model = build(prior, 0.01 if prior == "flow" else 0.02, words)
    with torch.no_grad():
        model.embedding.weight.mul_(0.7)  # no string takes it all
        if prior == "flow":  # a little narrower than q, by determinants that matter
            for module in model.prior.modules():
                if isinstance(module, InvertibleLinear):
                    module.log_s += 0.004
                elif isinstance(module, ActNorm):
                    module.log_scale += 0.004
                elif isinstance(module, Coupling):
                    module.out.b[module.width:] += 5.0  # scales near 1
        else:
            model.posterior_head.out.b[model.architecture.d_latent:] += 0.25  # q is wider
    strings = torch.tensor(list(product(range(words), repeat=4)))
    count = len(strings)
    source = torch.tensor([[1, 0, 2]]).repeat(count, 1)
    data = Batch(source, None, strings, None, torch.full((count,), 4), torch.arange(count))
    terms = model.log_prob_terms(data, samples, torch.Generator().manual_seed(1), 100)
    weights = (terms.log_p_y + terms.log_p_z - terms.log_q_z).exp()  # [samples, strings]
    total, error = mean_and_error(weights.sum(1))
    assert error < 0.05
    assert total == pytest.approx(1, abs=4 * error)
    probabilities = weights.mean(0)
    assert probabilities.max() > 1.5 * probabilities.min()


# Data-dependent initialisation ---------------------------------------------------------------

@pytest.mark.parametrize("prior", PRIORS)
def test_initialisation_gives_real_positions_mean_0_and_variance_1(prior):
    model, data = build(prior), batch()
    model.initialise(data, "posterior")
    memory = model.encode(data.source, data.source_mask)
    q = model.posterior(memory, data.target, data.target_mask)
    loc = q.loc[data.target_mask]
    close(loc.mean(0), torch.zeros(loc.shape[1]), 1e-8)
    close(loc.var(0, unbiased=False), torch.ones(loc.shape[1]), 1e-6)
    torch.manual_seed(6)
    model.initialise(data, "prior")
    if prior == "gaussian":
        p = model.prior(memory, 8, data.target_mask)
        close(p.loc[data.target_mask].var(0, unbiased=False), torch.ones(6), 1e-6)
    else:
        torch.manual_seed(6)
        first = model.prior.glow.levels[0][0]
        eps = ((q.rsample() + first.b) * first.log_scale.exp())[data.target_mask]
        close(eps.mean(0), torch.zeros(32), 1e-8)
        close(eps.var(0, unbiased=False), torch.ones(32), 1e-4)


def test_samples_of_one_sentence_lie_together_in_decoding():
    model, data = build("gaussian"), batch()
    memory = model.encode(data.source, data.source_mask)
    z = torch.randn(6, 8, 6)
    states = model.decode(z, memory, data.target_mask).states
    for k in range(2):
        separate = model.decode(z[k::2], memory, data.target_mask).states
        close(states[k::2][data.target_mask], separate[data.target_mask])
