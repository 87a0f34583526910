"""How long a target is, for models that fill in all positions of a length chosen beforehand.

Source: Lee et al. (2020), section 3; Shu et al. (2020), LaNMT.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lib.distributions import exact
from lib.errors import ConfigError
from lib.layers import LONGEST, Memory
from lib.subword import EOS

__all__ = ["LARGEST_DIFFERENCE", "LONGEST_TARGET", "MULTIPLE", "LengthPredictor", "endings",
           "source_lengths"]

LARGEST_DIFFERENCE = 30  # of target and source length, in the length predictor's classes
NO_CLASS = -1  # of a row that counts nowhere
MULTIPLE = 4  # targets are padded with EOS to multiples of this length
LONGEST_TARGET = LONGEST - MULTIPLE  # predicted; with one EOS more it still has positions


class LengthPredictor(nn.Module):
    """Categorical over target minus source length in [-30, 30], from mean-pooled source states.

    Two layers, no gradient into the encoder. Lengths count one EOS on both sides.
    """

    def __init__(self, d_model: int):
        super().__init__()
        self.inner = nn.Linear(d_model, d_model)
        self.outer = nn.Linear(d_model, 2 * LARGEST_DIFFERENCE + 1)

    def forward(self, memory: Memory) -> Float[Tensor, "batch classes"]:
        """Log-probabilities of the differences."""
        states = exact(memory.states.detach())
        if memory.mask is None:
            pooled = states.mean(1)
        else:
            real = memory.mask[..., None]
            pooled = (states * real).sum(1) / real.sum(1)
        return exact(self.outer(F.relu(self.inner(pooled)))).log_softmax(-1)

    def loss(self, memory: Memory, target_tokens: Int[Tensor, " batch"]) -> Tensor:
        """-log p(difference) summed over the batch, with gradient; 0 for a row without tokens."""
        difference = target_tokens - source_lengths(memory)
        classes = difference.clamp(-LARGEST_DIFFERENCE, LARGEST_DIFFERENCE) + LARGEST_DIFFERENCE
        classes = classes.masked_fill(target_tokens == 0, NO_CLASS)
        return F.nll_loss(self(memory), classes, reduction="sum", ignore_index=NO_CLASS)

    def predict(self, memory: Memory) -> Int[Tensor, " batch"]:
        """The most probable length (with one EOS), rounded up to a multiple of 4."""
        difference = self(memory).argmax(-1) - LARGEST_DIFFERENCE
        length = (source_lengths(memory) + difference).clamp(min=1)
        return _round_up(length).clamp(max=LONGEST_TARGET)

    def log_prob(self, memory: Memory,
                 length: Int[Tensor, " batch *several"]) -> Float[Tensor, " batch *several"]:
        """log p(padded length | x): the sum over all lengths that round up to it.

        The two outermost classes stand for "30 or more" and are spread geometrically (half for 30,
        a quarter for 31, ...), so that every length has a probability and they sum to one.
        """
        log_probs, source = self(memory), source_lengths(memory)
        shape, length = length.shape, length.view(len(source), -1)
        difference = length[..., None] - torch.arange(MULTIPLE, device=length.device)
        difference = difference - source[:, None, None]  # [..., 4]: those that round up to `length`
        beyond = (difference.abs() - LARGEST_DIFFERENCE).clamp(min=-1) + 1
        bounded = difference.clamp(-LARGEST_DIFFERENCE, LARGEST_DIFFERENCE) + LARGEST_DIFFERENCE
        terms = log_probs.gather(1, bounded.flatten(1)).view(bounded.shape)
        total = (terms - beyond * math.log(2)).logsumexp(-1)
        # Everything at or below 0 is predicted as the shortest target, so it counts there.
        below = torch.arange(-LARGEST_DIFFERENCE, LARGEST_DIFFERENCE + 1, device=length.device)
        impossible = log_probs.masked_fill(below + source[:, None] > 0, -math.inf)
        rest = impossible.logsumexp(1)
        tail = log_probs[:, 0] - (source - LARGEST_DIFFERENCE).clamp(min=0) * math.log(2)
        rest = torch.where(source > LARGEST_DIFFERENCE, tail, rest)[:, None]
        return torch.where(length == MULTIPLE, torch.logaddexp(total, rest), total).view(shape)

    def table(self, memory: Memory, beyond: int = 1,
              ) -> tuple[Int[Tensor, "batch lengths"], Float[Tensor, "batch lengths"]]:
        """Padded lengths 4, 8, ... of each sentence and their log-probabilities.

        They reach `beyond` multiples past the source's length plus 30, where each is 16 times less
        probable than the one before; a shorter source's row ends in -inf.
        """
        last = _round_up(source_lengths(memory) + LARGEST_DIFFERENCE) + beyond * MULTIPLE
        last = last.clamp(max=LONGEST_TARGET)
        lengths = torch.arange(MULTIPLE, int(last.max()) + 1, MULTIPLE, device=last.device)
        lengths = lengths.expand(len(last), -1)
        return lengths, self.log_prob(memory, lengths).masked_fill(lengths > last[:, None],
                                                                   -math.inf)

    def most_probable(self, memory: Memory, count: int,
                      ) -> tuple[Int[Tensor, "batch count"], Float[Tensor, "batch count"]]:
        """The `count` most probable padded lengths, best first, and their log-probabilities.

        The first may differ from `predict`, which takes the most probable length before rounding.
        Errors: ConfigError where there aren't that many.
        """
        if not 1 <= count <= LONGEST_TARGET // MULTIPLE:
            raise ConfigError(f"{count} lengths: a sentence has 1 to {LONGEST_TARGET // MULTIPLE}")
        lengths, log_probs = self.table(memory, count)
        best = log_probs.sort(dim=-1, descending=True, stable=True)
        return lengths.gather(1, best.indices)[:, :count], best.values[:, :count]


def endings(real: Bool[Tensor, "rows length"], ids: Int[Tensor, "rows length"] | None = None,
            known: Bool[Tensor, "rows length"] | None = None,
            ) -> tuple[Bool[Tensor, "rows length"], Bool[Tensor, "rows length"]]:
    """Where EOS is possible in strings of a padded length, and where nothing else is.

    A string that pads to length T has T - 4 to T - 1 subwords, and EOS from there to T. So EOS is
    possible at the last four positions unless a subword is known to follow, and certain at the last
    one and after a known EOS. With these a model over padded strings sums to one over strings: it
    gives nothing to what no string pads to.

    real: False beyond T. ids: subwords, where `known`; by default nothing is known.
    """
    at = torch.arange(real.shape[1], device=real.device)
    length = real.sum(1, keepdim=True)
    may, must = (at >= length - MULTIPLE) & real, at == length - 1
    if known is None:
        return may, must
    ended = (known & (ids == EOS)).cumsum(1) > 0
    words = known & real & (ids != EOS)
    words_follow = words.flip(1).cumsum(1).flip(1) > 0  # here or later: where it is, isn't asked
    must = must | (ended & real)
    return (may & ~words_follow) | must, must


def source_lengths(memory: Memory) -> Int[Tensor, " batch"]:
    """Source subwords with one EOS."""
    batch, longest, _ = memory.states.shape
    if memory.mask is None:
        return torch.full((batch,), longest, device=memory.states.device)
    return memory.mask.sum(1)


def _round_up(length: Tensor) -> Tensor:
    return (length + MULTIPLE - 1) // MULTIPLE * MULTIPLE
