"""What a run's validations found: a row each in history.csv, their sentences in validations.npz.

Dev BLEU and dev log-likelihood are functions of sums over sentences. `validations.npz` keeps the
summands, so that both can be resampled at all checkpoints on the same dev sentences.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Num

from lib.bleu import bleu_from_counts
from lib.config import Training
from lib.errors import DataError
from lib.objectives import kl_weight
from lib.paths import read_arrays, write_arrays, write_text

__all__ = ["BEST_BY", "Validations", "best", "ended_by", "read_rows", "stale", "write_rows"]

BEST_BY = {"bleu": ("dev_bleu", "dev_ll"), "ll": ("dev_ll", "dev_bleu")}
"""What a checkpoint may be the best by, and what decides: dev BLEU (as in the paper) or dev LL."""


def best(rows: Sequence[dict], kl_weight: float, by: str = "bleu") -> int | None:
    """Which validation is the first best at this KL weight (another one is of another model); None
    before any. By dev BLEU and among equals by dev LL, or the other way round.
    """
    order = BEST_BY[by]
    places = [place for place, row in enumerate(rows) if row["kl_weight"] == kl_weight]
    return max(places, key=lambda place: [rows[place][name] for name in order], default=None)


def stale(rows: Sequence[dict], kl_weight: float) -> int:
    """Validations at this KL weight since the last that raised dev BLEU or dev LL to a new best."""
    at_weight = [row for row in rows if row["kl_weight"] == kl_weight]
    improved = [best(at_weight, kl_weight, by) for by in BEST_BY]
    return len(at_weight) - 1 - max(improved) if at_weight else 0


def ended_by(rows: Sequence[dict], step: int, settings: Training) -> str:
    """What ended a training: `patience` validations that raised neither dev BLEU nor LL, all its
    `steps`, or "", nothing yet.
    """
    last = kl_weight(settings.steps, settings.kl_start, settings.kl_ramp)
    if 0 < settings.patience <= stale(rows, last):
        return "patience"
    return "steps" if step >= settings.steps else ""


@dataclass(frozen=True)
class Validations:
    """Every validation of a run, sentence by sentence, in the dev set's order.

    steps: [validations], after which optimiser steps.
    tokens: [sentences], target subwords with one EOS.
    log_prob: [validations, sentences], nats: log p(y, T|x), exact or the bound that dev_ll sums.
    counts: [validations, sentences, 10], `lib.bleu.bleu_statistics`.
    """

    steps: Int[np.ndarray, " validations"]
    tokens: Int[np.ndarray, " sentences"]
    log_prob: Float[np.ndarray, "validations sentences"]
    counts: Int[np.ndarray, "validations sentences 10"]

    def write(self, path: Path) -> None:
        """Write the file; the same bytes for the same numbers (log_prob to seven digits)."""
        write_arrays(
            path, steps=self.steps.astype(np.int32), tokens=self.tokens.astype(np.int32),
            log_prob=self.log_prob.astype(np.float32), counts=self.counts.astype(np.uint16))

    @classmethod
    def read(cls, path: Path) -> "Validations":
        """What `write` wrote; DataError where it is missing or damaged."""
        try:
            return cls(**{
                name: values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
                for name, values in read_arrays(path).items()})
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{path} is missing or damaged ({error}): train the run again with "
                            "notebooks/02_train.ipynb") from error

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
        """Dev LL (strict, nats per token) and dev BLEU of each resample of the dev sentences; LL
        without those that any of the validations finds impossible.
        """
        possible = np.isfinite(self.log_prob).all(axis=0)
        drawn = weights[:, possible]
        ll = (drawn @ self.log_prob[:, possible].T) / (drawn @ self.tokens[possible])[:, None]
        summed = np.einsum("rs,vsc->rvc", weights, self.counts, optimize=True)
        return ll, bleu_from_counts(summed)


def write_rows(path: Path, rows: Sequence[dict]) -> None:
    """Write history.csv: a row a validation, a column for each quantity that any of them has."""
    table = pd.DataFrame(rows, dtype=object)  # whole numbers stay whole beside gaps
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a history.csv as they are so far, none where there is no such file yet."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
