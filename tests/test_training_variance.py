"""What training varies: own, pooled and unknown; intervals that hold what they say."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import stdtrit

from analysis.training_variance import (
    Difference,
    Source,
    Spread,
    half_width,
    spreads,
    to_decide,
    widened,
)


def raw(*families):
    """Systems of one place and text, a model each, of these families."""
    return [("here", "raw", family, f"model {i}") for i, family in enumerate(families)]


def test_a_variance_is_its_own_else_its_familys_else_everybodys():
    values = [[1.0, 2.0, 6.0], [5.0], [1.0, 3.0], [9.0], [7.0]]
    places = [*raw("gaussian", "gaussian", "flow", "autoregressive"),
              ("there", "raw", "gaussian", "model 0")]
    own, relative, two, stranger, elsewhere = spreads(values, places)
    three, pair = Source(0, 7.0, 2), Source(2, 2.0, 1)  # deviations -2, -1, 3; and -1, 1
    assert own == Spread((three,), 3)
    assert relative == Spread((three,), 1)  # Ga-L by Ga-B's seeds
    assert two == Spread((three, pair), 2)  # one degree of freedom is too few, its family's too
    assert two.freedom == 3 and two.variance == 16 / 3
    assert stranger == Spread((three, pair), 1, borrowed=True)  # no seeds in its family
    assert elsewhere is None


def test_where_a_text_has_no_seeds_the_other_lends_its_own():
    """First the model's, then its family's, then everybody's."""
    values = [[1.0, 2.0, 6.0], [1.0, 3.0, 5.0], [7.0], [7.0], [7.0]]
    systems = raw("gaussian", "flow") + [("here", "distilled", *of) for of in (
        ("gaussian", "model 0"), ("flow", "another"), ("masked", "a third"))]
    of = spreads(values, systems)[2:]
    first, second = Source(0, 7.0, 2), Source(1, 4.0, 2)
    assert of == [Spread((first,), 1, True), Spread((second,), 1, True),
                  Spread((first, second), 1, True)]


def test_two_seeds_are_pooled_with_the_familys_others():
    first, second = spreads([[1.0, 2.0, 6.0], [1.0, 3.0]], raw("flow", "flow"))
    assert first == Spread((Source(0, 7.0, 2),), 3)
    assert second == Spread((Source(0, 7.0, 2), Source(1, 2.0, 1)), 2)


def test_families_with_one_degree_of_freedom_share_all():
    """A second seed in each family leaves no pair with Student's t of one degree."""
    found = spreads([[1.0, 3.0], [5.0, 5.0], [2.0]], raw("gaussian", "flow", "flow"))
    pool = Source(0, 2.0, 1), Source(1, 0.0, 1)
    assert found == [Spread(pool, seeds) for seeds in (2, 2, 1)]
    assert {spread.variance for spread in found} == {1.0}


def test_numbers_that_are_missing_are_no_seeds():
    assert spreads([[math.nan, 2.0, 4.0]], raw("flow")) == [Spread((Source(0, 2.0, 1),), 2)]
    assert spreads([[math.nan, math.nan]], raw("flow")) == [None]


def one_of(system, variance, freedom, seeds):
    """A spread that one system's seeds give."""
    return Spread((Source(system, variance, freedom),), seeds)


def test_half_widths_by_hand():
    one = one_of(0, 8.0, 1, 2)
    quantile = math.tan(0.475 * math.pi)  # Student's t with one degree of freedom: 12.7
    assert half_width([(1.0, one)]) == pytest.approx(2 * quantile)
    # a second system of the same pool: the variances of the means add, the degrees don't
    other = one_of(0, 8.0, 1, 1)
    assert half_width([(1.0, one), (-1.0, other)]) == pytest.approx(math.sqrt(12) * quantile)
    # Welch: two estimates alike have the degrees of both together
    apart = one_of(1, 8.0, 1, 2)
    assert half_width([(1.0, one), (-1.0, apart)]) == pytest.approx(math.sqrt(8) * 4.3027, rel=1e-4)
    # a pool of both for the second: 6 of 8 from the first system, 2 of 8 from the other
    both = Spread((*one.pool, *apart.pool), 2)
    assert half_width([(1.0, one), (1.0, both)]) == pytest.approx(
        math.sqrt(8) * stdtrit(64 / (36 + 4), 0.975))
    assert math.isnan(half_width([(1.0, one), (-1.0, None)]))
    assert half_width([(1.0, one_of(0, 0.0, 1, 2))]) == 0.0


def decided(seeds, gap, *, trials=400):
    """How often a difference of `gap` is decided between a system with so many seeds and one with
    one, beside a relative of either family with three; sd over trainings: 1.
    """
    rng, hits = np.random.default_rng(0), 0
    for _ in range(trials):
        values = [gap + rng.normal(size=seeds), rng.normal(size=1), rng.normal(size=3),
                  rng.normal(size=3)]
        found = spreads(values, raw("gaussian", "flow", "gaussian", "flow"))
        half = half_width([(1.0, found[0]), (-1.0, found[1])])
        hits += abs(values[0].mean() - values[1].mean()) > half
    return hits / trials


def test_one_seed_is_no_certainty():
    """Systems that don't differ are decided one time in twenty, however many seeds each has."""
    assert all(decided(seeds, 0.0) < 0.09 for seeds in (1, 2, 3, 5))


@pytest.mark.parametrize("deviations", [(1.0, 1.0, 1.0, 1.0), (3.0, 1.0, 0.5, 0.5)])
def test_what_overlapping_pools_share_counts_once(deviations):
    """A system with its own seeds against one whose pool holds them, too: about one difference of
    twenty is missed also where the former varies more than the rest of that pool.
    """
    rng, missed, trials = np.random.default_rng(0), 0, 2000
    for _ in range(trials):
        values = [deviation * rng.normal(size=seeds)
                  for seeds, deviation in zip((3, 1, 3, 3), deviations, strict=True)]
        found = spreads(values, raw("gaussian", "masked", "flow", "flow"))
        assert len(found[0].pool) == 1 and set(found[0].pool) < set(found[1].pool)
        missed += abs(values[0].mean() - values[1].mean()) > half_width(
            [(1.0, found[0]), (-1.0, found[1])])
    assert 0.01 < missed / trials < 0.075


def test_another_seed_makes_no_pair_less_decidable():
    shares = [decided(seeds, 5.0) for seeds in (1, 2, 3, 5)]
    assert all(after > before - 0.03 for before, after in itertools.pairwise(shares))
    assert shares[0] > 0.2 and shares[-1] > shares[0] + 0.1


def test_what_would_decide():
    parts = [(1.0, one_of(0, 1.0, 4, 1)), (-1.0, one_of(1, 1.0, 4, 1))]
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
    one = one_of(0, 8.0, 1, 2)
    wide = widened(1.0, 0.5, 2.0, [(1.0, one)], 100)
    assert wide.low == pytest.approx(1.0 - math.hypot(0.5, half_width([(1.0, one)])))
    assert wide.high == pytest.approx(1.0 + math.hypot(1.0, half_width([(1.0, one)])))
    assert wide.over == "sentences and training" and wide.needs
    guess = widened(1.0, 0.5, 2.0, [(1.0, replace(one, borrowed=True)), (-1.0, one)], 100)
    assert guess.over == "sentences and training borrowed from other families or text"
    known = widened(1.0, 0.5, 2.0, [(1.0, None)], 100, slack=(0.1, 0.2))
    assert known[:4] == (1.0, 0.4, 2.2, "sentences only") and not known.needs
