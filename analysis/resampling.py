"""BLEU and log-likelihood of thousands of resampled test sets, from per-sentence counts.

Corpus BLEU (`lib.bleu`) is a function of sums over sentences, every accounting of the
log-likelihood a ratio of two. The same draws serve every model: the resampling is paired. They are
those of sacreBLEU's paired bootstrap at its default seed (`sacrebleu --paired-bs`, of as many
samples); intervals are percentiles, where that prints mean and half width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from analysis import comparable
from lib.bleu import (
    RESAMPLES,
    SEED,
    bleu_from_counts,
    bleu_statistics,
    resample_weights,
    tokenizer_of,
)
from lib.errors import DataError
from lib.likelihood.accounting import bound_slack, likelihood_terms

__all__ = ["Resamples", "bootstrap", "resample_runs"]


@dataclass(frozen=True)
class Resamples:
    """Both quantities of every model on the test set and on the same resamples of it.

    likelihood, bleu: [models], on the test set itself.
    likelihood_resampled, bleu_resampled: [resamples, models].
    slack: [models], by how much the likelihood may be better than it says (`bound_slack`).
    """

    likelihood: Float[np.ndarray, " models"]
    bleu: Float[np.ndarray, " models"]
    likelihood_resampled: Float[np.ndarray, "resamples models"]
    bleu_resampled: Float[np.ndarray, "resamples models"]
    slack: Float[np.ndarray, " models"] | float = 0.0

    def averaged(self, groups: Int[np.ndarray, " models"]) -> "Resamples":
        """The mean of the models of each group (0, 1, ...; seeds of one system, say), in order."""
        members = [groups == group for group in range(groups.max(initial=-1) + 1)]

        def mean(values: np.ndarray) -> np.ndarray:  # what one group lacks is no other's loss
            return np.stack([values[..., chosen].mean(axis=-1) for chosen in members], axis=-1)

        return Resamples(*(mean(getattr(self, name)) for name in (
            "likelihood", "bleu", "likelihood_resampled", "bleu_resampled")),
            slack=mean(np.zeros(len(groups)) + self.slack))


def resample_runs(frame: pd.DataFrame, references: Sequence[str], *accountings: str,
                  hypotheses: str = "hypothesis", **options: int | bool | str,
                  ) -> dict[str, Resamples]:
    """Accounting -> `bootstrap` of the runs of `systems.collect`'s rows (one data set).

    hypotheses: the column that BLEU is of; `hypothesis_mbr` for minimum Bayes risk. Errors:
    DataError for runs that can't be compared under these accountings, or of another test text than
    `references`.
    """
    comparable.check(frame, accountings)
    comparable.check_text(frame, references)
    options["tokenizer"] = next(iter(frame["signature"].map(tokenizer_of)), "13a")
    return bootstrap([run.read_sentences(hypotheses) for run in frame["run"]], references,
                     *accountings, **options)


def bootstrap(sentences: Sequence[pd.DataFrame], references: Sequence[str], *accountings: str,
              resamples: int = RESAMPLES, seed: int = SEED, tokenizer: str = "13a",
              ) -> dict[str, Resamples]:
    """Paired bootstrap over test sentences: every model is scored on the same resamples, under each
    accounting.

    A model that finds a sentence impossible has no likelihood (NaN), as in metrics.json.

    sentences: one sentences.csv a model, in corpus order, all of one test set.
    references: the test set's target side, one line a sentence. It isn't kept in the runs.
    """
    lines, models = len(references), len(sentences)
    for frame in sentences:
        if len(frame) != lines:
            raise DataError(f"a run has {len(frame)} test sentences but there are {lines} "
                            "references: compare runs of one test set only")
    counts = np.stack([bleu_statistics(frame["hypothesis"].fillna("").astype(str).tolist(),
                                       references, tokenizer=tokenizer) for frame in sentences])
    weights = resample_weights(lines, resamples, seed)
    # [resamples, sentences] @ [sentences, models * 10] -> [resamples, models, 10]
    summed = weights @ counts.transpose(1, 0, 2).reshape(lines, -1).astype(np.float64)
    bleu = bleu_from_counts(counts.sum(axis=1))
    bleu_resampled = bleu_from_counts(summed.reshape(resamples, models, -1))
    result = {}
    for name in accountings:
        top, bottom = np.array([likelihood_terms(frame, name) for frame in sentences]
                               ).swapaxes(0, 1)
        top[~np.isfinite(top).all(axis=1)] = np.nan
        result[name] = Resamples(
            top.sum(axis=1) / bottom.sum(axis=1), bleu, (weights @ top.T) / (weights @ bottom.T),
            bleu_resampled, np.array([bound_slack(frame, name) for frame in sentences]))
    return result
