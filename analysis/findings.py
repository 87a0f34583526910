"""Whether the paper's five findings hold here, each with its numbers, from files of results alone.

This page is built from the pairs of models that notebooks/05_correlation.ipynb compares
(outputs/tables/significance_*), the run folders' metrics.json, and the speeds that
notebooks/08_speed.ipynb measures (outputs/tables/table4_*). A difference counts only where its 95%
interval leaves zero out: "yes" after it is as the finding claims, "no" the opposite. A part of a
claim that is about several models or pairs is decided only where more than half of them are. A
claim holds where each part does, holds in part where one does and another fails, and does not hold
where one fails and none holds. LL is counted in three ways: strict, the whole string with its
length; paper, given the length, a mean over padded tokens; released, as its code estimates it.
Where a cell is empty, another model is the best of its family under that count. Beside what is
undecided stands what would decide it four times in five, if the true difference is the one that was
measured (where LL and BLEU are both undecided, each of them): seeds a system, at the training
variance that is known, or test sentences. `python -m analysis.findings` writes outputs/findings.md.
"""

from collections.abc import Callable, Iterable, Sequence

import pandas as pd
from IPython.display import Markdown

from analysis import (
    calibration,
    objective,
    published,
    refinement_table,
    scatter,
    style,
    tables,
    two_sided,
    within_training,
)
from analysis.data import ceiling
from analysis.kinds import KINDS
from analysis.published import FINDINGS
from analysis.significance import MULTIPLICITY, SHOWN
from analysis.systems import collect
from analysis.tables import MISSING, interval, markdown
from analysis.verdicts import Verdict, verdicts
from lib.config import load_config
from lib.paths import outputs_root
from lib.runs import find_runs
from lib.task import Task

__all__ = ["answer", "evidence_table", "main", "overview", "page", "picture", "places",
           "places_of", "show"]

DEMONSTRATION = "smoke"  # a scale that is no evidence
SAME = "the same"


def places(*, demonstrations: bool = True) -> list[tuple[str, str]]:
    """Every (dataset, scale) whose models were compared; scale `smoke` is a demonstration."""
    compared = sorted(tuple(path.stem.removeprefix("significance_").rpartition("_")[::2])
                      for path in (outputs_root() / "tables").glob("significance_*.csv"))
    return [place for place in compared if demonstrations or place[1] != DEMONSTRATION]


def places_of(outcomes: Iterable[Verdict]) -> list[tuple[str, str]]:
    """Every (dataset, scale) that these verdicts are of."""
    return list(dict.fromkeys((verdict.dataset, verdict.scale) for verdict in outcomes))


def answer(of: Iterable[tuple[str, str]], name: str = "concordance",
           accountings: Sequence[str] = SHOWN) -> pd.DataFrame:
    """How many pairs of models log-likelihood and BLEU order alike / the other way round / leave
    undecided: a row a corpus and accounting, a column a kind of pair that there is.

    name: of the tables of `significance.concordance`.
    """
    rows = []
    for dataset, scale in of:
        summary = tables.read(f"{name}_{dataset}_{scale}")
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


def show(dataset: str, scale: str, *numbers: int) -> Markdown:
    """Findings with their verdicts on one corpus, for a notebook that was run on it."""
    table = overview(verdicts((dataset, scale))).iloc[[number - 1 for number in numbers]]
    return Markdown(markdown(table) + "\nThe numbers behind them, and other corpora: "
                    "[outputs/findings.md](../outputs/findings.md).")


