"""Within one training: whether the checkpoint with the better likelihood translates better.

The paper asks it by a correlation over all checkpoints (Table 2). Here both that and every pair of
checkpoints are looked at apart for those up to the best dev likelihood and those from it on, where
likelihood falls. Last, what choosing the checkpoint by likelihood changes on the test set.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.correlation import correlate, estimate, pearson
from analysis.resampling import bootstrap
from analysis.significance import ORDERS, concordance, concordance_of, order_of, pairs
from analysis.style import (
    LABELS,
    PALE,
    family_keys,
    finish,
    key,
    panels,
    size_keys,
    style,
    text_keys,
)
from analysis.systems import MEAN
from analysis.tables import MISSING, difference, signed
from lib.bleu import RESAMPLES, TAILS, resample_weights, tokenizer_of
from lib.config import family_of, model_name
from lib.runs import RunFolder, at_full_kl
from lib.training.history import Validations

__all__ = ["PHASES", "RUN", "across_checkpoints", "at_best_ll", "checkpoint_pairs",
           "compact_checkpoints", "compact_correlations", "compact_phases", "count_orders",
           "count_phases", "trajectories", "two_checkpoints"]

PHASES = ("rising", "falling")
"""Both checkpoints up to the step of the best dev LL; both from it on."""
SIDES = {PHASES[0]: "up to the best dev LL", PHASES[1]: "from the best dev LL on",
         "across": "one on each side of it"}
"""Where the checkpoints of a pair lie."""
RUN = ["dataset", "scale", "model", "train_data", "seed"]
COUNTS = [f"{side}_{order}" for side in SIDES for order in ORDERS]
TWO = [*RUN, "bleu_step", "ll_step", *(f"{name}{end}" for name in ("bleu", "ll") for end in (
    "", "_delta", "_low", "_high")), "order"]


# ---- all checkpoints of a run together ----

def across_checkpoints(runs: Iterable[RunFolder]) -> pd.DataFrame:
    """For each run, dev log-likelihood against dev BLEU over its checkpoints.

    One row a run: dataset, scale, model, family, train_data, seed, what `correlate` gives over the
    rows of history.csv at full KL weight (before that a latent model's objective is another one),
    `pearson_changes`, Pearson's r of the changes from each checkpoint to the next, which a common
    trend doesn't raise, and r in each of `PHASES`, `pearson_<phase>`. Intervals are over resampled
    dev sentences, NaN for a run without validations.npz; checkpoints of one run aren't independent,
    so they describe and test nothing.
    """
    rows = []
    for run in runs:
        history, drawn = _validations(run, RESAMPLES)
        dev = history[["dev_ll", "dev_bleu"]].to_numpy().T
        changes = None if drawn is None else tuple(np.diff(values, axis=1) for values in drawn)
        rows.append({"dataset": run.dataset, "scale": run.scale, "model": run.model,
                     "family": family_of(run.model), "train_data": run.train_data,
                     "seed": run.seed} | correlate(*dev, resampled=drawn)
                    | estimate("pearson_changes", pearson, *np.diff(dev), changes))
        peak = int(dev[0].argmax()) if len(history) else 0
        for phase, part in zip(PHASES, (slice(peak + 1), slice(peak, None)), strict=True):
            rows[-1] |= estimate(f"pearson_{phase}", pearson, *dev[:, part], None if drawn is None
                                 else tuple(values[:, part] for values in drawn))
    return pd.DataFrame(rows)


def compact_correlations(table: pd.DataFrame) -> pd.DataFrame:
    """`tables.table2` for reading: a row a kind of run, the least and the largest r of its
    trainings over all checkpoints and in each of `PHASES`, with how many have an r there.
    """
    columns = {"pearson": "r over all checkpoints", "pearson_rising": "r up to the best dev LL",
               "pearson_falling": "r from the best dev LL on"}
    rows = []
    each = table[table["seed"] != MEAN] if len(table) else table
    keys = ["dataset", "scale", "train_data"]
    for group, of in each.groupby(keys, sort=False) if len(each) else ():
        row = dict(zip(keys, group, strict=True))
        for name, label in columns.items():
            known = of[name].dropna()
            row[label] = (f"{signed(known.min(), 2)} to {signed(known.max(), 2)} ({len(known)})"
                          if len(known) else MISSING)
        rows.append(row)
    return pd.DataFrame(rows)


def _validations(run: RunFolder, resamples: int = 0,
                 ) -> tuple[pd.DataFrame, tuple[np.ndarray, np.ndarray] | None]:
    """The rows of history.csv that are compared: with both numbers, at full KL weight; and dev LL
    and BLEU after these steps, each [resamples, steps], None where no sentences were kept.
    """
    history = at_full_kl(run.read_history().dropna(subset=["dev_ll", "dev_bleu"]))
    if not resamples or not run.validations.exists():
        return history, None
    kept = Validations.read(run.validations).at(history["step"].tolist())
    return history, kept.resampled(resample_weights(len(kept.tokens), resamples))


# ---- every pair of checkpoints ----

def checkpoint_pairs(runs: Iterable[RunFolder]) -> pd.DataFrame:
    """How dev LL and dev BLEU order the checkpoints of each run, two at a time.

    One row a run that kept its dev sentences: dataset, scale, model, train_data, seed, checkpoints
    (at full KL weight, how many), peak (the step of the best dev LL), and for each of `SIDES` how
    many pairs `<side>_agree`, `_disagree` and `_undecided`, by intervals over the same resamples
    of the dev sentences. From the peak on LL falls by definition; whether BLEU falls with it isn't
    chosen.
    """
    rows = []
    for run in runs:
        history, drawn = _validations(run, RESAMPLES)
        if drawn is None:
            continue
        peak = int(history["dev_ll"].to_numpy().argmax())
        row = {name: getattr(run, name) for name in RUN} | {
            "checkpoints": len(history), "peak": int(history["step"].iloc[peak])}
        row |= dict.fromkeys(COUNTS, 0)
        for first, second in combinations(range(len(history)), 2):
            side = "across" if first < peak < second else PHASES[first >= peak]
            ll, bleu = (np.quantile(values[:, second] - values[:, first], TAILS).tolist()
                        for values in drawn)
            row[f"{side}_{order_of(bleu, ll)}"] += 1
        rows.append(row)
    return pd.DataFrame(rows, columns=[*RUN, "checkpoints", "peak", *COUNTS])


def count_phases(table: pd.DataFrame) -> str:
    """`checkpoint_pairs` in a sentence."""
    if table.empty:
        return "No run here kept the dev sentences of its checkpoints."
    words = []
    for side, where in SIDES.items():
        agree, disagree, undecided = (int(table[f"{side}_{order}"].sum()) for order in ORDERS)
        words.append(f"{where} LL and BLEU agree in {agree:,} of "
                     f"{agree + undecided + disagree:,} pairs and disagree in {disagree:,}")
    return (f"Of the checkpoints of {len(table)} trainings, two of one training at a time: "
            f"{'; '.join(words)} (on the dev set, with intervals over its sentences).")


def compact_phases(table: pd.DataFrame, by: Sequence[str] = ("model", "train_data"),
                   ) -> pd.DataFrame:
    """`checkpoint_pairs` for reading: a row a kind of run, whose pairs are added up."""
    rows = []
    for group, of in table.groupby(list(by), sort=False) if len(table) else ():
        row = dict(zip(by, group, strict=True)) | ({} if "seed" in by else {"trainings": len(of)})
        for side, where in SIDES.items():
            row[f"agree / disagree / undecided {where}"] = " / ".join(
                f"{of[f'{side}_{order}'].sum():,}" for order in ORDERS)
        rows.append(row)
    return pd.DataFrame(rows)


def trajectories(runs: Mapping[str, Sequence[RunFolder]]) -> Figure:
    """Dev BLEU against dev LL along each training, a panel a title: from a run's first checkpoint
    at full KL weight to its last (marker), filled for raw, hollow for distilled text; a cross
    where dev LL is best. Of several seeds the first is drawn so, the others pale.
    """
    figure, cells, place = panels(len(runs))
    keys = [key("best dev LL", marker="x"), key("last checkpoint:", marker="")]
    for axes, (title, of) in zip(cells, runs.items(), strict=True):
        drawn = set()
        for run in sorted(of, key=lambda run: run.seed):
            points, _ = _validations(run)
            points, system = points[["dev_ll", "dev_bleu"]], (run.model, run.train_data)
            colour, marker = style(run.model)
            dash, fill = ("--", "white") if run.train_data == "distilled" else ("-", colour)
            if system in drawn:
                axes.plot(*points.to_numpy().T, color=colour, lw=0.7, ls=dash, **PALE)
                continue
            drawn.add(system)
            axes.plot(*points.to_numpy().T, color=colour, lw=1.2, ls=dash)
            axes.plot(*points.loc[points["dev_ll"].idxmax()], "x", color=colour, ms=5)
            axes.plot(*points.iloc[-1], marker, color=colour, ms=6, mfc=fill)
        finish(axes, LABELS["dev_ll"], LABELS["dev_bleu"])
        axes.set_title(title)
    shown = [run for of in runs.values() for run in of]
    if any(line.get_alpha() for axes in cells for line in axes.lines):
        keys.insert(0, key("another seed", marker="", ls="-", lw=0.7, **PALE))
    figure.legend(handles=[*family_keys(run.model for run in shown),
                           *text_keys((run.train_data for run in shown), lines=True), *keys,
                           *size_keys(run.model for run in shown)], **place)
    return figure


# ---- the two best checkpoints, on the test set ----

def two_checkpoints(runs: pd.DataFrame, references: Sequence[str], *, calibrated: bool = False,
                    ) -> pd.DataFrame:
    """What the checkpoint with the best dev LL has above that with the best dev BLEU, a row a run
    whose two are of different steps and that scored both: `TWO`.

    runs: `systems.collect`'s rows of one data set. BLEU (the headline's) and strict LL are of the
    checkpoint with the best dev BLEU. Intervals: 95% percentiles over paired resamples of the test
    sentences, of LL wider by what the last tenfold of importance samples raised each bound;
    training isn't in them. `order`: of `significance.ORDERS`. calibrated: of each checkpoint at
    its temperature (`lib.evaluation.temperature`).
    """
    rows = []
    for run in runs["run"]:
        metrics = run.read_metrics()
        if "bleu" not in metrics.best_ll or not run.sentences_ll.exists():
            continue
        tables = [run.read_sentences(by=by, calibrated=calibrated) for by in ("bleu", "ll")]
        drawn = bootstrap(tables, references, "strict",
                          tokenizer=tokenizer_of(metrics.own.signature))["strict"]
        row = {name: getattr(run, name) for name in RUN} | {
            "bleu_step": metrics.step, "ll_step": metrics.best_ll["step"]}
        ends = []
        for name, values, resampled, slack in (
                ("bleu", drawn.bleu, drawn.bleu_resampled, (0.0, 0.0)),
                ("ll", drawn.likelihood, drawn.likelihood_resampled, drawn.slack)):
            low, high = np.quantile(np.diff(resampled)[:, 0], TAILS)
            ends.append((low - slack[0], high + slack[1]))
            row |= {name: values[0], f"{name}_delta": values[1] - values[0],
                    f"{name}_low": ends[-1][0], f"{name}_high": ends[-1][1]}
        rows.append(row | {"order": order_of(*ends)})
    return pd.DataFrame(rows, columns=TWO)


def at_best_ll(runs: pd.DataFrame, references: Sequence[str]) -> pd.DataFrame:
    """`significance.concordance` of the pairs of systems, by strict LL, where every run is scored
    at its checkpoint with the best dev LL; without runs that kept none of it.

    runs: `systems.collect`'s rows of one data set.
    """
    by = [_file_of_best_ll(run) for run in runs["run"]]
    runs = runs[np.array([bool(name) for name in by], bool)].reset_index(drop=True)
    if runs.empty:
        return concordance(pairs(runs, {}))
    drawn = bootstrap([run.read_sentences(by=name) for run, name in zip(
        runs["run"], filter(None, by), strict=True)], references, "strict",
        tokenizer=tokenizer_of(runs["signature"].iloc[0]))["strict"]
    return concordance_of(runs, drawn)


def _file_of_best_ll(run: RunFolder) -> str:
    """By which choice `read_sentences` gives the checkpoint with the best dev LL, "" for none."""
    dev, metrics = at_full_kl(run.read_history().dropna(subset=["dev_ll"])), run.read_metrics()
    best = dev["step"][dev["dev_ll"].idxmax()]
    if best == metrics.step:
        return "bleu"
    return "ll" if best == metrics.best_ll.get("step") and run.sentences_ll.exists() else ""


def count_orders(table: pd.DataFrame) -> str:
    """`two_checkpoints` in a sentence."""
    if table.empty:
        return "No run here kept two checkpoints of different steps."
    counts = [int((table["order"] == kind).sum()) for kind in ORDERS]
    worse = int((table["bleu_delta"] < 0).sum())
    return (f"Of {len(table)} trainings whose two best checkpoints differ, the one with the better "
            f"dev LL has the lower test BLEU in {worse}; with intervals (over test sentences) LL "
            f"and BLEU agree in {counts[0]}, disagree in {counts[1]}, and {counts[2]} are "
            "undecided.")


def compact_checkpoints(table: pd.DataFrame) -> pd.DataFrame:
    """`two_checkpoints` for reading."""
    return pd.DataFrame([{
        "model": model_name(row["model"]), "train data": row["train_data"], "seed": row["seed"],
        "step of best dev BLEU": f"{row['bleu_step']:,}",
        "step of best dev LL": f"{row['ll_step']:,}",
        "BLEU, LL at the first": f"{row['bleu']:.1f}, {signed(row['ll'], 3)}",
        "BLEU of the second above it": difference(row, "bleu"),
        "LL of the second above it": difference(row, "ll", 3),
        "order": row["order"]} for row in table.to_dict("records")])
