"""Search with models whose strings are sums over paths: Da through a graph, Ct through frames.

    greedy      Da: from each vertex the most probable transition, at each vertex the most probable
                subword. Ct: the most probable symbol of each frame, collapsed
    lookahead   Da: the most probable transition times the subword that it leads to
    viterbi     Da: the most probable path and subwords together, over lp(length) as in beam search
    beam<width> beam search over strings (`lib.decoding.search`), all paths of a prefix summed: log
                p(next subword | prefix, x) is exact, from the probability of all strings that begin
                with the prefix. The subwords considered are the `CANDIDATES` best of each slot
    sample      a path, then its subwords

Nothing collapses in Da: a subword that two vertices emit in turn stands there twice.
"""

from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.ctc import BLANK
from lib.decoding.candidates import Strings
from lib.decoding.search import (
    beam_search,
    length_normaliser,
    longest_target,
    sentence_generator,
    source_rows,
    source_sizes,
)
from lib.distributions import draw
from lib.emissions import Emissions
from lib.layers import Memory, SourceIds, SourceMask, taken
from lib.likelihood.path_sums import NOTHING, into
from lib.subword import BOS, EOS

__all__ = ["beam", "collapse", "draws", "greedy", "lookahead", "viterbi"]

CANDIDATES = 16  # subwords of each slot that beam search considers for all of them


# ---- one path ----

@torch.no_grad()
def greedy(model, source: SourceIds, mask: SourceMask) -> list[list[int]]:
    """The most probable transition and subword at each vertex, or the best symbol of each frame."""
    if model.decoding == "alignment":
        frames = model.frames(model.encode(source, mask))
        best = frames.emissions.best()[1].masked_fill(~frames.real, BLANK)
        return [collapse(row) for row in best.tolist()]
    return _follow(model, source, mask, ahead=False)


@torch.no_grad()
def lookahead(model, source: SourceIds, mask: SourceMask) -> list[list[int]]:
    """From each vertex of Da the transition whose product with the best subword is highest."""
    return _follow(model, source, mask, ahead=True)


def _follow(model, source: Tensor, mask: Tensor | None, ahead: bool) -> list[list[int]]:
    graph, best, subwords = _favourites(model, source, mask)
    following = (graph.transitions + best[:, None] * ahead).argmax(2)
    rows = []
    for after, words, count in zip(following.tolist(), subwords.tolist(), graph.vertices.tolist(),
                                   strict=True):
        row, at = [], after[0]
        while at != count - 1:
            row.append(words[at])
            at = after[at]
        rows.append(row)
    return rows


def _favourites(model, source: Tensor, mask: Tensor | None):
    """The graphs, and of each vertex its best subword's log-probability (0 for the last) and it."""
    graph = model.graph(model.encode(source, mask))
    best, subwords = graph.emissions.best()
    return graph, best.scatter(1, graph.vertices[:, None] - 1, 0.0), subwords


@torch.no_grad()
def viterbi(model, source: SourceIds, mask: SourceMask,
            length_penalty: float = 0.6) -> list[list[int]]:
    """The path and subwords with the highest log p / lp(length), EOS counted in the length.

    As in beam search a string has at most `longest_target` subwords, EOS among them.
    """
    graph, best, subwords = _favourites(model, source, mask)
    last = graph.vertices - 1
    f = graph.transitions.new_full(best.shape, NOTHING)
    f[:, 0] = 0.0
    sizes = source_sizes(source, mask)
    most = torch.tensor([longest_target(size) for size in sizes], device=last.device) - 1
    ends, came = [], []
    for length in range(int(most.max()) + 1):
        final, start = (f + into(graph.transitions, last[:, None])).max(1)
        allowed = (length <= most) & (length <= last - 1)
        ends.append((final / length_normaliser(length + 1, length_penalty)).masked_fill(
            ~allowed, -torch.inf))
        onward = (f[..., None] + graph.transitions).max(1)
        came.append((start, onward.indices))
        f = (onward.values + best).masked_fill(~graph.real, NOTHING)
        f.scatter_(1, last[:, None], NOTHING)
    lengths = torch.stack(ends).argmax(0).tolist()
    starts, before = (torch.stack(parts).cpu().numpy() for parts in zip(*came, strict=True))
    rows, words = [], subwords.cpu().numpy()
    for row, length in enumerate(lengths):
        at, path = starts[length, row], []
        for step in range(length - 1, -1, -1):
            path.append(int(words[row, at]))
            at = before[step, row, at]
        rows.append(path[::-1])
    return rows


