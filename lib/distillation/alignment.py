"""How simple a parallel corpus is: the entropy of a target word given the source word behind it.

Zhou, Gu and Neubig (2020), "Understanding knowledge distillation in non-autoregressive machine
translation", section 3.2, measure the complexity of a corpus d by a word-level translation table,

    C(d) = 1 / |V_x| sum over source words x of H(y|x),   H(y|x) = - sum_y t(y|x) log t(y|x).

They estimate t by fast_align; here it is the table of IBM model 1 (Brown et al. 1993, section 4.1;
no empty word) fitted by EM, whose likelihood is concave, so that the start doesn't matter:

    expected counts  c(x, y) = sum over pairs, over target words y_j of it,
                               t(y_j|x) n(x) / sum_x' t(y_j|x') n(x'),  n(x) the times that x occurs
    new table        t(y|x) = c(x, y) / sum_y' c(x, y').

C(d) gives every word of V_x the same weight, the many rare ones above all; the mean over running
words stands beside it. Both grow with the corpus: compare corpora of the same source lines.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64
from scipy import sparse

__all__ = [
    "ITERATIONS", "Complexity", "TranslationTable", "complexity", "entropies_by_word", "fit",
    "words",
]

ITERATIONS = 40  # of EM; on Multi30k as many again move C(d) by less than 0.01 nats
CHUNK = 5_000  # sentence pairs of one round of sums: bounds the memory that these take

_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*|[^\w\s]")


def words(line: str) -> list[str]:
    """The words of a line, as they are written: letters and digits together (with an apostrophe or
    hyphen between them), and every other character but white space by itself."""
    return _WORD.findall(line)


@dataclass(frozen=True)
class TranslationTable:
    """t(y|x) of IBM model 1, for the word pairs that meet in some sentence pair."""

    sources: list[str]  # V_x, sorted
    targets: list[str]  # V_y, sorted
    probabilities: sparse.csr_array  # [V_x, V_y]; each row sums to 1
    counts: Int64[np.ndarray, " sources"]  # how often each source word occurs

    def entropies(self) -> Float64[np.ndarray, " sources"]:
        """H(y|x) of every source word, in nats."""
        t = self.probabilities
        terms = sparse.csr_array((_x_log_x(t.data), t.indices, t.indptr), t.shape)
        return -np.asarray(terms.sum(1)).ravel()


@dataclass(frozen=True)
class Complexity:
    """What tells a simple parallel corpus from a complex one; entropies in nats."""

    pairs: int
    conditional_entropy: float  # C(d): the mean of H(y|x) over source words, each once
    conditional_entropy_by_use: float  # the same mean over the running words of the source side
    source_types: int  # different words
    target_types: int
    target_words: int  # running words
    target_length: float  # words a sentence, mean


@dataclass(frozen=True)
class _Side:
    """The different words of each line of one side, as ids, with how often they occur there."""

    ids: Int64[np.ndarray, " words"]
    counts: Int64[np.ndarray, " words"]
    offsets: Int64[np.ndarray, " ends"]  # lines + 1 of them
    types: list[str]


@dataclass(frozen=True)
class _Links:
    """Every meeting of a source word with a target word in a chunk of pairs; a group is one target
    word of one pair, with its source words.
    """

    cell: Int64[np.ndarray, " links"]  # x * |V_y| + y, later the place of it among all that meet
    x_count: Float64[np.ndarray, " links"]  # n(x)
    y_count: Float64[np.ndarray, " groups"]  # n(y)
    size: Int64[np.ndarray, " groups"]  # links of each group
    start: Int64[np.ndarray, " groups"]  # its first link


def fit(source: Sequence[str], target: Sequence[str]) -> TranslationTable:
    """The table of IBM model 1 after `ITERATIONS` rounds of EM from the uniform one.

    Errors: ValueError for sides that aren't aligned, for no line, or a line without a word.
    """
    if len(source) != len(target) or not len(source):
        raise ValueError(f"{len(source)} and {len(target)} lines: one or more pairs are needed")
    xs, ys = _side(source), _side(target)
    shape = (len(xs.types), len(ys.types))
    chunks = [_links(xs, ys, start, min(start + CHUNK, len(source)))
              for start in range(0, len(source), CHUNK)]
    cells = np.unique(np.concatenate([np.unique(chunk.cell) for chunk in chunks]))
    chunks = [replace(chunk, cell=np.searchsorted(cells, chunk.cell)) for chunk in chunks]
    row, column = np.divmod(cells, shape[1])
    t = np.full(len(cells), 1 / shape[1])
    for _ in range(ITERATIONS):
        counts = sum(_expected_counts(t, chunk) for chunk in chunks)
        t = counts / np.bincount(row, counts, shape[0])[row]
    used = np.bincount(xs.ids, xs.counts, shape[0]).astype(np.int64)
    return TranslationTable(xs.types, ys.types, sparse.csr_array((t, (row, column)), shape), used)


def complexity(source: Sequence[str], target: Sequence[str]) -> Complexity:
    """How simple the corpus of these aligned lines is; each line has a word in it."""
    table = fit(source, target)
    entropies = table.entropies()
    running = sum(len(words(line)) for line in target)
    return Complexity(
        pairs=len(source), conditional_entropy=float(entropies.mean()),
        conditional_entropy_by_use=float(np.average(entropies, weights=table.counts)),
        source_types=len(table.sources), target_types=len(table.targets), target_words=running,
        target_length=running / len(target))


def entropies_by_word(source: Sequence[str], raw: Sequence[str],
                      distilled: Sequence[str]) -> pd.DataFrame:
    """H(y|x) in nats of every source word, towards two targets of the same lines: columns
    `occurrences`, `raw` and `distilled`, the most frequent word first.
    """
    tables = {"raw": fit(source, raw), "distilled": fit(source, distilled)}
    columns = {name: table.entropies() for name, table in tables.items()}
    frame = pd.DataFrame({"occurrences": tables["raw"].counts, **columns})
    return frame.sort_values("occurrences", ascending=False, kind="stable", ignore_index=True)


def _side(lines: Sequence[str]) -> _Side:
    counted = [Counter(words(line)) for line in lines]
    types = sorted(set(chain.from_iterable(counted)))
    places = {word: place for place, word in enumerate(types)}
    sizes = np.fromiter(map(len, counted), np.int64, len(counted))
    if not sizes.all():
        raise ValueError(f"line {int(sizes.argmin()) + 1} holds no word")
    total = int(sizes.sum())
    ids = (places[word] for line in counted for word in line)
    counts = (count for line in counted for count in line.values())
    return _Side(np.fromiter(ids, np.int64, total), np.fromiter(counts, np.int64, total),
                 np.concatenate([[0], np.cumsum(sizes)]), types)


def _links(xs: _Side, ys: _Side, first: int, last: int) -> _Links:
    """The links of the pairs first, ..., last - 1, group by group."""
    groups = np.arange(ys.offsets[first], ys.offsets[last])
    pair = np.repeat(np.arange(first, last), np.diff(ys.offsets[first:last + 1]))
    size = np.diff(xs.offsets)[pair]
    start = np.cumsum(size) - size
    x = np.arange(size.sum()) + np.repeat(xs.offsets[pair] - start, size)
    cell = xs.ids[x] * len(ys.types) + np.repeat(ys.ids[groups], size)
    return _Links(cell, xs.counts[x].astype(float), ys.counts[groups].astype(float), size, start)


def _expected_counts(t: Float64[np.ndarray, " cells"],
                     links: _Links) -> Float64[np.ndarray, " cells"]:
    """c(x, y) of the chunk under the table t: each target word is shared out over its source."""
    weight = t[links.cell] * links.x_count
    share = links.y_count / np.add.reduceat(weight, links.start)
    return np.bincount(links.cell, weight * np.repeat(share, links.size), len(t))


def _x_log_x(x: Float64[np.ndarray, " values"]) -> Float64[np.ndarray, " values"]:
    """x log x, 0 at 0."""
    return x * np.log(np.where(x > 0, x, 1.0))
