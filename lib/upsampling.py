"""What Da and Ct share: a decoder over lambda slots for each source subword, and a sum over paths.

The slots of a sentence (vertices of a graph, frames of an alignment) are lambda times its own
source length, with EOS, whatever the batch is padded to, and at most `LONGEST`. Each has the state
of the source subword that it belongs to as its input (Libovicky and Helcl 2018, who split it by a
projection), and its own position. A target that needs more slots has probability 0: training leaves
it out, and counts it.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib.batching import Batch, Tokenised
from lib.config import Training
from lib.errors import ConfigError
from lib.filling import UNKNOWN, FillingModel
from lib.layers import LONGEST, Memory, length_mask
from lib.lengths import source_lengths
from lib.likelihood import LogProbTerms

__all__ = ["UpsampledModel"]

MOST_LOST = 1e-3  # share of the training pairs that may be impossible


class UpsampledModel(FillingModel):
    """Encoder, and decoder of all slots at once; subclasses know the paths through them."""

    slot: str  # what messages call a slot

    def slots(self, memory: Memory) -> tuple[Int[Tensor, " batch"], Bool[Tensor, "batch slots"]]:
        """How many slots each sentence has, and which of a row's are real."""
        each = self.architecture.upsampling
        width = min(each * memory.states.shape[1], LONGEST)
        count = (each * source_lengths(memory)).clamp(max=LONGEST)
        return count, length_mask(count, width)

    def slot_states(self, memory: Memory,
                    real: Bool[Tensor, "batch slots"]) -> Float[Tensor, "batch slots d_model"]:
        """Decoder states of all slots."""
        ids = torch.full(real.shape, UNKNOWN, device=real.device)
        own = memory.states.repeat_interleave(self.architecture.upsampling, 1)[:, :real.shape[1]]
        return self.decoder(self.embedding(ids) + own, memory, real)

    # ---- what a subclass knows ----

    def path_sums(self, memory: Memory, batch: Batch) -> Callable[..., Float[Tensor, " batch"]]:
        """A function that gives log p(y|x), -inf where there is no path; of a graph with
        `best=True` that of the most probable path alone, its emissions included.

        The sum is in fp64 where no gradient is taken.
        """
        raise NotImplementedError

    @staticmethod
    def needed(data: Tokenised) -> np.ndarray:
        """The fewest slots that have a path, for each pair."""
        raise NotImplementedError

    # ---- training ----

    def loss_terms(self, batch: Batch, training: Training,
                   kl_weight: float | Tensor) -> dict[str, Tensor]:
        """Sums over the batch, in nats: `loss` with gradient; `nll`; `kl` where the objective is a
        graph's best path; how many sentences are `impossible` and left out; and `tokens`.

        log p(best path, y) = log p(y) - KL[q || p(path|y)] with q a delta posterior at the best
        path: the ELBO. As in the models with continuous latent variables the KL has a weight, and
        while that is 0 there is no `kl`.
        """
        memory, real = self.encode(batch.source, batch.source_mask), batch.target_tokens > 0
        log_prob = self.path_sums(memory, batch)
        every = log_prob()
        possible = (every > -torch.inf) & real
        loss = -torch.where(possible, every, 0.0).sum()
        terms = {"nll": loss.detach(), "impossible": (real & ~possible).sum()}
        if training.objective == "best_path" and (isinstance(kl_weight, Tensor) or kl_weight > 0):
            kl = torch.where(possible, every - log_prob(best=True), 0.0).sum()
            terms["kl"], loss = kl.detach(), loss + kl_weight * kl
        return {"loss": loss, **terms, "tokens": batch.target_tokens.sum()}

    # ---- likelihood ----

    @torch.no_grad()
    def log_prob_terms(self, batch: Batch, samples: int = 1, generator=None,
                       chunk: int = 0) -> LogProbTerms:
        """The exact log p(y|x) as log_p_y, -inf where there is no path; the other terms are 0."""
        log_p_y = self.path_sums(self.encode(batch.source, batch.source_mask), batch)()
        zero = torch.zeros_like(log_p_y)
        return LogProbTerms(log_p_y[None], zero[None], zero[None], zero)

    def impossible(self, data: Tokenised) -> int:
        """How many have probability 0. Errors: ConfigError, with advice, for 1 in 1,000 or more."""
        each = self.architecture.upsampling
        slots = np.minimum(each * (data.source_lengths + 1), LONGEST)
        count = int((self.needed(data) > slots).sum())
        if count >= MOST_LOST * len(data):
            raise ConfigError(f"upsampling = {each}: {count:,} of {len(data):,} training pairs "
                              f"({count / len(data):.1%}) have no path through their {self.slot}, "
                              f"{each} a source subword and EOS, {LONGEST:,} at most: raise "
                              "upsampling, or lower max_tokens")
        return count


def word_counts(batch: Batch) -> Int[Tensor, " batch"]:
    """Subwords of each target, without EOS; 0 for a row that counts nowhere."""
    return (batch.target_tokens - 1).clamp(min=0)
