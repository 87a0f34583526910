"""Delta-posterior refinement: inference with latent models by moving one point in latent space.

Source: Lee et al. (2020), section 2.2, equation 3; Shu et al. (2020), LaNMT. The delta posterior
has all its mass at one z. It starts at the prior's mean (or at a sample), and a step takes z = the
mean of q(z|y, x) for the last output y, then y = argmax p(y|z, x). A step is meant to raise the
proxy bound log p(y|z, x) + log p(z|x), but nothing makes sure that it does: `Trace.lowered` says
where not.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib.errors import ConfigError
from lib.layers import Memory, SourceIds, SourceMask, length_mask
from lib.subword import PAD, before_end

__all__ = ["Point", "Trace", "proxy_bound", "refine", "refinement_steps", "strip", "trace"]


@dataclass(frozen=True)
class Point:
    """Where refinement stands after some step; the candidates of one sentence lie together."""

    z: Float[Tensor, "rows length channels"]  # the point: the start, then the mean of q(z|y, x)
    y: Int[Tensor, "rows length"]  # argmax p(y|z, x), PAD beyond a row's own length
    changed: Bool[Tensor, " rows"]  # whether y is another than one step before (True at the start)


@dataclass(frozen=True)
class Trace:
    """What refinement did to each sentence of a batch, from step 0 (the start) to the last."""

    hypotheses: list[list[list[int]]]  # [step][sentence], without EOS
    log_p_y: Float[Tensor, "steps batch"]  # log p(y|z, x) at every step's y and z, nats
    log_p_z: Float[Tensor, "steps batch"]  # log p(z|x), nats
    log_p_length: Float[Tensor, " batch"]  # log p(padded length|x), the same at every step
    changed: Bool[Tensor, "steps batch"]  # whether the step changed the output

    @property
    def bound(self) -> Float[Tensor, "steps batch"]:
        """The proxy bound log p(y|z, x) + log p(z|x), nats."""
        return self.log_p_y + self.log_p_z

    @property
    def lowered(self) -> Bool[Tensor, "steps batch"]:
        """Where a step lowered the bound; never at step 0."""
        first = torch.zeros_like(self.changed[:1])
        return torch.cat([first, self.bound[1:] < self.bound[:-1]])


@torch.no_grad()
def refine(model, source: SourceIds, mask: SourceMask, steps: list[int],
           lengths: Int[Tensor, " batch"] | None = None) -> dict[int, list[list[int]]]:
    """Hypotheses (without EOS) after each of `steps` steps; one pass serves all of them.

    It ends when no output changes any more, and sentences whose output stays leave the batch: what
    one sentence gets doesn't depend on the others. `lengths` (multiples of 4) replace the predicted
    ones.
    """
    memory = model.encode(source, mask)
    _, real, prior = _start(model, memory, lengths)
    result = {}
    for step, point in enumerate(refinement_steps(model, memory, prior.mean, real, max(steps))):
        if step in steps:
            result[step] = strip(point.y)
    settled = strip(point.y)
    return {k: result.get(k, settled) for k in steps}


@torch.no_grad()
def trace(model, source: SourceIds, mask: SourceMask,
          steps: int, lengths: Int[Tensor, " batch"] | None = None) -> Trace:
    """`refine` with the proxy bound at each of the steps 0 ... `steps`.

    Once an output stays, so does its bound. The bound costs a pass of the decoder's output layer
    and one of the prior's density a step, which is why `refine` doesn't take it.

    Errors: ConfigError for negative steps.
    """
    if steps < 0:
        raise ConfigError(f"refinement steps {steps}: give 0 or more")
    memory = model.encode(source, mask)
    lengths, real, prior = _start(model, memory, lengths)
    rows = []
    moving = torch.ones_like(real[:, 0])  # whose z is another than one step before
    for point in refinement_steps(model, memory, prior.mean, real, steps):
        bound = proxy_bound(model, memory, prior, point.z, point.y, real)
        if rows:
            bound = tuple(torch.where(moving, now, before)
                          for now, before in zip(bound, rows[-1][1:3], strict=True))
        rows.append((strip(point.y), *bound, point.changed))
        moving = point.changed
    rows += [(*rows[-1][:3], torch.zeros_like(moving))] * (steps + 1 - len(rows))
    strings, log_p_y, log_p_z, changed = zip(*rows, strict=True)
    return Trace(list(strings), torch.stack(log_p_y), torch.stack(log_p_z),
                 model.length_predictor.log_prob(memory, lengths), torch.stack(changed))


def proxy_bound(model, memory: Memory, prior, z: Float[Tensor, "rows length channels"],
                y: Int[Tensor, "rows length"], real: Bool[Tensor, "rows length"],
                ) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """log p(y|z, x) and log p(z|x) of each row, in nats, over its real positions."""
    return model.decode(z, memory, real).log_prob(y, real), prior.log_prob(z)


def _start(model, memory: Memory, lengths: Tensor | None):
    """Lengths, real positions, and the prior of each sentence."""
    if lengths is None:
        lengths = model.length_predictor.predict(memory)
    real = length_mask(lengths)
    return lengths, real, model.prior(memory, real.shape[1], _mask(real))


def refinement_steps(model, memory: Memory, z: Float[Tensor, "rows length channels"],
                     real: Bool[Tensor, "rows length"], steps: int) -> Iterator[Point]:
    """Each step's point, from the start `z` on, until the last step or until nothing changes.

    Rows are a multiple of the memory's sentences. A row whose output stays is at a fixed point: it
    is frozen there, and a sentence all of whose rows are leaves the batch, as do the positions that
    only it had. Call it without gradients.
    """
    count = z.shape[0] // memory.states.shape[0]
    rows = torch.arange(z.shape[0], device=z.device)  # those still in the batch
    y, moving = torch.full(real.shape, PAD, device=z.device), torch.ones_like(real[:, 0])
    part_z, part_y, part_real = z, y, real
    for step in range(steps + 1):
        active = moving[rows]
        if step:
            moved = model.posterior(memory, part_y, _mask(part_real)).mean
            part_z = torch.where(active[:, None, None], moved.to(part_z.dtype), part_z)
        new_y = model.decode(part_z, memory, _mask(part_real)).argmax()
        new_y = new_y.masked_fill(~part_real, PAD)
        if step:
            new_y = torch.where(active[:, None], new_y, part_y)
        changed = active & (new_y != part_y).any(1) if step else active
        part_y, width = new_y, new_y.shape[1]
        z, y, moving = z.clone(), y.clone(), torch.zeros_like(moving)
        z[rows, :width], y[rows, :width], moving[rows] = part_z, part_y, changed
        yield Point(z, y, moving)
        live = changed.view(-1, count).any(1)
        if not bool(live.any()):
            return
        if not bool(live.all()):
            kept = live.repeat_interleave(count)
            memory = memory.of(live)
            width = int(part_real[kept].sum(1).max())
            rows, part_real = rows[kept], part_real[kept, :width]
            part_z, part_y = part_z[kept, :width], part_y[kept, :width]


def _mask(real: Bool[Tensor, "rows length"]) -> Tensor | None:
    return None if bool(real.all()) else real


def strip(ids: Int[Tensor, "batch length"]) -> list[list[int]]:
    """Subwords before the first EOS, without PAD and BOS."""
    return [before_end(row) for row in ids.tolist()]
