"""Whether the paper's five findings hold here, each with its numbers, from files of results alone.

Read are the pairs of models that notebooks/05_correlation.ipynb compares (outputs/tables/
significance_* and concordance_*), the run folders' metrics.json, and the speeds that
notebooks/08_speed.ipynb measures (outputs/tables/table4_*). A difference counts only where its 95%
interval leaves zero out, and a claim about several models or pairs is decided only where more than
half of them are. `python -m analysis.findings` writes outputs/findings.md.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Markdown

from analysis import published, refinement_table
from analysis.published import FINDINGS, Finding
from analysis.significance import ORDERS, orders_by_kind
from analysis.style import family_name
from analysis.tables import MISSING, interval, markdown
from lib.config import LATENT, family_of, model_name
from lib.paths import outputs_root

__all__ = ["ACCOUNTINGS_SHOWN", "Evidence", "Verdict", "answer", "decide", "evidence_table", "main",
           "overview", "page", "places", "show", "verdicts"]

ACCOUNTINGS_SHOWN = ("strict", "released")
FAMILIES = ("autoregressive", *LATENT)  # those that the paper compares
HOLDS, IN_PART, FAILS, UNDECIDED, UNTESTED = (
    "holds", "holds in part", "does not hold", "undecided", "not testable yet")
YES, NO = "yes", "no"
DATA = ("raw", "distilled")
NAN = math.nan


@dataclass(frozen=True)
class Evidence:
    """One number that bears on a finding.

    train_data: what the models were trained on. value: with its 95% interval, NaN where there is
    none. digits: shown after the point. answer: whether it is as the finding claims: "yes", "no",
    "undecided" where the interval contains zero or is unknown, "" where it only tells the story.
    """

    train_data: str
    quantity: str
    value: float
    low: float = NAN
    high: float = NAN
    digits: int = 1
    answer: str = ""


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


def places() -> list[tuple[str, str]]:
    """Every (dataset, scale) whose models were compared."""
    return sorted(path.stem.removeprefix("significance_").rpartition("_")[::2]
                  for path in (outputs_root() / "tables").glob("significance_*.csv"))


def verdicts(dataset: str, scale: str, accountings: Sequence[str] = ACCOUNTINGS_SHOWN,
             ) -> list[Verdict]:
    """All findings on one data set and scale, each under every accounting that it depends on."""
    pairs, summary = (_read(f"{name}_{dataset}_{scale}") for name in ("significance",
                                                                      "concordance"))
    found = []
    for finding, test in zip(FINDINGS[:3], (_within, _across, _distillation), strict=True):
        for accounting in accountings:
            given = [None if table is None else table[table["accounting"] == accounting]
                     for table in (pairs, summary)]
            result = test(*given) if given[0] is not None and len(given[0]) else (
                "two evaluated models, and notebooks/05_correlation.ipynb run on them")
            found.append(_verdict(finding, dataset, scale, accounting, result))
    found.append(_verdict(FINDINGS[3], dataset, scale, "", _refinement(dataset, scale)))
    found.append(_verdict(FINDINGS[4], dataset, scale, "", _speed(dataset, scale, pairs)))
    return found


# ---- the findings, one by one: (answers, evidence), or what is missing ----

Result = tuple[list[str], list[Evidence]] | str


def _within(pairs: pd.DataFrame, summary: pd.DataFrame) -> Result:
    """1: within a family LL and BLEU rank models alike."""
    same = pairs[(pairs["scope"] != "across") & (pairs["train_data"] != "mixed")]
    if same.empty:
        return "two models of one family trained on the same text"
    counts = [int((same["order"] == order).sum()) for order in ORDERS]
    evidence = [Evidence("either", f"pairs of {len(same)} within a family: {order}", float(count),
                         digits=0) for order, count in zip(ORDERS, counts, strict=True)]
    shares = summary[(summary["scope"] == "within") & summary["train_data"].isin(DATA)]
    evidence += [Evidence(row.train_data, "share of these pairs ordered alike, decided or not",
                          row.alike, row.alike_low, row.alike_high, 2)
                 for row in shares.itertuples()]
    return [_most(np.repeat([YES, UNDECIDED, NO], counts).tolist())], evidence


def _across(pairs: pd.DataFrame, summary: pd.DataFrame) -> Result:
    """2: flow priors have the best LL and the worst BLEU."""
    evidence, lacking = [], set(FAMILIES)
    for data in DATA:
        ll, bleu = (_best(pairs, data, name) for name in ("ll", "bleu"))
        lacking &= set(FAMILIES) - set(bleu)
        if not set(FAMILIES) <= set(bleu):
            continue
        rival = max((ll[family] for family in FAMILIES[:2]), key=lambda model: model[1])[0]
        lowest = min((bleu[family] for family in FAMILIES[:2]), key=lambda model: model[1])[0]
        for best, other, name, digits, against in (
                (ll["flow"][0], rival, "LL", 3, "the best of the other families"),
                (bleu["flow"][0], lowest, "BLEU", 1, "the worst other family's best")):
            gap = _gap(pairs, best, other, data, name.lower())
            evidence.append(Evidence(
                data, f"best {name} of a flow prior ({model_name(best)}) minus {against} "
                f"({model_name(other)})", *gap, digits, _side(gap[1:], positive=name == "LL")))
        counts = summary[(summary["train_data"] == data) & (summary["scope"] == "across")].iloc[0]
        evidence += [Evidence(data, f"pairs of {counts['pairs']} across families: {order}",
                              float(counts[order]), digits=0) for order in ("agree", "disagree")]
    if not evidence:
        missing = ", ".join(family_name(family) for family in FAMILIES if family in lacking)
        return "an evaluated model of every family of the paper on the same text" + (
            f" (missing: {missing})" if missing else "")
    return [part.answer for part in evidence if part.answer], evidence


def _distillation(pairs: pd.DataFrame, _summary: pd.DataFrame) -> Result:
    """3: distillation lowers LL and raises BLEU of the non-autoregressive models."""
    same = pairs[(pairs["first"] == pairs["second"]) & (pairs["first_data"] == "raw")
                 & (pairs["second_data"] == "distilled")]
    parallel = same[same["scope"] != "autoregressive"]
    if parallel.empty:
        return "a non-autoregressive model trained on raw and on distilled text, both evaluated"
    falls = [_change(row, "ll", positive=False) for row in same.itertuples()]
    rises = [_change(row, "bleu") for row in parallel.itertuples()]
    return [_most([part.answer for part in of]) for of in (falls, rises)], [*falls, *rises]


def _change(row: tuple, name: str, *, positive: bool = True) -> Evidence:
    """What distillation changes for one model; row: of pairs, raw first."""
    ends = [-getattr(row, f"{name}_{end}") for end in ("delta", "high", "low")]
    quantity = f"{name.upper()} of {model_name(row.first)}, distilled minus raw"
    return Evidence("both", quantity, *ends, 3 if name == "ll" else 1,
                    _side(ends[1:], positive=positive))


def _gain(row: tuple, answer: str = "") -> Evidence:
    """What refinement changes for one model; row: of `refinement_table.gains`."""
    return Evidence(row.train_data, f"BLEU of {model_name(row.model)} after four steps minus "
                    "before any", row.gain, row.low, row.high, 1, answer)


def _refinement(dataset: str, scale: str) -> Result:
    """4: refinement gains more BLEU with Gaussian priors than with flow priors."""
    gained = refinement_table.gains(dataset, scale)
    answers, evidence = [], []
    for data in DATA:
        found = gained[gained["train_data"] == data]
        if not set(LATENT) <= set(found["family"]):
            continue
        evidence += map(_gain, found.itertuples())
        ours, theirs = (found[found["family"] == family] for family in LATENT)
        ahead = refinement_table.gain_difference(ours, theirs)
        answers.append(NO if ours["gain"].mean() <= 0 and not math.isnan(ahead[1]) else
                       _side(ahead[1:]))
        evidence.append(Evidence(data, "mean gain of Gaussian priors minus that of flow priors",
                                 *ahead, 1, answers[-1]))
    return (answers, evidence) if answers else (
        "an evaluated Gaussian and an evaluated flow model on the same text, with BLEU at k = 0 "
        "and k = 4")


def _speed(dataset: str, scale: str, pairs: pd.DataFrame | None) -> Result:
    """5: a Gaussian prior, distilled and refined, beats what lacks one of the three, and is fast.

    Compared are the headlines of the best Gaussian and the best flow model trained on distilled
    text, the former with the same model trained on raw text and before refinement, and its speed
    as the paper decodes (k = 1) with the flow's and with beam search (timed on models trained on
    distilled text, or else on raw text: an architecture's speed hardly depends on it). Where a flow
    model is the better one, the claim fails.
    """
    speeds = _read(f"table4_{dataset}_{scale}_distilled")
    speeds = _read(f"table4_{dataset}_{scale}") if speeds is None else speeds
    best = {}
    if pairs is not None and len(pairs):
        pairs = pairs[pairs["accounting"] == pairs["accounting"].iloc[0]]  # BLEU is of all alike
        best = _best(pairs, "distilled", "bleu")
    if not set(LATENT) <= set(best) or speeds is None:
        return "distilled runs of both priors, and notebooks/08_speed.ipynb run on them"
    ours, theirs = (best[family][0] for family in LATENT)
    gap = _gap(pairs, ours, theirs, "distilled", "bleu")
    evidence = [Evidence("distilled", f"BLEU of {model_name(ours)} minus {model_name(theirs)}, the "
                         "best with either prior", *gap, 1, _side(gap[1:]))]
    same = pairs[(pairs["first"] == ours) & (pairs["second"] == ours)]
    evidence += [_change(row, "bleu") for row in same.itertuples()]
    gained = refinement_table.gains(dataset, scale)
    gained = gained.query("model == @ours and train_data == 'distilled'")
    evidence += [_gain(row, _side((row.low, row.high))) for row in gained.itertuples()]
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
    found = []
    for own, other in (((ours, "k1"), (theirs, "k1")), ((ours, "k1"), None), ((ours, "k4"), None)):
        if {own, other} - {None} - set(timed.index):
            continue
        ratio, name = timed.loc[own].to_numpy(), against.removeprefix("vs ")
        if other is not None:
            ratio = ratio / timed.loc[other].to_numpy()[[0, 2, 1]]
            name = f"{model_name(other[0])} {other[1]}"
        answer = _side(np.log(ratio[1:]).tolist()) if own[1] == "k1" else ""
        found.append(Evidence("distilled", f"speed of {model_name(own[0])} {own[1]} over {name}, "
                              "a sentence at a time", *map(float, ratio), 2, answer))
    return found or [Evidence("distilled", "speed after one step", NAN, answer=UNDECIDED)]


# ---- parts ----

def _read(name: str) -> pd.DataFrame | None:
    path = outputs_root() / "tables" / f"{name}.csv"
    if not path.is_file():
        return None
    table = pd.read_csv(path)
    measured = [column for column in table if column.endswith(("_delta", "_low", "_high", "alike"))]
    return table.astype(dict.fromkeys(measured, float))     # whole numbers are read as integers


def _verdict(finding: Finding, dataset: str, scale: str, accounting: str, result: Result,
             ) -> Verdict:
    if isinstance(result, str):
        return Verdict(finding, dataset, scale, accounting, UNTESTED, needs=result)
    return Verdict(finding, dataset, scale, accounting, decide(result[0]), tuple(result[1]))


def decide(answers: Sequence[str]) -> str:
    """From the answers to the parts of a claim ("yes", "no", "both", "undecided") to a verdict."""
    if all(answer == YES for answer in answers):
        return HOLDS
    if not {NO, "both"} & set(answers):
        return UNDECIDED
    return IN_PART if {YES, "both"} & set(answers) else FAILS


def _most(answers: Sequence[str]) -> str:
    """One answer for several models or pairs: undecided unless more than half of them are decided,
    which then speak for all.
    """
    decided = [answer for answer in answers if answer != UNDECIDED]
    if 2 * len(decided) <= len(answers):
        return UNDECIDED
    return "both" if len(set(decided)) == 2 else decided[0]


def _side(ends: Sequence[float], *, positive: bool = True) -> str:
    """Whether an interval lies on the claimed side of zero."""
    low, high = ends
    if not (low > 0 or high < 0):
        return UNDECIDED
    return YES if (low > 0) == positive else NO


def _gap(pairs: pd.DataFrame, one: str, other: str, data: str, name: str,
         ) -> tuple[float, float, float]:
    """`one` minus `other`, both trained on `data`: difference of `name` and its interval."""
    same = pairs[(pairs["first_data"] == data) & (pairs["second_data"] == data)]
    row = same[(same["first"] == one) & (same["second"] == other)]
    if len(row):
        return tuple(row[[f"{name}_delta", f"{name}_low", f"{name}_high"]].iloc[0])
    row = same[(same["first"] == other) & (same["second"] == one)]
    return tuple(-row[[f"{name}_delta", f"{name}_high", f"{name}_low"]].iloc[0])


def _best(pairs: pd.DataFrame, data: str, name: str) -> dict[str, tuple[str, float]]:
    """Family -> its best model by `name` and how far that is ahead of one model of reference."""
    same = pairs[(pairs["first_data"] == data) & (pairs["second_data"] == data)]
    if same.empty:
        return {}
    reference = same["first"].iloc[0]
    ahead = {reference: 0.0} | {row.second: -getattr(row, f"{name}_delta")
                                for row in same[same["first"] == reference].itertuples()}
    best: dict[str, tuple[str, float]] = {}
    for model, lead in ahead.items():
        if lead > best.get(family_of(model), ("", -math.inf))[1]:
            best[family_of(model)] = model, lead
    return best


# ---- what is shown ----

def answer(of: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """How many pairs of models log-likelihood and BLEU order alike / the other way round / leave
    undecided: a row a corpus and accounting, a column a kind of pair.
    """
    rows = []
    for dataset, scale in of:
        pairs = _read(f"significance_{dataset}_{scale}")
        for accounting in ACCOUNTINGS_SHOWN:
            counts = orders_by_kind(pairs[pairs["accounting"] == accounting])
            rows.append({"corpus": f"{dataset}, {scale}", "LL": accounting} | {
                kind: " / ".join(map(str, of_kind)) for kind, of_kind in counts.items()})
    return pd.DataFrame(rows).fillna(MISSING)


def overview(of: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """A row a finding, a column a (dataset, scale) and accounting: the verdicts.

    A finding that is about BLEU and speed alone has the same verdict under every accounting.
    """
    rows = [{"finding": f"{finding.number}. {finding.claim}"} for finding in FINDINGS]
    for dataset, scale in of:
        found = verdicts(dataset, scale)
        for accounting in ACCOUNTINGS_SHOWN:
            for row, finding in zip(rows, FINDINGS, strict=True):
                row[f"{dataset} {scale}, {accounting}"] = next(
                    verdict.verdict for verdict in found
                    if verdict.finding == finding and verdict.accounting in (accounting, ""))
    return pd.DataFrame(rows)


def evidence_table(number: int, of: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """The numbers behind a finding, a row a number.

    Columns: corpus, trained on, quantity, and the value with its 95% interval under each accounting
    of the log-likelihood, or once where the finding doesn't depend on it; yes, no or undecided
    after it says whether it is as the finding claims.
    """
    rows: dict[tuple, dict] = {}
    for dataset, scale in of:
        for verdict in verdicts(dataset, scale):
            for part in verdict.evidence if verdict.finding.number == number else ():
                row = rows.setdefault((dataset, scale, part.train_data, part.quantity), {
                    "corpus": f"{dataset}, {scale}", "trained on": part.train_data,
                    "quantity": part.quantity})
                value = interval(part.value, part.low, part.high, digits=part.digits,
                                 plus=bool(part.answer))
                row[verdict.accounting or "value"] = f"{value} {part.answer}".strip()
    return pd.DataFrame(rows.values()).fillna("")


def show(*numbers: int, of: Iterable[tuple[str, str]] | None = None) -> Markdown:
    """Findings with their verdicts on every corpus that was compared, for a notebook's opening."""
    found = overview(places() if of is None else of)
    chosen = found[[int(claim.split(".")[0]) in numbers for claim in found["finding"]]]
    return Markdown(markdown(chosen) + "\nThe numbers behind each verdict: "
                    "[outputs/findings.md](../outputs/findings.md).")


def page(of: Sequence[tuple[str, str]]) -> str:
    """outputs/findings.md: a section a finding, with what the paper's own tables show."""
    parts = ["# The paper's findings, tested here", __doc__.split("\n\n")[1].replace("\n", " "),
             "With one seed a model nothing here says how another training would turn out. "
             + published.CAVEAT, markdown(overview(of))]
    for finding in FINDINGS:
        parts += [f"## {finding.number}. {finding.claim}", f"The paper's {finding.place}, counted:",
                  markdown(published.counted(finding.number))]
        table = evidence_table(finding.number, of)
        parts += ["Here:", markdown(table)] if len(table) else []
        for place in of:
            needs = {verdict.needs for verdict in verdicts(*place)
                     if verdict.finding == finding and verdict.needs}
            parts += [f"{', '.join(place)}: not testable yet; it needs {need}."
                      for need in sorted(needs)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def main() -> Path:
    """Write outputs/findings.md; returns where."""
    path = outputs_root() / "findings.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(places()), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
