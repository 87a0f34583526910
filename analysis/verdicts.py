"""Whether each of the paper's five findings holds on a data set and scale, with its evidence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis import tables
from analysis.kinds import KINDS, PARALLEL, PRIORS, RAW_DISTILLED, WITHIN
from analysis.published import FINDINGS, Finding
from analysis.settings import difference, scores
from analysis.significance import ORDERS, SHOWN, pair_difference
from analysis.style import family_name
from analysis.systems import average_seeds, best_of_families, collect
from analysis.training_variance import OVER, PARTLY, SENTENCES, Difference
from lib.config import LATENT, family_of, model_name
from lib.runs import find_runs

__all__ = ["Evidence", "Verdict", "decide", "verdicts"]

FAMILIES = ("autoregressive", *LATENT)  # those that the paper compares
HOLDS, IN_PART, FAILS, UNDECIDED, UNTESTED = (
    "holds", "holds in part", "does not hold", "undecided", "not testable yet")
YES, NO, EITHER = "yes", "no", "both"
DATA = ("raw", "distilled")
MBR = "mbr16-chrf"
BY_DECODING = {  # setting, and what it is compared with -> what is shown
    ("k0", ""): "BLEU before any step", ("k4", ""): "BLEU after four steps",
    (MBR, ""): "BLEU by minimum Bayes risk over 16 samples",
    ("k4", MBR): "gain of four steps over minimum Bayes risk"}
FAR = {"sentences": 20_000, "seeds": 100}  # beyond these the size of a difference tells more
NAN = math.nan


@dataclass(frozen=True)
class Evidence:
    """One number that bears on a finding.

    train_data: what the models were trained on. value: with its 95% interval, NaN where there is
    none. digits: shown after the point. answer: whether it is as the finding claims: "yes", "no",
    "undecided" where the interval contains zero or is unknown, "" where it only tells the story.
    outlook: what would decide it, or how large it can be. over: what its interval is over. ratio:
    whether it is a ratio, which no sign goes before.
    """

    train_data: str
    quantity: str
    value: float
    low: float = NAN
    high: float = NAN
    digits: int = 1
    answer: str = ""
    outlook: str = ""
    over: str = ""
    ratio: bool = False


@dataclass(frozen=True)
class Verdict:
    """What the results of one data set and scale say of one finding.

    accounting: of the log-likelihood, "" where the finding is about BLEU and speed alone.
    verdict: "holds", "holds in part", "does not hold", "undecided" or "not testable yet"; `needs`
    says what is missing for the last.
    """

    finding: Finding
    dataset: str
    scale: str
    accounting: str
    verdict: str
    evidence: tuple[Evidence, ...] = ()
    needs: str = ""

    @property
    def place(self) -> str:
        """The data set and the scale, as readers see them."""
        return f"{self.dataset}, {self.scale}"

    @property
    def over(self) -> str:
        """What all intervals behind it are over, and whether some are over training as well."""
        kinds = sorted({kind for part in self.evidence if part.over
                        for kind in part.over.split(" / ")}, key=OVER.index)
        if len(kinds) > 1 and kinds[0] == SENTENCES:
            return PARTLY
        return kinds[0] if kinds else ""


def verdicts(*of: tuple[str, str]) -> list[Verdict]:
    """All findings on each (dataset, scale), under every accounting that they depend on."""
    return [verdict for place in of for verdict in _verdicts(*place)]


def _verdicts(dataset: str, scale: str) -> list[Verdict]:
    def verdict(finding: Finding, accounting: str, result: Result) -> Verdict:
        outcome = Verdict(finding, dataset, scale, accounting, UNTESTED)
        if isinstance(result, str):
            return replace(outcome, needs=result)
        return replace(outcome, verdict=decide(result[0]), evidence=tuple(result[1]))

    pairs = tables.read(f"significance_{dataset}_{scale}")
    systems = average_seeds(collect(find_runs(dataset, scale)))[0]
    if pairs is not None:  # what was evaluated after them isn't compared yet
        compared = {tuple(pair) for end in ("first", "second")
                    for pair in pairs[[end, f"{end}_data"]].to_numpy()}
        keys = zip(systems["model"], systems["train_data"], strict=True)
        systems = systems[[key in compared for key in keys]]
    outcomes = []
    for finding, test in zip(FINDINGS[:3], (_within, _across, _distillation), strict=True):
        for accounting in SHOWN:
            own = None if pairs is None else pairs[pairs["accounting"] == accounting]
            outcomes.append(verdict(finding, accounting, test(own, systems) if own is not None and
                                    len(own) else "two evaluated models, and "
                                    "notebooks/05_correlation.ipynb run on them"))
    return [*outcomes, verdict(FINDINGS[3], "", _refinement(dataset, scale)),
            verdict(FINDINGS[4], "", _speed(dataset, scale))]


# ---- the findings, one by one: (answers, evidence), or what is missing ----

Result = tuple[list[str], list[Evidence]] | str


def _within(pairs: pd.DataFrame, _systems: pd.DataFrame) -> Result:
    """1: within a family of the paper's, LL and BLEU rank models alike."""
    same = pairs[(pairs["kind"] == WITHIN) & pairs["first"].map(family_of).isin(FAMILIES)]
    if same.empty:
        return "two models of one of the paper's families trained on the same text"
    answer = _most(same["order"].map(dict(zip(ORDERS, (YES, NO, UNDECIDED), strict=True))).tolist())
    over = " / ".join(sorted(set(same["over"])))
    evidence = [replace(part, over=over) for part in _counts(
        same, f"pairs of {len(same)} within the paper's families")]
    if answer == UNDECIDED:
        evidence[-1] = replace(evidence[-1], outlook=_half_decided(same))
    return [answer], evidence


