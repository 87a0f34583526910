"""Names of decoding procedures and what they say; lib/decoding lists them."""

import re
from dataclasses import dataclass, field

from lib.errors import ConfigError

__all__ = ["Procedure"]

NAMES = ("greedy, beam<width>, e.g. beam4, sample, nucleus<mass>, mbr<samples>-chrf, lookahead, "
         "viterbi, m<unmasking steps>, e.g. m4, mT, or k<refinement steps>, e.g. k1, "
         "k1-lengths5-iw10 (all in lib/decoding)")
EXAMPLES = {"beam": "beam4", "nucleus": "nucleus0.9", "refine": "k0, k1, k4", "unmask": "m4, mT"}

_NUMBER = r"\d+(?:\.\d+)?"
_DRAW = rf"(?:sample|nucleus(?P<nucleus>{_NUMBER}))(?:@(?P<temperature>{_NUMBER}))?"
_PATTERNS = {
    "greedy": r"greedy",
    "lookahead": r"lookahead",
    "viterbi": r"viterbi",
    "unmask": r"m(?P<steps>\d+|T)",
    "beam": r"beam(?P<width>\d+)",
    "sample": _DRAW,
    "mbr": rf"mbr(?P<samples>\d+)-(?P<choice>chrf)(?:-{_DRAW})?",
    "refine": (rf"k(?P<steps>\d+)(?:-lengths(?P<lengths>\d+))?"
               rf"(?:-samples(?P<samples>\d+)(?:@(?P<temperature>{_NUMBER}))?)?"
               r"(?:-(?P<choice>bound|iw(?P<importance>\d+)|teacher|chrf))?"),
}


@dataclass(frozen=True)
class Procedure:
    """A way to get hypotheses; `Procedure.parse` reads its name."""

    search: str  # greedy | lookahead | viterbi | beam | sample | refine | unmask
    width: int = 1  # beam width
    steps: int = 0  # refinement or unmasking steps; 0 unmasking steps: one a position
    lengths: int = 0  # the most probable lengths to try; 0: the predicted one
    samples: int = 0  # draws from p(y|x), or prior samples a length; 0: the prior's mean
    temperature: float = 1.0
    nucleus: float = 1.0
    choice: str = ""  # among several candidates: bound | iw | teacher | chrf
    importance: int = 0  # samples of the importance-weighted bound
    name: str = field(default="", compare=False)  # as it was given

    @classmethod
    def parse(cls, name: str) -> "Procedure":
        """The procedure of that name. Errors: ConfigError for an unknown name or wrong number."""
        if re.match(r"k-\d", name):
            raise ConfigError(f"decoding setting '{name}': refinement steps are 0 or more")
        kind = next((k for k, pattern in _PATTERNS.items() if re.fullmatch(pattern, name)), None)
        if kind is None:
            raise ConfigError(f"unknown decoding setting '{name}': {NAMES}")
        groups = re.fullmatch(_PATTERNS[kind], name).groupdict()
        texts = {key: text for key, text in groups.items() if text is not None}
        if texts.get("choice", "").startswith("iw"):
            texts["choice"] = "iw"
        if kind == "unmask":
            if not texts["steps"].strip("0"):
                raise ConfigError(f"decoding setting '{name}': unmasking takes 1 step or more, or "
                                  "mT, one a position")
            texts["steps"] = texts["steps"].replace("T", "0")
        numbers = {key: float(text) if key in ("temperature", "nucleus") else int(text)
                   for key, text in texts.items() if key != "choice"}
        if kind == "sample":
            numbers["samples"] = 1
        procedure = cls("sample" if kind == "mbr" else kind, choice=texts.get("choice", ""),
                        name=name, **numbers)
        procedure._check(texts)
        return procedure

    def _check(self, texts: dict[str, str]) -> None:
        """Numbers in range, several candidates with a choice, one without."""
        problems = [f"{key} must be 1 or more"
                    for key in ("width", "lengths", "samples", "importance")
                    if key in texts and getattr(self, key) < 1]
        if self.temperature <= 0:
            problems.append("the temperature must be above 0")
        if not 0 < self.nucleus <= 1:
            problems.append("the nucleus must lie above 0 and be at most 1")
        if self.search == "refine" and not problems:
            if self.candidates > 1 and not self.choice:
                problems.append(f"say how to choose among {self.candidates} candidates, by -bound, "
                                "-iw10, -teacher or -chrf")
            if self.candidates == 1 and self.choice:
                problems.append(f"there is nothing to choose by -{self.choice}: add -lengths<n> or "
                                "-samples<n>")
        if problems:
            raise ConfigError(f"decoding setting '{self.name}': {'; '.join(problems)}")

    @property
    def plain(self) -> bool:
        """Whether it is refinement of one output, from the prior's mean."""
        return self.search == "refine" and not self.lengths and not self.samples

    @property
    def candidates(self) -> int:
        """How many outputs a sentence are made, of which one is chosen."""
        return max(1, self.lengths) * max(1, self.samples)

    @property
    def hypotheses(self) -> int:
        """How many a sentence are in memory together, with what their scores need."""
        return self.width * self.candidates * max(1, self.importance)

    def check(self, model, teacher=None, vocabulary=None) -> None:
        """Whether a model can do it with what is given.

        Errors: ConfigError for another family's procedure, a missing or unfitting teacher, and a
        missing vocabulary.
        """
        kind = "nucleus" if self.nucleus < 1 else self.search
        if kind not in model.procedures:
            fits = ", ".join(EXAMPLES.get(kind, kind) for kind in model.procedures)
            raise ConfigError(f"decoding setting '{self.name}' doesn't fit this family of model; "
                              f"use {fits} ...")
        if self.choice == "chrf" and vocabulary is None:
            raise ConfigError(f"decoding setting '{self.name}' compares texts: give the "
                              "vocabulary")
        if self.choice == "teacher":
            if teacher is None:
                raise ConfigError(f"decoding setting '{self.name}' needs a teacher: give a "
                                  "trained autoregressive model with the same vocabulary, "
                                  "e.g. tr_s")
            sizes = [len(m.embedding.weight) for m in (model, teacher)]
            if teacher.decoding != "stepwise" or sizes[0] != sizes[1]:
                raise ConfigError("the teacher must be an autoregressive model with the same "
                                  f"vocabulary ({sizes[0]} subwords, the teacher has {sizes[1]})")
