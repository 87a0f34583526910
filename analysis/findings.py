"""Whether the paper's five findings hold here, each with its numbers, from files of results alone.

This page is built from the pairs of models that notebooks/05_correlation.ipynb compares
(outputs/tables/significance_*), the run folders' metrics.json, and the speeds that
notebooks/08_speed.ipynb measures (outputs/tables/table4_*). A difference counts only where its 95%
interval leaves zero out, and a claim about several models or pairs is decided only where more than
half of them are. Beside what is undecided stands what would decide it four times in five, if the
true difference is the one that was measured: seeds a system, at the training variance that is
known, or test sentences. `python -m analysis.findings` writes outputs/findings.md.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Markdown

from analysis import calibration, objective, published, scatter, style, within_training
from analysis.data import ceiling
from analysis.kinds import KINDS, PRIORS, RAW_DISTILLED, WITHIN
from analysis.published import FINDINGS, Finding
from analysis.settings import difference, scores
from analysis.significance import MULTIPLICITY, ORDERS, SHOWN, pair_difference
from analysis.style import family_name
from analysis.systems import average_seeds, best_of_families, collect
from analysis.tables import MISSING, interval, markdown
from analysis.training_variance import OVER, SENTENCES, Difference
from lib.config import LATENT, family_of, load_config, model_name
from lib.paths import outputs_root
from lib.runs import find_runs
from lib.task import Task

__all__ = ["Evidence", "Verdict", "answer", "decide", "evidence_table", "main", "overview", "page",
           "picture", "places", "show", "verdicts"]

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
DEMONSTRATION = "smoke"  # a scale that is no evidence
FAR = {"sentences": 20_000, "seeds": 100}  # beyond these the size of a difference tells more
NAN = math.nan
SAME = "the same"


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
            return "sentences, in part over training as well"
        return kinds[0] if kinds else ""


def places(*, demonstrations: bool = True) -> list[tuple[str, str]]:
    """Every (dataset, scale) whose models were compared; scale `smoke` is a demonstration."""
    compared = sorted(tuple(path.stem.removeprefix("significance_").rpartition("_")[::2])
                      for path in (outputs_root() / "tables").glob("significance_*.csv"))
    return [place for place in compared if demonstrations or place[1] != DEMONSTRATION]


def verdicts(*of: tuple[str, str]) -> list[Verdict]:
    """All findings on each (dataset, scale), under every accounting that they depend on."""
    return [verdict for place in of for verdict in _verdicts(*place)]


def _verdicts(dataset: str, scale: str) -> list[Verdict]:
    def verdict(finding: Finding, accounting: str, result: Result) -> Verdict:
        outcome = Verdict(finding, dataset, scale, accounting, UNTESTED)
        if isinstance(result, str):
            return replace(outcome, needs=result)
        return replace(outcome, verdict=decide(result[0]), evidence=tuple(result[1]))

    pairs = _read(f"significance_{dataset}_{scale}")
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
    middle = wanted.sort_values(["sentences", "seeds"]).iloc[len(pairs) // 2].replace(0, NAN)
    needs = Difference(NAN, NAN, NAN, "", middle["seeds"], middle["sentences"]).needs
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
    parallel = [model for model in same["first"] if family_of(model) != "autoregressive"]
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
        nothing = ours["value"].mean() <= 0 and not math.isnan(evidence[-1].low)
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
    speeds = _read(f"table4_{dataset}_{scale}_distilled")
    speeds = _read(f"table4_{dataset}_{scale}") if speeds is None else speeds
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

def _read(name: str) -> pd.DataFrame | None:
    path = outputs_root() / "tables" / f"{name}.csv"
    return pd.read_csv(path) if path.is_file() else None


def decide(answers: Sequence[str]) -> str:
    """From the answers to the parts of a claim ("yes", "no", "both", "undecided") to a verdict."""
    if set(answers) <= {YES}:
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


# ---- what is shown ----

def answer(of: Iterable[tuple[str, str]], name: str = "concordance",
           accountings: Sequence[str] = SHOWN) -> pd.DataFrame:
    """How many pairs of models log-likelihood and BLEU order alike / the other way round / leave
    undecided: a row a corpus and accounting, a column a kind of pair that there is.

    name: of the tables of `significance.concordance`.
    """
    rows = []
    for dataset, scale in of:
        summary = _read(f"{name}_{dataset}_{scale}")
        for accounting in accountings if summary is not None else ():
            counts = summary[summary["accounting"] == accounting].groupby("kind")[
                ["agree", "disagree", "undecided"]].sum()
            rows.append({"corpus": f"{dataset}, {scale}", "LL": accounting} | {
                kind: " / ".join(map(str, orders)) for kind, orders in counts.iterrows()})
    table = pd.DataFrame(rows, columns=["corpus", "LL", *KINDS])
    return table.dropna(axis=1, how="all").fillna(MISSING)


def overview(outcomes: Sequence[Verdict]) -> pd.DataFrame:
    """A row a finding, a column a (dataset, scale): the verdicts, once where they are the same
    under every accounting, and what the intervals behind them are over.
    """
    rows = [{"finding": f"{finding.number}. {finding.claim}"} for finding in FINDINGS]
    cells: dict[tuple, dict[str, str]] = {}
    for verdict in outcomes:
        cell = cells.setdefault((verdict.finding.number, f"{verdict.dataset} {verdict.scale}"), {})
        cell[verdict.accounting] = verdict.verdict + (
            f" (over {verdict.over})" if verdict.over else "")
    for (number, column), cell in cells.items():
        rows[number - 1][column] = next(iter(cell.values())) if len(set(cell.values())) == 1 else (
            "; ".join(f"{accounting}: {words}" for accounting, words in cell.items()))
    return pd.DataFrame(rows)


def evidence_table(number: int, outcomes: Sequence[Verdict]) -> pd.DataFrame:
    """The numbers behind a finding, a row a number.

    Columns: corpus, trained on, quantity, and the value with its 95% interval under each accounting
    of the log-likelihood, or once where the finding doesn't depend on it; yes, no or undecided
    after it says whether it is as the finding claims, and what would decide it.
    """
    rows: dict[tuple, dict] = {}
    for verdict in outcomes:
        for part in verdict.evidence if verdict.finding.number == number else ():
            row = rows.setdefault((verdict.place, part.train_data, part.quantity), {
                "corpus": verdict.place, "trained on": part.train_data, "quantity": part.quantity})
            value = interval(part.value, part.low, part.high, digits=part.digits,
                             plus=bool(part.answer) and not part.ratio)
            outlook = f"({part.outlook})" if part.outlook else ""
            row[verdict.accounting or "value"] = " ".join(
                filter(None, (value, part.answer, outlook)))
    accountings = list(dict.fromkeys(of.accounting or "value" for of in outcomes
                                     if of.finding.number == number))
    for row in rows.values():  # BLEU is the same under all
        if len(accountings) > 1 and len({row.get(name) for name in accountings}) == 1:
            row |= dict.fromkeys(accountings[1:], SAME)
    return pd.DataFrame(rows.values()).fillna("")


def show(*numbers: int) -> Markdown:
    """Findings with their verdicts on every corpus that was compared, for a notebook's opening."""
    table = overview(verdicts(*places())).iloc[[number - 1 for number in numbers]]
    return Markdown(markdown(table) + "\nThe numbers behind each verdict: "
                    "[outputs/findings.md](../outputs/findings.md).")


