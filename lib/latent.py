"""Latent-variable non-autoregressive models: p(y|x) = sum_T p(T|x) int p(y|z,x) p(z|x) dz.

Source: Lee et al. (2020), sections 2.2 and 4; Shu et al. (2020), LaNMT. The networks return
distributions, so that the ELBO is one line.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lib.batching import Batch
from lib.config import Architecture, Evaluation, Training
from lib.distributions import DiagonalGaussian, Tokens, gaussian_kl
from lib.layers import Decoder, Memory, positions
from lib.lengths import MULTIPLE, LengthPredictor
from lib.likelihood import LogProbTerms
from lib.noise import Noise
from lib.objectives import target_losses
from lib.priors import GaussianHead, build_prior
from lib.protocol import Model

__all__ = ["LatentModel"]


class LatentModel(Model):
    """Encoder, length predictor, posterior, prior and non-autoregressive decoder."""

    multiple = MULTIPLE
    likelihood = "bound"
    latents = True
    decoding = "parallel"
    procedures = ("refine", "sample")

    def __init__(self, a: Architecture, vocabulary: int, dropout: float = 0.0):
        super().__init__(a, vocabulary, dropout)
        sizes = a.d_model, a.d_filter, a.heads, dropout
        self.length_predictor = LengthPredictor(a.d_model)
        self.posterior_decoder = Decoder(a.posterior_layers, *sizes)
        self.posterior_head = GaussianHead(a.d_model, a.d_latent)
        self.prior = build_prior(a, dropout)
        self.latent = nn.Linear(a.d_latent, a.d_model)
        self.decoder = Decoder(a.decoder_layers, *sizes)

    # ---- the networks, each returning a distribution ----

    def posterior(self, memory: Memory, target: Int[Tensor, "batch length"],
                  mask: Bool[Tensor, "batch length"] | None,
                  word_dropout: float = 0.0) -> DiagonalGaussian:
        """q(z|y,x); in training q may do without a share of the target's words."""
        return self.posterior_head(self._posterior_states(memory, target, mask, word_dropout), mask)

    def _posterior_states(self, memory, target, mask, word_dropout: float = 0.0) -> Tensor:
        return self.posterior_decoder(self.embedding(target, word_dropout), memory, mask)

    def decode(self, z: Float[Tensor, "samples length d_latent"], memory: Memory,
               mask: Bool[Tensor, "batch length"] | None) -> Tokens:
        """p(y|z,x), every position at once; samples of one sentence lie together."""
        x = self.latent(z)
        x = x + positions(z.shape[1], x.shape[-1], x.device, z.dtype)
        if mask is not None:
            mask = mask.repeat_interleave(len(z) // len(mask), 0)
        return Tokens(self.decoder(x, memory, mask), self.embedding.weight, self.output)

    # ---- training ----

    def loss_terms(self, batch: Batch, training: Training,
                   kl_weight: float | Tensor) -> dict[str, Tensor]:
        """Sums over the batch, in nats: the negative ELBO's terms and `loss`; and `tokens`.

        loss = smoothed reconstruction + kl_weight * KL[q || p] + alpha * KL[q || N(0, I)] + length;
        alpha is `posterior_penalty`. With `prior_penalty`, an alpha of its own, there is also that
        times kl_weight * (log p(z|x) - log N(z; 0, I)), which the paper's released code calls
        kl_reg.
        While the KL weight is 0 the prior isn't evaluated, and there is no `kl`.
        """
        memory = self.encode(batch.source, batch.source_mask)
        mask, target = batch.target_mask, batch.target
        q = self.posterior(memory, target, mask, training.posterior_word_dropout)
        z = q.rsample()
        loss, nll = target_losses(self.decode(z, memory, mask).states, self.embedding.weight, batch,
                                  training.label_smoothing)
        length = self.length_predictor.loss(memory, batch.target_tokens)
        terms = {"reconstruction": nll, "length": length}
        loss = loss + length
        if isinstance(kl_weight, Tensor) or kl_weight > 0:
            p = self.prior(memory, target.shape[1], mask)
            terms["kl"] = _kl(q, p, z)
            loss = loss + _kl_loss(q, p, z, kl_weight, training.prior_keeps_pace)
            if training.prior_penalty:
                log_ratio = (p.log_prob(z) - _standard(q).log_prob(z)).sum()
                loss = loss + training.prior_penalty * kl_weight * log_ratio
        if training.posterior_penalty:
            loss = loss + training.posterior_penalty * gaussian_kl(q, _standard(q)).sum()
        return {"loss": loss, **{k: v.detach() for k, v in terms.items()},
                "tokens": batch.target_tokens.sum()}

    @torch.no_grad()
    def initialise(self, batch: Batch, which: str) -> None:
        """Data-dependent initialisation of the `posterior`'s head, or of the `prior`."""
        memory = self.encode(batch.source, batch.source_mask)
        if which == "posterior":
            states = self._posterior_states(memory, batch.target, batch.target_mask)
            self.posterior_head.out.initialise(states, batch.target_mask)
        else:
            q = self.posterior(memory, batch.target, batch.target_mask)
            self.prior.initialise(q.rsample(), memory, batch.target_mask)

    def initialisations(self, step: int, training: Training) -> list[str]:
        """The posterior's head before the first step, the prior when the KL enters."""
        return ["posterior"] * (step == 1) + ["prior"] * (step == training.kl_start + 1)

    # ---- the decoding settings ----

    @classmethod
    def timed_settings(cls, evaluation: Evaluation) -> list[str]:
        """None, one and four refinement steps."""
        return ["k0", "k1", "k4"]

    @classmethod
    def dev_setting(cls, training: Training) -> str:
        """So many refinement steps."""
        return f"k{training.dev_refinement}"

    # ---- likelihood ----

    @torch.no_grad()
    def log_prob_terms(self, batch: Batch, samples: int = 1,
                       generator: torch.Generator | list[torch.Generator] | None = None,
                       chunk: int = 16) -> LogProbTerms:
        """Terms of `samples` draws from q(z|y,x), `chunk` at a time; source and q encoded once.

        Memory depends on `chunk`, not on `samples`; the draws don't depend on `chunk`. With a list
        of generators, one a sentence, nor do they depend on the batch that a sentence is in (where
        no target is padded beyond its own multiple).
        """
        memory = self.encode(batch.source, batch.source_mask)
        mask = batch.target_mask
        q = self.posterior(memory, batch.target, mask)
        p = self.prior(memory, batch.target.shape[1], mask)
        rows, noise = [], Noise(q.loc, generator)
        for start in range(0, samples, chunk):
            count = min(chunk, samples - start)
            z = q.from_noise(noise.draw(count))
            log_p_y = self.decode(z, memory, mask).log_prob(batch.target, mask)
            parts = log_p_y, p.log_prob(z), q.log_prob(z)
            rows.append(torch.stack([part.view(len(batch), count).T for part in parts]))
        log_p_y, log_p_z, log_q_z = torch.cat(rows, 1)
        padded = batch.target.shape[1] if mask is None else mask.sum(1)
        lengths = torch.zeros_like(batch.target_tokens) + padded
        return LogProbTerms(log_p_y, log_p_z, log_q_z,
                            self.length_predictor.log_prob(memory, lengths))


def _standard(q: DiagonalGaussian) -> DiagonalGaussian:
    """N(0, I) where q is."""
    return DiagonalGaussian(torch.zeros_like(q.loc), torch.ones_like(q.scale), q.mask)


def _kl(q: DiagonalGaussian, p, z: Tensor) -> Tensor:
    """KL[q || p] summed over the batch: closed form between Gaussians, else at the sample z."""
    if isinstance(p, DiagonalGaussian):
        return gaussian_kl(q, p).sum()
    return (q.log_prob(z) - p.log_prob(z)).sum()


def _kl_loss(q: DiagonalGaussian, p, z: Tensor, weight: float | Tensor, keep_pace: bool) -> Tensor:
    """The KL's part of the loss; with `keep_pace` the prior's own gradient has weight 1.

    The posterior's gradient always has the weight `weight`, through tensors that are a mixture of
    themselves and their detached copies, equal in value.
    """
    if not keep_pace or (not isinstance(weight, Tensor) and weight == 1.0):
        return weight * _kl(q, p, z)

    def slowed(x: Tensor) -> Tensor:
        return weight * x + (1 - weight) * x.detach()

    return _kl(DiagonalGaussian(slowed(q.loc), slowed(q.scale), q.mask), p, slowed(z))
