"""What another training would change: the variance over seeds that every system carries.

A system with one seed has no variance of its own. If it were given none, a system would become less
decidable by being trained again. So a system's variance is its own where it has enough seeds, else
that of its family, if that has, else that of all families; where no system has seeds nothing is
known, and an interval is over test sentences alone.
"""

import bisect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

__all__ = ["BOTH", "SENTENCES", "Spread", "half_width", "needed", "needs_text", "over", "spreads"]

ENOUGH = 2
"""Degrees of freedom from which on an estimate stands: one alone gives a t quantile of 12.7."""
MOST = 1000
"""Seeds beyond which a pair is called out of reach."""
BOTH, SENTENCES = "sentences and training", "sentences only"


@dataclass(frozen=True)
class Spread:
    """How a number varies from one training of a system to the next.

    variance: of one training, in squared units of the number. freedom: its degrees of freedom.
    pool: the systems whose seeds it is from. seeds: of which the system's number is the mean.
    """

    variance: float
    freedom: int
    pool: tuple[int, ...]
    seeds: int


def spreads(values: Sequence[Iterable[float]], families: Sequence[str], places: Sequence[object],
            ) -> list[Spread | None]:
    """Every system's spread, None where no system of its place has two seeds.

    values: a system's numbers, one a seed. places: what only systems of one corpus, scale and
    training text have in common. From three seeds on a system's variance is its own; with fewer
    it is pooled over its family (squared deviations from each system's mean over their degrees of
    freedom) where that has `ENOUGH` of them, else over all families.
    """
    known = [np.array([value for value in of if math.isfinite(value)]) for of in values]
    systems = range(len(known))
    found = []
    for system in systems:
        here = [other for other in systems if places[other] == places[system]]
        family = [other for other in here if families[other] == families[system]]
        pools = [_pooled(known, pool, len(known[system])) for pool in ([system], family, here)]
        found.append(next((pool for pool in pools if pool and pool.freedom >= ENOUGH), pools[-1]))
    return found


def _pooled(known: Sequence[np.ndarray], pool: Sequence[int], seeds: int) -> Spread | None:
    pool = tuple(system for system in pool if len(known[system]) > 1)
    freedom = sum(len(known[system]) - 1 for system in pool)
    if not freedom or not seeds:
        return None
    squares = sum(float(np.square(known[system] - known[system].mean()).sum()) for system in pool)
    return Spread(squares / freedom, freedom, pool, seeds)


def half_width(parts: Iterable[tuple[float, Spread | None]]) -> float:
    """Half the 95% interval that training gives a weighted sum of systems' means; NaN where the
    spread of one isn't known.

    parts: (weight, spread) a system. Student's t, with Satterthwaite's degrees of freedom over the
    pools: the systems of one pool share one estimate of their variance.
    """
    pools: dict[tuple, tuple[float, int]] = {}
    for weight, spread in parts:
        if spread is None:
            return math.nan
        before = pools.get(spread.pool, (0.0, 0))[0]
        pools[spread.pool] = (before + weight ** 2 * spread.variance / spread.seeds, spread.freedom)
    total = sum(variance for variance, _ in pools.values())
    if not total:
        return 0.0
    freedom = total ** 2 / sum(variance ** 2 / of for variance, of in pools.values())
    return float(stdtrit(freedom, 0.975)) * math.sqrt(total)


def over(*halves: float) -> str:
    """What intervals with these half widths from training are over."""
    return SENTENCES if any(map(math.isnan, halves)) else BOTH


def needed(room: float, half: float, sentences: int, parts: Sequence[tuple[float, Spread | None]],
           ) -> tuple[float, float]:
    """(seeds a system, test sentences) at which an interval would leave zero out if the difference
    stayed as it is; NaN for what isn't needed or isn't known, infinity for what is out of reach.

    room: how far the value is from zero (less what a bound may still rise by). half: half the
    interval over so many `sentences`. parts: as of `half_width`. Seeds alone are named where they
    suffice; where sentences are needed too, each takes an equal share of the room.
    """
    if room <= 0:
        return math.nan, math.inf
    known = all(spread is not None for _, spread in parts)
    if half < room and known:
        return _seeds(math.sqrt(room ** 2 - half ** 2), parts), math.nan
    share = room / math.sqrt(2) if known and half_width(parts) else room
    more = math.ceil(sentences * (half / share) ** 2)
    return (_seeds(share, parts) if share < room else math.nan), float(more)


def _seeds(room: float, parts: Sequence[tuple[float, Spread]]) -> float:
    """Trainings of each system at which training's half width is below `room`."""
    def enough(seeds: int) -> bool:
        return bool(half_width((weight, replace(spread, seeds=seeds, freedom=max(
            spread.freedom, seeds - 1))) for weight, spread in parts) < room)

    counts = range(2, MOST + 1)
    place = bisect.bisect_left(counts, True, key=enough)  # more seeds never widen it
    if place == len(counts):
        return math.inf
    return float(max(counts[place], *(spread.seeds for _, spread in parts)))


def needs_text(seeds: float, sentences: float) -> str:
    """What `needed` gives in words: "7 seeds", "2,300 sentences and 4 seeds"; "" for nothing."""
    if math.isinf(sentences):
        return "a tighter bound or a larger difference"
    return " and ".join(
        f"over {MOST:,} {name}" if math.isinf(count) else f"{int(count):,} {name}"
        for count, name in ((sentences, "sentences"), (seeds, "seeds")) if not math.isnan(count))