def page(of: Sequence[tuple[str, str]]) -> str:
    """outputs/findings.md: a section a finding, with what the paper's own tables show."""
    outcomes = verdicts(*of)
    parts = ["# The paper's findings, tested here", __doc__.split("\n\n")[1].replace("\n", " "),
             f"Scale `{DEMONSTRATION}` is a demonstration, too short for evidence, and isn't here. "
             f"{MULTIPLICITY} {published.CAVEAT}", markdown(overview(outcomes))]
    for finding in FINDINGS:
        parts += [f"## {finding.number}. {finding.claim}", f"The paper's {finding.place}, counted:",
                  markdown(published.counted(finding.number))]
        table = evidence_table(finding.number, outcomes)
        parts += ["Here:", markdown(table)] if len(table) else []
        parts += dict.fromkeys(f"{verdict.place}: not testable yet; it needs {verdict.needs}."
                               for verdict in outcomes
                               if verdict.finding == finding and verdict.needs)
    effects, phases, checkpoints, tempered, table2 = (_joined(name, of) for name in (
        "objective", "checkpoint_pairs", "two_checkpoints", "calibration", "table2"))
    parts += ["## The paper's open question: the decoder's factorisation, or the objective?",
              "What the second model of a pair has above the first, which differs from it in one "
              "factor (notebooks/10_objective_or_factorisation.ipynb).",
              markdown(_by_corpus(effects, objective.compact)),
              "## Within one training", within_training.count_phases(phases),
              markdown(within_training.compact_phases(phases, ("dataset", "scale", "train_data"))),
              "### The paper's Table 2",
              "The correlation r of LL and BLEU across the checkpoints of one training, on "
              f"{published.column('wmt14_en_de')}:",
              markdown(published.table(2).pivot_table(
                  index="model", columns="train_data", values="pearson", sort=False,
              ).reset_index()[["model", "raw", "distilled"]]),
              "Here, apart for the checkpoints up to the best dev LL and from it on, as well: the "
              "least and the largest r, and in brackets of how many trainings.",
              markdown(within_training.compact_correlations(table2)),
              "### Two checkpoints of one training",
              "What choosing the checkpoint by dev LL costs: each is the best of its training in "
              "what it was chosen by, so that the other can hardly be better in that; the sizes "
              "tell. " + within_training.count_orders(checkpoints),
              markdown(_by_corpus(checkpoints, within_training.compact_checkpoints)),
              "Pairs of models, each at its checkpoint of the best dev LL instead, of runs that "
              "kept it: agree / disagree / undecided.",
              markdown(answer(of, "concordance_at_best_ll", SHOWN[:1])),
              "### At one temperature each",
              "The same with the logits of each checkpoint divided by one temperature, fitted on "
              "dev (notebooks/12_calibration.ipynb), of trainings whose weights were at hand.",
              markdown(_by_corpus(tempered, calibration.compact))]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _joined(name: str, of: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """The tables of that name of every (dataset, scale), one below another."""
    tables = [_read(f"{name}_{dataset}_{scale}") for dataset, scale in of]
    return pd.concat([pd.DataFrame(), *(table for table in tables if table is not None)])


def _by_corpus(table: pd.DataFrame, compact: Callable) -> pd.DataFrame:
    """The table for reading, its data set and scale in front."""
    shown = compact(table)
    if len(shown):
        shown.insert(0, "corpus", (table["dataset"] + ", " + table["scale"]).tolist())
    return shown


def picture(of: Sequence[tuple[str, str]]) -> None:
    """Write `outputs/figures/answer`: log-likelihood against BLEU, a panel a (dataset, scale); and
    `within_training`: the same along every training.
    """
    frames = {f"{dataset}, {scale}": collect(find_runs(dataset, scale)) for dataset, scale in of}
    ceilings = [ceiling(Task(load_config("tr_s", *place))) for place in of]
    columns = ["dataset", "scale", "model", "train_data", "seed", "strict", "strict_error", "bleu"]
    style.save(scatter.of_corpora(frames, ceilings), "answer",
               pd.concat(frames.values())[columns])
    runs = {title: frame["run"].tolist() for title, frame in frames.items()}
    style.save(within_training.trajectories(runs), "within_training", pd.concat([
        run.read_history()[["step", "dev_ll", "dev_bleu", "kl_weight"]].assign(
            corpus=title, model=run.model, train_data=run.train_data, seed=run.seed)
        for title, of_title in runs.items() for run in of_title]))


def main() -> Path:
    """Write outputs/findings.md and the figure of all corpora; returns where the page is.

    Demonstrations are in neither where there is anything else.
    """
    path = outputs_root() / "findings.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    evidence = places(demonstrations=False)
    path.write_text(page(evidence or places()), encoding="utf-8")
    if evidence:
        picture(evidence)
    return path


if __name__ == "__main__":
    main()
