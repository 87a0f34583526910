"""From source sentences to hypotheses: one entry for all families, every procedure by its name.

    greedy                        stepwise: the most probable next subword
    beam4                         stepwise: beam search of that width
    sample, sample@0.7            any: one draw from p(y|x), at a temperature
    nucleus0.9, nucleus0.9@0.7    stepwise: one draw from the most probable 0.9 of each next subword
    mbr16-chrf                    any: of 16 draws by `sample` the minimum-Bayes-risk one
    mbr16-chrf-nucleus0.9@0.7     ... of 16 draws by that
    k4                            parallel: 4 refinement steps from the prior's mean
    k4-samples1@0.5               ... from a prior sample at temperature 0.5
    k4-lengths5-samples3-CHOICE   ... from 3 samples at each of the 5 most probable lengths (or just
                                  -lengths5, or -samples3); CHOICE among them is one of
                                  bound, iw<samples>, teacher: a score (lib/decoding/candidates.py)
                                  chrf: minimum Bayes risk (see lib/decoding/risk.py)
    lookahead, viterbi            of a graph (Da), which has greedy and beam4, too; Ct has these two
                                  (lib/decoding/path_search.py), Na greedy
    m4, mT                        masked (Md): 4 unmasking steps, or one a position
                                  (lib/decoding/unmasking.py)

Stepwise models are the autoregressive ones, parallel models those with latent variables.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from lib.batching import SEQUENCES
from lib.decoding import candidates, path_search, risk, search, unmasking
from lib.decoding.procedures import Procedure
from lib.decoding.refinement import refine
from lib.errors import DataError
from lib.layers import LONGEST, SourceIds, SourceMask
from lib.runtime import device_positions
from lib.subword import BOS, EOS, PAD

__all__ = ["DEFAULTS", "Options", "Procedure", "draws", "hypotheses"]

PATHS, FILLING = ("graph", "alignment"), ("positions", "unmasking")  # `Model.decoding`
POSITIONS = 2**16  # hypotheses times source subwords that a CPU decodes together
LOGITS = 2**30  # numbers, at one position of every hypothesis, that search holds together


@dataclass(frozen=True)
class Options:
    """What procedures take besides a model, sources and their own names."""

    length_penalty: float = 0.6  # of beam search, and of the teacher's score
    seed: int = 0  # of everything random
    teacher: Any = None  # an autoregressive model with the same vocabulary, for `-teacher`
    vocabulary: Any = None  # has `decode(ids) -> lines`, for minimum Bayes risk


DEFAULTS = Options()


@torch.no_grad()
def hypotheses(model, source: SourceIds, mask: SourceMask, settings: Sequence[str],
               options: Options = DEFAULTS) -> dict[str, list[list[int]]]:
    """Hypotheses (subwords without EOS) of every setting that is asked for, from any family.

    A sentence's hypotheses depend on its source and the seed alone, not on the batch: random draws
    are its own. A source without any subword has the empty hypothesis. Subwords that the training
    set didn't have (UNK of a word vocabulary; BPE falls back to bytes) are read like any other.

    source, mask: subwords with one EOS, padded; mask is True at real ones. settings: names of
    procedures, listed at the top of this module.

    Errors: ConfigError for a setting that doesn't exist, that the family can't do, or that lacks
    its teacher or vocabulary; DataError for a source longer than a model has positions.
    """
    procedures = {setting: Procedure.parse(setting) for setting in settings}
    for procedure in procedures.values():
        procedure.check(model, options.teacher, options.vocabulary)
    if source.shape[1] > LONGEST:
        _refuse_long(search.source_rows(source, mask))
        source, mask = source[:, :LONGEST], mask[:, :LONGEST]
    filled = _filled(source, mask)
    if len(filled) < len(source):
        part = source[filled], mask if mask is None else mask[filled]
        decoded = hypotheses(model, *part, settings, options)
        places = {place: row for row, place in enumerate(filled.tolist())}
        return {setting: [rows[places[place]] if place in places else []
                          for place in range(len(source))] for setting, rows in decoded.items()}
    if not len(source):
        return {setting: [] for setting in settings}
    jobs = [{s: p for s, p in procedures.items() if p.plain},  # one pass to several depths
            *({s: p} for s, p in procedures.items() if not p.plain)]
    result = {}
    for job in filter(None, jobs):
        result |= _decode(model, source, mask, job, options)
    return {setting: result[setting] for setting in settings}


def _refuse_long(rows: list) -> None:
    """DataError for a source with more subwords than there are positions."""
    longest = max(range(len(rows)), key=lambda place: len(rows[place]))
    if len(rows[longest]) > LONGEST:
        raise DataError(f"source {longest + 1} of the batch has {len(rows[longest])} subwords with "
                        f"its EOS, models take {LONGEST} at most: split it")


def _filled(source: Tensor, mask: Tensor | None) -> Int[Tensor, " filled"]:
    """Rows of the sources that hold any subword."""
    words = (source != EOS) & (source != PAD) & (source != BOS)
    if mask is not None:
        words &= mask
    return words.any(1).nonzero()[:, 0]


def _decode(model, source: Tensor, mask: Tensor | None, job: dict[str, Procedure],
            options: Options) -> dict[str, list[list[int]]]:
    """One procedure, or plain refinement to several depths, some sentences at a time."""
    each = max(p.hypotheses for p in job.values())
    fitting = device_positions(source.device, POSITIONS) // (each * source.shape[1])
    vocabulary = len(model.embedding.weight)
    at_once = max(1, min(fitting, SEQUENCES // each, LOGITS // (each * vocabulary)))
    result: dict[str, list[list[int]]] = {setting: [] for setting in job}
    for start in range(0, len(source), at_once):
        some = slice(start, start + at_once)
        part = source[some], mask if mask is None else mask[some]
        steps = [p.steps for p in job.values() if p.plain]
        refined = refine(model, *part, steps) if steps else {}
        for setting, procedure in job.items():
            result[setting] += refined[procedure.steps] if steps else _PROCEDURES.get(
                procedure.search, _search)(model, *part, procedure, options)
    return result


def _search(model, source: Tensor, mask: Tensor | None, p: Procedure,
            options: Options) -> list[list[int]]:
    """A search that has one result and draws nothing."""
    if p.search == "unmask":
        return unmasking.unmask(model, source, mask, p.steps)
    if p.search == "lookahead":
        return path_search.lookahead(model, source, mask)
    if p.search == "viterbi":
        return path_search.viterbi(model, source, mask, options.length_penalty)
    if p.search == "beam":
        beam = path_search.beam if model.decoding in PATHS else search.beam_search
        return beam(model, source, mask, p.width, options.length_penalty)[0]
    own = {"positions": unmasking, **dict.fromkeys(PATHS, path_search)}.get(model.decoding, search)
    return own.greedy(model, source, mask)


@torch.no_grad()
def draws(model, source: SourceIds, mask: SourceMask,
          p: Procedure, seed: int = 0) -> candidates.Strings:
    """`p.samples` draws from p(y|x) of each sentence, by a procedure that draws, of any family."""
    if model.decoding == "parallel":
        return candidates.ancestral(model, source, mask, p.samples, p.temperature, seed)
    if model.decoding in PATHS:
        return path_search.draws(model, source, mask, p.samples, p.temperature, seed)
    if model.decoding in FILLING:
        return unmasking.draws(model, source, mask, p.samples, p.temperature, seed)
    return search.sample(model, source, mask, p.samples, p.temperature, p.nucleus, seed)


def _sample(model, source: Tensor, mask: Tensor | None, p: Procedure,
            options: Options) -> list[list[int]]:
    """A draw, or the one among several that minimum Bayes risk chooses."""
    drawn = draws(model, source, mask, p, options.seed)
    return _consensus(drawn, options.vocabulary) if p.choice else [r[0] for r in drawn]


def _best_of(model, source: Tensor, mask: Tensor | None, p: Procedure,
             options: Options) -> list[list[int]]:
    """Candidates of a latent model, refined, and the chosen ones."""
    memory = model.encode(source, mask)
    proposed = candidates.propose(model, source, mask, memory, p.steps, p.lengths, p.samples,
                                  p.temperature, options.seed)
    strings = proposed.strings
    if p.choice == "chrf":
        return _consensus(strings, options.vocabulary)
    if p.choice == "bound":
        return candidates.best(strings, candidates.bound_scores(model, memory, proposed))
    if p.choice == "iw":
        return candidates.best(strings, candidates.importance_scores(
            model, source, mask, memory, strings, p.importance, options.seed))
    if p.choice == "teacher":
        return candidates.best(strings, candidates.teacher_scores(
            options.teacher, source, mask, strings, options.length_penalty))
    return [row[0] for row in strings]


_PROCEDURES = {"sample": _sample, "refine": _best_of}


def _consensus(strings: candidates.Strings, vocabulary) -> list[list[int]]:
    """The minimum-Bayes-risk candidate of each sentence."""
    return [row[risk.consensus(vocabulary.decode(row))] for row in strings]