def collapse(symbols: list[int]) -> list[int]:
    """Repeats to one, then without blanks."""
    return [symbol for symbol, _ in groupby(symbols) if symbol != BLANK]


# ---- all paths of a prefix ----

@torch.no_grad()
def beam(model, source: SourceIds, mask: SourceMask,
         width: int = 4, length_penalty: float = 0.6) -> tuple[list[list[int]], Tensor]:
    """Beam search over strings: the best of each sentence, and log p(y|x) / lp(|y|)."""
    steps = {"graph": _GraphSteps, "alignment": _FrameSteps}[model.decoding](model)
    return beam_search(steps, source, mask, width, length_penalty)


@dataclass
class _Prefixes:
    """Where a prefix stands; prefixes of one sentence lie together."""

    ids: Int[Tensor, "batch candidates"]  # subwords that are considered, some of them several times
    log_probs: Float[Tensor, "batch slots candidates"]  # of each slot
    of_sentence: tuple[Tensor, ...]  # what else a family keeps of a sentence
    of_prefix: tuple[Tensor, ...]  # [batch * places, ...]
    at: int = 0  # subwords of the prefix

    def reorder(self, rows: Int[Tensor, " prefixes"]) -> None:
        """Continue from the given prefixes, which stay within their sentence."""
        self.of_prefix = tuple(part[rows] for part in self.of_prefix)

    def keep(self, sentences: Int[Tensor, " kept"], rows: Int[Tensor, " prefixes"]) -> None:
        """Drop all but some sentences, and of them keep the given prefixes."""
        self.ids, self.log_probs = self.ids[sentences], self.log_probs[sentences]
        self.of_sentence = tuple(part[sentences] for part in self.of_sentence)
        self.reorder(rows)

    def by_sentence(self, part: Tensor) -> Tensor:
        """[batch, places, ...]"""
        return part.unflatten(0, (len(self.ids), -1))

    def last(self, token: Int[Tensor, " prefixes"]) -> Float[Tensor, "batch places slots"]:
        """log p of each prefix's last subword at every slot."""
        column = (self.ids[:, None] == self.by_sentence(token)[..., None]).int().argmax(-1)
        return taken(self.log_probs.transpose(1, 2), column)


class _Steps:
    """Stepwise search through sums over paths: what `lib.decoding.search` asks of a model."""

    def __init__(self, model):
        self.model = model
        self.encode = model.encode

    def _candidates(self, emissions: Emissions, real: Tensor) -> tuple[Tensor, Tensor]:
        """Each slot's best subwords, and the log-probability of all of them at every slot."""
        ids = emissions.top(CANDIDATES)[1].flatten(1)
        log_probs = emissions.log_prob(ids).masked_fill(~real[..., None], -torch.inf)
        return ids, log_probs.masked_fill((ids <= EOS)[:, None], -torch.inf)

    def _conditional(self, state: _Prefixes, tokens: Float[Tensor, "batch places candidates"],
                     end: Float[Tensor, "batch places"],
                     mass: Float[Tensor, "batch places"]) -> Float[Tensor, "prefixes vocabulary"]:
        """log p(next | prefix) from the probabilities of the longer prefixes and of the end."""
        shape = *tokens.shape[:2], len(self.model.embedding.weight)
        log_probs = tokens.new_full(shape, -torch.inf)
        log_probs.scatter_(2, state.ids[:, None].expand_as(tokens), tokens)
        log_probs[..., EOS] = end
        log_probs = log_probs - mass.clamp(min=NOTHING)[..., None]  # no mass, no continuation: -inf
        return log_probs.flatten(0, 1)


