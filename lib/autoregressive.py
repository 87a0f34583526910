"""The autoregressive Transformer: p(y|x) = prod_t p(y_t | y_<t, x), an exact likelihood.

Source: Vaswani et al. (2017); sizes Tr-S, Tr-B and Tr-L of Lee et al. (2020), 4.2 and 4.3.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lib.batching import Batch
from lib.config import Architecture, Training
from lib.distributions import Tokens, exact
from lib.layers import Decoder, KeysValues, Memory, mask_bias, positions
from lib.likelihood import LogProbTerms
from lib.objectives import target_losses
from lib.protocol import Model
from lib.subword import BOS

__all__ = ["DecoderState", "Transformer"]


class DecoderState:
    """Keys and values of what has been decoded so far, for a batch of hypotheses.

    Hypotheses of one sentence lie together, so that they share the source's keys and values.
    """

    def __init__(self, sources: list[KeysValues], bias: Tensor | None, hypotheses: int,
                 longest: int, dtype: torch.dtype | None = None):
        self.sources, self.bias, self.longest, self.at = sources, bias, longest, 0
        key = sources[0][0]
        batch, heads, _, width = key.shape
        self.cache = torch.empty(len(sources), 2, batch * hypotheses, heads, longest, width,
                                 dtype=dtype or key.dtype, device=key.device)
        self.spare: Tensor | None = None  # where reordering writes: no new memory a step

    def reorder(self, rows: Int[Tensor, " hypotheses"]) -> None:
        """Continue from the given hypotheses, which stay within their sentence."""
        if self.spare is None:
            self.spare = torch.empty_like(self.cache)
        torch.index_select(self.cache[..., :self.at, :], 2, rows, out=self.spare[..., :self.at, :])
        self.cache, self.spare = self.spare, self.cache

    def keep(self, sentences: Int[Tensor, " kept"], rows: Int[Tensor, " hypotheses"]) -> None:
        """Drop all but some sentences, and of them keep the given hypotheses."""
        self.sources = [(k[sentences], v[sentences]) for k, v in self.sources]
        if self.bias is not None:
            self.bias = self.bias[sentences]
        self.cache, self.spare = self.cache[:, :, rows], None


class Transformer(Model):
    """Encoder and causal decoder with one embedding matrix for source, target and output."""

    decoding = "stepwise"
    procedures = ("greedy", "beam", "sample", "nucleus")

    def __init__(self, a: Architecture, vocabulary: int, dropout: float = 0.0):
        super().__init__(a, vocabulary, dropout)
        self.decoder = Decoder(a.decoder_layers, a.d_model, a.d_filter, a.heads, dropout)

    def _states(self, batch: Batch) -> Float[Tensor, "batch length d_model"]:
        """Decoder states that predict each target subword from those before it."""
        previous = F.pad(batch.target[:, :-1], (1, 0), value=BOS)
        memory = self.encode(batch.source, batch.source_mask)
        return self.decoder(self.embedding(previous), memory, causal=True)

    def loss_terms(self, batch: Batch, training: Training,
                   kl_weight: float | Tensor) -> dict[str, Tensor]:
        """Sums over the batch, in nats: `loss` (with gradient, smoothed), `nll`; and `tokens`."""
        loss, nll = target_losses(self._states(batch), self.embedding.weight, batch,
                                  training.label_smoothing)
        return {"loss": loss, "nll": nll, "tokens": batch.target_tokens.sum()}

    def log_prob_terms(self, batch: Batch, samples: int = 1, generator=None,
                       chunk: int = 0) -> LogProbTerms:
        """The exact log-probability as log_p_y with one sample; the other terms are 0."""
        log_p_y = Tokens(self._states(batch), self.embedding.weight).log_prob(
            batch.target, batch.target_mask)
        zero = torch.zeros_like(log_p_y)
        return LogProbTerms(log_p_y[None], zero[None], zero[None], zero)

    def start(self, memory: Memory, hypotheses: int, longest: int) -> DecoderState:
        """An empty state for `hypotheses` hypotheses a sentence, of at most `longest` subwords.

        A frozen model's cache is in fp32 on a CPU, which is fastest there.
        """
        weight = self.embedding.weight
        dtype = None if self.output is None or weight.is_cuda else weight.dtype
        return DecoderState(self.decoder.source(memory.states), mask_bias(memory.mask), hypotheses,
                            longest, dtype)

    def step(self, state: DecoderState,
             last: Int[Tensor, " hypotheses"]) -> Float[Tensor, "hypotheses vocabulary"]:
        """log p(next subword | all before, x) after appending `last` to every hypothesis."""
        weight = self.embedding.weight
        d_model = weight.shape[1]
        place = positions(state.longest, d_model, weight.device, weight.dtype)[state.at]
        x = (F.embedding(last, weight) * d_model**0.5 + place)[:, None]
        layers = zip(self.decoder.layers, state.cache, state.sources, strict=True)
        for layer, cache, source in layers:
            x = layer.step(x, cache, state.at, source, state.bias)
        state.at += 1
        states = self.decoder.norm(x)[:, 0]
        logits = F.linear(states, weight) if self.output is None else self.output(states)
        return exact(logits).log_softmax(-1)
