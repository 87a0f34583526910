"""Log-likelihood against BLEU along one training, from checkpoint to checkpoint (Table 2).

Dev BLEU and dev log-likelihood are functions of sums over sentences. A run keeps the summands of
every validation in `validations.npz`, so that both can be resampled at all of its checkpoints on
the same dev sentences.
"""

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Num

from lib.correlation import correlate, find_runs, pearson, read_metrics
from lib.correlation.resampling import bleu_from_counts, resample_weights
from lib.errors import DataError
from lib.paths import write_bytes

__all__ = ["Validations", "across_checkpoints"]


@dataclass(frozen=True)
class Validations:
    """Every validation of a run, sentence by sentence, in the dev set's order.

    steps: [validations], after which optimiser steps.
    tokens: [sentences], target subwords with one EOS.
    log_prob: [validations, sentences], nats: log p(y, T|x), exact or the bound that dev_ll sums.
    counts: [validations, sentences, 10], `correlation.resampling.bleu_statistics`.
    """

    steps: Int[np.ndarray, " validations"]
    tokens: Int[np.ndarray, " sentences"]
    log_prob: Float[np.ndarray, "validations sentences"]
    counts: Int[np.ndarray, "validations sentences 10"]

    def write(self, path: Path) -> None:
        """Write the file; the same bytes for the same numbers (log_prob to seven digits)."""
        content = io.BytesIO()
        np.savez_compressed(
            content, steps=self.steps.astype(np.int32), tokens=self.tokens.astype(np.int32),
            log_prob=self.log_prob.astype(np.float32), counts=self.counts.astype(np.uint16))
        write_bytes(path, content.getvalue())

    @classmethod
    def read(cls, path: Path) -> "Validations":
        """What `write` wrote; DataError where it is missing or damaged."""
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in ("steps", "tokens", "log_prob", "counts")}
        except (OSError, BadZipFile, KeyError, ValueError) as error:
            raise DataError(f"{path} is missing or damaged ({error}): train the run again with "
                            "notebooks/02_train.ipynb") from error
        return cls(**{name: values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
                      for name, values in found.items()})

    def at(self, steps: Sequence[int]) -> "Validations":
        """The validations after these steps, in that order; DataError where one isn't there."""
        place = {int(step): row for row, step in enumerate(self.steps)}
        missing = [step for step in steps if step not in place]
        if missing:
            raise DataError(f"validations.npz has no validation after step {missing[0]}")
        rows = [place[step] for step in steps]
        return Validations(self.steps[rows], self.tokens, self.log_prob[rows], self.counts[rows])

    def resampled(self, weights: Num[np.ndarray, "resamples sentences"],
                  ) -> tuple[Float[np.ndarray, "resamples validations"],
                             Float[np.ndarray, "resamples validations"]]:
        """Dev LL (strict, nats per token) and dev BLEU of each resample of the dev sentences."""
        ll = (weights @ self.log_prob.T) / (weights @ self.tokens)[:, None]
        summed = np.einsum("rs,vsc->rvc", weights, self.counts, optimize=True)
        return ll, bleu_from_counts(summed)


def across_checkpoints(runs: Iterable[Path] | None = None, *, resamples: int = 1000,
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
    for run in map(Path, find_runs() if runs is None else runs):
        metrics, file = read_metrics(run), run / "history.csv"
        if not file.is_file():
            raise DataError(f"{file} is missing: train the model with notebooks/02_train.ipynb")
        history = pd.read_csv(file).dropna(subset=["dev_ll", "dev_bleu"])
        if "kl_weight" in history:
            history = history[history["kl_weight"] == history["kl_weight"].max()]
        ll, bleu = history["dev_ll"].to_numpy(), history["dev_bleu"].to_numpy()
        drawn = _resampled(run / "validations.npz", history["step"].tolist(), resamples)
        found = asdict(correlate(ll, bleu, resampled=drawn))
        found |= {"pearson_changes": float(pearson(np.diff(ll), np.diff(bleu))),
                  "pearson_changes_low": math.nan, "pearson_changes_high": math.nan}
        if drawn is not None and not math.isnan(found["pearson_changes"]):
            changes = pearson(*(np.diff(values, axis=1) for values in drawn))
            found["pearson_changes_low"], found["pearson_changes_high"] = np.nanquantile(
                changes, [0.025, 0.975])
        rows.append({key: metrics[key] for key in ("dataset", "scale", "model", "family",
                                                   "train_data", "seed")} | found)
    return pd.DataFrame(rows)


def _resampled(file: Path, steps: Sequence[int], resamples: int,
               ) -> tuple[np.ndarray, np.ndarray] | None:
    """Dev LL and BLEU after these steps, each [resamples, steps]; None where none were kept."""
    if not file.exists():
        return None
    kept = Validations.read(file).at(steps)
    return kept.resampled(resample_weights(len(kept.tokens), resamples))
