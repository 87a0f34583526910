"""BLEU: of a test set, of each sentence's counts, and of thousands of resampled test sets.

Corpus BLEU is a function of sums over sentences (matching and total n-grams of each order, two
lengths). A bootstrap over test sentences is therefore a product of how often each sentence was
drawn [resamples, sentences] with those counts. The draws are the very ones of sacreBLEU's paired
bootstrap at its default seed.
"""

import functools
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Num
from sacrebleu.metrics import BLEU
from sacrebleu.metrics.bleu import BLEUScore

from lib.errors import DataError

__all__ = ["RESAMPLES", "SEED", "TAILS", "bleu", "bleu_from_counts", "bleu_statistics",
           "resample_weights", "resampled_bleu", "tokenizer_of", "with_interval"]

ORDERS = 4
DEFAULT = "13a"  # sacreBLEU's own default
SEED = 12345
"""SacreBLEU's default seed of its paired bootstrap."""
RESAMPLES = 10_000
"""Of the sentences, for an interval."""
TAILS = [0.025, 0.975]
"""The quantiles between which a 95% interval lies."""


def tokenizer_of(signature: str) -> str:
    """The tokeniser that a sacreBLEU signature names, 13a where it names none."""
    match = re.search(r"(?:^|\|)tok:([^|]+)", signature)
    return match[1] if match else DEFAULT


def bleu(lines: list[str], references: list[str], tokenizer: str = DEFAULT,
         ) -> tuple[BLEUScore, str]:
    """Cased BLEU on detokenised text, in percent, with sacreBLEU's signature."""
    metric = BLEU(tokenize=tokenizer)
    score = metric.corpus_score(lines, [references])
    return score, str(metric.get_signature())


def bleu_statistics(hypotheses: Sequence[str], references: Sequence[str],
                    tokenizer: str = DEFAULT) -> Int[np.ndarray, "sentences 10"]:
    """SacreBLEU's own counts a sentence: lengths of hypothesis and reference, matching n-grams of
    orders 1 to 4, all n-grams of orders 1 to 4 (one reference).
    """
    if len(hypotheses) != len(references):
        raise DataError(f"{len(hypotheses)} hypotheses but {len(references)} references: give the "
                        "references of the test set that the run was evaluated on")
    if not len(references):
        raise DataError("the test set is empty: there is nothing to compute BLEU on")
    metric = BLEU(effective_order=True, force=True, tokenize=tokenizer)
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


@functools.lru_cache(maxsize=2)  # of a test set and its dev set: 100 MB each, alike for all runs
def resample_weights(sentences: int, resamples: int = RESAMPLES, seed: int = SEED,
                     ) -> Float[np.ndarray, "resamples sentences"]:
    """How often each sentence is drawn in each resample of the same size; every row sums to
    `sentences`. The draws are sacreBLEU's own at that seed (sacrebleu/significance.py). Read-only.
    """
    drawn = np.random.default_rng(seed).choice(sentences, size=(resamples, sentences))
    places = drawn + sentences * np.arange(resamples)[:, None]
    counts = np.bincount(places.ravel(), minlength=resamples * sentences)
    weights = counts.reshape(resamples, sentences).astype(np.float64)
    weights.setflags(write=False)
    return weights


def resampled_bleu(texts: Sequence[str], references: Sequence[str],
                   weights: Float[np.ndarray, "resamples sentences"], tokenizer: str = DEFAULT,
                   ) -> tuple[float, Float[np.ndarray, " resamples"]]:
    """Corpus BLEU, and that of every resample of `resample_weights`."""
    counts = bleu_statistics(texts, references, tokenizer=tokenizer)
    return float(bleu_from_counts(counts.sum(0))), bleu_from_counts(weights @ counts)


def with_interval(name: str, value: float, drawn: Float[np.ndarray, " resamples"],
                  ) -> dict[str, float]:
    """The value and its 95% percentile interval: `name`, `name_low` and `name_high`."""
    low, high = np.quantile(drawn, TAILS)
    return {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}
