"""What training varies: own, pooled and unknown; intervals that hold what they say."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from analysis.training_variance import Difference, Spread, half_width, spreads, to_decide, widened


def test_a_variance_is_its_own_else_its_familys_else_everybodys():
    values = [[1.0, 2.0, 6.0], [5.0], [1.0, 3.0], [9.0], [7.0]]
    families = ["gaussian", "gaussian", "flow", "autoregressive", "gaussian"]
    places = ["raw"] * 4 + ["distilled"]
    own, relative, two, stranger, elsewhere = spreads(values, families, places)
    assert own == Spread(7.0, 2, (0,), 3)       # deviations -2, -1, 3
    assert relative == Spread(7.0, 2, (0,), 1)  # Ga-L by Ga-B's seeds
    assert two == Spread(16 / 3, 3, (0, 2), 2)  # one degree of freedom is too few, its family's too
    assert stranger == Spread(16 / 3, 3, (0, 2), 1, borrowed=True)  # no seeds in its family
    assert elsewhere is None


def test_two_seeds_are_pooled_with_the_familys_others():
    first, second = spreads([[1.0, 2.0, 6.0], [1.0, 3.0]], ["flow"] * 2, ["raw"] * 2)
    assert first == Spread(7.0, 2, (0,), 3)
    assert second == Spread(16 / 3, 3, (0, 1), 2)


def test_families_with_one_degree_of_freedom_share_all():
    """A second seed in each family leaves no pair with Student's t of one degree."""
    found = spreads([[1.0, 3.0], [5.0, 5.0], [2.0]], ["gaussian", "flow", "flow"], ["raw"] * 3)
    assert found == [Spread(1.0, 2, (0, 1), seeds) for seeds in (2, 2, 1)]


def test_numbers_that_are_missing_are_no_seeds():
    assert spreads([[math.nan, 2.0, 4.0]], ["flow"], ["raw"]) == [Spread(2.0, 1, (0,), 2)]
    assert spreads([[math.nan, math.nan]], ["flow"], ["raw"]) == [None]


def test_half_widths_by_hand():
    one = Spread(8.0, 1, (0,), 2)
    quantile = math.tan(0.475 * math.pi)  # Student's t with one degree of freedom: 12.7
    assert half_width([(1.0, one)]) == pytest.approx(2 * quantile)
    # a second system of the same pool: the variances of the means add, the degrees don't
    other = Spread(8.0, 1, (0,), 1)
    assert half_width([(1.0, one), (-1.0, other)]) == pytest.approx(math.sqrt(12) * quantile)
    # Welch: two estimates alike have the degrees of both together
    apart = Spread(8.0, 1, (1,), 2)
    assert half_width([(1.0, one), (-1.0, apart)]) == pytest.approx(math.sqrt(8) * 4.3027, rel=1e-4)
    assert math.isnan(half_width([(1.0, one), (-1.0, None)]))
    assert half_width([(1.0, Spread(0.0, 1, (0,), 2))]) == 0.0


def decided(seeds, gap, *, trials=400):
    """How often a difference of `gap` is decided between a system with so many seeds and one with
    one, beside a relative of either family with three; sd over trainings: 1.
    """
    rng, hits = np.random.default_rng(0), 0
    for _ in range(trials):
        values = [gap + rng.normal(size=seeds), rng.normal(size=1), rng.normal(size=3),
                  rng.normal(size=3)]
        found = spreads(values, ["gaussian", "flow", "gaussian", "flow"], ["raw"] * 4)
        half = half_width([(1.0, found[0]), (-1.0, found[1])])
        hits += abs(values[0].mean() - values[1].mean()) > half
    return hits / trials


def test_one_seed_is_no_certainty():
    """Systems that don't differ are decided one time in twenty, however many seeds each has."""
    assert all(decided(seeds, 0.0) < 0.09 for seeds in (1, 2, 3, 5))


