"""Minimum Bayes risk: the sample that agrees most with the other samples.

A model is used as a distribution instead of as a scorer: of n samples the one is chosen whose mean
utility against the others is highest, an estimate of its expected utility under the model (Eikema
and Aziz 2020). The utility is sacreBLEU's own sentence score, chrF or BLEU, computed for all pairs
at once from n-gram counts.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from sacrebleu.metrics import BLEU

__all__ = ["UTILITIES", "consensus", "expected_utilities", "utilities"]

UTILITIES = ("chrf", "bleu")
CHARACTERS, BETA = 6, 2  # chrF's longest n-gram, and the weight of recall
WORDS = 4  # BLEU's longest n-gram

_TOKENISE = BLEU().tokenizer  # 13a, the default


def consensus(lines: Sequence[str], utility: str = "chrf") -> int:
    """Place of the line with the highest expected utility; of equal ones the first."""
    return int(np.argmax(expected_utilities(lines, utility)))


def expected_utilities(lines: Sequence[str], utility: str = "chrf") -> Float[np.ndarray, " lines"]:
    """Mean utility of each line as hypothesis, every other line being the reference once.

    Equal lines are scored once and weighted by their number, which changes nothing: a line that
    was sampled three times has two copies of itself among its references. A single line has 0.
    """
    counts = Counter(lines)
    scores = utilities(list(counts), utility)
    total = scores @ np.array(list(counts.values()), np.float64) - scores.diagonal()
    mean = dict(zip(counts, (total / max(1, len(lines) - 1)).tolist(), strict=True))
    return np.array([mean[line] if len(lines) > 1 else 0.0 for line in lines])


def utilities(lines: Sequence[str], utility: str = "chrf") -> Float[np.ndarray, "lines lines"]:
    """Sentence scores (0 to 100) of every line [row] against every line as reference [column].

    They equal sacreBLEU's `sentence_chrf` and `sentence_bleu`.
    """
    if utility == "chrf":
        units = ["".join(line.split()) for line in lines]
        return _chrf(*_overlaps(units, CHARACTERS))
    words = [tuple(_TOKENISE(line.rstrip()).split()) for line in lines]
    return _bleu(*_overlaps(words, WORDS), np.array(list(map(len, words))))


def _overlaps(sequences: Sequence[str] | Sequence[tuple], orders: int,
              ) -> tuple[Float[np.ndarray, "orders lines"],
                         Float[np.ndarray, "orders lines lines"]]:
    """n-grams of each order in each sequence, and how many every two of them share."""
    totals = np.zeros((orders, len(sequences)))
    shared = np.zeros((orders, len(sequences), len(sequences)))
    for order in range(orders):
        size = order + 1
        grams = [Counter(s[i:i + size] for i in range(len(s) - size + 1)) for s in sequences]
        places = {gram: place for place, gram in enumerate(dict.fromkeys(
            gram for counter in grams for gram in counter))}
        table = np.zeros((len(sequences), len(places)), np.int32)
        for row, counter in enumerate(grams):
            table[row, [places[gram] for gram in counter]] = list(counter.values())
        totals[order] = table.sum(1)
        for row in range(len(sequences)):
            shared[order, row] = np.minimum(table[row], table).sum(1)
    return totals, shared


def _chrf(totals: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """F_beta of precision and recall, each averaged over the orders that both lines have."""
    hypothesis, reference = totals[:, :, None], totals[:, None, :]
    both = (hypothesis > 0) & (reference > 0)
    orders = np.maximum(both.sum(0), 1)
    precision = (np.where(both, shared / np.maximum(hypothesis, 1), 0.0)).sum(0) / orders
    recall = (np.where(both, shared / np.maximum(reference, 1), 0.0)).sum(0) / orders
    bottom = BETA**2 * precision + recall
    return 100 * (1 + BETA**2) * precision * recall / np.where(bottom > 0, bottom, 1.0)


def _bleu(totals: np.ndarray, shared: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Geometric mean of the precisions of the orders that the hypothesis has, times the brevity
    penalty; the j-th order without a match counts 1 / 2^j of one match ("exp" smoothing).
    """
    present = np.broadcast_to(totals[:, :, None] > 0, shared.shape)
    smoothed = np.where(shared > 0, shared, 0.5 ** np.cumsum(shared == 0, axis=0))
    logs = np.log(smoothed / np.maximum(totals, 1)[:, :, None])
    orders = np.maximum(present.sum(0), 1)
    mean = np.where(present, logs, 0.0).sum(0) / orders
    with np.errstate(divide="ignore", invalid="ignore"):
        brevity = np.exp(np.minimum(0.0, 1 - lengths[None, :] / lengths[:, None]))
    score = 100 * np.exp(mean) * brevity
    return np.where((shared > 0).any(0), score, 0.0)
