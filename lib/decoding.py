"""Search: greedy and beam search for stepwise models, delta-posterior refinement for parallel ones.

`hypotheses` is the one entry for all families. Settings are named `greedy`, `beam<width>` and
`k<refinement steps>`, as in metrics.json.
"""

import math
import re

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from .errors import ConfigError
from .subword import BOS, EOS, PAD

__all__ = ["beam_search", "greedy", "hypotheses", "length_normaliser", "longest_target", "refine"]


def length_normaliser(length: int | Tensor, penalty: float) -> float | Tensor:
    """lp(n) = ((5 + n) / 6)^penalty, n counting EOS (Wu et al. 2016, equation 14)."""
    return ((5 + length) / 6) ** penalty


def longest_target(source_length: int) -> int:
    """Subwords (with EOS) after which search gives up on a source of that many."""
    return min(source_length + 50, 2 * source_length + 10)


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
    sizes = [source.shape[1]] * batch if mask is None else mask.sum(1).tolist()
    limits = torch.tensor([longest or longest_target(size) for size in sizes], device=device)
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
        total, parent, token = _best(scores[..., None] + log_probs, width)
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


def _best(total: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `width` best continuations of a beam: scores, parents and subwords [batch, width]."""
    each = total.topk(min(width, total.shape[-1]), -1)
    scores, flat = each.values.flatten(1).topk(width, -1)
    token = each.indices.flatten(1).gather(1, flat)
    return scores, flat // each.values.shape[-1], token


@torch.no_grad()
def refine(model, source: Int[Tensor, "batch source"], mask: Bool[Tensor, "batch source"] | None,
           steps: list[int], lengths: Int[Tensor, " batch"] | None = None,
           ) -> dict[int, list[list[int]]]:
    """Hypotheses (without EOS) after each of `steps` delta-posterior steps (Lee et al. 2020, 3.3).

    z starts at the prior's mean; a step takes y = argmax p(y|z, x), then z = mean of q(z|y, x). One
    pass serves all of `steps`, and ends early when no token of the batch changes. `lengths`
    (multiples of 4) replace the predicted ones.
    """
    if not steps or min(steps) < 0:
        raise ConfigError(f"refinement steps {steps}: give at least one number, 0 or more")
    memory = model.encode(source, mask)
    if lengths is None:
        lengths = model.length_predictor.predict(memory)
    longest = int(lengths.max())
    real = torch.arange(longest, device=source.device) < lengths[:, None]
    target_mask = None if bool(real.all()) else real
    z = model.prior(memory, longest, target_mask).mean
    result = {}
    previous = None
    for step in range(max(steps) + 1):
        if step:
            z = model.posterior(memory, previous, target_mask).mean
        y = model.decode(z, memory, target_mask).argmax().masked_fill(~real, PAD)
        if step in steps:
            result[step] = _strip(y)
        if previous is not None and torch.equal(y, previous):
            break
        previous = y
    settled = _strip(y)
    return {k: result.get(k, settled) for k in steps}


def _strip(ids: Int[Tensor, "batch length"]) -> list[list[int]]:
    """Subwords before the first EOS, without PAD and BOS."""
    rows = []
    for row in ids.tolist():
        row = row[:row.index(EOS)] if EOS in row else row
        rows.append([i for i in row if i not in (PAD, BOS)])
    return rows


def hypotheses(model, source: Int[Tensor, "batch source"],
               mask: Bool[Tensor, "batch source"] | None, settings: list[str],
               length_penalty: float = 0.6) -> dict[str, list[list[int]]]:
    """Hypotheses of every setting that is asked for, from any family.

    Errors: ConfigError for a setting that doesn't exist or that the family can't do.
    """
    parsed = {setting: _parse(model, setting) for setting in settings}
    refinements = [n for n, kind in parsed.values() if kind == "k"]
    result = {}
    if refinements:
        refined = refine(model, source, mask, refinements)
        result = {s: refined[n] for s, (n, kind) in parsed.items() if kind == "k"}
    for setting, (width, kind) in parsed.items():
        if kind == "greedy":
            result[setting] = greedy(model, source, mask)
        elif kind == "beam":
            result[setting] = beam_search(model, source, mask, width, length_penalty)[0]
    return {s: result[s] for s in settings}


def _parse(model, setting: str) -> tuple[int, str]:
    match = re.fullmatch(r"(greedy)|(beam)(\d+)|(k)(\d+)", setting)
    if not match:
        raise ConfigError(f"unknown decoding setting '{setting}': greedy, beam<width>, e.g. beam4, "
                          "or k<refinement steps>, e.g. k1")
    kind = match[1] or match[2] or match[4]
    if (kind == "k") != (model.decoding == "parallel"):
        fits = "k0, k1, k4 ..." if model.decoding == "parallel" else "greedy, beam4 ..."
        raise ConfigError(f"decoding setting '{setting}' doesn't fit this family of model; "
                          f"use {fits}")
    return int(match[3] or match[5] or 1), kind
