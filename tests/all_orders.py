"""The likelihood of masked diffusion, exactly: a recursion over the sets of known positions.

f(set) = mean over positions t outside of it of p(y_t | set) f(set + t), f(all) = 1; the result is
log f(nothing). It takes 2^T passes, so it is for a handful of positions.
"""

import math
from itertools import product

import torch

from lib.batching import Batch
from lib.filling import real_positions
from lib.masked import MaskedModel


@torch.no_grad()
def exact_log_prob(model: MaskedModel, batch: Batch) -> torch.Tensor:
    """log p(y|x, T) of every sentence, shape [batch], in nats; the length isn't counted."""
    return torch.cat([_of_row(model, batch, row) for row in range(len(batch))])


def _of_row(model: MaskedModel, batch: Batch, row: int) -> torch.Tensor:
    some = slice(row, row + 1)
    memory = model.encode(batch.source[some], None if batch.source_mask is None
                          else batch.source_mask[some])
    length = int(real_positions(batch)[row].sum())
    target = batch.target[some, :length]
    sets = torch.tensor(list(product([False, True], repeat=length)))
    ids = target.expand(len(sets), -1)
    log_probs = model.subwords(memory, ids, sets, torch.ones_like(sets)).log_prob_at(ids).double()
    place = 2**torch.arange(length - 1, -1, -1)  # of a position's bit
    f = torch.zeros(len(sets), dtype=torch.float64)
    for size in range(length - 1, -1, -1):
        at = (sets.sum(1) == size).nonzero()[:, 0]
        onward = (log_probs[at] + f[at[:, None] | place]).masked_fill(sets[at], -math.inf)
        f[at] = onward.logsumexp(1) - math.log(length - size)
    return f[:1]
