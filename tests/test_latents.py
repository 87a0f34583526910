"""Samples of the three distributions over z, against search itself."""

import pytest
import torch
from tiny import AUTOREGRESSIVE, GAUSSIAN, LATENT, batch_of, model_of

from lib.decoding.refinement import refine
from lib.errors import ConfigError
from lib.evaluation import latents

PAIR = [([5, 6, 7], [8, 9, 10, 4, 5])]


def draw(architecture, samples=6, seed=0, **options):
    model = model_of(architecture, 12)
    batch = batch_of(PAIR, 4)
    generator = torch.Generator().manual_seed(seed)
    return model, batch, latents.latent_samples(
        model, batch.source, batch.source_mask, batch.target, samples, generator=generator,
        **options)


@LATENT
def test_all_kinds_have_the_references_padded_length(architecture):
    _, _, drawn = draw(architecture)
    assert tuple(drawn) == latents.KINDS
    assert {z.shape for z in drawn.values()} == {(6, 8, 32)}
    assert all(bool(torch.isfinite(z).all()) for z in drawn.values())


def test_samples_have_their_distributions_moments():
    model, batch, drawn = draw(GAUSSIAN, samples=4000, refinements=1)
    memory = model.encode(batch.source, batch.source_mask)
    for kind, expected in (("prior", model.prior(memory, 8, None)),
                           ("approximate posterior", model.posterior(memory, batch.target, None))):
        error = (drawn[kind].mean(0) - expected.loc[0]) / (expected.scale[0] / 4000**0.5)
        assert float(error.detach().abs().max()) < 5
        assert torch.allclose(drawn[kind].std(0), expected.scale[0], rtol=0.1)


@LATENT
def test_delta_posterior_is_where_refinement_takes_the_priors_samples(architecture, monkeypatch):
    model = model_of(architecture, 12)
    batch = batch_of(PAIR, 4)
    memory = model.encode(batch.source, batch.source_mask)
    start = model.prior(memory, 8, None).mean
    settled = latents._settle(model, memory, start.detach(), 3)
    found = refine(model, batch.source, batch.source_mask, [3], torch.tensor([8]))[3][0]
    ids = model.decode(settled, memory, None).argmax()[0].tolist()
    assert [i for i in ids[:ids.index(2) if 2 in ids else None] if i > 1] == found


def test_the_same_seed_gives_the_same_samples_and_chunks_change_nothing(monkeypatch):
    torch.manual_seed(0)
    _, _, first = draw(GAUSSIAN)
    torch.manual_seed(0)
    monkeypatch.setattr(latents, "CHUNK", 2)
    _, _, second = draw(GAUSSIAN)
    for kind in latents.KINDS:
        assert torch.allclose(first[kind], second[kind], atol=1e-5)


@pytest.mark.parametrize(("architecture", "options", "message"), [
    (AUTOREGRESSIVE, {}, "no latent variables"), (GAUSSIAN, {"samples": 1}, "samples = 1"),
    (GAUSSIAN, {"refinements": 0}, "refinements = 0"),
])
def test_what_makes_no_sense_is_refused(architecture, options, message):
    with pytest.raises(ConfigError, match=message):
        draw(architecture, **options)
