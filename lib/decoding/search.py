"""Search with autoregressive models, a subword at a time: greedy, beam, and sampling.

All use cached keys and values, drop finished sentences from the batch, and give a sentence the same
result whatever it is batched with; sampling draws from a generator of the sentence's own.
"""

import hashlib
import math

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lib.distributions import draw
from lib.errors import ConfigError
from lib.layers import LONGEST
from lib.subword import BOS, EOS, PAD

__all__ = ["beam_search", "greedy", "length_normaliser", "longest_target", "sample",
           "sentence_generator", "source_rows"]


def length_normaliser(length: int | Tensor, penalty: float) -> float | Tensor:
    """lp(n) = ((5 + n) / 6)^penalty, n counting EOS (Wu et al. 2016, equation 14)."""
    return ((5 + length) / 6) ** penalty


def longest_target(source_length: int) -> int:
    """Subwords (with EOS) after which search gives up on a source of that many."""
    return min(source_length + 50, 2 * source_length + 10, LONGEST)


def source_rows(source: Int[Tensor, "batch source"],
                mask: Bool[Tensor, "batch source"] | None) -> list[np.ndarray]:
    """The subwords of each source, with EOS and without padding."""
    rows = source.cpu().numpy()
    sizes = [rows.shape[1]] * len(rows) if mask is None else mask.sum(1).tolist()
    return [row[:size] for row, size in zip(rows, sizes, strict=True)]


@torch.no_grad()
def greedy(model, source: Int[Tensor, "batch source"],
           mask: Bool[Tensor, "batch source"] | None) -> list[list[int]]:
    """The most probable next subword, one at a time; without EOS."""
    return beam_search(model, source, mask, width=1, length_penalty=0.0)[0]


@torch.no_grad()
def beam_search(model, source: Int[Tensor, "batch source"],
                mask: Bool[Tensor, "batch source"] | None, width: int = 4,
                length_penalty: float = 0.6,
                longest: int | None = None) -> tuple[list[list[int]], Tensor]:
    """The best finished hypothesis of each sentence (without EOS), and log p(y|x) / lp(|y|).

    A hypothesis is finished when EOS is among the `width` best continuations; it then gives up its
    place in the beam. A sentence is done when the beam is empty, or when no live hypothesis could
    still win: log p only falls and lp only grows, so that stopping early changes no result. Done
    sentences leave the batch. At `longest` subwords (by default `longest_target` of the sentence's
    own source, whatever the batch is padded to) every live hypothesis must end.
    """
    if width < 1 or length_penalty < 0:
        raise ConfigError(f"beam width {width} must be 1 or more, length penalty {length_penalty} "
                          "0 or more")
    batch = source.shape[0]
    device = source.device
    limits = _limits(source, mask, longest)
    longest, stops = int(limits.max()), set(limits.tolist())
    state = model.start(model.encode(source, mask), width, longest)
    found: list[list[int]] = [[] for _ in range(batch)]
    found_score = torch.full((batch,), -math.inf)
    sentence = torch.arange(batch, device=device)  # which sentence each row of the beam is of
    scores = torch.full((batch, width), -math.inf, device=device)
    scores[:, 0] = 0.0
    best = torch.full((batch,), -math.inf, device=device)
    places = torch.full((batch,), width, device=device)  # beam places not yet taken by an end
    tokens = torch.full((batch, width, longest), PAD, device=device)
    last = torch.full((batch * width,), BOS, device=device)
    for at in range(longest):
        log_probs = model.step(state, last).view(len(sentence), width, -1)
        log_probs[..., [PAD, BOS]] = -math.inf
        if at + 1 in stops:
            log_probs = _only_eos(log_probs, limits == at + 1)
        total, parent, token = _best(scores, log_probs, width)
        ends = (token == EOS) & (total > -math.inf)
        normalised = (total / length_normaliser(at + 1, length_penalty)).masked_fill(
            ~ends, -math.inf)
        score, which = normalised.max(1)
        better = score > best
        best = torch.where(better, score, best)
        for row in better.nonzero()[:, 0].tolist():
            line = int(sentence[row])
            found[line] = tokens[row, parent[row, which[row]], :at].tolist()
            found_score[line] = float(score[row])
        places = places - ends.sum(1)
        live = (token != EOS) & (total > -math.inf)
        live &= live.cumsum(1) <= places[:, None]
        scores = total.masked_fill(~live, -math.inf)
        hope = scores.max(1).values / length_normaliser(limits, length_penalty)
        done = (places <= 0) | (hope <= best)
        if bool(done.all()):
            break
        rows = torch.arange(len(sentence), device=device)[:, None] * width + parent
        tokens = tokens.flatten(0, 1)[rows.flatten()].view_as(tokens)
        tokens[:, :, at] = token
        if int(done.sum()) * 4 >= len(done):
            kept = (~done).nonzero()[:, 0]
            state.keep(kept, rows[kept].flatten())
            sentence, scores, best = sentence[kept], scores[kept], best[kept]
            places, tokens, token = places[kept], tokens[kept], token[kept]
            limits = limits[kept]
        elif width > 1:
            state.reorder(rows.flatten())
        last = token.flatten()
    return found, found_score


