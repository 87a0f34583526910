"""Log-likelihood against BLEU along one training, from checkpoint to checkpoint (Table 2)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.correlation import RUN_COLUMNS, correlate, pearson
from lib.bleu import resample_weights
from lib.runs import RunFolder, find_runs
from lib.training.history import Validations

__all__ = ["across_checkpoints"]


def across_checkpoints(runs: Iterable[RunFolder] | None = None, *, resamples: int = 1000,
                       ) -> pd.DataFrame:
    """For each run, dev log-likelihood against dev BLEU over its checkpoints.

    One row a run: dataset, scale, model, family, train_data, seed, the fields of `Correlation`
    over the rows of history.csv at full KL weight (`dev_ll` in nats per token, strict accounting),
    and `pearson_changes`, Pearson's r of the changes from each checkpoint to the next, which a
    trend that both share doesn't raise, with its interval `_low` to `_high`. While the KL weight
    rises, a latent model's objective is another one, and its likelihood rises with it alone.
    Intervals are over resampled dev sentences, the same at every checkpoint, NaN for a run without
    validations.npz; checkpoints of one run aren't independent, so the p-value is a description, not
    a test.
    """
    rows = []
    for run in find_runs() if runs is None else runs:
        history = run.read_history().dropna(subset=["dev_ll", "dev_bleu"])
        if "kl_weight" in history:
            history = history[history["kl_weight"] == history["kl_weight"].max()]
        ll, bleu = history["dev_ll"].to_numpy(), history["dev_bleu"].to_numpy()
        drawn = _resampled(run.validations, history["step"].tolist(), resamples)
        found = asdict(correlate(ll, bleu, resampled=drawn))
        found |= {"pearson_changes": float(pearson(np.diff(ll), np.diff(bleu))),
                  "pearson_changes_low": math.nan, "pearson_changes_high": math.nan}
        if drawn is not None and not math.isnan(found["pearson_changes"]):
            changes = pearson(*(np.diff(values, axis=1) for values in drawn))
            found["pearson_changes_low"], found["pearson_changes_high"] = np.nanquantile(
                changes, [0.025, 0.975])
        rows.append({name: getattr(run.read_metrics(), name) for name in RUN_COLUMNS[:-1]} | found)
    return pd.DataFrame(rows)


def _resampled(file: Path, steps: Sequence[int], resamples: int,
               ) -> tuple[np.ndarray, np.ndarray] | None:
    """Dev LL and BLEU after these steps, each [resamples, steps]; None where none were kept."""
    if not file.exists():
        return None
    kept = Validations.read(file).at(steps)
    return kept.resampled(resample_weights(len(kept.tokens), resamples))
