"""Samples of z for one sentence: prior, approximate posterior and delta posterior (Figure 1)."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib.batching import collate
from lib.decoding.refinement import refinement_steps
from lib.errors import ConfigError
from lib.evaluation.scoring import TrainedRun

__all__ = ["KINDS", "latent_samples", "sentence_samples"]

KINDS = ("prior", "approximate posterior", "delta posterior")
CHUNK = 256  # samples decoded at once


@torch.no_grad()
def latent_samples(model, source: Int[Tensor, "1 source"],
                   source_mask: Bool[Tensor, "1 source"] | None, target: Int[Tensor, "1 length"],
                   samples: int, *, refinements: int = 4, generator: torch.Generator,
                   ) -> dict[str, Float[Tensor, "samples length d_latent"]]:
    """`samples` draws of z from each of KINDS, for one sentence pair at the reference's length.

    prior: z ~ p(z|x). approximate posterior: z ~ q(z|y, x) at the reference y. delta posterior:
    where refinement (Lee et al. 2020, 2.2) takes the very samples of the prior: `refinements`
    times y = argmax p(y|z, x), then z = mean of q(z|y, x), without noise of its own. All three
    have the reference's padded length.

    Errors: ConfigError for a model without latents, or counts that are too small.
    """
    if not model.latents:
        raise ConfigError("this model has no latent variables: choose ga_b, ga_l, fl_s, fl_b or "
                          "fl_l")
    if samples < 2 or refinements < 1:
        raise ConfigError(f"samples = {samples} must be 2 or more, refinements = {refinements} "
                          "1 or more")
    memory = model.encode(source, source_mask)
    prior = model.prior(memory, target.shape[1], None).rsample(samples, generator)
    posterior = model.posterior(memory, target, None).rsample(samples, generator)
    return dict(zip(KINDS, (prior, posterior, torch.cat(
        [_settle(model, memory, z, refinements) for z in prior.split(CHUNK)])), strict=True))


def _settle(model, memory, z: Tensor, refinements: int) -> Tensor:
    """Each row of z after so many refinement steps."""
    real = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device)
    *_, last = refinement_steps(model, memory, z, real, refinements)
    return last.z


def sentence_samples(run: TrainedRun, sentence: int, samples: int, *, refinements: int,
                     ) -> dict[str, Float[np.ndarray, "samples values"]]:
    """`latent_samples` of a test sentence (its line from 0), flattened: {kind: [samples, values]},
    in fp32, in which refinements that end at one output have one z.

    Errors: ConfigError for a line that the test set doesn't have.
    """
    data = run.task.test
    if not 0 <= sentence < len(data):
        raise ConfigError(f"sentence = {sentence}: the test set has lines 0 to {len(data) - 1}")
    where = run.model.device
    batch = collate(data, np.array([sentence]), run.model.multiple).to(where)
    generator = torch.Generator(where).manual_seed(0)
    drawn = latent_samples(run.model, batch.source, batch.source_mask, batch.target, samples,
                           refinements=refinements, generator=generator)
    return {kind: z.flatten(1).double().cpu().numpy() for kind, z in drawn.items()}
