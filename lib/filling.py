"""What the families share whose decoder sees some subwords, or none, and fills in all others."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib.batching import Batch
from lib.config import Architecture
from lib.emissions import Emissions
from lib.layers import Decoder, Memory
from lib.lengths import LengthPredictor
from lib.protocol import Model
from lib.subword import BOS

__all__ = ["UNKNOWN", "FillingModel", "real_positions", "unknown_places"]

UNKNOWN = BOS  # what the decoder sees where it knows no subword; no target holds it


class FillingModel(Model):
    """Encoder, and decoder without a causal mask, with one embedding matrix for all."""

    def __init__(self, a: Architecture, vocabulary: int, dropout: float = 0.0):
        super().__init__(a, vocabulary, dropout)
        self.decoder = Decoder(a.decoder_layers, a.d_model, a.decoder_d_filter or a.d_filter,
                               a.heads, dropout)
        if self.multiple > 1:  # all positions of a length chosen beforehand
            self.length_predictor = LengthPredictor(a.d_model)

    def fill(self, ids: Int[Tensor, "rows length"], memory: Memory,
             mask: Bool[Tensor, "rows length"] | None,
             at: Int[Tensor, "rows places"] | None = None) -> Float[Tensor, "rows places d_model"]:
        """Decoder states at all positions, or `at` some; rows of one sentence lie together.

        `ids` holds UNKNOWN where nothing is known; `mask` is False on padding.
        """
        return self.decoder(self.embedding(ids), memory, mask, at=at)

    def emissions(self, states: Float[Tensor, "rows length d_model"], **what) -> Emissions:
        """What the states emit; `what` are further fields of `Emissions`."""
        return Emissions(states, self.embedding.weight, output=self.output, **what)


def real_positions(batch: Batch) -> Bool[Tensor, "batch length"]:
    """The target's mask, spelt out."""
    return torch.ones_like(batch.target, dtype=torch.bool) if batch.target_mask is None \
        else batch.target_mask


def unknown_places(known: Bool[Tensor, "rows length"], real: Bool[Tensor, "rows length"],
                   count: int) -> tuple[Int[Tensor, "rows places"], Bool[Tensor, "rows places"]]:
    """The positions of each row that are real and not known, in order, and after them others, so
    that they are `count`; and which of them are unknown.
    """
    places = (known | ~real).byte().argsort(dim=1, stable=True)[:, :count]
    return places, (real & ~known).gather(1, places)
