"""BLEU and log-likelihood of thousands of resampled test sets, from per-sentence counts.

Corpus BLEU is a function of sums over sentences (matching and total n-grams of each order, two
lengths), and every accounting of the log-likelihood is a ratio of two sums. A bootstrap over
test sentences is therefore a product of how often each sentence was drawn [resamples, sentences]
with those counts, and the same draws serve every model: the resampling is paired. They are the
very draws of sacreBLEU's paired bootstrap at its default seed, so that intervals and p-values here
are those that `sacrebleu --paired-bs` finds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from analysis import comparable
from lib.bleu import SEED, bleu_from_counts, bleu_statistics, resample_weights, tokenizer_of
from lib.errors import DataError
from lib.likelihood.accounting import bound_slack, likelihood_terms

__all__ = ["Resamples", "bootstrap", "resample_runs", "with_accounting"]


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
        member = groups[:, None] == np.arange(groups.max(initial=-1) + 1)     # [models, groups]
        mean = member / member.sum(axis=0)
        return Resamples(*(getattr(self, name) @ mean for name in (
            "likelihood", "bleu", "likelihood_resampled", "bleu_resampled")),
            slack=(np.zeros(len(groups)) + self.slack) @ mean)


def resample_runs(frame: pd.DataFrame, references: Sequence[str], *accountings: str,
                  hypotheses: str = "hypothesis", **options: int | bool | str,
                  ) -> dict[str, Resamples]:
    """Accounting -> `bootstrap` of the runs of `systems.collect`'s rows (one data set), from their
    sentences.csv; the same resamples for all.

    hypotheses: the column that BLEU is of; `hypothesis_mbr` for minimum Bayes risk.
    Errors: DataError for runs that can't be compared under these accountings, or of another test
    text than `references`.
    """
    comparable.check(frame, accountings)
    comparable.check_text(frame, references)
    options["tokenizer"] = next(iter(frame["signature"].map(tokenizer_of)), "13a")
    tables = [run.read_sentences(hypotheses) for run in frame["run"]]
    first, *others = dict.fromkeys(accountings)
    drawn = {first: bootstrap(tables, references, first, **options)}
    seed = {name: value for name, value in options.items() if name == "seed"}
    return drawn | {name: with_accounting(drawn[first], tables, name, **seed) for name in others}


def bootstrap(sentences: Sequence[pd.DataFrame], references: Sequence[str], accounting: str, *,
              resamples: int = 1000, seed: int = SEED, lowercase: bool = False,
              tokenizer: str = "13a") -> Resamples:
    """Paired bootstrap over test sentences: every model is scored on the same resamples.

    sentences: one sentences.csv a model, in corpus order, all of one test set.
    references: the test set's target side, one line a sentence. It isn't kept in the runs.
    """
    for frame in sentences:
        if len(frame) != len(references):
            raise DataError(f"a run has {len(frame)} test sentences but there are "
                            f"{len(references)} references: compare runs of one test set only")
    counts = np.stack([bleu_statistics(frame["hypothesis"].fillna("").astype(str).tolist(),
                                       references, lowercase=lowercase, tokenizer=tokenizer)
                       for frame in sentences])
    weights = resample_weights(len(references), resamples, seed)
    models = len(sentences)
    # [resamples, sentences] @ [sentences, models * 10] -> [resamples, models, 10]
    summed = (weights @ counts.transpose(1, 0, 2).reshape(len(references), -1).astype(np.float64)
              ).reshape(resamples, models, -1)
    likelihood, likelihood_resampled = _likelihoods(sentences, accounting, weights)
    return Resamples(likelihood, bleu_from_counts(counts.sum(axis=1)), likelihood_resampled,
                     bleu_from_counts(summed), _slacks(sentences, accounting))


def with_accounting(drawn: Resamples, sentences: Sequence[pd.DataFrame], accounting: str, *,
                    seed: int = SEED) -> Resamples:
    """The same resamples under another accounting, BLEU not computed again; `sentences` and
    `seed` are those that `drawn` was made from.
    """
    weights = resample_weights(len(sentences[0]), len(drawn.bleu_resampled), seed)
    likelihood, resampled = _likelihoods(sentences, accounting, weights)
    return replace(drawn, likelihood=likelihood, likelihood_resampled=resampled,
                   slack=_slacks(sentences, accounting))


def _slacks(sentences: Sequence[pd.DataFrame], accounting: str) -> Float[np.ndarray, " models"]:
    return np.array([bound_slack(frame, accounting) for frame in sentences])


def _likelihoods(sentences: Sequence[pd.DataFrame], accounting: str,
                 weights: Float[np.ndarray, "resamples sentences"],
                 ) -> tuple[Float[np.ndarray, " models"], Float[np.ndarray, "resamples models"]]:
    """The accounting's value of every model, on the test set and on its resamples."""
    top, bottom = np.array([likelihood_terms(frame, accounting) for frame in sentences]
                           ).swapaxes(0, 1)
    return top.sum(axis=1) / bottom.sum(axis=1), (weights @ top.T) / (weights @ bottom.T)
