"""BLEU and log-likelihood of thousands of resampled test sets, from per-sentence counts.

Corpus BLEU is a function of sums over sentences (matching and total n-grams of each order, two
lengths), and every accounting of the log-likelihood is a ratio of two sums. A bootstrap over
test sentences is therefore a product of how often each sentence was drawn [resamples, sentences]
with those counts, and the same draws serve every model: the resampling is paired. They are the
very draws of sacreBLEU's paired bootstrap at its default seed, so that intervals and p-values here
are those that `sacrebleu --paired-bs` finds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Num
from sacrebleu.metrics import BLEU

from lib.errors import ConfigError, DataError

__all__ = [
    "ACCOUNTINGS", "SEED", "Accounting", "Resamples", "accounting_named", "bleu_from_counts",
    "bleu_statistics", "bootstrap", "bound_slack", "likelihood_terms", "ratio_of_sums",
    "resample_weights", "resampled_bleu", "with_accounting", "with_interval",
]

ORDERS = 4
SEED = 12345
"""SacreBLEU's default seed of its paired bootstrap."""


@dataclass(frozen=True)
class Accounting:
    """One way to turn per-sentence terms into the number that is called log-likelihood.

    name: its key in metrics.json. label, unit: for axes and headings.
    sign: +1 where higher is better, -1 where lower is; correlations use sign * value.
    """

    name: str
    label: str
    unit: str
    sign: int


ACCOUNTINGS = {accounting.name: accounting for accounting in (
    Accounting("paper", "log-likelihood given the true length", "nats per padded token", 1),
    Accounting("strict", "log-likelihood of the string", "nats per token", 1),
    Accounting("per_sentence", "log-likelihood of the string", "nats per sentence", 1),
    Accounting("bits_per_char", "code length of the string", "bits per character", -1),
    Accounting("released", "released code's estimate", "nats per padded token", 1),
)}
"""Every accounting of metrics.json, by its name."""


def accounting_named(name: str) -> Accounting:
    """The accounting of that name, or a `ConfigError` that lists the names there are."""
    if name not in ACCOUNTINGS:
        raise ConfigError(f"unknown accounting {name!r}; choose one of {', '.join(ACCOUNTINGS)}")
    return ACCOUNTINGS[name]


def bleu_statistics(hypotheses: Sequence[str], references: Sequence[str], *,
                    lowercase: bool = False) -> Int[np.ndarray, "sentences 10"]:
    """SacreBLEU's own counts a sentence: lengths of hypothesis and reference, matching n-grams of
    orders 1 to 4, all n-grams of orders 1 to 4 (13a tokenisation, one reference).
    """
    if len(hypotheses) != len(references):
        raise DataError(f"{len(hypotheses)} hypotheses but {len(references)} references: give the "
                        "references of the test set that the run was evaluated on")
    if not len(references):
        raise DataError("the test set is empty: there is nothing to compute BLEU on")
    metric = BLEU(lowercase=lowercase, effective_order=True, force=True)
    scores = (metric.sentence_score(hypothesis, [reference])
              for hypothesis, reference in zip(hypotheses, references, strict=True))
    return np.array([[score.sys_len, score.ref_len, *score.counts, *score.totals]
                     for score in scores], dtype=np.int64)


