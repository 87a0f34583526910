"""Sums over paths, and best paths: dynamic programmes on tensors of log-probabilities.

In log space with a row maximum, in the type that they are given (fp64 for reported numbers). What
is impossible has `NOTHING` inside, so that every gradient is finite, and -inf in the result.
Sources: DA-Transformer, Huang et al. (2022), section 3; CTC, Graves et al. (2006), section 4.1.
Not `torch.nn.functional.ctc_loss`: its gradient is right only through a full log_softmax (pytorch
issue 52241), `zero_infinity` hides what is impossible, and on CUDA it lacks bf16.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["NOTHING", "alignments_log_prob", "best_path", "into", "paths_log_prob"]

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
    last = (vertices - 1)[:, None]
    if best:
        path = best_path(transitions, emissions, lengths, vertices)
        total = _along(transitions, emissions, path, lengths, last)
    else:
        emissions = emissions.masked_fill(~_reach(emissions, lengths, vertices), NOTHING)
        with torch.autocast(emissions.device.type, enabled=False):
            f = _PathSums.apply(transitions.exp(), emissions.permute(2, 0, 1).contiguous(), lengths)
        total = (f + into(transitions, last)).logsumexp(1)
    return total.masked_fill(lengths > vertices - 2, -math.inf)


class _PathSums(torch.autograd.Function):
    """f_n of `paths_log_prob`, a product of numbers between 0 and 1 a step: a prefix less probable
    than the sentence's best by more than a type holds (87 nats in fp32, 708 in fp64) counts as so
    probable, without a gradient.

    The backward pass takes the same steps back, and all edges' gradients in one product.
    """

    @staticmethod
    def forward(ctx, edges: Tensor, emissions: Tensor, lengths: Tensor) -> Tensor:
        f = torch.full_like(emissions[0], NOTHING)
        f[:, 0].fill_(0.0)
        lefts, sums = torch.empty_like(emissions), torch.empty_like(emissions)
        for i, emission in enumerate(emissions):
            top = f.amax(1, keepdim=True)
            lefts[i] = (f - top).exp_()
            sums[i] = torch.bmm(lefts[i][:, None], edges)[:, 0]
            onward = sums[i].clamp(min=torch.finfo(f.dtype).tiny).log_().add_(top).add_(emission)
            f = torch.where(lengths[:, None] > i, onward, f)
        ctx.save_for_backward(edges, lefts, sums, lengths)
        return f

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        edges, lefts, sums, lengths = ctx.saved_tensors
        emissions, slopes = torch.empty_like(lefts), torch.empty_like(lefts)
        for i in reversed(range(len(lefts))):
            inside = lengths[:, None] > i
            emissions[i] = grad * inside
            possible = inside & (sums[i] >= torch.finfo(sums.dtype).tiny)
            slopes[i] = torch.where(possible, grad / sums[i], 0.0)
            back = torch.bmm(edges, slopes[i][..., None])[..., 0].mul_(lefts[i])
            grad = torch.where(inside, back, grad)
        return torch.bmm(lefts.permute(1, 2, 0), slopes.transpose(0, 1)), emissions, None


@torch.no_grad()
def best_path(transitions: Float[Tensor, "batch vertices vertices"],
              emissions: Float[Tensor, "batch vertices targets"], lengths: Int[Tensor, " batch"],
              vertices: Int[Tensor, " batch"]) -> Int[Tensor, "batch targets"]:
    """The vertex that emits each subword on the most probable path (any, beyond the length).

    Without a path the vertices mean nothing.
    """
    emissions = emissions.masked_fill(~_reach(emissions, lengths, vertices), NOTHING)
    f = torch.full_like(emissions[..., 0], NOTHING)
    f[:, 0].fill_(0.0)
    came, path = [], []
    for i, emission in enumerate(emissions.unbind(2)):
        value, before = (f[..., None] + transitions).max(1)
        came.append(before)
        f = torch.where(lengths[:, None] > i, value + emission, f)
    at = (f + into(transitions, vertices[:, None] - 1)).argmax(1, keepdim=True)
    for i in reversed(range(len(came))):
        path.append(at)
        at = torch.where(lengths[:, None] > i, came[i].gather(1, at), at)
    return torch.cat(path[::-1], 1)


def _along(transitions: Tensor, emissions: Tensor, path: Int[Tensor, "batch targets"],
           lengths: Tensor, last: Int[Tensor, "batch 1"]) -> Float[Tensor, " batch"]:
    """log of the product along one path of each sentence."""
    start = torch.zeros_like(last)
    inside = torch.arange(path.shape[1], device=path.device) < lengths[:, None]
    stops = torch.cat([start, path, last], 1)
    stops = torch.where(F.pad(inside, (1, 1), value=True), stops, last)
    froms = stops[:, :-1]  # beyond the length from the last vertex, which counts nothing
    steps = transitions.gather(1, froms[..., None].expand(-1, -1, transitions.shape[2])).gather(
        2, stops[:, 1:, None])[..., 0]
    emitted = emissions.gather(1, path[:, None])[:, 0]
    return (steps.masked_fill(froms == last, 0.0).sum(1) + emitted.masked_fill(~inside, 0.0).sum(1))


def _reach(emissions: Tensor, lengths: Tensor, vertices: Tensor,
           ) -> Bool[Tensor, "batch vertices targets"]:
    """Which vertices can emit each subword, for what must come before and after it."""
    at, step = (torch.arange(n, device=emissions.device) for n in emissions.shape[1:])
    behind = lengths[:, None] - 1 - step  # subwords after this one
    return (at[:, None] > step) & (at[:, None] < vertices[:, None, None] - 1 - behind[:, None])


def into(transitions: Float[Tensor, "batch vertices vertices"],
         vertex: Int[Tensor, "batch 1"]) -> Float[Tensor, "batch vertices"]:
    """log p(vertex | each vertex)."""
    return transitions.gather(2, vertex[:, None].expand(-1, transitions.shape[1], 1))[..., 0]


# ---- connectionist temporal classification ----

def alignments_log_prob(blank: Float[Tensor, "batch frames"],
                        emissions: Float[Tensor, "batch frames targets"],
                        repeated: Bool[Tensor, "batch targets"],
                        lengths: Int[Tensor, " batch"],
                        frames: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """log of the sum over alignments: frames of blanks and repeats that collapse to the target.

    States are blank, y_1, blank, y_2, ..., blank. A frame stays in its state, goes to the next, or
    passes over a blank between two different subwords.

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
        f = torch.where(frames[:, None] > frame, ways.logsumexp(0) + emitted[:, frame], f)
    ends = torch.stack([2 * lengths, (2 * lengths - 1).clamp(min=0)], 1)
    finals = f.gather(1, ends)
    finals = torch.stack([finals[:, 0], finals[:, 1].masked_fill(lengths == 0, NOTHING)])
    in_target = torch.arange(targets, device=f.device) < lengths[:, None]
    needed = lengths + (repeated & in_target).sum(1)
    return finals.logsumexp(0).masked_fill(needed > frames, -math.inf)
