"""Our Transformer's weights in `torch.nn.Transformer`: greedy search as one would write it there.

torch's layers keep no keys and values, so every step computes the whole prefix again. A yardstick
from outside: the same weights, the same hypotheses.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor, nn

from lib.layers import positions
from lib.subword import BOS, EOS, PAD

__all__ = ["PlainGreedy"]


class PlainGreedy:
    """Greedy search with torch's own layers."""

    def __init__(self, model: nn.Module):
        """`model`: a `lib.autoregressive.Transformer`, whose weights are copied."""
        a = model.architecture
        self.embedding = model.embedding.weight.detach()
        self.body = nn.Transformer(
            a.d_model, a.heads, a.encoder_layers, a.decoder_layers, a.d_filter, 0.0,
            batch_first=True, norm_first=True, dtype=self.embedding.dtype,
            device=self.embedding.device).eval()
        with torch.no_grad():
            for bias in (p for name, p in self.body.named_parameters() if "bias" in name):
                bias.zero_()
            _copy_stack(self.body.encoder, model.encoder)
            _copy_stack(self.body.decoder, model.decoder)
            sources = model.decoder.source.weight.split([2 * a.d_model] * a.decoder_layers)
            for theirs, ours, both in zip(self.body.decoder.layers, model.decoder.layers, sources,
                                          strict=True):
                attention = ours.source_attention
                theirs.multihead_attn.in_proj_weight.copy_(
                    torch.cat([attention.query.weight, both]))
                theirs.multihead_attn.out_proj.weight.copy_(attention.out.weight)

    @torch.no_grad()
    def __call__(self, source: Int[Tensor, "batch source"],
                 mask: Bool[Tensor, "batch source"] | None, length: int) -> list[list[int]]:
        """Hypotheses, without EOS, that have at most `length` subwords with EOS."""
        hidden = None if mask is None else ~mask
        memory = self.body.encoder(self._embed(source), src_key_padding_mask=hidden)
        words = torch.full((len(source), 1), BOS, device=source.device)
        for _ in range(length - 1):
            causal = nn.Transformer.generate_square_subsequent_mask(
                words.shape[1], device=source.device, dtype=memory.dtype)
            states = self.body.decoder(self._embed(words), memory, tgt_mask=causal,
                                       memory_key_padding_mask=hidden, tgt_is_causal=True)
            logits = F.linear(states[:, -1], self.embedding)
            logits[:, [PAD, BOS]] = -math.inf
            words = torch.cat([words, logits.argmax(-1, keepdim=True)], 1)
            if bool((words == EOS).any(1).all()):
                break
        rows = words[:, 1:].tolist()
        return [row[:row.index(EOS)] if EOS in row else row for row in rows]

    def _embed(self, ids: Tensor) -> Tensor:
        width = self.embedding.shape[1]
        x = F.embedding(ids, self.embedding) * math.sqrt(width)
        return x + positions(ids.shape[1], width, x.device, x.dtype)


def _copy_stack(theirs: nn.Module, ours: nn.Module) -> None:
    """What encoder and decoder share: norms, self-attention, feed-forward."""
    for layer, own in zip(theirs.layers, ours.layers, strict=True):
        layer.self_attn.in_proj_weight.copy_(own.attention.qkv.weight)
        layer.self_attn.out_proj.weight.copy_(own.attention.out.weight)
        layer.linear1.weight.copy_(own.feed_forward.inner.weight)
        layer.linear2.weight.copy_(own.feed_forward.outer.weight)
        for number, norm in enumerate(own.norms, 1):
            getattr(layer, f"norm{number}").load_state_dict(norm.state_dict())
    theirs.norm.load_state_dict(ours.norm.state_dict())
