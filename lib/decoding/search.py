"""Search with autoregressive models, a subword at a time: greedy, beam, and sampling.

All use cached keys and values, drop finished sentences from the batch, and give a sentence the same
result whatever it is batched with; sampling draws from a generator of the sentence's own. Where a
search stands is in tensors alone (`Beams`, `Draws`): a step asks nothing of the host, which now and
then looks how many sentences are done.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib.distributions import draw, exact
from lib.layers import LONGEST, Memory, SourceIds, SourceMask
from lib.noise import sentence_generator
from lib.subword import BOS, EOS, before_end

__all__ = ["Beams", "Draws", "beam_search", "greedy", "length_normaliser", "longest_target",
           "sample", "source_rows", "source_sizes"]

LOOK_EVERY = {"cpu": 1}  # steps between two looks at what is done; elsewhere they stop the device
LOOK_ELSEWHERE = 8
LEAVING = 0.25  # share of the sentences that must be done before they leave the batch
FEW = 8  # best subwords up to which so many maxima are faster than a selection on a GPU


def length_normaliser(length: int | Tensor, penalty: float) -> float | Tensor:
    """lp(n) = ((5 + n) / 6)^penalty, n counting EOS (Wu et al. 2016, equation 14)."""
    return ((5 + length) / 6) ** penalty


def longest_target(source_length: int) -> int:
    """Subwords (with EOS) after which search gives up on a source of that many."""
    return min(source_length + 50, 2 * source_length + 10, LONGEST)


def source_sizes(source: SourceIds, mask: SourceMask) -> list[int]:
    """How many subwords each source has, with EOS."""
    return [source.shape[1]] * len(source) if mask is None else mask.sum(1).tolist()


def source_rows(source: SourceIds, mask: SourceMask) -> list[np.ndarray]:
    """The subwords of each source, with EOS and without padding."""
    return [row[:size] for row, size in zip(source.cpu().numpy(), source_sizes(source, mask),
                                            strict=True)]


@torch.no_grad()
def greedy(model, source: SourceIds, mask: SourceMask) -> list[list[int]]:
    """The most probable next subword, one at a time; without EOS."""
    return beam_search(model, source, mask, width=1, length_penalty=0.0)[0]


@torch.no_grad()
def beam_search(model, source: SourceIds, mask: SourceMask, width: int = 4,
                length_penalty: float = 0.6, longest: int | Int[Tensor, " batch"] | None = None,
                ) -> tuple[list[list[int]], Tensor]:
    """The best finished hypothesis of each sentence (without EOS), and log p(y|x) / lp(|y|).

    A hypothesis is finished when EOS is among the `width` best continuations; it then gives up its
    place in the beam. A sentence is done when the beam is empty, or when no live hypothesis could
    still win: log p only falls and lp only grows, so that stopping early changes no result. Done
    sentences leave the batch. At `longest` subwords (by default `longest_target` of the sentence's
    own source, whatever the batch is padded to; or a number each) every live hypothesis must end.
    """
    limits = _limits(source, mask, longest)
    beams = Beams(model, model.encode(source, mask), limits.to(source.device), width,
                  length_penalty, int(limits.max()))
    _run(beams)
    return beams.found()


@torch.no_grad()
def sample(model, source: SourceIds, mask: SourceMask,
           samples: int = 1, temperature: float = 1.0, nucleus: float = 1.0, seed: int = 0,
           ) -> list[list[list[int]]]:
    """`samples` draws (without EOS) from p(y|x) for each sentence, a list of them a sentence.

    Each subword comes from softmax(logits / temperature), PAD and BOS left out, of which `nucleus`
    below 1 keeps only the most probable subwords that together reach that mass (Holtzman et al.
    2020). At `longest_target` subwords every draw must end. The first n of more samples are the
    same.
    """
    limits = _limits(source, mask)
    uniform = np.zeros((len(limits), samples, int(limits.max())))
    for row, ids in enumerate(source_rows(source, mask)):
        limit = int(limits[row])
        uniform[row, :, :limit] = sentence_generator(ids, seed).random((samples, limit))
    uniform = torch.from_numpy(uniform.transpose(2, 0, 1).copy()).to(source.device)
    draws = Draws(model, model.encode(source, mask), limits.to(source.device), uniform,
                  temperature, nucleus)
    _run(draws)
    return draws.found()


# ---- where a search stands ----

class _Search:
    """What both searches carry: hypotheses of a sentence lie together, in places 0, 1, ...

    The sentences that are still searched for have a row each; `tokens` [step, sentence, place]
    holds the subword in every place at a step, of those that have left too. `step(at)` appends
    subword number `at`, from 0, to every hypothesis; `move(kept)` takes keys and values to where
    their hypotheses are now, of `kept` rows alone.
    """

    carried: tuple[str, ...] = ()  # names of the tensors [rows, ...] that a step makes anew

    def __init__(self, model, memory: Memory, limits: Int[Tensor, " batch"], places: int,
                 longest: int):
        self.model, self.limits, self.places, self.longest = model, limits, places, longest
        self.state = model.start(memory, places, longest)
        rows, device = len(limits), limits.device
        self.sentence = torch.arange(rows, device=device)
        self.last = torch.full((rows, places), BOS, device=device)
        self.done = torch.zeros(rows, dtype=torch.bool, device=device)
        self.tokens = torch.full((longest, rows, places), EOS, device=device)

    def _keep(self, kept: Int[Tensor, " kept"], places: Int[Tensor, "rows places"]) -> None:
        """Drop all rows but some, and of each take the hypotheses in the given places."""
        rows = kept[:, None] * self.places + places[kept]
        self.state.keep(kept, rows.flatten())
        for name in ("limits", "sentence", "last", "done", *self.carried):
            setattr(self, name, getattr(self, name)[kept])


def _run(search: _Search) -> None:
    """All steps until every sentence is done; those that are leave in large cuts."""
    every = LOOK_EVERY.get(search.done.device.type, LOOK_ELSEWHERE)
    for at in range(search.longest):
        search.step(at)
        kept = None
        if (at + 1) % every == 0:
            done = int(search.done.sum())
            if done == len(search.done):
                return
            if done >= LEAVING * len(search.done):
                kept = (~search.done).nonzero()[:, 0]
        search.move(kept)


class Beams(_Search):
    """Where beam search stands."""

    carried = ("scores", "free", "best", "ended", "bound")

    def __init__(self, model, memory: Memory, limits: Int[Tensor, " batch"], width: int,
                 length_penalty: float, longest: int):
        super().__init__(model, memory, limits, width, longest)
        rows, like = len(limits), exact(memory.states)
        self.length_penalty = length_penalty
        self.scores = like.new_full((rows, width), -math.inf)  # log p of live hypotheses
        self.scores[:, 0].fill_(0.0)
        self.free = torch.full_like(limits, width)  # places not yet taken by an end
        self.best = like.new_full((rows,), -math.inf)  # log p / lp of the best end
        self.ended = limits.new_zeros(rows, 2)  # at which step, after which place that was
        self.bound = length_normaliser(limits.to(like.dtype), length_penalty)
        self.after = torch.zeros_like(self.tokens)  # in which place the subword before was said
        self.result = self.best.clone(), self.ended.clone()  # by sentence

    def step(self, at: int) -> None:
        """Each beam's best continuations; ends are weighed, and leave their places."""
        log_probs = self.model.step(self.state, self.last.flatten())
        total, self.parent, token = self._continuations(
            log_probs.view(len(self.done), self.places, -1), at)
        possible = total > -math.inf
        ends = (token == EOS) & possible
        self._weigh(at, total, ends)
        self.free = self.free - ends.sum(1)
        live = (token != EOS) & possible
        live = live & (live.cumsum(1) <= self.free[:, None])
        scores = total.masked_fill(~live, -math.inf)
        hope = scores.amax(1) / self.bound
        self.done = (self.free <= 0) | (hope <= self.best)
        self.scores = scores.masked_fill(self.done[:, None], -math.inf)
        self.last = token
        self.tokens[at].index_copy_(0, self.sentence, token)
        self.after[at].index_copy_(0, self.sentence, self.parent)

    def move(self, kept: Int[Tensor, " kept"] | None = None) -> None:
        """Take keys and values to where their hypotheses are now; of `kept` rows alone."""
        if kept is not None:
            self._report()
            self._keep(kept, self.parent)
        elif self.places > 1:
            first = torch.arange(len(self.done), device=self.done.device)[:, None] * self.places
            self.state.reorder((first + self.parent).flatten())

    def found(self) -> tuple[list[list[int]], Tensor]:
        """The best hypothesis of every sentence and its score, on the CPU."""
        self._report()
        score, ended = self.result
        ended = ended.cpu().numpy()
        steps, place = ended[:, 0], ended[:, 1]
        token, after = (x[:int(steps.max())].cpu().numpy() for x in (self.tokens, self.after))
        words, rows = np.zeros((len(ended), len(token)), np.int64), np.arange(len(ended))
        for step in reversed(range(len(token))):
            words[:, step] = token[step, rows, place]
            place = np.where(step < steps, after[step, rows, place], place)
        return [row[:end].tolist() for row, end in zip(words, steps, strict=True)], score.cpu()

    def _continuations(self, log_probs: Tensor, at: int) -> tuple[Tensor, Tensor, Tensor]:
        """The best scores, parents and subwords [rows, width]; at a sentence's limit EOS alone."""
        log_probs[..., :EOS].fill_(-math.inf)  # PAD and BOS
        count = min(self.places, log_probs.shape[-1])
        end = F.pad(log_probs[..., EOS:EOS + 1], (0, count - 1), value=-math.inf)
        best, token = _top(log_probs, count)  # of each hypothesis
        limit = (self.limits == at + 1)[:, None, None]
        best, token = torch.where(limit, end, best), token.masked_fill(limit, EOS)
        total, flat = (self.scores[..., None] + best).flatten(1).topk(self.places, -1)
        return total, flat // count, token.flatten(1).gather(1, flat)

    def _weigh(self, at: int, total: Tensor, ends: Bool[Tensor, "rows width"]) -> None:
        """Take the best of the hypotheses that end where it beats those before."""
        normalised = (total / length_normaliser(at + 1, self.length_penalty)).masked_fill(
            ~ends, -math.inf)
        score, which = normalised.max(1, keepdim=True)
        better = score > self.best[:, None]
        place = self.parent.gather(1, which)
        self.best = torch.where(better, score, self.best[:, None])[:, 0]
        self.ended = torch.where(better, F.pad(place, (1, 0), value=at), self.ended)

    def _report(self) -> None:
        """Note where the sentences stand that are still searched for."""
        for result, value in zip(self.result, (self.best, self.ended), strict=True):
            result.index_copy_(0, self.sentence, value)


