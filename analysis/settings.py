"""BLEU of evaluated latent models by decoding setting, and gains of refinement (findings 4 and 5).
"""

import functools
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.systems import collect, model_order
from analysis.training_variance import Difference, spreads, widened
from lib.bleu import TAILS, bleu_from_counts, resample_weights
from lib.config import LATENT
from lib.runs import RunFolder, find_runs

__all__ = ["difference", "scores"]

NUMBERS = ["value", "low", "high"]


def scores(dataset: str, scale: str, setting: str, base: str = "") -> pd.DataFrame:
    """BLEU of `setting`, or its gain over `base` (the first setting of a run), a row a latent
    system: model, family, train_data, value (the mean over seeds), low and high (over sentences),
    drawn (the value on each resample of the test sentences, None where a run doesn't keep BLEU's
    counts), training (its `Spread` or None), lines of the test set.
    """
    rows = []
    for run in collect(find_runs(dataset, scale))["run"]:
        metrics = run.read_metrics()
        if metrics.family in LATENT and {setting, base} - {""} <= set(metrics.bleu):
            score = metrics.bleu[setting]
            rows.append((run.model, metrics.family, run.train_data, *(
                (score.score - metrics.bleu[base].score, score.gain_low, score.gain_high)
                if base else (score.score, score.score_low, score.score_high)),
                _drawn(run, setting, base), metrics.test_set.lines))
    keys = ["model", "family", "train_data"]
    table = pd.DataFrame(rows, columns=[*keys, *NUMBERS, "drawn", "lines"])
    systems = []
    for key, runs in table.groupby(keys, sort=False):
        drawn = None if runs["drawn"].isna().any() else np.mean(np.stack(runs["drawn"]), axis=0)
        systems.append((*key, *runs[NUMBERS].mean(skipna=False), drawn, runs["lines"].iloc[0],
                        runs["value"].tolist()))
    table = pd.DataFrame(systems, columns=[*table.columns, "seeds"])
    table["training"] = pd.Series(spreads(table.pop("seeds"), [
        ("", row.train_data, row.family, row.model) for row in table.itertuples()]), dtype=object)
    table = table.sort_values("train_data", ascending=False, kind="stable")  # raw first
    return table.loc[model_order(table["model"]).sort_values(kind="stable").index]


def _drawn(run: RunFolder, setting: str, base: str) -> np.ndarray | None:
    """The value on each resample; the draws of all runs of one test set are the same."""
    kept = run.bleu_counts
    drawn = _resampled(run, (kept, kept.stat().st_mtime_ns)) if kept.exists() else {}
    if not {setting, base} - {""} <= set(drawn):
        return None
    return drawn[setting] - drawn[base] if base else drawn[setting]


@functools.lru_cache(maxsize=256)  # several findings ask for the same
def _resampled(run: RunFolder, _state: tuple[Path, int]) -> dict[str, np.ndarray]:
    """BLEU of each decoding setting on each resample."""
    counts = run.read_bleu_counts()
    weights = resample_weights(len(next(iter(counts.values()))))
    summed = weights @ np.concatenate(list(counts.values()), axis=1).astype(np.float64)
    return {setting: bleu_from_counts(part) for setting, part in zip(
        counts, np.split(summed, len(counts), axis=1), strict=True)}


def difference(ours: pd.DataFrame, theirs: pd.DataFrame | None = None) -> Difference:
    """Mean of some systems of `scores` minus that of others, if there are any.

    Where a run doesn't keep BLEU's counts, as if the systems were independent over sentences.
    """
    rows = ours.assign(weight=1 / len(ours))
    if theirs is not None:
        rows = pd.concat([rows, theirs.assign(weight=-1 / len(theirs))])
    weights = rows["weight"].to_numpy()
    value = float(weights @ rows["value"])
    if rows["drawn"].notna().all():
        ends = np.quantile(weights @ np.stack(rows["drawn"]), TAILS)
    elif len(rows) == 1:  # an interval alone keeps its own two ends
        ends = rows[["low", "high"]].iloc[0]
    else:
        half = np.linalg.norm(weights * (rows["high"] - rows["low"]) / 2)
        ends = value - half, value + half
    return widened(value, *map(float, ends), list(zip(weights, rows["training"], strict=True)),
                    int(rows["lines"].iloc[0]))
