"""What another training would change: the variance over seeds that every system carries.

A system with one seed has no variance of its own. If it were given none, it would become less
decidable by being trained again. So its variance is its own where it has enough seeds, else that of
its family, if that has, else that of all families, which is a guess and is called so: a family
may vary more than others. Where no system has seeds nothing is known.
"""

import bisect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit

__all__ = ["BORROWED", "BOTH", "OVER", "PARTLY", "SENTENCES", "Difference", "Spread", "half_width",
           "spreads", "to_decide", "widened"]

ENOUGH = 2
"""Degrees of freedom from which on an estimate stands: one alone gives a t quantile of 12.7."""
MOST = 1000
"""Seeds beyond which a pair is called out of reach."""
POWER = 0.8
"""The chance at which seeds and sentences are said to decide a difference."""
OVER = SENTENCES, BORROWED, BOTH = (
    "sentences only", "sentences and other families' training", "sentences and training")
"""What an interval may be over, from the least to the most that is known of training."""
PARTLY = "sentences, in part over training as well"
"""What several intervals are over, some of them over `SENTENCES` alone."""


@dataclass(frozen=True)
class Spread:
    """How a number varies from one training of a system to the next.

    variance: of one training, in squared units of the number. freedom: its degrees of freedom.
    pool: the systems whose seeds it is from. seeds: of which the system's number is the mean.
    borrowed: whether none of the pool is of the system's own family.
    """

    variance: float
    freedom: int
    pool: tuple[int, ...]
    seeds: int
    borrowed: bool = False


Parts = Sequence[tuple[float, Spread | None]]
"""The systems of a weighted sum: each one's weight and spread."""


def spreads(values: Iterable[Iterable[float]], families: Iterable[str], places: Iterable[object],
            ) -> list[Spread | None]:
    """Every system's spread, None where no system of its place has two seeds.

    values: a system's numbers, one a seed. places: what only systems of one corpus, scale and
    training text have in common. Pooled are squared deviations from each system's mean over their
    degrees of freedom; a pool with fewer than `ENOUGH` stands where there is no other.
    """
    known = [np.array([value for value in of if math.isfinite(value)]) for of in values]
    systems = list(zip(places, families, strict=True))

    def pooled(pool: Sequence[int], seeds: int) -> Spread | None:
        pool = tuple(system for system in pool if len(known[system]) > 1)
        freedom = sum(len(known[system]) - 1 for system in pool)
        if not freedom or not seeds:
            return None
        squares = sum(np.square(known[system] - known[system].mean()).sum() for system in pool)
        return Spread(float(squares / freedom), freedom, pool, seeds)

    result = []
    for system, (place, family) in enumerate(systems):
        relatives = [i for i, other in enumerate(systems) if other == (place, family)]
        here = [i for i, (other, _) in enumerate(systems) if other == place]
        pools = [pooled(pool, len(known[system])) for pool in ([system], relatives, here)]
        spread = next((pool for pool in pools if pool and pool.freedom >= ENOUGH), pools[-1])
        result.append(spread and replace(spread, borrowed=not set(spread.pool) & set(relatives)))
    return result


def half_width(parts: Parts) -> float:
    """Half the 95% interval that training gives a weighted sum of systems' means; NaN where the
    spread of one isn't known.

    Student's t, with Satterthwaite's degrees of freedom over the pools. Systems whose pools share
    some have no independent estimates: theirs count as one, with the degrees of the largest pool.
    """
    if any(spread is None for _, spread in parts):
        return math.nan
    pools: dict[tuple, tuple[float, int]] = {}
    for weight, spread in sorted(parts, key=lambda part: -len(part[1].pool)):
        pool = next((pool for pool in pools if set(pool) & set(spread.pool)), spread.pool)
        before, freedom = pools.get(pool, (0.0, spread.freedom))
        pools[pool] = (before + weight ** 2 * spread.variance / spread.seeds, freedom)
    total = sum(variance for variance, _ in pools.values())
    if not total:
        return 0.0
    freedom = total ** 2 / sum(variance ** 2 / of for variance, of in pools.values())
    return float(stdtrit(freedom, 0.975)) * math.sqrt(total)


class Difference(NamedTuple):
    """A value with its 95% interval, what that is over, and what would decide it (`to_decide`)."""

    value: float
    low: float
    high: float
    over: str
    seeds: float = math.nan
    sentences: float = math.nan

    @property
    def needs(self) -> str:
        """What would decide it: "7 seeds", "2,300 sentences and 4 seeds"; "" for nothing."""
        if math.isinf(self.sentences):
            return "a tighter bound or a larger difference"
        return " and ".join(
            f"over {MOST:,} {name}" if math.isinf(count) else f"{int(count):,} {name}"
            for count, name in ((self.sentences, "sentences"), (self.seeds, "seeds"))
            if not math.isnan(count))


def widened(value: float, low: float, high: float, parts: Parts, sentences: int,
            slack: tuple[float, float] = (0.0, 0.0)) -> Difference:
    """A difference whose interval `low` to `high` is over so many sentences, widened in quadrature
    by what training varies, where that is known.

    slack: how far a bound may still move the difference down and up.
    """
    training = half_width(parts)
    known = 0.0 if math.isnan(training) else training
    halves = np.maximum(0.0, [value - low, high - value])
    below, above = np.hypot(halves, known) + slack
    over = SENTENCES if math.isnan(training) else (
        BORROWED if any(spread.borrowed for _, spread in parts) else BOTH)
    result = Difference(value, float(value - below), float(value + above), over)
    if not result.low <= 0 <= result.high:
        return result
    side = 0 if value > 0 else 1
    seeds, more = to_decide(abs(value) - slack[side], float(halves[side]), sentences, parts)
    return result._replace(seeds=seeds, sentences=more)


def to_decide(room: float, half: float, sentences: int, parts: Parts) -> tuple[float, float]:
    """(seeds a system, test sentences) at which an interval would leave zero out with a chance of
    `POWER`, if the true difference is the one that was measured; NaN for what isn't needed or isn't
    known, infinity for what is out of reach.

    room: how far the value is from zero (less what a bound may still rise by). half: half the
    interval over so many `sentences`. Where seeds don't suffice, each takes an equal share of the
    room.
    """
    if room <= 0:
        return math.nan, math.inf
    room *= ndtri(0.975) / (ndtri(0.975) + ndtri(POWER))  # a new difference lies below it as often
    known = all(spread is not None for _, spread in parts)
    if half < room and known:
        return _seeds(math.sqrt(room ** 2 - half ** 2), parts), math.nan
    share = room / math.sqrt(2) if known and half_width(parts) else room
    more = math.ceil(sentences * (half / share) ** 2)
    return (_seeds(share, parts) if share < room else math.nan), float(more)


def _seeds(room: float, parts: Parts) -> float:
    """Trainings of each system at which training's half width is below `room`."""
    def enough(seeds: int) -> bool:
        return bool(half_width([(weight, replace(spread, seeds=seeds, freedom=max(
            spread.freedom, seeds - 1))) for weight, spread in parts]) < room)

    counts = range(2, MOST + 1)
    place = bisect.bisect_left(counts, True, key=enough)  # more seeds never widen it
    if place == len(counts):
        return math.inf
    return float(max(counts[place], *(spread.seeds for _, spread in parts)))
