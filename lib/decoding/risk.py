"""Minimum Bayes risk: the sample that agrees most with the other samples.

A model is used as a distribution instead of as a scorer: of n samples the one is chosen whose mean
utility against the others is highest, an estimate of its expected utility under the model (Eikema
and Aziz 2020). The utility is sacreBLEU's own chrF of a sentence, computed for all pairs at once
from n-gram counts.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

__all__ = ["consensus", "expected_utilities", "utilities"]

CHARACTERS, BETA = 6, 2  # chrF's longest n-gram, and the weight of recall


def consensus(lines: Sequence[str]) -> int:
    """Place of the line with the highest expected utility; of equal ones the first."""
    return int(np.argmax(expected_utilities(lines)))


def expected_utilities(lines: Sequence[str]) -> Float[np.ndarray, " lines"]:
    """Mean utility of each line as hypothesis, every other line being the reference once.

    Equal lines are scored once and weighted by their number, which changes nothing: a line that
    was sampled three times has two copies of itself among its references. A single line has 0.
    """
    counts = Counter(lines)
    scores = utilities(list(counts))
    total = scores @ np.array(list(counts.values()), np.float64) - scores.diagonal()
    mean = dict(zip(counts, (total / max(1, len(lines) - 1)).tolist(), strict=True))
    return np.array([mean[line] if len(lines) > 1 else 0.0 for line in lines])


def utilities(lines: Sequence[str]) -> Float[np.ndarray, "lines lines"]:
    """Sentence scores (0 to 100) of every line [row] against every line as reference [column].

    They equal sacreBLEU's `sentence_chrf`.
    """
    return _chrf(*_overlaps(["".join(line.split()) for line in lines]))


def _overlaps(texts: Sequence[str]) -> tuple[Float[np.ndarray, "orders lines"],
                                             Float[np.ndarray, "orders lines lines"]]:
    """n-grams of each order in each text, and how many every two of them share."""
    totals = np.zeros((CHARACTERS, len(texts)))
    shared = np.zeros((CHARACTERS, len(texts), len(texts)))
    for order in range(CHARACTERS):
        size = order + 1
        grams = [Counter(s[i:i + size] for i in range(len(s) - size + 1)) for s in texts]
        places = {gram: place for place, gram in enumerate(dict.fromkeys(
            gram for counter in grams for gram in counter))}
        table = np.zeros((len(texts), len(places)), np.int32)
        for row, counter in enumerate(grams):
            table[row, [places[gram] for gram in counter]] = list(counter.values())
        totals[order] = table.sum(1)
        for row in range(len(texts)):
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
