"""The table of families, and the model that an architecture describes."""

import torch
from torch import Tensor, nn

from lib.autoregressive import Transformer
from lib.config import Architecture
from lib.ctc import CtcModel
from lib.dag import DagModel
from lib.independent import IndependentModel
from lib.latent import LatentModel
from lib.masked import MaskedModel
from lib.protocol import Model

__all__ = ["build", "count_parameters", "model_class", "start_from"]

FAMILIES = {"autoregressive": Transformer, "gaussian": LatentModel, "flow": LatentModel,
            "independent": IndependentModel, "dag": DagModel, "ctc": CtcModel,
            "masked": MaskedModel}


def model_class(architecture: Architecture) -> type[Model]:
    """The class of a model, which says what can be asked of it before there are weights."""
    return FAMILIES[architecture.family]


def build(architecture: Architecture, vocabulary: int, dropout: float = 0.0) -> Model:
    """A freshly initialised model; draws from torch's global generator."""
    return model_class(architecture)(architecture, vocabulary, dropout)


def count_parameters(model: nn.Module) -> int:
    """Trained numbers, each counted once."""
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def start_from(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Start a latent model from a trained Transformer's weights.

    Encoder and embeddings are copied, and the decoder's weights into p(y|z,x), q(z|y,x) and the
    Gaussian prior; where a stack has fewer layers than the Transformer, its first ones. What has
    another shape stays as it is. A departure from the paper, the same for every latent model.
    """
    own = model.state_dict()
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
            elif target.endswith("source.weight") and own[target].shape[1:] == value.shape[1:]:
                rows = min(len(own[target]), len(value))  # layers lie one after the other
                own[target][:rows].copy_(value[:rows])
