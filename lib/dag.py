"""Da: a directed acyclic graph of vertices, the path through it summed out exactly.

The decoder makes lambda vertices for each source subword. A path starts at vertex 0 and ends at the
last one, which are silent; each other vertex on it emits one subword. Transitions go forward only,
each vertex's to all later ones sum to one, and so do its emissions: p(y|x) sums to one over strings
of 0 to vertices - 2 subwords, without a length model and without EOS.

Source: Huang et al. (2022), DA-Transformer. Their released scoring is not used here: it averages
log p over tokens, leaves the glancing of the training on, and counts sentences without a path as 0.
With `objective: best_path` the maximum stands in place of the sum, in training alone: the ELBO
whose posterior has all its mass on one path. The weight of its KL rises as that of the other ELBOs
(`kl_start`, `kl_ramp`): from a random start the maximum alone prefers what it says by chance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lib.batching import Batch, Tokenised
from lib.config import Architecture
from lib.distributions import exact
from lib.emissions import Emissions
from lib.layers import Memory
from lib.likelihood.path_sums import NOTHING, paths_log_prob
from lib.upsampling import UpsampledModel, word_counts

__all__ = ["DagModel", "Graph", "Transitions"]


class Transitions(nn.Module):
    """log p(next vertex | vertex): a mixture of attention heads over the later vertices.

    Huang et al. (2022), equation 6: each head's weights are a softmax of its own, and the mixture's
    a softmax over heads at each vertex.
    """

    def __init__(self, d_model: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query_key = nn.Linear(d_model, 2 * d_model)
        self.gate = nn.Linear(d_model, heads)

    def forward(self, states: Float[Tensor, "batch vertices d_model"],
                real: Bool[Tensor, "batch vertices"]) -> Float[Tensor, "batch vertices vertices"]:
        """From each vertex (rows) to each later real one; NOTHING to all others."""
        q, k = self.query_key(states).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = exact((q * q.shape[-1]**-0.5) @ k.transpose(-2, -1))
        size = states.shape[1]
        later = torch.ones(size, size, dtype=torch.bool, device=states.device).triu_(1)
        closed = ~(later & real[:, None])
        heads = scores.masked_fill(closed[:, None], NOTHING).log_softmax(-1)
        gates = exact(self.gate(states)).log_softmax(-1).transpose(1, 2)
        return (heads + gates[..., None]).logsumexp(1).masked_fill(closed, NOTHING)


@dataclass(frozen=True)
class Graph:
    """The graphs of a batch."""

    transitions: Float[Tensor, "batch vertices vertices"]  # log p(next | vertex)
    emissions: Emissions  # log p(subword | vertex), also of the first and last, which don't emit
    vertices: Int[Tensor, " batch"]  # of each sentence
    real: Bool[Tensor, "batch vertices"]  # False beyond them


class DagModel(UpsampledModel):
    """Encoder, decoder of all vertices at once, and their transitions."""

    slot = "vertices"
    decoding = "graph"
    procedures = ("greedy", "lookahead", "viterbi", "beam", "sample")
    dev_search = "lookahead"

    def __init__(self, a: Architecture, vocabulary: int, dropout: float = 0.0):
        super().__init__(a, vocabulary, dropout)
        self.transitions = Transitions(a.d_model, a.heads)

    @torch.no_grad()
    def scale_logits(self, factor: float) -> None:
        """As any model's; the transitions, which read the same states, stay as they are."""
        super().scale_logits(factor)
        for layer in (self.transitions.query_key, self.transitions.gate):
            layer.weight.div_(factor)

    def graph(self, memory: Memory) -> Graph:
        """The graphs of the encoded sources."""
        vertices, real = self.slots(memory)
        states = self.slot_states(memory, real)
        return Graph(self.transitions(states, real), self.emissions(states), vertices, real)

    def path_sums(self, memory: Memory, batch: Batch) -> Callable[..., Float[Tensor, " batch"]]:
        """log p(y|x), all paths summed, or of the best one."""
        graph = self.graph(memory)
        parts = graph.transitions, graph.emissions.log_prob(batch.target)
        if not torch.is_grad_enabled():
            parts = tuple(part.double() for part in parts)
        return partial(paths_log_prob, *parts, word_counts(batch), graph.vertices)

    @staticmethod
    def needed(data: Tokenised) -> np.ndarray:
        """One vertex a subword, the first and the last."""
        return data.target_lengths + 2