def test_pools_that_overlap_are_one_estimate():
    """A system with its own pool against one whose pool holds the first's seeds, too."""
    rng, missed, trials = np.random.default_rng(0), 0, 2000
    for _ in range(trials):
        values = [rng.normal(size=seeds) for seeds in (2, 1, 2, 2)]
        found = spreads(values, ["gaussian", "flow"] * 2, ["raw"] * 4)
        assert set(found[0].pool) & set(found[1].pool) and found[0].pool != found[1].pool
        missed += abs(values[0].mean() - values[1].mean()) > half_width(
            [(1.0, found[0]), (-1.0, found[1])])
    assert missed / trials == pytest.approx(0.05, abs=0.014)  # 0.08 as if they were independent


def test_another_seed_makes_no_pair_less_decidable():
    shares = [decided(seeds, 5.0) for seeds in (1, 2, 3, 5)]
    assert all(after > before - 0.03 for before, after in itertools.pairwise(shares))
    assert shares[0] > 0.2 and shares[-1] > shares[0] + 0.1


def test_what_would_decide():
    parts = [(1.0, Spread(1.0, 4, (0,), 1)), (-1.0, Spread(1.0, 4, (1,), 1))]
    seeds, sentences = to_decide(2.0, 0.5, 1000, parts)
    # four times in five: 1.96 / (1.96 + 0.84) = 0.7 of the room; 2.23 sqrt(2 / 6) < 1.31, where
    assert math.isnan(sentences) and seeds == 6  # 1.31 = sqrt(1.4 ** 2 - 0.25)
    assert to_decide(2.0, 0.5, 1000, parts)[0] > to_decide(4.0, 0.5, 1000, parts)[0]
    # sentences alone where training isn't known: 0.35 of the width needs 1 / 0.3498 ** 2 as many
    assert to_decide(0.5, 1.0, 1000, [(1.0, None)]) == (pytest.approx(math.nan, nan_ok=True), 8173)
    more = to_decide(0.5, 1.0, 1000, parts)
    assert more[1] == pytest.approx(16347, abs=1) and more[0] > seeds
    assert to_decide(0.0, 1.0, 1000, parts)[1] == math.inf
    assert to_decide(1e-3, 0.0, 1000, parts)[0] == math.inf


def test_what_would_decide_does_so_four_times_in_five():
    """Sentences alone: 1,000 gave an interval of half width 1, a true difference is 0.5."""
    _, sentences = to_decide(0.5, 1.0, 1000, [(1.0, None)])
    half = math.sqrt(1000 / sentences)
    measured = np.random.default_rng(0).normal(0.5, half / 1.96, 20_000)
    assert np.mean(measured > half) == pytest.approx(0.8, abs=0.01)


def test_needs_in_words():
    def words(seeds=math.nan, sentences=math.nan):
        return Difference(0.0, -1.0, 1.0, "", seeds, sentences).needs

    assert words(7.0) == "7 seeds"
    assert words(3.0, 2300.0) == "2,300 sentences and 3 seeds"
    assert words(math.inf) == "over 1,000 seeds"
    assert words() == ""
    assert "tighter bound" in words(sentences=math.inf)


def test_an_interval_is_widened_in_quadrature_by_what_training_varies():
    one = Spread(8.0, 1, (0,), 2)
    wide = widened(1.0, 0.5, 2.0, [(1.0, one)], 100)
    assert wide.low == pytest.approx(1.0 - math.hypot(0.5, half_width([(1.0, one)])))
    assert wide.high == pytest.approx(1.0 + math.hypot(1.0, half_width([(1.0, one)])))
    assert wide.over == "sentences and training" and wide.needs
    guess = widened(1.0, 0.5, 2.0, [(1.0, replace(one, borrowed=True)), (-1.0, one)], 100)
    assert guess.over == "sentences and other families' training"
    known = widened(1.0, 0.5, 2.0, [(1.0, None)], 100, slack=(0.1, 0.2))
    assert known[:4] == (1.0, 0.4, 2.2, "sentences only") and not known.needs
