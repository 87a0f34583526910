"""Whether LL and BLEU still disagree once confidence is taken out of the likelihood (12).

A model that is too sure of itself loses log-likelihood, which its search doesn't see. At one
temperature a checkpoint, fitted on dev (`lib.evaluation.temperature`), that loss is gone, and what
is left of a disagreement isn't confidence.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.objective import resampled
from analysis.scatter import name_points
from analysis.significance import ORDERS, concordance_of
from analysis.style import family_keys, finish, key, style, text_keys
from analysis.tables import signed
from analysis.within_training import RUN
from lib.bleu import bleu, tokenizer_of
from lib.config import model_name
from lib.likelihood.accounting import likelihood_terms, ratio_of_sums
from lib.runs import CALIBRATED

__all__ = ["STATES", "calibrated_runs", "checkpoints", "checkpoints_figure", "compact", "orders",
           "what_is_left"]

STATES = ("as trained", "at its temperature")
BY = {"bleu": "best dev BLEU", "ll": "best dev LL"}


def calibrated_runs(frame: pd.DataFrame, by: str = "bleu") -> pd.DataFrame:
    """The rows of `systems.collect` whose runs have a temperature, of the best checkpoint by dev
    BLEU or of that by dev LL, too.
    """
    there = np.array([by in run.read_calibration() for run in frame["run"]], bool)
    return frame[there].reset_index(drop=True)


def checkpoints(frame: pd.DataFrame, references: Sequence[str]) -> pd.DataFrame:
    """A row a run and checkpoint: dataset, scale, model, train_data, seed, by (`bleu`, `ll`), step,
    temperature, and `bleu` and strict `ll` (nats per token), `_calibrated` at the temperature.

    frame: of `calibrated_runs`. A bound is at the K of the pass at the temperature.
    """
    rows = []
    for run, signature in zip(frame["run"], frame["signature"], strict=True):
        content = run.read_calibration()
        for by in CALIBRATED.keys() & content.keys():
            row = {name: getattr(run, name) for name in RUN} | {
                "by": by, "step": content[by]["step"], "temperature": content[by]["temperature"]}
            for calibrated, end in ((False, ""), (True, "_calibrated")):
                table = run.read_sentences(by=by, calibrated=calibrated,
                                           samples=content["samples"])
                row[f"ll{end}"], _ = ratio_of_sums(*likelihood_terms(table, "strict"))
                row[f"bleu{end}"] = bleu(table["hypothesis"].tolist(), list(references),
                                         tokenizer_of(signature))[0].score
            rows.append(row)
    columns = [*RUN, "by", "step", "temperature", "ll", "ll_calibrated", "bleu", "bleu_calibrated"]
    return pd.DataFrame(rows, columns=columns).sort_values([*RUN, "by"], ignore_index=True)


def compact(table: pd.DataFrame) -> pd.DataFrame:
    """`checkpoints` for reading."""
    return pd.DataFrame([{
        "model": model_name(row.model), "trained on": row.train_data, "seed": row.seed,
        "checkpoint": f"{BY[row.by]}, step {row.step:,}", "temperature": f"{row.temperature:.2f}",
        "LL": signed(row.ll, 3), "LL at it": signed(row.ll_calibrated, 3),
        "BLEU": signed(row.bleu, 1), "BLEU at it": signed(row.bleu_calibrated, 1)}
        for row in table.itertuples()])


def orders(frame: pd.DataFrame, references: Sequence[str]) -> pd.DataFrame:
    """How many pairs of systems LL and BLEU order alike, in both of `STATES`: a row a kind of pair
    and training data, how many have each of `significance.ORDERS`.

    frame: of `calibrated_runs`; the same pairs in both states.
    """
    rows: dict[tuple, dict] = {}
    samples = [run.read_calibration()["samples"] for run in frame["run"]]
    for state, calibrated in zip(STATES, (False, True), strict=True) if len(frame) else ():
        drawn = resampled(frame, references, calibrated=calibrated, samples=samples)
        for row in concordance_of(frame, drawn).to_dict("records"):
            key = row["kind"], row["train_data"]
            shown = rows.setdefault(key, {"kind": row["kind"], "trained on": row["train_data"],
                                          "pairs": row["pairs"]})
            shown |= {f"{order}, {state}": row[order] for order in ORDERS} | {"over": row["over"]}
    columns = ["kind", "trained on", "pairs", *(
        f"{order}, {state}" for state in STATES for order in ORDERS), "over"]
    return pd.DataFrame(rows.values(), columns=columns)


def what_is_left(counted: pd.DataFrame, trained: pd.DataFrame, calibrated: pd.DataFrame) -> str:
    """What a temperature leaves of the disagreements, in two sentences.

    counted: of `orders`. trained, calibrated: of `within_training.two_checkpoints`, either state.
    """
    within, between = [], []
    for state, table in zip(STATES, (trained, calibrated), strict=True):
        agree, apart, _ = ((table["order"] == order).sum() for order in ORDERS)
        within.append(f"agree in {agree} and disagree in {apart} {state}")
        between.append(f"{counted[f'disagree, {state}'].sum():.0f} {state}")
    kept = "No training here kept two checkpoints of different steps." if trained.empty else (
        f"Of {len(trained)} training{'s' * (len(trained) > 1)} with two checkpoints, the best by "
        f"dev LL and the best by dev BLEU, test LL and BLEU {', '.join(within)}.")
    return (f"{kept} Of {counted['pairs'].sum():.0f} pairs of systems LL and BLEU disagree in "
            f"{', '.join(between)}.")


def checkpoints_figure(table: pd.DataFrame) -> Figure:
    """BLEU against LL of every checkpoint, as trained and at its temperature: a line from the best
    by dev LL (small) to the best by dev BLEU, filled for raw and hollow for distilled text.

    table: of `checkpoints`.
    """
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    panels, named = figure.subplots(1, 2, sharex=True, sharey=True), []
    for axes, state, end in zip(panels, STATES, ("", "_calibrated"), strict=True):
        for _, run in table.groupby(RUN, sort=False):
            _line(axes, run, f"ll{end}", f"bleu{end}")
        best = table[table["by"] == "bleu"].sort_values("train_data", ascending=False)
        named.append((axes, best.reset_index(drop=True), f"ll{end}", f"bleu{end}"))
        axes.set_title(state, loc="left")
        finish(axes, "LL, strict (nats per token), better →",
               "BLEU (0 to 100), better →" if axes is panels[0] else "")
        axes.margins(x=0.14, y=0.12)
    keys = text_keys(table["train_data"])
    if (table["by"] == "ll").any():
        keys.append(key("from the best dev LL", ms=3, ls="-"))
    figure.legend(handles=[*family_keys(table["model"]), *keys], fontsize=9, frameon=False,
                  loc="outside right upper", handletextpad=0.4)
    name_points(figure, named, ("model", "train_data"))
    return figure


def _line(axes: Axes, run: pd.DataFrame, *columns: str) -> None:
    """One run's checkpoints, the best by dev LL first."""
    model, data = run[["model", "train_data"]].iloc[0]
    colour, marker = style(model)
    fill = "white" if data == "distilled" else colour
    x, y = run.sort_values("by", ascending=False)[list(columns)].to_numpy().T
    axes.plot(x, y, color=colour, lw=1.2, alpha=0.7, zorder=1)
    axes.plot(x[:-1], y[:-1], marker, color=colour, ms=3, zorder=2)
    axes.plot(x[-1], y[-1], marker, color=colour, mfc=fill, mew=1.5, ms=8, zorder=3)