def bleu_from_counts(counts: Num[np.ndarray, "*any 10"]) -> Float[np.ndarray, "*any"]:
    """Corpus BLEU (0 to 100) of summed `bleu_statistics`, as sacreBLEU computes it by default:
    geometric mean of four precisions times the brevity penalty, where the j-th order without any
    match gets a precision of 1 / (2^j total) ("exp" smoothing).
    """
    counts = np.asarray(counts, dtype=np.float64)
    system, reference = counts[..., 0], counts[..., 1]
    match, total = counts[..., 2:2 + ORDERS], counts[..., 2 + ORDERS:]
    smoothed = np.where(match > 0, match, 0.5 ** np.cumsum(match == 0, axis=-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        precisions = 100.0 * smoothed / total
        brevity = np.exp(np.minimum(0.0, 1.0 - reference / system))
        score = brevity * np.exp(np.log(precisions).mean(axis=-1))
    return np.where((match > 0).any(axis=-1) & (total > 0).all(axis=-1), score, 0.0)


def ratio_of_sums(top: Num[np.ndarray, " sentences"], bottom: Num[np.ndarray, " sentences"],
                  ) -> tuple[float, float]:
    """Ratio of two sums over sentences, and its standard error by the delta method.

    sqrt(n / (n - 1) sum_i (a_i - r b_i)^2) / sum_i b_i.
    """
    ratio, n = top.sum() / bottom.sum(), len(top)
    error = np.sqrt(n / max(1, n - 1) * np.square(top - ratio * bottom).sum()) / bottom.sum()
    return float(ratio), float(error)


def likelihood_terms(sentences: pd.DataFrame, accounting: str,
                     ) -> tuple[Float[np.ndarray, " sentences"], Float[np.ndarray, " sentences"]]:
    """Numerator and denominator a sentence; the accounting's value is the ratio of their sums.

    From the columns of sentences.csv, with T the padded and t the real number of tokens:
    `paper` log p(y|x, T) / T, `strict` log p(y, T|x) / t, `per_sentence` log p(y, T|x) / 1,
    `bits_per_char` -log2 p(y, T|x) / characters, `released` the mean over sentences of
    `released_estimate`, which is already per token; where a model has none (autoregressive
    models are exact) its log p(y|x) / T stands in.
    """
    accounting_named(accounting)
    log_prob = sentences["log_prob"].to_numpy(np.float64)
    joint = log_prob + sentences["log_p_length"].to_numpy(np.float64)
    padded = sentences["n_tokens_padded"].to_numpy(np.float64)
    one = np.ones_like(padded)
    if accounting == "paper":
        return log_prob, padded
    if accounting == "strict":
        return joint, sentences["n_tokens"].to_numpy(np.float64)
    if accounting == "per_sentence":
        return joint, one
    if accounting == "bits_per_char":
        return -joint / math.log(2.0), sentences["n_chars"].to_numpy(np.float64)
    released = pd.to_numeric(sentences["released_estimate"]).to_numpy(np.float64)
    return np.where(np.isnan(released), log_prob / padded, released), one


def resample_weights(sentences: int, resamples: int, seed: int = SEED,
                     ) -> Float[np.ndarray, "resamples sentences"]:
    """How often each sentence is drawn in each resample of the same size; every row sums to
    `sentences`. The draws are sacreBLEU's own at that seed (sacrebleu/significance.py).
    """
    drawn = np.random.default_rng(seed).choice(sentences, size=(resamples, sentences))
    places = drawn + sentences * np.arange(resamples)[:, None]
    counts = np.bincount(places.ravel(), minlength=resamples * sentences)
    return counts.reshape(resamples, sentences).astype(np.float64)


def resampled_bleu(texts: Sequence[str], references: Sequence[str],
                   weights: Float[np.ndarray, "resamples sentences"],
                   ) -> tuple[float, Float[np.ndarray, " resamples"]]:
    """Corpus BLEU, and that of every resample of `resample_weights`."""
    counts = bleu_statistics(texts, references)
    return float(bleu_from_counts(counts.sum(0))), bleu_from_counts(weights @ counts)


def with_interval(name: str, value: float, drawn: Float[np.ndarray, " resamples"],
                  ) -> dict[str, float]:
    """The value and its 95% percentile interval: `name`, `name_low` and `name_high`."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}


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

    def interval(self, level: float = 0.95) -> pd.DataFrame:
        """Percentile interval of each model: columns likelihood_low, likelihood_high, bleu_low,
        bleu_high, one row a model.
        """
        tails = [(1 - level) / 2, (1 + level) / 2]
        bounds = {}
        for name in ("likelihood", "bleu"):
            low, high = np.quantile(getattr(self, f"{name}_resampled"), tails, axis=0)
            bounds |= {f"{name}_low": low, f"{name}_high": high}
        return pd.DataFrame(bounds)

    def averaged(self, groups: Int[np.ndarray, " models"]) -> "Resamples":
        """The mean of the models of each group (0, 1, ...; seeds of one system, say), in order."""
        member = groups[:, None] == np.arange(groups.max(initial=-1) + 1)     # [models, groups]
        mean = member / member.sum(axis=0)
        return Resamples(*(getattr(self, name) @ mean for name in (
            "likelihood", "bleu", "likelihood_resampled", "bleu_resampled")),
            slack=(np.zeros(len(groups)) + self.slack) @ mean)


def bootstrap(sentences: Sequence[pd.DataFrame], references: Sequence[str], accounting: str, *,
              resamples: int = 1000, seed: int = SEED, lowercase: bool = False) -> Resamples:
    """Paired bootstrap over test sentences: every model is scored on the same resamples.

    sentences: one sentences.csv a model, in corpus order, all of one test set.
    references: the test set's target side, one line a sentence. It isn't kept in the runs.
    """
    for frame in sentences:
        if len(frame) != len(references):
            raise DataError(f"a run has {len(frame)} test sentences but there are "
                            f"{len(references)} references: compare runs of one test set only")
    counts = np.stack([bleu_statistics(frame["hypothesis"].fillna("").astype(str).tolist(),
                                       references, lowercase=lowercase) for frame in sentences])
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


def bound_slack(sentences: pd.DataFrame, accounting: str) -> float:
    """What the last tenfold of importance samples still raised the bound by, in the accounting's
    unit, 0 or more: a lower bound may be as far again below what it bounds.

    0 where the likelihood is exact, where the released estimate stands (it bounds nothing), and
    where sentences.csv has no bound at fewer samples.
    """
    fewer = [int(name.removeprefix("iw_bound_")) for name in sentences
             if name.startswith("iw_bound_")]
    if not fewer or accounting == "released":
        return 0.0
    # bounds are at 1, 10, 100, ... and at a tenth of all samples: the one that is no power of ten
    tenth = next((k for k in fewer if str(k).strip("0") != "1"), max(fewer))
    (top, bottom), (less, _) = (likelihood_terms(frame, accounting) for frame in (
        sentences, sentences.assign(log_prob=sentences[f"iw_bound_{tenth}"])))
    return abs(float((top - less).sum() / bottom.sum()))


def _slacks(sentences: Sequence[pd.DataFrame], accounting: str) -> Float[np.ndarray, " models"]:
    return np.array([bound_slack(frame, accounting) for frame in sentences])


def _likelihoods(sentences: Sequence[pd.DataFrame], accounting: str,
                 weights: Float[np.ndarray, "resamples sentences"],
                 ) -> tuple[Float[np.ndarray, " models"], Float[np.ndarray, "resamples models"]]:
    """The accounting's value of every model, on the test set and on its resamples."""
    top, bottom = np.array([likelihood_terms(frame, accounting) for frame in sentences]
                           ).swapaxes(0, 1)
    return top.sum(axis=1) / bottom.sum(axis=1), (weights @ top.T) / (weights @ bottom.T)
