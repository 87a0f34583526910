"""From source sentences to hypotheses: one entry for all families, every procedure by its name.

    greedy                        stepwise: the most probable next subword
    beam4                         stepwise: beam search of that width
    sample, sample@0.7            any: one draw from p(y|x), at a temperature
    nucleus0.9, nucleus0.9@0.7    stepwise: one draw from the most probable 0.9 of each next subword
    mbr16-chrf, mbr16-bleu        any: of 16 draws by `sample` the minimum-Bayes-risk one
    mbr16-chrf-nucleus0.9@0.7     ... of 16 draws by that
    k4                            parallel: 4 refinement steps from the prior's mean
    k4-samples1@0.5               ... from a prior sample at temperature 0.5
    k4-lengths5-samples3-CHOICE   ... from 3 samples at each of the 5 most probable lengths (or just
                                  -lengths5, or -samples3); CHOICE among them is one of
                                  bound, iw<samples>, teacher: a score (lib/decoding/candidates.py)
                                  chrf, bleu: minimum Bayes risk (see lib/decoding/risk.py)

Stepwise models are the autoregressive ones, parallel models those with latent variables.
"""

import re
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lib.decoding import candidates, risk, search
from lib.decoding.refinement import refine
from lib.decoding.search import beam_search, greedy
from lib.errors import ConfigError, DataError
from lib.layers import LONGEST
from lib.subword import BOS, EOS, PAD

__all__ = ["Procedure", "hypotheses"]

NAMES = ("greedy, beam<width>, e.g. beam4, sample, nucleus<mass>, mbr<samples>-chrf, or "
         "k<refinement steps>, e.g. k1, k1-lengths5-iw10 (all in lib/decoding)")
EXAMPLES = {"beam": "beam4", "nucleus": "nucleus0.9", "refine": "k0, k1, k4"}
POSITIONS = 2**16  # candidates times their subwords that are decoded together

_NUMBER = r"\d+(?:\.\d+)?"
_DRAW = rf"(?:sample|nucleus(?P<nucleus>{_NUMBER}))(?:@(?P<temperature>{_NUMBER}))?"
_PATTERNS = {
    "greedy": r"greedy",
    "beam": r"beam(?P<width>\d+)",
    "sample": _DRAW,
    "mbr": rf"mbr(?P<samples>\d+)-(?P<choice>chrf|bleu)(?:-{_DRAW})?",
    "refine": (rf"k(?P<steps>\d+)(?:-lengths(?P<lengths>\d+))?"
               rf"(?:-samples(?P<samples>\d+)(?:@(?P<temperature>{_NUMBER}))?)?"
               r"(?:-(?P<choice>bound|iw(?P<importance>\d+)|teacher|chrf|bleu))?"),
}


