"""What another training would change: the variance over seeds that every system carries.

A system with one seed has no variance of its own. If it were given none, it would become less
decidable by being trained again. So its variance is its own where it has enough seeds, else that of
its family, if that has, else that of all families, which is a guess and is called so: a family
may vary more than others. Where no system trained on the same text has seeds it is that of the same
model, family or all on the other text (raw for distilled), a guess as well; else nothing is known.
"""

import bisect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit

__all__ = ["BORROWED", "BOTH", "OVER", "PARTLY", "SENTENCES", "Difference", "Source", "Spread",
           "half_width", "spreads", "to_decide", "widened"]

ENOUGH = 2
"""Degrees of freedom from which on an estimate stands: one alone gives a t quantile of 12.7."""
MOST = 1000
"""Seeds beyond which a pair is called out of reach."""
POWER = 0.8
"""The chance at which seeds and sentences are said to decide a difference."""
OVER = SENTENCES, BORROWED, BOTH = (
    "sentences only", "sentences and training borrowed from other families or text",
    "sentences and training")
"""What an interval may be over, from the least to the most that is known of training."""
PARTLY = "sentences, in part over training as well"
"""What several intervals are over, some of them over `SENTENCES` alone."""


class Source(NamedTuple):
    """What a system's own seeds say: its variance over them and its degrees of freedom."""

    system: int
    variance: float
    freedom: int


@dataclass(frozen=True)
class Spread:
    """How a number varies from one training of a system to the next.

    pool: what the seeds of one or several systems say. seeds: of which the system's number is the
    mean. borrowed: whether none of the pool is of the system's own family and text.
    """

    pool: tuple[Source, ...]
    seeds: int
    borrowed: bool = False

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the pooled variance."""
        return sum(source.freedom for source in self.pool)

    @property
    def variance(self) -> float:
        """Of one training, in squared units of the number."""
        return sum(source.variance * source.freedom for source in self.pool) / self.freedom

    @property
    def shares(self) -> dict[Source, float]:
        """What each of the pool adds to the variance of the mean over `seeds`."""
        return {source: source.variance * source.freedom / self.freedom / self.seeds
                for source in self.pool}


PLACE, TEXT, FAMILY, MODEL = range(4)
NEAR = (PLACE, TEXT, FAMILY), (PLACE, TEXT), (PLACE, MODEL), (PLACE, FAMILY), (PLACE,)
"""What those have in common whose seeds stand in for a system's own, the nearest first."""
Parts = Sequence[tuple[float, Spread | None]]
"""The systems of a weighted sum: each one's weight and spread."""


def spreads(values: Iterable[Iterable[float]], systems: Iterable[tuple[object, str, str, str]],
            ) -> list[Spread | None]:
    """Every system's spread, None where no system of its place has two seeds.

    values: a system's numbers, one a seed. systems: the place (what only systems of one corpus and
    scale have in common), training text, family and model of each. Pooled are squared deviations
    from each system's mean over their degrees of freedom; a pool with fewer than `ENOUGH` stands
    where there is no larger one.
    """
    known = [[value for value in of if math.isfinite(value)] for of in values]
    own = [Source(system, float(np.var(of, ddof=1)), len(of) - 1) if len(of) > 1 else None
           for system, of in enumerate(known)]
    systems, result = list(systems), []
    for system, key in enumerate(systems):
        near = [[i for i, other in enumerate(systems) if all(
            other[part] == key[part] for part in parts)] for parts in NEAR]
        pools = [tuple(filter(None, (own[i] for i in pool))) for pool in ([system], *near)]
        pools = [pool for pool in pools if pool] if known[system] else []
        pool = next((pool for pool in pools if sum(of.freedom for of in pool) >= ENOUGH),
                    pools[-1] if pools else None)
        result.append(pool and Spread(pool, len(known[system]), not any(
            of.system in near[0] for of in pool)))
    return result


def half_width(parts: Parts) -> float:
    """Half the 95% interval that training gives a weighted sum of systems' means; NaN where the
    spread of one isn't known.

    Student's t, with Satterthwaite's degrees of freedom over the systems whose seeds are behind it:
    what several parts take from one counts as one estimate, however else their pools differ.
    """
    if any(spread is None for _, spread in parts):
        return math.nan
    shares: dict[Source, float] = {}
    for weight, spread in parts:
        for source, share in spread.shares.items():
            shares[source] = shares.get(source, 0.0) + weight ** 2 * share
    total = sum(shares.values())
    if not total:
        return 0.0
    freedom = total ** 2 / sum(share ** 2 / of.freedom for of, share in shares.items())
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
        later = [(weight, Spread((Source(part, spread.variance, max(
            spread.freedom, seeds - 1)),), seeds)) for part, (weight, spread) in enumerate(parts)]
        return bool(half_width(later) < room)

    counts = range(2, MOST + 1)
    place = bisect.bisect_left(counts, True, key=enough)  # more seeds never widen it
    if place == len(counts):
        return math.inf
    return float(max(counts[place], *(spread.seeds for _, spread in parts)))
