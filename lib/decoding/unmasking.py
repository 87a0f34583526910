"""Search with models that fill in the positions of a length chosen beforehand: Na and Md.

Every position has EOS or a subword, and a string ends at its first EOS (`lib.lengths.endings`).
Md's positions are filled in some order:

    m<steps>    the predicted length, all positions unknown; each step fills the most confident ones
                with their most probable subwords, all positions being shared out evenly over the
                steps; mT, and any number of steps from T on, one position a step
    sample      the length and then the subwords drawn, one position at a time in an order drawn
                uniformly: the distribution that the ELBO bounds
"""

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lib.decoding.candidates import Strings, drawn_lengths, grouped
from lib.decoding.refinement import strip
from lib.filling import unknown_places
from lib.layers import SourceIds, SourceMask, length_mask
from lib.subword import EOS

__all__ = ["draws", "greedy", "ordered_draws", "unmask"]


@torch.no_grad()
def greedy(model, source: SourceIds, mask: SourceMask) -> list[list[int]]:
    """The most probable subword at each position of the predicted length."""
    memory = model.encode(source, mask)
    real = _predicted(model, memory)
    return _strings(model.subwords(memory, real).best()[1], real)


@torch.no_grad()
def unmask(model, source: SourceIds, mask: SourceMask, steps: int = 0) -> list[list[int]]:
    """Hypotheses after `steps` steps; 0 for one a position. See the module."""
    memory = model.encode(source, mask)
    real = _predicted(model, memory)
    lengths = real.sum(1).cpu().numpy()
    each = lengths if not steps else lengths.clip(max=steps)  # steps that a sentence takes
    goals = -(-np.arange(1 + each.max(initial=0))[:, None] * lengths // each)  # rounded up
    goals = goals.clip(max=lengths)
    shares = torch.from_numpy(np.diff(goals, axis=0)).to(real.device)
    known, ids = torch.zeros_like(real), torch.full(real.shape, EOS, device=real.device)
    for before, share in zip(goals[:-1], shares, strict=True):
        places, unknown = unknown_places(known, real, int((lengths - before).max()))
        confidence, best = model.subwords(memory, ids, known, real, places).best()
        confidence = confidence.masked_fill(~unknown, -torch.inf)
        rank = confidence.argsort(dim=1, descending=True, stable=True).argsort(1)
        now = unknown & (rank < share[:, None])
        ids = ids.scatter(1, places, torch.where(now, best, ids.gather(1, places)))
        known = known.scatter(1, places, now | ~unknown) & real
    return _strings(ids, real)


@torch.no_grad()
def draws(model, source: SourceIds, mask: SourceMask, samples: int = 1, temperature: float = 1.0,
          seed: int = 0) -> Strings:
    """`samples` draws from p(y|x) a sentence, the length's with them.

    `temperature` divides the logits of length and subwords. A model whose positions are independent
    fills all of them at once.
    """
    memory = model.encode(source, mask)
    ids, _, real = ordered_draws(model, memory, source, mask, samples, temperature, seed)
    return grouped(_strings(ids, real), len(source))


@torch.no_grad()
def ordered_draws(model, memory, source: SourceIds, mask: SourceMask, samples: int = 1,
                  temperature: float = 1.0, seed: int = 0,
                  ) -> tuple[Int[Tensor, "rows length"], Int[Tensor, "rows length"],
                             Bool[Tensor, "rows length"]]:
    """The draws of `draws`: subwords, their order (padding last), and which positions are real."""
    real, generators = drawn_lengths(model, memory, source, mask, samples, temperature, seed)
    order, uniform = np.full(real.shape, 2.0), np.zeros(real.shape)
    for row, (generator, length) in enumerate(zip(generators, real.sum(1).tolist(), strict=True)):
        order[row, :length], uniform[row, :length] = generator.random((2, length))
    order, uniform = (torch.from_numpy(x).to(real.device) for x in (order, uniform))
    if model.decoding == "positions":
        ids = model.subwords(memory, real).sample(uniform, temperature)
    else:
        ids = _in_turn(model, memory, real, order.argsort(1), uniform, temperature)
    return ids, order.argsort(1), real


def _in_turn(model, memory, real: Bool[Tensor, "rows length"], order: Int[Tensor, "rows length"],
             uniform: Tensor, temperature: float) -> Int[Tensor, "rows length"]:
    """Positions filled one at a time; the i-th of each row takes its i-th uniform number.

    Rows of one length go together, so that a short draw doesn't take the steps of a long one.
    """
    ids, lengths = torch.full(real.shape, EOS, device=real.device), real.sum(1)
    sentence = torch.arange(len(real), device=real.device) // (len(real) // len(memory.states))
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero()[:, 0]
        own, full = memory.of(sentence[rows]), real[rows, :length]
        known, filled = torch.zeros_like(full), ids[rows, :length]
        for which, number in zip(order[rows, :length].split(1, 1),
                                 uniform[rows, :length].split(1, 1), strict=True):
            drawn = model.subwords(own, filled, known, full, which).sample(number, temperature)
            filled, known = filled.scatter(1, which, drawn), known.scatter(1, which, True)
        ids[rows, :length] = filled
    return ids


def _predicted(model, memory) -> Bool[Tensor, "batch length"]:
    """Which positions the predicted lengths have."""
    return length_mask(model.length_predictor.predict(memory))


def _strings(ids: Int[Tensor, "rows length"], real: Bool[Tensor, "rows length"]) -> list[list[int]]:
    return strip(ids.masked_fill(~real, EOS))