class _GraphSteps(_Steps):
    """Da: of a prefix, the log-probability of having got to each vertex behind it."""

    def start(self, memory: Memory, places: int, longest: int) -> _Prefixes:
        """Empty prefixes."""
        graph = self.model.graph(memory)
        last = graph.vertices - 1
        inner = graph.real.scatter(1, last[:, None], False)
        ids, log_probs = self._candidates(graph.emissions, inner)
        f = graph.transitions.new_full((len(ids) * places, inner.shape[1]), -torch.inf)
        return _Prefixes(ids, log_probs, (graph.transitions.exp(), last), (f,))

    def step(self, state: _Prefixes,
             last: Int[Tensor, " prefixes"]) -> Float[Tensor, "prefixes vocabulary"]:
        """log p(next subword | prefix, x) after appending `last` to every prefix."""
        edges, end = state.of_sentence
        if state.at:
            here = state.by_sentence(state.of_prefix[0]) + state.last(last)
        else:
            here = state.by_sentence(state.of_prefix[0]).clone()
            here[..., 0] = 0.0
        state.at += 1
        onward = _log_product(here, edges)
        state.of_prefix = (onward.flatten(0, 1),)
        last_vertex = end[:, None, None].expand(-1, onward.shape[1], 1)
        tokens = _log_product(onward.scatter(2, last_vertex, -torch.inf), state.log_probs.exp())
        finished = onward.gather(2, last_vertex)[..., 0]
        return self._conditional(state, tokens, finished, here.logsumexp(-1))


class _FrameSteps(_Steps):
    """Ct: of a prefix, the log-probability of having said it after each frame.

    Alignments that end in a blank and in its last subword are kept apart: only after a blank does
    the same subword start anew.
    """

    def start(self, memory: Memory, places: int, longest: int) -> _Prefixes:
        """Empty prefixes: nothing but blanks so far."""
        frames = self.model.frames(memory)
        ids, log_probs = self._candidates(frames.emissions, frames.real)
        blank = frames.emissions.log_prob(torch.full_like(ids[:, :1], BLANK))[..., 0]
        blank = blank.masked_fill(~frames.real, 0.0)  # beyond the last frame all stays as it is
        after = torch.cat([torch.zeros_like(blank[:, :1]), blank.cumsum(1)], 1)
        after = after.repeat_interleave(places, 0)
        never = torch.full_like(after, -torch.inf)
        mass, last = after[:, :1] * 0.0, torch.full_like(after[:, 0], BOS, dtype=torch.long)
        return _Prefixes(ids, log_probs, (blank,), (after, never, mass, last))

    def step(self, state: _Prefixes,
             last: Int[Tensor, " prefixes"]) -> Float[Tensor, "prefixes vocabulary"]:
        """log p(next subword | prefix, x) after appending `last` to every prefix."""
        in_blank, in_last, mass, before = (state.by_sentence(part) for part in state.of_prefix)
        log_probs = None
        if state.at:
            log_probs = state.last(last)
            again = (state.by_sentence(last) == before)[..., None]
            ready = torch.where(again, in_blank, torch.logaddexp(in_blank, in_last))
            mass = (ready[..., :-1] + log_probs).logsumexp(-1, keepdim=True)
            in_blank, in_last = _extend(ready, log_probs, state.of_sentence[0][:, None])
        state.at += 1
        both = torch.logaddexp(in_blank, in_last)
        tokens = _log_product(both[..., :-1], state.log_probs.exp())
        if log_probs is not None:  # the last subword again
            same = (state.ids[:, None] == state.by_sentence(last)[..., None])
            repeat = (in_blank[..., :-1] + log_probs).logsumexp(-1, keepdim=True)
            tokens = torch.where(same, repeat, tokens)
        state.of_prefix = (*(part.flatten(0, 1) for part in (in_blank, in_last, mass)), last)
        return self._conditional(state, tokens, both[..., -1], mass[..., 0])


