"""Na: a length, then every subword independently: the Gaussian model without latent variables.

log p(y|x) = log p(T|x) + sum_t log p(y_t|T, x), T the padded length. What no string pads to has no
probability (`lib.lengths.endings`), so that it sums to one over strings. Source: Gu et al. (2018),
the non-autoregressive Transformer without fertilities.
"""

import torch
from jaxtyping import Bool
from torch import Tensor

from lib.batching import Batch
from lib.config import Training
from lib.emissions import Emissions
from lib.filling import UNKNOWN, FillingModel, real_positions
from lib.layers import Memory, length_mask
from lib.lengths import MULTIPLE, endings
from lib.likelihood import LogProbTerms
from lib.subword import EOS

__all__ = ["IndependentModel"]


class IndependentModel(FillingModel):
    """Encoder, length predictor, and decoder of all positions at once."""

    multiple = MULTIPLE
    decoding = "positions"
    procedures = ("greedy", "sample")

    def subwords(self, memory: Memory, real: Bool[Tensor, "rows length"]) -> Emissions:
        """p(y_t|T, x) at every position; `real` is False beyond T."""
        ids = torch.full(real.shape, UNKNOWN, device=real.device)
        may_end, must_end = endings(real)
        return self.emissions(self.fill(ids, memory, real), first=EOS, may_end=may_end,
                              must_end=must_end)

    def loss_terms(self, batch: Batch, training: Training,
                   kl_weight: float | Tensor) -> dict[str, Tensor]:
        """Sums over the batch, in nats: `loss` with gradient, `nll` and `length`; and `tokens`."""
        memory, real = self.encode(batch.source, batch.source_mask), real_positions(batch)
        log_probs = self.subwords(memory, real).log_prob_at(batch.target)
        nll = -log_probs.masked_fill(~_counted(batch), 0.0).sum()
        length = self.length_predictor.loss(memory, batch.target_tokens)
        return {"loss": nll + length, "nll": nll.detach(), "length": length.detach(),
                "tokens": batch.target_tokens.sum()}

    @torch.no_grad()
    def log_prob_terms(self, batch: Batch, samples: int = 1, generator=None,
                       chunk: int = 0) -> LogProbTerms:
        """The exact log p(y|T, x) as log_p_y with one sample; the other terms are 0."""
        memory, real = self.encode(batch.source, batch.source_mask), real_positions(batch)
        log_probs = self.subwords(memory, real).log_prob_at(batch.target).double()
        log_p_y = log_probs.masked_fill(~_counted(batch), 0.0).sum(1)
        zero = torch.zeros_like(log_p_y)[None]
        return LogProbTerms(log_p_y[None], zero, zero,
                            self.length_predictor.log_prob(memory, real.sum(1)))


def _counted(batch: Batch) -> Bool[Tensor, "batch length"]:
    """The target's subwords and one EOS: those after it are certain."""
    return length_mask(batch.target_tokens, batch.target.shape[1])