@dataclass(frozen=True)
class Procedure:
    """A way to get hypotheses; `Procedure.parse` reads its name, `str` writes it."""

    search: str
    """greedy | beam | sample (nucleus too) | refine"""
    width: int = 1
    """beam width"""
    steps: int = 0
    """refinement steps"""
    lengths: int = 0
    """the most probable lengths to try; 0: the predicted one"""
    samples: int = 0
    """draws from p(y|x), or prior samples a length; 0: the prior's mean"""
    temperature: float = 1.0
    nucleus: float = 1.0
    choice: str = ""
    """among several candidates: bound | iw | teacher | chrf | bleu"""
    importance: int = 0
    """samples of the importance-weighted bound"""

    @classmethod
    def parse(cls, name: str) -> "Procedure":
        """The procedure of that name.

        Errors: ConfigError for a name that doesn't exist, and for numbers out of range.
        """
        if re.match(r"k-\d", name):
            raise ConfigError(f"decoding setting '{name}': refinement steps are 0 or more")
        kind = next((k for k, pattern in _PATTERNS.items() if re.fullmatch(pattern, name)), None)
        if kind is None:
            raise ConfigError(f"unknown decoding setting '{name}': {NAMES}")
        groups = re.fullmatch(_PATTERNS[kind], name).groupdict()
        found = {key: text for key, text in groups.items() if text is not None}
        if found.get("choice", "").startswith("iw"):
            found["choice"] = "iw"
        numbers = {key: float(text) if key in ("temperature", "nucleus") else int(text)
                   for key, text in found.items() if key != "choice"}
        if kind == "sample":
            numbers["samples"] = 1
        procedure = cls("sample" if kind == "mbr" else kind, choice=found.get("choice", ""),
                        **numbers)
        procedure._check(name, found)
        return procedure

    def _check(self, name: str, found: dict[str, str]) -> None:
        """Numbers in range, several candidates with a choice, one without."""
        problems = [f"{key} must be {least} or more" for key, least in
                    (("width", 1), ("lengths", 1), ("samples", 1), ("importance", 1))
                    if key in found and getattr(self, key) < least]
        if self.temperature <= 0:
            problems.append("the temperature must be above 0")
        if not 0 < self.nucleus <= 1:
            problems.append("the nucleus must lie above 0 and be at most 1")
        if self.search == "refine" and not problems:
            if self.candidates > 1 and not self.choice:
                problems.append(f"say how to choose among {self.candidates} candidates, by -bound, "
                                "-iw10, -teacher, -chrf or -bleu")
            if self.candidates == 1 and self.choice:
                problems.append(f"there is nothing to choose by -{self.choice}: add -lengths<n> or "
                                "-samples<n>")
        if problems:
            raise ConfigError(f"decoding setting '{name}': {'; '.join(problems)}")

    @property
    def candidates(self) -> int:
        """How many hypotheses a sentence are made."""
        return max(1, self.lengths) * max(1, self.samples)

    def __str__(self) -> str:
        tempered = "" if self.temperature == 1 else f"@{self.temperature:g}"
        if self.search == "greedy":
            return "greedy"
        if self.search == "beam":
            return f"beam{self.width}"
        choice = self.choice + (str(self.importance) if self.choice == "iw" else "")
        if self.search == "sample":
            drawn = "sample" if self.nucleus == 1 else f"nucleus{self.nucleus:g}"
            drawn += tempered
            if not choice:
                return drawn
            return f"mbr{self.samples}-{choice}" + ("" if drawn == "sample" else f"-{drawn}")
        parts = [f"k{self.steps}"]
        parts += [f"lengths{self.lengths}"] * bool(self.lengths)
        parts += [f"samples{self.samples}{tempered}"] * bool(self.samples)
        return "-".join(parts + [choice] * bool(choice))

    def check(self, model, teacher=None, vocabulary=None) -> None:
        """Whether a model can do it with what is given.

        Errors: ConfigError for another family's procedure, a missing or unfitting teacher, and a
        missing vocabulary.
        """
        if ("nucleus" if self.nucleus < 1 else self.search) not in model.procedures:
            fits = ", ".join(EXAMPLES.get(kind, kind) for kind in model.procedures)
            raise ConfigError(f"decoding setting '{self}' doesn't fit this family of model; "
                              f"use {fits} ...")
        if self.choice in risk.UTILITIES and vocabulary is None:
            raise ConfigError(f"decoding setting '{self}' compares texts: give the vocabulary")
        if self.choice == "teacher":
            if teacher is None:
                raise ConfigError(f"decoding setting '{self}' needs a teacher: give a trained "
                                  "autoregressive model with the same vocabulary, e.g. tr_s")
            sizes = [len(m.embedding.weight) for m in (model, teacher)]
            if teacher.decoding != "stepwise" or sizes[0] != sizes[1]:
                raise ConfigError("the teacher must be an autoregressive model with the same "
                                  f"vocabulary ({sizes[0]} subwords, the teacher has {sizes[1]})")


