"""Md, masked diffusion: autoregression in a random order, the order being the latent variable.

    p(y|x) = p(T|x) E_sigma prod_i p(y_sigma(i) | y_sigma(<i), x, T)

with sigma uniform over the orders of the T padded positions. The ELBO moves the logarithm inside
the expectation; nothing can collapse, for the posterior over orders is the prior. In training one
set of positions a sentence is masked: k is drawn uniformly from 1 ... T, then k positions without
replacement, and

    ELBO = E_k E_set [ T / k sum_{t in set} log p(y_t | y outside the set, x, T) ],

since the i-th step of an order has T - i + 1 masked positions, each of them equally likely to be
the next. What no string pads to has no probability (`lib.lengths.endings`). Sources: Uria et al.
(2014), order-agnostic training; Hoogeboom et al. (2022), autoregressive diffusion models; Sahoo et
al. (2024); the decoder is Ghazvininejad et al.'s (2019), CMLM.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib.batching import Batch
from lib.config import Training
from lib.emissions import Emissions
from lib.filling import UNKNOWN, FillingModel, real_positions, unknown_places
from lib.layers import Memory
from lib.lengths import MULTIPLE, endings
from lib.likelihood import LogProbTerms
from lib.subword import EOS

__all__ = ["MaskedModel"]


class MaskedModel(FillingModel):
    """Encoder, length predictor, and a decoder that sees the known subwords of a target."""

    multiple = MULTIPLE
    likelihood = "bound"
    decoding = "unmasking"
    procedures = ("unmask", "sample")
    dev_search = "mT"

    def subwords(self, memory: Memory, ids: Int[Tensor, "rows length"],
                 known: Bool[Tensor, "rows length"], real: Bool[Tensor, "rows length"],
                 at: Int[Tensor, "rows places"] | None = None,
                 where: Bool[Tensor, "rows length"] | None = None) -> Emissions:
        """p(y_t | known subwords, x, T) at every position, T being the row's real ones.

        `ids` are looked at where `known` alone. With `at` of some positions of each row; with
        `where` of those where it is True, as one row.
        """
        states = self.fill(torch.where(known, ids, UNKNOWN), memory, real, at)
        may_end, must_end = endings(real, ids, known)
        if where is not None:
            states, may_end, must_end = (part[where][None] for part in (states, may_end, must_end))
        elif at is not None:
            may_end, must_end = (part.gather(1, at) for part in (may_end, must_end))
        return self.emissions(states, first=EOS, may_end=may_end, must_end=must_end)

    # ---- training ----

    def loss_terms(self, batch: Batch, training: Training,
                   kl_weight: float | Tensor) -> dict[str, Tensor]:
        """Sums over the batch, in nats: `loss` with gradient; `nll`, the negative ELBO's estimate
        from one masked set a sentence, and `length`; and `tokens`.
        """
        memory, real = self.encode(batch.source, batch.source_mask), real_positions(batch)
        length = real.sum(1)
        masked = (1 + (torch.rand(len(batch), device=real.device) * length).long()).clamp(min=1)
        chosen = (_shuffled(real).argsort(1) < masked[:, None]) & real
        weight = (length / masked)[:, None] * chosen
        if batch.fixed:
            emissions = self.subwords(memory, batch.target, ~chosen & real, real)
            nll = -(weight * emissions.log_prob_at(batch.target)).sum()
        else:
            emissions = self.subwords(memory, batch.target, ~chosen & real, real, where=chosen)
            nll = -(weight[chosen] * emissions.log_prob_at(batch.target[chosen][None])[0]).sum()
        length = self.length_predictor.loss(memory, batch.target_tokens)
        return {"loss": nll + length, "nll": nll.detach(), "length": length.detach(),
                "tokens": batch.target_tokens.sum()}

    # ---- likelihood ----

    @torch.no_grad()
    def log_prob_terms(self, batch: Batch, samples: int = 1,
                       generator: torch.Generator | list[torch.Generator] | None = None,
                       chunk: int = 16) -> LogProbTerms:
        """log p_sigma(y|x, T) of `samples` orders, as log_p_y; log_p_z and log_q_z are 0.

        The orders are drawn from their prior, `chunk` at a time, T passes each. They don't depend
        on `chunk`, nor, with a list of generators, on the batch (where no target is padded beyond
        its own multiple).
        """
        memory, real = self.encode(batch.source, batch.source_mask), real_positions(batch)
        rows = []
        for start in range(0, samples, chunk):
            count = min(chunk, samples - start)
            order = _orders(real, count, generator)
            target, mask = (x.repeat_interleave(count, 0) for x in (batch.target, real))
            rows.append(self.in_order(memory, target, mask, order).view(-1, count).T)
        log_p_y = torch.cat(rows)
        zero = torch.zeros_like(log_p_y)
        return LogProbTerms(log_p_y, zero, zero,
                            self.length_predictor.log_prob(memory, real.sum(1)))

    @torch.no_grad()
    def in_order(self, memory: Memory, target: Int[Tensor, "rows length"],
                 real: Bool[Tensor, "rows length"],
                 order: Int[Tensor, "rows length"]) -> Float[Tensor, " rows"]:
        """log p of each row, its positions made known in the given order, padding last."""
        known, total = torch.zeros_like(real), torch.zeros(len(real)).double().to(real.device)
        for which in order.split(1, 1):
            emissions = self.subwords(memory, target, known, real, which)
            log_prob = emissions.log_prob_at(target.gather(1, which))[:, 0].double()
            total += log_prob.masked_fill(~real.gather(1, which)[:, 0], 0.0)
            known = known.scatter(1, which, True)
        return total

    @torch.no_grad()
    def policy_log_prob(self, batch: Batch) -> Float[Tensor, " batch"]:
        """log p(y|x, T) exactly, when positions are filled one at a time and the most confident
        one is next: the order in which `mT` fills them. T passes; the length isn't counted.
        """
        memory, real = self.encode(batch.source, batch.source_mask), real_positions(batch)
        known, total = torch.zeros_like(real), torch.zeros(len(real)).double().to(real.device)
        for left in range(real.shape[1], 0, -1):
            places, unknown = unknown_places(known, real, left)
            emissions = self.subwords(memory, batch.target, known, real, places)
            confidence = emissions.best()[0].masked_fill(~unknown, -math.inf)
            first = confidence.max(1, keepdim=True).indices  # of equal ones the first
            which = places.gather(1, first)
            log_prob = emissions.at(first).log_prob_at(batch.target.gather(1, which))[:, 0]
            total += log_prob.double().masked_fill(~unknown[:, 0], 0.0)
            known = known.scatter(1, which, True)
        return total


def _shuffled(real: Bool[Tensor, "rows length"],
              generator: torch.Generator | None = None) -> Int[Tensor, "rows length"]:
    """The positions of each row in a random order, padding last."""
    drawn = torch.rand(real.shape, device=real.device, generator=generator)
    return drawn.masked_fill(~real, 2.0).argsort(1)


def _orders(real: Bool[Tensor, "batch length"], count: int,
            generator: torch.Generator | list[torch.Generator] | None,
            ) -> Int[Tensor, "rows length"]:
    """`count` orders of each sentence, one after the other, those of a sentence together."""
    if isinstance(generator, list):
        parts, each = real.split(1), generator
    else:
        parts, each = [real], [generator]
    drawn = [torch.stack([_shuffled(part, own) for _ in range(count)], 1)
             for part, own in zip(parts, each, strict=True)]
    return torch.cat(drawn).flatten(0, 1)