def _extend(ready: Float[Tensor, "batch places after"],
            log_probs: Float[Tensor, "batch places frames"],
            blank: Float[Tensor, "batch 1 frames"]) -> tuple[Tensor, Tensor]:
    """After each frame: alignments of a prefix that end in a blank, and in its last subword.

    ready: those of one subword less from which the last one can start. Beyond a sentence's frames
    the subword is impossible and the blank certain.
    """
    never = torch.full_like(ready[..., 0], -torch.inf)
    blanks, lasts = [never], [never]
    for frame in range(log_probs.shape[-1]):
        stays = torch.logaddexp(lasts[-1], ready[..., frame])
        blanks.append(torch.logaddexp(blanks[-1], lasts[-1]) + blank[..., frame])
        lasts.append(stays + log_probs[..., frame])
    return torch.stack(blanks, -1), torch.stack(lasts, -1)


def _log_product(log_left: Float[Tensor, "batch rows inner"],
                 right: Float[Tensor, "batch inner columns"]) -> Tensor:
    """log(exp(log_left) right), -inf where it is 0."""
    top = log_left.amax(-1, keepdim=True).clamp(min=NOTHING)
    with torch.autocast(right.device.type, enabled=False):
        return ((log_left - top).exp() @ right).log() + top


# ---- draws ----

@torch.no_grad()
def draws(model, source: SourceIds, mask: SourceMask,
          samples: int = 1, temperature: float = 1.0, seed: int = 0) -> Strings:
    """`samples` draws from p(y|x) a sentence; `temperature` divides all logits of the path and of
    its subwords. The first n of more samples are the same.
    """
    memory = model.encode(source, mask)
    counts, real = model.slots(memory)
    uniform = np.zeros((len(source), samples, real.shape[1], 2))
    for row, (ids, count) in enumerate(zip(source_rows(source, mask), counts.tolist(),
                                           strict=True)):
        uniform[row, :, :count] = sentence_generator(ids, seed).random((samples, count, 2))
    uniform = torch.from_numpy(uniform).to(source.device)
    if model.decoding == "alignment":
        frames = model.frames(memory)
        drawn = frames.emissions.sample(uniform[..., 0].transpose(1, 2).contiguous(), temperature)
        drawn = drawn.masked_fill(~frames.real[..., None], BLANK).transpose(1, 2)
        return [[collapse(row) for row in rows] for rows in drawn.tolist()]
    return _graph_draws(model.graph(memory), uniform, temperature)


def _graph_draws(graph, uniform: Float[Tensor, "batch samples vertices two"],
                 temperature: float) -> Strings:
    """Paths by the first uniform numbers, the subwords of their vertices by the second."""
    last = graph.vertices[:, None] - 1
    at = torch.zeros_like(uniform[:, :, 0, 0], dtype=torch.long)
    path = []
    for step in range(uniform.shape[2]):
        onward = taken(graph.transitions, at)
        at = torch.where(at == last, at, draw(onward, uniform[:, :, step, 0], temperature))
        path.append(at)
        if bool((at == last).all()):
            break
    path = torch.stack(path, 2)
    visited = taken(graph.emissions.states, path.flatten(1))
    numbers = uniform[:, :, :path.shape[2], 1].flatten(1)
    words = replace(graph.emissions, states=visited).sample(numbers, temperature)
    words = words.view(path.shape).masked_fill(path == last[..., None], EOS)
    return [[row[:row.index(EOS)] for row in rows] for rows in words.tolist()]