@torch.no_grad()
def hypotheses(model, source: Int[Tensor, "batch source"],
               mask: Bool[Tensor, "batch source"] | None, settings: list[str],
               length_penalty: float = 0.6, *, seed: int = 0, teacher=None,
               vocabulary=None) -> dict[str, list[list[int]]]:
    """Hypotheses (subwords without EOS) of every setting that is asked for, from any family.

    A sentence's hypotheses depend on its source and `seed` alone, not on the batch: random draws
    are its own. A source without any subword has the empty hypothesis. Subwords that the training
    set didn't have (UNK of a word vocabulary; BPE falls back to bytes) are read like any other.

    Args:
        source, mask: subwords with one EOS, padded; mask is True at real ones.
        settings: names of procedures, listed at the top of this module.
        length_penalty: of beam search, and of the teacher's score.
        seed: of everything random.
        teacher: an autoregressive model with the same vocabulary, for `-teacher`.
        vocabulary: has `decode(ids) -> lines`, for minimum Bayes risk.

    Errors: ConfigError for a setting that doesn't exist, that the family can't do, or that lacks
    its teacher or vocabulary; DataError for a source longer than a model has positions.
    """
    procedures = {setting: Procedure.parse(setting) for setting in settings}
    for procedure in procedures.values():
        procedure.check(model, teacher, vocabulary)
    if source.shape[1] > LONGEST:
        _refuse_long(search.source_rows(source, mask))
        source, mask = source[:, :LONGEST], mask[:, :LONGEST]
    filled = _filled(source, mask)
    if len(filled) < len(source):
        part = source[filled], mask if mask is None else mask[filled]
        found = hypotheses(model, *part, settings, length_penalty, seed=seed, teacher=teacher,
                           vocabulary=vocabulary)
        places = {place: row for row, place in enumerate(filled.tolist())}
        return {setting: [rows[places[place]] if place in places else []
                          for place in range(len(source))] for setting, rows in found.items()}
    if not len(source):
        return {setting: [] for setting in settings}
    plain = {s: p.steps for s, p in procedures.items()
             if p.search == "refine" and not p.samples and not p.lengths}
    refined = refine(model, source, mask, list(plain.values())) if plain else {}
    result = {}
    for setting, procedure in procedures.items():
        if setting in plain:
            result[setting] = refined[plain[setting]]
        else:
            result[setting] = _decode(model, source, mask, procedure, length_penalty, seed, teacher,
                                      vocabulary)
    return result


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


def _decode(model, source: Tensor, mask: Tensor | None, procedure: Procedure,
            length_penalty: float, seed: int, teacher, vocabulary) -> list[list[int]]:
    """One procedure on a batch, as many sentences at once as their candidates leave room for."""
    p = procedure
    if p.search == "greedy":
        return greedy(model, source, mask)
    if p.search == "beam":
        return beam_search(model, source, mask, p.width, length_penalty)[0]
    each = p.candidates * max(1, p.importance) * source.shape[1]
    at_once = max(1, POSITIONS // each)
    result = []
    for start in range(0, len(source), at_once):
        some = slice(start, start + at_once)
        part = source[some], mask if mask is None else mask[some]
        if p.search == "refine":
            result += _best_of(model, *part, p, length_penalty, seed, teacher, vocabulary)
            continue
        if model.decoding == "parallel":
            drawn = candidates.ancestral(model, *part, p.samples, p.temperature, seed)
        else:
            drawn = search.sample(model, *part, p.samples, p.temperature, p.nucleus, seed)
        result += _consensus(drawn, vocabulary, p.choice) if p.choice else [r[0] for r in drawn]
    return result


def _best_of(model, source: Tensor, mask: Tensor | None, p: Procedure, length_penalty: float,
             seed: int, teacher, vocabulary) -> list[list[int]]:
    """Candidates of a latent model, and the chosen ones."""
    memory = model.encode(source, mask)
    found = candidates.propose(model, source, mask, memory, p.steps, p.lengths, p.samples,
                               p.temperature, seed)
    strings = found.strings
    if p.choice in risk.UTILITIES:
        return _consensus(strings, vocabulary, p.choice)
    if p.choice == "bound":
        return candidates.best(strings, candidates.bound_scores(model, memory, found))
    if p.choice == "iw":
        return candidates.best(strings, candidates.importance_scores(
            model, source, mask, memory, strings, p.importance, seed))
    if p.choice == "teacher":
        return candidates.best(strings, candidates.teacher_scores(teacher, source, mask, strings,
                                                                  length_penalty))
    return [row[0] for row in strings]


def _consensus(strings: candidates.Strings, vocabulary, utility: str) -> list[list[int]]:
    """The minimum-Bayes-risk candidate of each sentence."""
    return [row[risk.consensus(vocabulary.decode(row), utility)] for row in strings]
