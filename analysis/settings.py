"""BLEU of evaluated latent models by decoding setting, and gains of refinement, from files alone.

What a run's headline is not, findings 4 and 5 compare: BLEU after one step, or what four steps
gain. Differences are on the same resamples of the test sentences, and over training as
`analysis.training_variance` has it.
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.significance import widened
from analysis.systems import collect, model_order
from analysis.training_variance import half_width, needed, over, spreads
from lib.bleu import TAILS, bleu_from_counts, resample_weights
from lib.config import LATENT
from lib.runs import RunFolder, find_runs

__all__ = ["Difference", "difference", "scores"]

RESAMPLES = 1000
COLUMNS = ["model", "family", "train_data", "value", "low", "high", "drawn", "training", "lines"]


class Difference(NamedTuple):
    """A value with its 95% interval, what it is over, and what would decide it (`needed`)."""

    value: float
    low: float
    high: float
    over: str
    seeds: float
    sentences: float


def scores(dataset: str, scale: str, setting: str, base: str = "") -> pd.DataFrame:
    """BLEU of `setting`, or its gain over `base` (the first setting of a run), a row a latent
    system: model, family, train_data, value (the mean over seeds), low and high (over sentences),
    drawn (the value on each resample of the test sentences, None where a run doesn't keep BLEU's
    counts), training (its `Spread` or None), lines of the test set.
    """
    parts: dict[tuple, list] = {}
    for run in collect(find_runs(dataset, scale))["run"]:
        metrics = run.read_metrics()
        if metrics.family in LATENT and {setting, base} - {""} <= set(metrics.bleu):
            found = metrics.bleu[setting]
            numbers = (found.score - metrics.bleu[base].score, found.gain_low, found.gain_high) \
                if base else (found.score, found.score_low, found.score_high)
            parts.setdefault((run.model, metrics.family, run.train_data), []).append(
                (*numbers, _drawn(run, setting, base), metrics.test_set.lines))
    training = spreads([[row[0] for row in rows] for rows in parts.values()],
                       [key[1] for key in parts], [key[2] for key in parts])
    table = pd.DataFrame([
        (*key, *np.mean([row[:3] for row in rows], axis=0),
         None if any(row[3] is None for row in rows) else np.mean([row[3] for row in rows], axis=0),
         spread, rows[0][4]) for (key, rows), spread in zip(parts.items(), training, strict=True)],
        columns=COLUMNS)
    return table.loc[model_order(table["model"]).sort_values(kind="stable").index]


def _drawn(run: RunFolder, setting: str, base: str) -> np.ndarray | None:
    """The value on each resample; the draws of all runs of one test set are the same."""
    counts = run.read_bleu_counts()
    if not {setting, base} - {""} <= set(counts):
        return None
    weights = resample_weights(len(counts[setting]), RESAMPLES)
    values = bleu_from_counts(weights @ counts[setting])
    return values - bleu_from_counts(weights @ counts[base]) if base else values


def difference(ours: pd.DataFrame, theirs: pd.DataFrame | None = None) -> Difference:
    """Mean of some systems of `scores` minus that of others, if there are any.

    Where a run doesn't keep BLEU's counts, as if the systems were independent over sentences.
    """
    groups = [(1.0, ours)] if theirs is None else [(1.0, ours), (-1.0, theirs)]
    rows = pd.concat([group.assign(weight=sign / len(group)) for sign, group in groups])
    weights = rows["weight"].to_numpy()
    value = float(weights @ rows["value"])
    if rows["drawn"].isna().any():
        # an interval alone keeps its own two ends
        ends = (rows["low"].iloc[0], rows["high"].iloc[0]) if len(rows) == 1 else (
            value + side * np.linalg.norm(weights * (rows["high"] - rows["low"]) / 2)
            for side in (-1, 1))
    else:
        ends = np.quantile(weights @ np.stack(rows["drawn"]), TAILS)
    parts = list(zip(weights, rows["training"], strict=True))
    training = half_width(parts)
    below, above = map(float, ends)
    low, high = widened(value, below, above, training)
    wanted = math.nan, math.nan
    if low <= 0 <= high:
        wanted = needed(abs(value), max(0.0, value - below if value > 0 else above - value),
                        int(rows["lines"].iloc[0]), parts)
    return Difference(value, low, high, over(training), *wanted)