def _counts(pairs: pd.DataFrame, quantity: str) -> list[Evidence]:
    """How many of these pairs have each order."""
    return [Evidence("either", f"{quantity}: {order}", float((pairs["order"] == order).sum()),
                     digits=0) for order in ORDERS]


def _half_decided(pairs: pd.DataFrame) -> str:
    """What would decide more than half of these pairs, the easiest first."""
    wanted = pd.DataFrame({what: pairs[[f"bleu_{what}", f"ll_{what}"]].max(axis=1)
                           for what in ("sentences", "seeds")}).fillna(0)
    easiest = wanted.sort_values(["sentences", "seeds"]).iloc[:len(pairs) // 2 + 1]
    most = easiest.max().replace(0, NAN)
    needs = Difference(NAN, NAN, NAN, "", most["seeds"], most["sentences"]).needs
    return f"more than half would be decided with {needs}"


def _across(pairs: pd.DataFrame, systems: pd.DataFrame) -> Result:
    """2: flow priors have the best LL and the worst BLEU."""
    evidence, lacking = [], set(FAMILIES)
    accounting = pairs["accounting"].iloc[0]
    for data in DATA:
        of_paper = systems[(systems["train_data"] == data) & systems["family"].isin(FAMILIES)]
        ll, bleu = (best_of_families(of_paper, column).set_index("family")["model"]
                    for column in (accounting, "bleu"))
        missing = set(FAMILIES) - (set(ll.index) & set(bleu.index))
        lacking &= missing
        if missing:
            continue
        for name, best, other, digits, against in (
                ("LL", ll, ll.drop("flow").iloc[0], 3, "the best of the other families"),
                ("BLEU", bleu, bleu.drop("flow").iloc[-1], 1, "the worst other family's best")):
            evidence.append(_evidence(
                _gap(pairs, (best["flow"], data), (other, data), name.lower()), data,
                f"best {name} of a flow prior ({model_name(best['flow'])}) minus {against} "
                f"({model_name(other)})", digits, positive=name == "LL"))
    if not evidence:
        missing = ", ".join(family_name(family) for family in FAMILIES if family in lacking)
        return "an evaluated model of every family of the paper on the same text" + (
            f" (missing: {missing})" if missing else "")
    answers = [part.answer for part in evidence]
    for kind in (KINDS[0], PRIORS):
        same = pairs[pairs["kind"] == kind]
        evidence += _counts(same, f"pairs of {len(same)}, {kind}") if len(same) else []
    return answers, evidence


def _distillation(pairs: pd.DataFrame, _systems: pd.DataFrame) -> Result:
    """3: distillation lowers LL and raises BLEU of the non-autoregressive models."""
    same = pairs[(pairs["first"] == pairs["second"]) & (pairs["kind"] == RAW_DISTILLED)]
    parallel = [model for model in same["first"] if family_of(model) in PARALLEL]
    if not parallel:
        return "a non-autoregressive model trained on raw and on distilled text, both evaluated"
    falls, rises = ([_evidence(
        _gap(pairs, (model, "distilled"), (model, "raw"), name), "both",
        f"{name.upper()} of {model_name(model)}, distilled minus raw", digits,
        positive=name == "bleu") for model in models]
        for name, models, digits in (("ll", same["first"], 3), ("bleu", parallel, 1)))
    return [_most([part.answer for part in of]) for of in (falls, rises)], [*falls, *rises]


def _refinement(dataset: str, scale: str) -> Result:
    """4: refinement gains more BLEU with Gaussian priors than with flow priors."""
    gains = scores(dataset, scale, "k4", "k0")
    texts = [data for data in DATA if all(map(len, _priors(gains, data)))]
    if not texts:
        return ("an evaluated Gaussian and an evaluated flow model on the same text, with BLEU at "
                "k = 0 and k = 4")
    beside = {what: scores(dataset, scale, *of) for of, what in BY_DECODING.items()}
    answers, evidence = [], []
    for data in texts:
        there = gains[gains["train_data"] == data]
        ours, theirs = _priors(gains, data)
        evidence += [_evidence(difference(there.loc[[row.Index]]), data, "BLEU of "
                               f"{model_name(row.model)} after four steps minus before any",
                               counts=False) for row in there.itertuples()]
        evidence.append(_evidence(difference(ours, theirs), data,
                                  "mean gain of Gaussian priors minus that of flow priors"))
        nothing = difference(ours).high <= 0  # what doesn't help can't help more
        answers.append(NO if nothing else evidence[-1].answer)
        evidence += [_evidence(difference(*priors), data, f"mean {what}, Gaussian priors minus "
                               "flow priors", counts=False) for what, table in beside.items()
                     if all(map(len, priors := _priors(table, data)))]
    return answers, evidence


def _priors(table: pd.DataFrame, data: str) -> list[pd.DataFrame]:
    """The rows of `scores` with a Gaussian and with a flow prior, trained on this text."""
    there = table[table["train_data"] == data]
    return [there[there["family"] == family] for family in LATENT]


def _speed(dataset: str, scale: str) -> Result:
    """5: a Gaussian prior, distilled and refined, beats what lacks one of the three, and is fast.

    As the paper decodes (k = 1; k = 4 stands beside). Compared are the best Gaussian and the best
    flow model trained on distilled text, the former with the same model trained on raw text and
    before refinement, and its speed with the flow's and with beam search (timed on models trained
    on distilled text, or else on raw text: an architecture's speed hardly depends on it). Where a
    flow model is the better one, the claim fails.
    """
    speeds = tables.read(f"table4_{dataset}_{scale}_distilled")
    speeds = tables.read(f"table4_{dataset}_{scale}") if speeds is None else speeds
    one, four = (scores(dataset, scale, setting) for setting in ("k1", "k4"))
    best = best_of_families(one[one["train_data"] == "distilled"], "value")
    best = best.set_index("family")["model"]
    if not set(LATENT) <= set(best.index) or speeds is None:
        return "distilled runs of both priors, and notebooks/08_speed.ipynb run on them"
    ours, theirs = (best[family] for family in LATENT)
    name = model_name(ours)

    def of(table: pd.DataFrame, model: str, data: str = "distilled") -> pd.DataFrame:
        return table[(table["model"] == model) & (table["train_data"] == data)]

    evidence = [_evidence(difference(of(table, ours), of(table, theirs)), "distilled",
                          f"BLEU of {name} minus {model_name(theirs)}, the best with either prior, "
                          f"{k}", counts=k == "k1")
                for table, k in ((one, "k1"), (four, "k4"))
                if len(of(table, ours)) and len(of(table, theirs))]
    raw, gain = of(one, ours, "raw"), of(scores(dataset, scale, "k1", "k0"), ours)
    if len(raw):
        evidence.append(_evidence(difference(of(one, ours), raw), "both",
                                  f"BLEU of {name}, distilled minus raw, k1"))
    if len(gain):
        evidence.append(_evidence(difference(gain), "distilled",
                                  f"BLEU of {name} after one step minus before any"))
    evidence += _ratios(speeds, ours, theirs)
    answers = [part.answer for part in evidence if part.answer]
    return ([NO] if evidence[0].answer == NO else answers), evidence


def _ratios(speeds: pd.DataFrame, ours: str, theirs: str) -> list[Evidence]:
    """Whether `ours` is faster than `theirs`, both after one step, and than beam search. The
    interval is from the least to the most that any two rounds give.
    """
    against = next((name for name in speeds if name.startswith("vs ") and "beam" in name), "vs ")
    timed = speeds[speeds["weights"] == "auto"].drop_duplicates(["system", "setting"])
    timed = timed.set_index(["system", "setting"]).reindex(
        columns=[against, f"{against}_low", f"{against}_high"])
    evidence = []
    for own, other in (((ours, "k1"), (theirs, "k1")), ((ours, "k1"), None), ((ours, "k4"), None)):
        if {own, other} - {None} - set(timed.index):
            continue
        ratio, name = timed.loc[own].to_numpy(), against.removeprefix("vs ")
        if other is not None:
            ratio = ratio / timed.loc[other].to_numpy()[[0, 2, 1]]
            name = f"{model_name(other[0])} {other[1]}"
        answer = _side(*np.log(ratio[1:])) if own[1] == "k1" else ""
        quantity = f"speed of {model_name(own[0])} {own[1]} over {name}, a sentence at a time"
        evidence.append(Evidence("distilled", quantity, *map(float, ratio), 2, answer, ratio=True,
                                 outlook="" if ratio[1] > 0 else "timed without an interval"))
    return evidence or [Evidence("distilled", "speed after one step", NAN, answer=UNDECIDED)]


# ---- parts ----

def decide(answers: Sequence[str]) -> str:
    """From the answers to the parts of a claim ("yes", "no", "both", "undecided") to a verdict."""
    if answers and set(answers) <= {YES}:
        return HOLDS
    if not {NO, EITHER} & set(answers):
        return UNDECIDED
    return IN_PART if {YES, EITHER} & set(answers) else FAILS


def _most(answers: Sequence[str]) -> str:
    """One answer for several models or pairs: undecided unless more than half of them are decided,
    which then speak for all.
    """
    decided = [answer for answer in answers if answer != UNDECIDED]
    if 2 * len(decided) <= len(answers):
        return UNDECIDED
    return EITHER if len(set(decided)) == 2 else decided[0]


def _side(low: float, high: float, *, positive: bool = True) -> str:
    """Whether an interval lies on the claimed side of zero."""
    if not (low > 0 or high < 0):
        return UNDECIDED
    return YES if (low > 0) == positive else NO


def _evidence(of: Difference, data: str, quantity: str, digits: int = 1, *,
              positive: bool = True, counts: bool = True) -> Evidence:
    """A difference as evidence. counts: whether the claim rests on it."""
    return Evidence(data, quantity, of.value, of.low, of.high, digits,
                    _side(of.low, of.high, positive=positive) if counts else "",
                    _outlook(of, digits) if counts else "", of.over)


def _outlook(of: Difference, digits: int) -> str:
    """What would decide a difference, or where that is far off, how large it can be."""
    if of.sentences > FAR["sentences"] or of.seeds > FAR["seeds"]:
        return f"at most {max(-of.low, of.high):.{digits}f} either way"
    return f"would be decided with {of.needs}" if of.needs else ""


def _gap(pairs: pd.DataFrame, one: tuple[str, str], other: tuple[str, str], name: str,
         ) -> Difference:
    """`one` minus `other`, each a model and what it was trained on: the difference of `name`."""
    keys = pairs[["first", "first_data", "second", "second_data"]].apply(tuple, axis=1)
    if (keys == (*one, *other)).any():
        return pair_difference(pairs[keys == (*one, *other)].iloc[0], name)
    turned = pair_difference(pairs[keys == (*other, *one)].iloc[0], name)
    return turned._replace(value=-turned.value, low=-turned.high, high=-turned.low)
