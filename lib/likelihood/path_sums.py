"""Sums over paths, and best paths: dynamic programmes on tensors of log-probabilities.

In log space with a row maximum, in the type that they are given (fp64 for reported numbers). What
is impossible has `NOTHING` inside, so that every gradient is finite, and -inf in the result.
Sources: DA-Transformer, Huang et al. (2022), section 3; CTC, Graves et al. (2006), section 4.1.
Not `torch.nn.functional.ctc_loss`: its gradient is right only through a full log_softmax (pytorch
issue 52241), `zero_infinity` hides what is impossible, and on CUDA it lacks bf16.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["NOTHING", "alignments_log_prob", "best_alignment", "best_path", "paths_log_prob"]

NOTHING = -1.0e30  # log-probability of what is impossible, as long as a gradient may reach it


# ---- a directed acyclic graph of vertices ----

def paths_log_prob(transitions: Float[Tensor, "batch vertices vertices"],
                   emissions: Float[Tensor, "batch vertices targets"],
                   lengths: Int[Tensor, " batch"], vertices: Int[Tensor, " batch"],
                   best: bool = False) -> Float[Tensor, " batch"]:
    """log of the sum over paths from vertex 0 to the last of all that they are multiplied from.

    f_1(j) = E[0, j] + P[j](y_1), f_i(j) = logsumexp_k (f_{i-1}(k) + E[k, j]) + P[j](y_i), and the
    result is logsumexp_j (f_n(j) + E[j, last]) with E the transitions, P the emissions and n the
    length. Vertex 0 and the last one emit nothing. With `best` the maximum in place of logsumexp:
    of the best path alone.

    transitions: log p(next | vertex), NOTHING where there is no edge; rows are normalised.
    emissions: log p(y_i | vertex). lengths: emitted subwords. vertices: of each sentence's graph;
    a path exists for length <= vertices - 2, else the result is -inf.
    """
    size, steps = emissions.shape[1:]
    at, step = (torch.arange(n, device=emissions.device) for n in (size, steps))
    behind = lengths[:, None] - 1 - step  # subwords after this one
    reach = (at[:, None] > step) & (at[:, None] < vertices[:, None, None] - 1 - behind[:, None])
    emissions = emissions.masked_fill(~reach, NOTHING)
    with torch.autocast(emissions.device.type, enabled=False):
        edges = transitions if best else transitions.exp()
        f = emissions.new_full(emissions.shape[:2], NOTHING)
        f[:, 0].zero_()
        for i in range(steps):
            onward = (_farthest if best else _onward)(f, edges) + emissions[..., i]
            f = torch.where(lengths[:, None] > i, onward, f)
    last = (vertices - 1)[:, None, None].expand(-1, size, 1)
    ends = f + transitions.gather(2, last)[..., 0]
    total = ends.max(1).values if best else ends.logsumexp(1)
    return total.masked_fill(lengths > vertices - 2, -math.inf)


def _onward(f: Float[Tensor, "batch vertices"],
            edges: Float[Tensor, "batch vertices vertices"]) -> Tensor:
    """logsumexp_k (f(k) + log edges[k, j]) as one product of numbers between 0 and 1."""
    top = f.detach().amax(1, keepdim=True)
    summed = torch.bmm((f - top).exp()[:, None], edges)[:, 0]
    return summed.clamp(min=torch.finfo(f.dtype).tiny).log() + top


def _farthest(f: Float[Tensor, "batch vertices"],
              edges: Float[Tensor, "batch vertices vertices"]) -> Tensor:
    """max_k (f(k) + edges[k, j]), its gradient to one of several equal ones."""
    return (f[..., None] + edges).max(1).values


def best_path(transitions: Float[Tensor, "batch vertices vertices"],
              emissions: Float[Tensor, "batch vertices targets"],
              lengths: Int[Tensor, " batch"], vertices: Int[Tensor, " batch"],
              ) -> Int[Tensor, "batch targets"]:
    """The vertex that emits each subword on the most probable path (any, beyond the length).

    It is where the maximum's gradient is 1. Without a path the vertices mean nothing.
    """
    return _used(emissions, lambda given: paths_log_prob(transitions.detach(), given, lengths,
                                                         vertices, best=True)).argmax(1)


def _used(emissions: Tensor, value) -> Tensor:
    """How often each emission enters a value that is a maximum over sums of them."""
    with torch.enable_grad():
        given = emissions.detach().requires_grad_()
        found = value(given)
        return torch.autograd.grad(found.masked_fill(found == -math.inf, 0.0).sum(), given)[0]


# ---- connectionist temporal classification ----

def alignments_log_prob(blank: Float[Tensor, "batch frames"],
                        emissions: Float[Tensor, "batch frames targets"],
                        repeated: Bool[Tensor, "batch targets"],
                        lengths: Int[Tensor, " batch"], frames: Int[Tensor, " batch"],
                        best: bool = False) -> Float[Tensor, " batch"]:
    """log of the sum over alignments: frames of blanks and repeats that collapse to the target.

    States are blank, y_1, blank, y_2, ..., blank. A frame stays in its state, goes to the next, or
    passes over a blank between two different subwords. With `best` the best alignment alone.

    blank: log p(blank | frame). emissions: log p(y_i | frame). repeated: whether y_i is y_{i-1}.
    lengths: subwords of the target. frames: of each sentence; an alignment exists for length +
    repeats <= frames, else the result is -inf.
    """
    batch, count, targets = emissions.shape
    blanks = blank[..., None].expand(-1, -1, targets)
    emitted = torch.cat([torch.stack([blanks, emissions], -1).flatten(2), blank[..., None]], -1)
    always = torch.ones_like(repeated)
    closed = torch.cat([torch.stack([always, repeated], -1).flatten(1), always[:, :1]], 1)
    f = emissions.new_full((batch, 2 * targets + 1), NOTHING)
    f[:, 0].zero_()  # before the first frame, as after a blank
    for frame in range(count):
        before = torch.cat([f.new_full((batch, 2), NOTHING), f], 1)
        ways = torch.stack([f, before[:, 1:-1], before[:, :-2].masked_fill(closed, NOTHING)])
        onward = (ways.max(0).values if best else ways.logsumexp(0)) + emitted[:, frame]
        f = torch.where(frames[:, None] > frame, onward, f)
    ends = torch.stack([2 * lengths, (2 * lengths - 1).clamp(min=0)], 1)
    finals = f.gather(1, ends)
    finals = torch.stack([finals[:, 0], finals[:, 1].masked_fill(lengths == 0, NOTHING)])
    total = finals.max(0).values if best else finals.logsumexp(0)
    in_target = torch.arange(targets, device=f.device) < lengths[:, None]
    needed = lengths + (repeated & in_target).sum(1)
    return total.masked_fill(needed > frames, -math.inf)


def best_alignment(blank: Float[Tensor, "batch frames"],
                   emissions: Float[Tensor, "batch frames targets"],
                   repeated: Bool[Tensor, "batch targets"],
                   lengths: Int[Tensor, " batch"], frames: Int[Tensor, " batch"],
                   ) -> Float[Tensor, "batch frames targets"]:
    """1 where a frame emits a subword of the target in the most probable alignment, else 0."""
    return _used(emissions, lambda given: alignments_log_prob(
        blank.detach(), given, repeated, lengths, frames, best=True))