def page(outcomes: Sequence[Verdict]) -> str:
    """outputs/findings.md: a section a finding, with what the paper's own tables show."""
    of = places_of(outcomes)
    parts = ["# The paper's findings, tested here", __doc__.split("\n\n")[1].replace("\n", " "),
             f"Scale `{DEMONSTRATION}` is a demonstration, too short for evidence, and isn't here. "
             f"{MULTIPLICITY} {published.CAVEAT}", markdown(overview(outcomes))]
    for finding in FINDINGS:
        parts += [f"## {finding.number}. {finding.claim}", f"The paper's {finding.place}, counted:",
                  markdown(published.counted(finding.number))]
        table = evidence_table(finding.number, outcomes)
        parts += ["Here:", markdown(table)] if len(table) else []
        steps = _refined(of) if finding.number == 4 else pd.DataFrame()
        parts += ["BLEU of every latent model and its gain after k steps, with intervals over "
                  "sentences and training:",
                  markdown(refinement_table.compact_steps(steps))] if len(steps) else []
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
    if len(ranks := _other_side(of)):
        parts += ["## The other side of the divergence",
                  "Where the truth p\\* is known (notebooks/11_two_sided.ipynb): how each measure "
                  "of a model m ranks the models of one text and seed as BLEU does, by Spearman's "
                  "ρ, with intervals over test sentences.", markdown(two_sided.compact(ranks))]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _refined(of: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """`refinement_table.by_steps` of every (dataset, scale), one below another."""
    return pd.concat([pd.DataFrame(), *(refinement_table.by_steps(*place) for place in of)])


def _joined(name: str, of: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """The tables of that name of every (dataset, scale), one below another."""
    there = [tables.read(f"{name}_{dataset}_{scale}") for dataset, scale in of]
    return pd.concat([pd.DataFrame(), *(table for table in there if table is not None)])


def _other_side(of: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """The tables of `two_sided.correlations` of every text and seed, raw text first."""
    names = [path.stem for dataset, scale in of for path in sorted(
        (outputs_root() / "tables").glob(f"two_sided_ranks_{dataset}_{scale}*.csv"))]
    if not names:
        return pd.DataFrame()
    joined = pd.concat(map(tables.read, names), ignore_index=True)
    return joined.sort_values("train_data", ascending=False, kind="stable")


def _by_corpus(table: pd.DataFrame, compact: Callable) -> pd.DataFrame:
    """The table for reading, its data set and scale in front."""
    shown = compact(table)
    if len(shown):
        shown.insert(0, "corpus", (table["dataset"] + ", " + table["scale"]).tolist())
    return shown


def picture(of: Sequence[tuple[str, str]]) -> None:
    """Write `outputs/figures/answer`: log-likelihood against BLEU, a panel a (dataset, scale); and
    `within_training`: the same along every training; `refinement_steps`: what each step gains;
    `two_sided_trainings`: which measures rank models as BLEU does.
    """
    frames = {f"{dataset}, {scale}": collect(find_runs(dataset, scale)) for dataset, scale in of}
    ceilings = [ceiling(Task(load_config("tr_s", *place))) for place in of]
    columns = ["dataset", "scale", "model", "train_data", "seed", "strict", "strict_error", "bleu"]
    style.save(scatter.of_corpora(frames, ceilings), "answer",
               pd.concat(frames.values())[columns])
    runs = {}  # texts of a synthetic corpus are too far from one another for one panel
    for (title, frame), known in zip(frames.items(), ceilings, strict=True):
        parts = {f"{title}: trained on {text} text": frame[frame["train_data"] == text]
                 for text in ("raw", "distilled")} if known else {title: frame}
        runs |= {name: part["run"].tolist() for name, part in parts.items() if len(part)}
    style.save(within_training.trajectories(runs), "within_training", pd.concat([
        run.read_history()[["step", "dev_ll", "dev_bleu", "kl_weight"]].assign(
            corpus=f"{run.dataset}, {run.scale}", model=run.model, train_data=run.train_data,
            seed=run.seed)
        for of_title in runs.values() for run in of_title]))
    if len(steps := _refined(of)):
        style.save(refinement_table.steps_figure(steps), "refinement_steps", steps)
    if len(ranks := _other_side(of)):
        style.save(two_sided.trainings_figure(ranks), "two_sided_trainings", ranks)


def main() -> list[Verdict]:
    """Write outputs/findings.md and the figure of all corpora; returns the verdicts.

    Demonstrations are in neither where there is anything else.
    """
    path = outputs_root() / "findings.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    evidence = places(demonstrations=False)
    outcomes = verdicts(*(evidence or places()))
    path.write_text(page(outcomes), encoding="utf-8")
    if evidence:
        picture(evidence)
    return outcomes


if __name__ == "__main__":
    main()
