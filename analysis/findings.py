"""Whether the paper's five findings hold here, each with its numbers, from files of results alone.

Read are the pairs of models that notebooks/05_correlation.ipynb compares (outputs/tables/
significance_* and concordance_*), the run folders' metrics.json, and the speeds that
notebooks/08_speed.ipynb measures (outputs/tables/table4_*). A difference counts only where its 95%
interval leaves zero out, and a claim about several models or pairs is decided only where more than
half of them are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.published import FINDINGS, MODELS, Finding
from analysis.significance import FAMILIES, seed_spread
from analysis.tables import interval
from lib.paths import outputs_root
from lib.runs import find_runs

__all__ = ["ACCOUNTINGS_SHOWN", "Verdict", "overview", "paragraph", "sentences", "verdicts"]

ACCOUNTINGS_SHOWN = ("strict", "released")
HOLDS, IN_PART, FAILS, UNDECIDED, UNTESTED = (
    "holds", "holds in part", "does not hold", "undecided", "not testable yet")
NAN = float("nan")
TABLES = "notebooks/05_correlation.ipynb"
SPEEDS = "notebooks/08_speed.ipynb run on them"


@dataclass(frozen=True)
class Verdict:
    """What the results of one data set and scale say of one finding.

    accounting: of the log-likelihood, "" where the finding is about BLEU and speed alone.
    verdict: "holds", "holds in part", "does not hold", "undecided" or "not testable yet".
    evidence: the numbers with their intervals, or what is missing.
    """

    finding: Finding
    dataset: str
    scale: str
    accounting: str
    verdict: str
    evidence: str


def verdicts(dataset: str, scale: str, accountings: Sequence[str] = ACCOUNTINGS_SHOWN,
             ) -> list[Verdict]:
    """All findings on one data set and scale, each under every accounting that it depends on."""
    tables = {name: _read(f"{name}_{dataset}_{scale}")
              for name in ("significance", "concordance")}
    found = []
    for finding, test in zip(FINDINGS[:3], (_within, _across, _distillation), strict=True):
        for accounting in accountings:
            parts = [None if table is None else table[table["accounting"] == accounting]
                     for table in (tables["significance"], tables["concordance"])]
            if parts[0] is None or parts[0].empty:
                told = UNTESTED, f"needs two evaluated models and {TABLES} run on them"
            else:
                told = test(*parts)
            found.append(Verdict(finding, dataset, scale, accounting, *told))
    found.append(Verdict(FINDINGS[3], dataset, scale, "", *_refinement(dataset, scale)))
    found.append(Verdict(FINDINGS[4], dataset, scale, "",
                         *_speed(dataset, scale, tables["significance"])))
    return found


def sentences(finding: Finding, places: Iterable[tuple[str, str]]) -> list[str]:
    """One sentence (Markdown) on the finding for each (dataset, scale)."""
    told = []
    for dataset, scale in places:
        found = [verdict for verdict in verdicts(dataset, scale) if verdict.finding == finding]
        told.append(f"{dataset}, {scale}: {_sentence(found)}")
    return told


def overview(places: Sequence[tuple[str, str]]) -> str:
    """A Markdown table: a row a finding, a column a (dataset, scale) and accounting, the verdicts.

    A finding that is about BLEU and speed alone has the same verdict under every accounting.
    """
    told = {place: verdicts(*place) for place in places}
    heads = ["finding", *(f"{dataset} {scale}, {name}" for dataset, scale in places
                          for name in ACCOUNTINGS_SHOWN)]
    lines = [heads, ["---"] * len(heads)]
    for finding in FINDINGS:
        cells = [next(v.verdict for v in told[place]
                      if v.finding == finding and v.accounting in (name, ""))
                 for place in places for name in ACCOUNTINGS_SHOWN]
        lines.append([f"{finding.number}. {finding.claim}", *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def paragraph(places: Sequence[tuple[str, str]]) -> str:
    """A Markdown list: each finding, and below it one sentence for each (dataset, scale)."""
    lines = []
    for finding in FINDINGS:
        lines += [f"{finding.number}. **{finding.claim}**",
                  *(f"   - {sentence}" for sentence in sentences(finding, places))]
    return "\n".join(lines)


# ---- the findings, one by one: (verdict, evidence) ----

def _within(pairs: pd.DataFrame, summary: pd.DataFrame) -> tuple[str, str]:
    """1: within a family LL and BLEU rank models alike."""
    same = pairs[pairs["scope"].isin(FAMILIES) & (pairs["train_data"] != "mixed")]
    if same.empty:
        return UNTESTED, "needs two models of one family trained on the same data"
    counts = same["order"].value_counts()
    agree, disagree = int(counts.get("agree", 0)), int(counts.get("disagree", 0))
    within = summary[(summary["scope"] == "within")
                     & summary["train_data"].isin(["raw", "distilled"])]
    shares = ", ".join(
        f"{row.train_data} {interval(row.alike, row.alike_low, row.alike_high, digits=2)}"
        for row in within.itertuples())
    undecided = len(same) - agree - disagree
    answer = _all_told(["yes"] * agree + ["no"] * disagree + ["undecided"] * undecided)
    return _verdict([answer]), (
        f"of {_number(len(same), 'pair')} within a family {agree} agree, {disagree} disagree, "
        f"{undecided} are undecided (share ordered alike, decided or not: {shares})")


def _across(pairs: pd.DataFrame, summary: pd.DataFrame) -> tuple[str, str]:
    """2: flow priors have the best LL and the worst BLEU."""
    answers, told, lacking = [], [], set(FAMILIES)
    for data in ("raw", "distilled"):
        best = {name: _best(pairs, data, name) for name in ("ll", "bleu")}
        lacking &= set(FAMILIES) - set(best["bleu"])
        if set(best["bleu"]) != set(FAMILIES):
            continue
        ll, bleu = best["ll"], best["bleu"]
        rival = max((ll[family] for family in FAMILIES[:2]), key=lambda model: model[1])
        lowest = min((bleu[family] for family in FAMILIES[:2]), key=lambda model: model[1])
        density = _gap(pairs, ll["flow"][0], rival[0], data, "ll")
        quality = _gap(pairs, bleu["flow"][0], lowest[0], data, "bleu")
        answers += [_side(density[1:]), _side(quality[1:], positive=False)]
        counts = summary[(summary["train_data"] == data) & (summary["scope"] == "across")].iloc[0]
        told.append(
            f"trained on {data} text, {counts['agree']} of {_number(int(counts['pairs']), 'pair')} "
            f"across families agree and {counts['disagree']} disagree, "
            f"best LL of a flow prior ({MODELS[ll['flow'][0]]}) minus the best of "
            f"the others ({MODELS[rival[0]]}) {interval(*density, digits=3, plus=True)}, "
            f"best BLEU of a flow prior ({MODELS[bleu['flow'][0]]}) minus that of the next worse "
            f"family ({MODELS[lowest[0]]}) {interval(*quality, plus=True)}")
    if not answers:
        needed = ", ".join(family for family in FAMILIES if family in lacking)
        return UNTESTED, "needs an evaluated model of every family on the same data" + (
            f" (missing: {needed})" if needed else "")
    return _verdict(answers), "; ".join(told)


def _distillation(pairs: pd.DataFrame, _summary: pd.DataFrame) -> tuple[str, str]:
    """3: distillation lowers LL and raises BLEU of the non-autoregressive models."""
    same = pairs[(pairs["first"] == pairs["second"]) & (pairs["first_data"] == "raw")
                 & (pairs["second_data"] == "distilled")]
    latent = same[same["scope"] != "autoregressive"]
    if latent.empty:
        return UNTESTED, ("needs a non-autoregressive model trained on raw and on distilled text, "
                          "both evaluated")
    falls = [(row.ll_delta, row.ll_low, row.ll_high, row.first) for row in same.itertuples()]
    rises = [(-row.bleu_delta, -row.bleu_high, -row.bleu_low, row.first)
             for row in latent.itertuples()]
    answers = [_all_told([_side(effect[1:3]) for effect in effects]) for effects in (falls, rises)]
    return _verdict(answers), (
        f"LL falls for {_told(falls, 3)}; BLEU of non-autoregressive models rises for "
        f"{_told(rises, 1)}")


def _refinement(dataset: str, scale: str) -> tuple[str, str]:
    """4: refinement gains more BLEU with Gaussian priors than with flow priors."""
    gains = _refinement_gains(dataset, scale)
    both = [data for data in ("raw", "distilled") if {"gaussian", "flow"} <= set(
        gains.loc[gains["train_data"] == data, "family"])]
    if not both:
        return UNTESTED, ("needs an evaluated Gaussian and an evaluated flow model on the same "
                          "data, with BLEU at k = 0 and k = 4")
    answers, told = [], []
    for data in both:
        found = gains[gains["train_data"] == data]
        ours, theirs = (found[found["family"] == family] for family in ("gaussian", "flow"))
        ahead = ours["gain"].mean() - theirs["gain"].mean()
        spread = float(np.hypot(*(np.linalg.norm(half) / len(half) for half in (
            (part["high"] - part["low"]).to_numpy() / 2 for part in (ours, theirs)))))
        ends = (ahead, ahead) if np.isnan(spread) else (ahead - spread, ahead + spread)
        answers.append("undecided" if np.isnan(spread) else
                       _side(ends) if ours["gain"].mean() > 0 else "no")
        told.append(f"trained on {data} text, four steps change BLEU by " + ", ".join(
            f"{MODELS[row.model]} {interval(row.gain, row.low, row.high, plus=True)}"
            for row in found.itertuples()) + "; mean change with "
            "Gaussian priors minus that with flow priors "
            f"{interval(ahead, *((NAN, NAN) if np.isnan(spread) else ends), plus=True)}")
    without = gains.loc[gains["train_data"].isin(both), "low"].isna().any()
    return _verdict(answers), "; ".join(told) + (
        " (without an interval where neither metrics.json nor Table 3 has one)" if without else "")


def _speed(dataset: str, scale: str, pairs: pd.DataFrame | None) -> tuple[str, str]:
    """5: a Gaussian prior, distilled and refined, beats what lacks one of the three, and is fast.

    Compared are the headlines of the best Gaussian and the best flow model trained on distilled
    text, the former with the same model trained on raw text and before refinement, and its speed
    with the flow's and with the baseline of Table 4, beam search (of models trained on distilled
    text, or else on raw text: an architecture's speed hardly depends on it). Where a flow model is
    the better one, the claim fails.
    """
    speeds = _read(f"table4_{dataset}_{scale}_distilled")
    speeds = _read(f"table4_{dataset}_{scale}") if speeds is None else speeds
    needs = "distilled runs of both priors" if pairs is None or pairs.empty else ""
    if not needs:
        pairs = pairs[pairs["accounting"] == pairs["accounting"].iloc[0]]  # BLEU is of all alike
        best = _best(pairs, "distilled", "bleu")
        if not {"gaussian", "flow"} <= set(best):
            needs = "distilled runs of both priors"
    if needs or speeds is None:
        return UNTESTED, "needs " + " and ".join(
            filter(None, (needs, "" if speeds is not None else SPEEDS)))
    (ours, _), (theirs, _) = best["gaussian"], best["flow"]
    prior = _gap(pairs, ours, theirs, "distilled", "bleu")
    told = [f"of distilled models with four steps the best with a Gaussian prior "
            f"({MODELS[ours]}) minus the best with a flow prior ({MODELS[theirs]}) "
            f"{interval(*prior, plus=True)} BLEU"]
    answers = [_side(prior[1:])]
    same = pairs[(pairs["first"] == ours) & (pairs["second"] == ours)]
    for row in same.itertuples():  # raw comes first
        answers.append(_side((-row.bleu_high, -row.bleu_low)))
        told.append("distillation gives it "
                    + interval(-row.bleu_delta, -row.bleu_high, -row.bleu_low, plus=True))
    gains = _refinement_gains(dataset, scale)
    for row in gains[(gains["model"] == ours) & (gains["train_data"] == "distilled")].itertuples():
        known = not np.isnan(row.low)
        answers.append(_side((row.low, row.high)) if known else "undecided")
        told.append(f"refinement {interval(row.gain, row.low, row.high, plus=True)}")
    answer, ratios = _ratios(speeds, ours, theirs)
    found = FAILS if answers[0] == "no" else _verdict([*answers, *answer])
    return found, ", ".join([*told, *ratios])


def _ratios(speeds: pd.DataFrame, ours: str, theirs: str) -> tuple[list[str], list[str]]:
    """Whether `ours` with four steps is faster than `theirs`, and than beam search; in words."""
    against = next((name for name in speeds if name.startswith("vs ") and "beam" in name), None)
    timed = speeds[speeds["weights"] == "auto"].set_index(["system", "setting"])
    if against is None or not {(ours, "k4"), (ours, "k0"), (theirs, "k4")} <= set(timed.index):
        return ["undecided"], [f"their speeds weren't measured: {SPEEDS}"]
    refined, plain, flow = (timed.loc[key, against] for key in (
        (ours, "k4"), (ours, "k0"), (theirs, "k4")))
    return ["yes" if ratio > 1 else "no" for ratio in (refined / flow, refined)], [
        f"and translating one sentence at a time it runs at {refined / flow:.1f} times the flow "
        f"model's speed and {refined:.2f} times that of {against.removeprefix('vs ')} (unrefined "
        f"{plain:.2f}; a ratio of one run, without interval)"]


# ---- parts ----

def _read(name: str) -> pd.DataFrame | None:
    path = outputs_root() / "tables" / f"{name}.csv"
    if not path.is_file():
        return None
    table = pd.read_csv(path)
    measured = [column for column in table if column.endswith(("_delta", "_low", "_high", "alike"))]
    return table.astype(dict.fromkeys(measured, float))     # whole numbers are read as integers


def _sentence(told: Sequence[Verdict]) -> str:
    """Verdict and evidence; those of several accountings in one sentence."""
    if len({(verdict.verdict, verdict.evidence) for verdict in told}) == 1:
        return f"*{told[0].verdict}*{_joined(told[0])}."
    return "; ".join(f"{verdict.accounting} LL: *{verdict.verdict}*{_joined(verdict)}"
                     for verdict in told).replace("; released LL", ". Released LL") + "."


def _joined(verdict: Verdict) -> str:
    return f": {verdict.evidence}"


def _verdict(answers: Sequence[str]) -> str:
    """From the answers ("yes", "no", "both", "undecided") to the parts of a claim."""
    if all(answer == "yes" for answer in answers):
        return HOLDS
    if not {"no", "both"} & set(answers):
        return UNDECIDED
    return IN_PART if {"yes", "both"} & set(answers) else FAILS


def _all_told(answers: Sequence[str]) -> str:
    """One answer for several models or pairs: undecided unless more than half of them are decided,
    which then speak for all.
    """
    said = [answer for answer in answers if answer != "undecided"]
    if 2 * len(said) <= len(answers):
        return "undecided"
    return "both" if len(set(said)) == 2 else said[0]


def _side(ends: Sequence[float], *, positive: bool = True) -> str:
    """Whether an interval lies on the claimed side of zero."""
    low, high = ends
    if low <= 0 <= high:
        return "undecided"
    return "yes" if (low > 0) == positive else "no"


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
    families = {model: _family(model) for model in ahead}
    return {family: max(((model, ahead[model]) for model in ahead if families[model] == family),
                        key=lambda found: found[1])
            for family in FAMILIES if family in families.values()}


def _family(model: str) -> str:
    return dict(zip(("tr", "ga", "fl"), FAMILIES, strict=True))[model.partition("_")[0]]


def _told(effects: Sequence[tuple], digits: int) -> str:
    """How many effects lie above zero, and the smallest and largest with their intervals."""
    sides = [_side(effect[1:3]) for effect in effects]
    told = f"{sides.count('yes')} of {_number(len(effects), 'model')}"
    rest = [f"{sides.count(kind)} {word}" for kind, word in
            (("no", "the other way"), ("undecided", "undecided")) if kind in sides]
    ends = [min(effects), max(effects)] if len(effects) > 1 else list(effects)
    sizes = " to ".join(f"{interval(*effect[:3], digits=digits)} ({MODELS[effect[3]]})"
                        for effect in ends)
    return told + (f" ({', '.join(rest)})" if rest else "") + f", by {sizes}"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _refinement_gains(dataset: str, scale: str) -> pd.DataFrame:
    """BLEU after four steps minus before any, a row a latent system: model, family, train_data,
    gain, low, high.

    From metrics.json (means over seeds, the interval widened by theirs); where it
    has no interval, from Table 3 if that has the system, else without one.
    """
    rows = {}
    for run in find_runs(dataset, scale):
        metrics = run.read_metrics()
        if {"k0", "k4"} <= set(metrics.bleu):
            refined = metrics.bleu["k4"]
            rows.setdefault((metrics.model, metrics.family, metrics.train_data), []).append((
                refined.score - metrics.bleu["k0"].score, refined.gain_low, refined.gain_high))
    found = {key: _over_seeds(np.array(gains)) for key, gains in rows.items()}
    for data, end in (("raw", ""), ("distilled", "_distilled")):
        table = _read(f"table3_{dataset}_{scale}{end}")
        if table is None or "bleu_gain_low" not in table:
            continue
        for row in table[table["k"] == 4].astype({"bleu_gain": float}).itertuples():
            key = (row.model, _family(row.model), data)
            if np.isnan(found.get(key, (NAN, NAN, NAN))[1]):
                found[key] = row.bleu_gain, row.bleu_gain_low, row.bleu_gain_high
    order = list(MODELS)
    return pd.DataFrame([(*key, *gain) for key, gain in sorted(
        found.items(), key=lambda item: order.index(item[0][0]))],
        columns=["model", "family", "train_data", "gain", "low", "high"])


def _over_seeds(gains: np.ndarray) -> tuple[float, float, float]:
    """Mean of (gain, low, high) [seeds, 3], its interval widened by the standard error of seeds."""
    gain, low, high = gains.mean(axis=0)
    spread = seed_spread(gains[:, 0].std(ddof=1), len(gains)) if len(gains) > 1 else 0.0
    return float(gain), float(gain - np.hypot(gain - low, spread)), float(
        gain + np.hypot(high - gain, spread))
