"""One protocol for the three families, and the table that builds a model from its architecture."""

from typing import Protocol

import torch
from jaxtyping import Int
from torch import Tensor, nn

from lib.autoregressive import Transformer
from lib.batching import Batch
from lib.config import Architecture, Training
from lib.latent import LatentModel
from lib.likelihood import LogProbTerms

__all__ = ["Model", "build", "count_parameters", "start_from"]


class Model(Protocol):
    """What training, likelihood, search and evaluation may ask of a model of any family."""

    multiple: int  # targets are padded with EOS to a multiple of this length
    decoding: str  # "stepwise" (greedy, beam) or "parallel" (refinement)
    architecture: Architecture

    def loss_terms(self, batch: Batch, training: Training, kl_weight: float) -> dict[str, Tensor]:
        """Sums over a batch, in nats: `loss` with gradient, its parts without; and `tokens`."""

    def log_prob_terms(self, batch: Batch, samples: int, generator: torch.Generator | None,
                       chunk: int) -> LogProbTerms:
        """Log-probability terms of each sentence."""

    def encode(self, source: Int[Tensor, "batch source"], mask: Tensor | None):
        """The encoded source, where search starts."""


def build(architecture: Architecture, vocabulary: int, dropout: float = 0.0) -> nn.Module:
    """A freshly initialised model; draws from torch's global generator."""
    family = Transformer if architecture.family == "autoregressive" else LatentModel
    return family(architecture, vocabulary, dropout)


def count_parameters(model: nn.Module) -> int:
    """Trained numbers, each counted once."""
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def start_from(model: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """Start a latent model from a trained Transformer's weights; returns the copied names.

    Encoder and embeddings are copied, and the decoder's weights into p(y|z,x), q(z|y,x) and the
    Gaussian prior; where a stack has fewer layers than the Transformer, its first ones. What has
    another shape stays as it is. A departure from the paper, the same for every latent model.
    """
    own = model.state_dict()
    copied = []
    stacks = ("decoder.", "posterior_decoder.", "prior.decoder.")
    for name, value in state.items():
        names = [name]
        if name.startswith("decoder."):
            names = [stack + name.removeprefix("decoder.") for stack in stacks]
        for target in names:
            if target not in own:
                continue
            if own[target].shape == value.shape:
                own[target].copy_(value)
                copied.append(target)
            elif target.endswith("source.weight") and own[target].shape[1:] == value.shape[1:]:
                rows = min(len(own[target]), len(value))  # layers lie one after the other
                own[target][:rows].copy_(value[:rows])
                copied.append(target)
    return copied