def _only_eos(log_probs: Tensor, where: Bool[Tensor, " batch"]) -> Tensor:
    """Log-probabilities [batch, width, vocabulary] with only EOS left in some sentences."""
    others = torch.arange(log_probs.shape[-1], device=log_probs.device) != EOS
    return log_probs.masked_fill(where[:, None, None] & others, -math.inf)


def _best(scores: Tensor, log_probs: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `width` best continuations of a beam: scores, parents and subwords [batch, width]."""
    each = log_probs.topk(min(width, log_probs.shape[-1]), -1)  # of each hypothesis
    total, flat = (scores[..., None] + each.values).flatten(1).topk(width, -1)
    token = each.indices.flatten(1).gather(1, flat)
    return total, flat // each.values.shape[-1], token


def _limits(source: Tensor, mask: Tensor | None, longest: int | None) -> Int[Tensor, " batch"]:
    """At how many subwords each sentence must end, EOS among them."""
    return torch.tensor([longest or longest_target(len(ids)) for ids in source_rows(source, mask)],
                        device=source.device)


@torch.no_grad()
def sample(model, source: Int[Tensor, "batch source"], mask: Bool[Tensor, "batch source"] | None,
           samples: int = 1, temperature: float = 1.0, nucleus: float = 1.0, seed: int = 0,
           longest: int | None = None) -> list[list[list[int]]]:
    """`samples` draws (without EOS) from p(y|x) for each sentence, a list of them a sentence.

    Each subword comes from softmax(logits / temperature), PAD and BOS left out, of which `nucleus`
    below 1 keeps only the most probable subwords that together reach that mass (Holtzman et al.
    2020). At `longest` subwords every draw must end. The first n of more samples are the same.

    Errors: ConfigError for samples < 1, temperature <= 0, nucleus outside (0, 1].
    """
    if samples < 1 or temperature <= 0 or not 0 < nucleus <= 1:
        raise ConfigError(f"samples {samples} must be 1 or more, temperature {temperature:g} above "
                          f"0, nucleus {nucleus:g} above 0 and at most 1")
    limits = _limits(source, mask, longest)
    longest, stops = int(limits.max()), set(limits.tolist())
    uniform = np.zeros((len(limits), samples, longest))
    for row, ids in enumerate(source_rows(source, mask)):
        limit = int(limits[row])
        uniform[row, :, :limit] = sentence_generator(ids, seed).random((samples, limit))
    uniform = torch.from_numpy(uniform).to(source.device)
    state = model.start(model.encode(source, mask), samples, longest)
    tokens = torch.full(uniform.shape, EOS, device=source.device)
    sentence = torch.arange(len(limits), device=source.device)  # whose draws the state holds
    ended = torch.zeros(uniform.shape[:2], dtype=torch.bool, device=source.device)
    last = torch.full((len(limits) * samples,), BOS, device=source.device)
    for at in range(longest):
        log_probs = model.step(state, last).view(len(sentence), samples, -1)
        log_probs[..., [PAD, BOS]] = -math.inf
        if at + 1 in stops:
            log_probs = _only_eos(log_probs, limits[sentence] == at + 1)
        token = draw(log_probs, uniform[sentence, :, at], temperature, nucleus)
        token = token.masked_fill(ended, EOS)
        tokens[sentence, :, at] = token
        ended = ended | (token == EOS)
        done = ended.all(1)
        if bool(done.all()):
            break
        if int(done.sum()) * 4 >= len(done):
            kept = (~done).nonzero()[:, 0]
            rows = kept[:, None] * samples + torch.arange(samples, device=source.device)
            state.keep(kept, rows.flatten())
            sentence, ended, token = sentence[kept], ended[kept], token[kept]
        last = token.flatten()
    return [[row[:row.index(EOS)] if EOS in row else row for row in rows]
            for rows in tokens.tolist()]


def sentence_generator(source: np.ndarray, seed: int, *of: int) -> np.random.Generator:
    """What one sentence draws from: made of `seed`, its own subwords, and the numbers `of`.

    Neither the batch, its order, its padding nor the device changes it. Equal sources draw alike.
    """
    digest = hashlib.sha256(source.astype("<i8").tobytes()).digest()[:16]
    return np.random.default_rng([seed, int.from_bytes(digest, "little"), *of])