class Draws(_Search):
    """Where sampling stands; `uniform` [longest, batch, samples] decides every draw."""

    carried = ("ended",)

    def __init__(self, model, memory: Memory, limits: Int[Tensor, " batch"],
                 uniform: Float[Tensor, "longest batch samples"], temperature: float,
                 nucleus: float):
        super().__init__(model, memory, limits, uniform.shape[2], uniform.shape[0])
        self.uniform, self.temperature, self.nucleus = uniform, temperature, nucleus
        self.ended = torch.zeros_like(self.last, dtype=torch.bool)

    def step(self, at: int) -> None:
        """A draw for every hypothesis that hasn't ended."""
        log_probs = self.model.step(self.state, self.last.flatten())
        log_probs = log_probs.view(len(self.done), self.places, -1)
        log_probs[..., :EOS].fill_(-math.inf)  # PAD and BOS
        token = draw(log_probs, self.uniform[at].index_select(0, self.sentence), self.temperature,
                     self.nucleus)
        limit = (self.limits == at + 1)[:, None]
        self.last = token.masked_fill(self.ended | limit, EOS)
        self.ended = self.last == EOS
        self.done = self.ended.all(1)
        self.tokens[at].index_copy_(0, self.sentence, self.last)

    def move(self, kept: Int[Tensor, " kept"] | None = None) -> None:
        """Hypotheses stay in their places; drop all rows but those in `kept`."""
        if kept is not None:
            places = torch.arange(self.places, device=kept.device)
            self._keep(kept, places.expand(len(self.done), -1))

    def found(self) -> list[list[list[int]]]:
        """What was drawn, without EOS, a list a sentence."""
        return [[before_end(row) for row in of] for of in self.tokens.permute(1, 2, 0).tolist()]


def _top(values: Float[Tensor, "*batch classes"], count: int) -> tuple[Tensor, Tensor]:
    """The `count` highest values and their places, highest first; `values` may be overwritten.

    On a GPU torch's selection reads the values some twenty times, a maximum once.
    """
    if not values.is_cuda or count > FEW:
        return values.topk(count, -1)
    return _maxima(values, count)


def _maxima(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    maxima = []
    for _ in range(count):
        maxima.append(values.max(-1, keepdim=True))
        values.scatter_(-1, maxima[-1].indices, -math.inf)
    return tuple(torch.cat(parts, -1) for parts in zip(*maxima, strict=True))


# ---- a sentence's own ----

def _limits(source: Tensor, mask: Tensor | None,
            longest: int | Tensor | None = None) -> Int[Tensor, " batch"]:
    """At how many subwords each sentence must end, EOS among them; on the CPU."""
    if isinstance(longest, Tensor):
        return longest.cpu()
    if longest:
        return torch.full((len(source),), longest)
    return torch.tensor([longest_target(size) for size in source_sizes(source, mask)])
