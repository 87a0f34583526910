"""Ct: frames that emit a subword or a blank, all alignments of a target with them summed out.

The decoder makes lambda frames for each source subword, each with a categorical over subwords and
the blank. Repeats collapse, then blanks go: p(y|x) sums to one over strings, without a length
model. The blank has EOS's place in the vocabulary, which no frame emits as such.

Source: Libovicky and Helcl (2018), end-to-end non-autoregressive translation with CTC.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib.batching import Batch, Tokenised
from lib.emissions import Emissions
from lib.layers import Memory
from lib.likelihood.path_sums import alignments_log_prob
from lib.subword import EOS
from lib.upsampling import UpsampledModel, word_counts

__all__ = ["BLANK", "CtcModel", "Frames"]

BLANK = EOS


class Frames(NamedTuple):
    """The frames of a batch."""

    emissions: Emissions  # log p(subword or blank | frame)
    count: Int[Tensor, " batch"]  # of each sentence
    real: Bool[Tensor, "batch frames"]  # False beyond them


class CtcModel(UpsampledModel):
    """Encoder, and decoder of all frames at once."""

    slot = "frames"
    decoding = "alignment"
    procedures = ("greedy", "beam", "sample")
    dev_search = "beam4"  # where several wordings are likely, the best frame is often the blank

    def frames(self, memory: Memory) -> Frames:
        """The frames of the encoded sources."""
        count, real = self.slots(memory)
        return Frames(self.emissions(self.slot_states(memory, real), first=BLANK), count, real)

    def path_sums(self, memory: Memory, batch: Batch) -> Callable[..., Float[Tensor, " batch"]]:
        """log p(y|x), all alignments summed."""
        frames = self.frames(memory)
        # the target's EOS is the blank
        ids = torch.cat([torch.full_like(batch.target[:, :1], BLANK), batch.target], 1)
        columns = frames.emissions.log_prob(ids)
        blank, emissions = columns[..., 0], columns[..., 1:]
        if not torch.is_grad_enabled():
            blank, emissions = blank.double(), emissions.double()
        return partial(alignments_log_prob, blank, emissions, _repeated(batch.target),
                       word_counts(batch), frames.count)

    @staticmethod
    def needed(data: Tokenised) -> np.ndarray:
        """One frame a subword, and one between two equal ones."""
        ids, starts = data.target_ids, data.target_offsets
        same = np.zeros(len(ids) + 1, np.int64)
        same[1:-1] = ids[1:] == ids[:-1]
        same[starts] = 0  # the first of a sentence
        repeats = np.concatenate([[0], np.cumsum(same[:len(ids)])])
        return data.target_lengths + repeats[starts[1:]] - repeats[starts[:-1]]


def _repeated(target: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
    """Whether each subword is the same as the one before it."""
    same = target[:, 1:] == target[:, :-1]
    return torch.cat([torch.zeros_like(same[:, :1]), same], 1) if target.shape[1] > 1 else \
        torch.zeros_like(target, dtype=torch.bool)
