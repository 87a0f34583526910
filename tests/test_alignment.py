"""IBM model 1: against EM written out word by word, and corpora whose tables are known."""

import math
from collections import defaultdict
from itertools import permutations

import numpy as np
import pytest

from lib.distillation import alignment
from lib.distillation.alignment import complexity, entropies_by_word, fit, words


def brute_force(source: list[str], target: list[str], iterations: int) -> dict:
    """t[x, y] by the two sums of Brown et al., one word token at a time."""
    pairs = [(words(s), words(t)) for s, t in zip(source, target, strict=True)]
    types = {y for _, ys in pairs for y in ys}
    t = defaultdict(lambda: 1 / len(types))
    for _ in range(iterations):
        counts, totals = defaultdict(float), defaultdict(float)
        for xs, ys in pairs:
            for y in ys:
                total = sum(t[x, y] for x in xs)
                for x in xs:
                    counts[x, y] += t[x, y] / total
                    totals[x] += t[x, y] / total
        t = defaultdict(float, {(x, y): c / totals[x] for (x, y), c in counts.items()})
    return dict(t)


def random_corpus(pairs: int = 30, types: int = 6) -> tuple[list[str], list[str]]:
    """Lines with repeated words, of differing lengths on the two sides."""
    rng = np.random.default_rng(0)
    return tuple([" ".join(f"{side}{i}" for i in rng.integers(types, size=rng.integers(1, 7)))
                  for _ in range(pairs)] for side in "xy")


@pytest.mark.parametrize("iterations", [1, 2, 15])
@pytest.mark.parametrize("chunk", [7, 1000])
def test_the_table_is_that_of_em_written_out(monkeypatch, iterations, chunk):
    monkeypatch.setattr(alignment, "CHUNK", chunk)
    monkeypatch.setattr(alignment, "ITERATIONS", iterations)
    source, target = random_corpus()
    table, expected = fit(source, target), brute_force(source, target, iterations)
    assert table.probabilities.nnz == len(expected)
    dense = table.probabilities.toarray()
    for (x, y), value in expected.items():
        assert dense[table.sources.index(x), table.targets.index(y)] == pytest.approx(value)
    assert dense.sum(1) == pytest.approx(np.ones(len(table.sources)))
    counts = {x: sum(line.split().count(x) for line in source) for x in table.sources}
    assert table.counts.tolist() == list(counts.values())


def test_entropies_by_hand():
    """One word against two that always come together: EM stays at one half each."""
    table = fit(["a", "a"], ["x y", "y x"])
    assert table.entropies() == pytest.approx([math.log(2)])
    assert fit(["a", "a b"], ["x", "x"]).probabilities.toarray().tolist() == [[1.0], [1.0]]


def sentences(count: int, types: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(types, size=rng.integers(2, 7)).tolist() for _ in range(count)]


def text(prefix: str, rows: list[list[int]]) -> list[str]:
    return [" ".join(f"{prefix}{word}" for word in row) for row in rows]


def test_a_dictionary_has_no_entropy():
    """A word for a word, in any order: nothing is left to choose."""
    rows = sentences(600, 20)
    found = complexity(text("x", rows), text("y", [row[::-1] for row in rows]))
    assert found.conditional_entropy == pytest.approx(0, abs=0.01)
    assert found.conditional_entropy_by_use == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("synonyms", [2, 3])
def test_uniform_synonyms_have_the_entropy_of_their_number(synonyms):
    rows, rng = sentences(2000, 12), np.random.default_rng(1)
    target = [[word * synonyms + int(rng.integers(synonyms)) for word in row] for row in rows]
    found = complexity(text("x", rows), text("y", target))
    assert found.conditional_entropy == pytest.approx(math.log(synonyms), abs=0.02)
    assert found.target_types == 12 * synonyms


def test_a_skewed_choice_has_its_own_entropy():
    """Two words at 0.9 and 0.1: H = 0.325 nats."""
    rows, rng = sentences(3000, 10), np.random.default_rng(1)
    target = [[2 * word + int(rng.random() < 0.1) for word in row] for row in rows]
    expected = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    found = complexity(text("x", rows), text("y", target))
    assert found.conditional_entropy == pytest.approx(expected, abs=0.02)


def test_one_mode_is_simpler_than_several():
    """What distillation does: of two wordings that a corpus mixes, one is left."""
    rows, rng = sentences(1000, 10), np.random.default_rng(1)
    modes = rng.integers(2, size=len(rows))
    mixed = [[2 * w + int(m) for w in row] for row, m in zip(rows, modes, strict=True)]
    source = text("x", rows)
    raw = complexity(source, text("y", mixed))
    distilled = complexity(source, text("y", [[2 * w for w in row] for row in rows]))
    assert raw.conditional_entropy == pytest.approx(math.log(2), abs=0.03)
    assert distilled.conditional_entropy < 0.01
    assert (raw.target_types, distilled.target_types) == (20, 10)


def test_the_order_of_the_pairs_changes_nothing():
    source, target = ["a b", "b c", "a a c"], ["x", "y z", "x z z"]
    reference = fit(source, target)
    for order in permutations(range(3)):
        again = fit([source[i] for i in order], [target[i] for i in order])
        assert again.sources == reference.sources
        assert again.probabilities.toarray() == pytest.approx(reference.probabilities.toarray())


def test_sizes_and_means_by_hand():
    found = complexity(["a b a", "c"], ["x.", "y y y x"])
    assert (found.pairs, found.source_types, found.target_types) == (2, 3, 3)
    assert (found.target_words, found.target_length) == (6, 3.0)
    h = dict(zip("abc", fit(["a b a", "c"], ["x.", "y y y x"]).entropies(), strict=True))
    assert h["c"] == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert found.conditional_entropy == pytest.approx(sum(h.values()) / 3)
    assert found.conditional_entropy_by_use == pytest.approx((2 * h["a"] + h["b"] + h["c"]) / 4)


def test_entropies_by_word_keep_the_two_texts_apart():
    source, raw, distilled = ["a a b", "b c b b"], ["x y x", "y z"], ["x", "x x"]
    found = entropies_by_word(source, raw, distilled)
    assert found["occurrences"].tolist() == [4, 2, 1]  # b, a, c
    for name, target in (("raw", raw), ("distilled", distilled)):
        h = fit(source, target).entropies()
        assert found[name].tolist() == pytest.approx([h[1], h[0], h[2]])


@pytest.mark.parametrize(("line", "expected"), [
    ("A dog runs.", ["A", "dog", "runs", "."]),
    ("don't  well-known", ["don't", "well-known"]),
    ("(2.5 m) – »ja«", ["(", "2", ".", "5", "m", ")", "–", "»", "ja", "«"]),
    ("  ", []),
])
def test_words(line, expected):
    assert words(line) == expected


@pytest.mark.parametrize(("source", "target", "message"), [
    (["a"], ["x", "y"], "1 and 2 lines"), ([], [], "0 and 0 lines"),
    (["a", "b"], ["x", " "], "line 2 holds no word"),
])
def test_what_is_no_corpus_is_refused(source, target, message):
    with pytest.raises(ValueError, match=message):
        fit(source, target)
