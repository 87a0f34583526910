"""How well log-likelihood and BLEU rank models alike: coefficients, p-values, intervals."""

import itertools
import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Num
from scipy.stats import rankdata

from analysis import comparable
from analysis.resampling import Resamples
from analysis.systems import average_seeds
from lib.bleu import TAILS
from lib.config import FAMILIES, LATENT
from lib.errors import DataError
from lib.likelihood.accounting import accounting_named

__all__ = ["COEFFICIENTS", "correlate", "estimate", "kendall", "models_table", "pearson",
           "permutation_p", "spearman", "two_decoders"]

EXACT_UP_TO = 8      # 8! = 40,320 permutations
LARGEST_P = 0.05     # where no ordering could have a smaller p, none is given
CHUNK = 500          # permutations at a time, to bound memory


# ---- coefficients ----

def pearson(x: Num[np.ndarray, "*#any n"], y: Num[np.ndarray, "*#any n"],
            ) -> Float[np.ndarray, "..."]:
    """Pearson's r along the last axis, leading axes broadcast; NaN where n < 3 (two points
    always lie on a line) or where one side is constant.
    """
    x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
    if x.shape[-1] < 3:
        return np.full(x.shape[:-1], np.nan)
    # a constant side is found before its mean is subtracted, which would leave rounding error
    varies = (np.ptp(x, axis=-1) > 0) & (np.ptp(y, axis=-1) > 0)
    x = x - x.mean(axis=-1, keepdims=True)
    y = y - y.mean(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    return np.where(varies, np.clip(r, -1.0, 1.0), np.nan)


def spearman(x: Num[np.ndarray, "*#any n"], y: Num[np.ndarray, "*#any n"],
             ) -> Float[np.ndarray, "..."]:
    """Spearman's rho along the last axis: Pearson's r of the ranks, ties sharing their mean."""
    return pearson(rankdata(x, axis=-1), rankdata(y, axis=-1))


def kendall(x: Num[np.ndarray, "*#any n"], y: Num[np.ndarray, "*#any n"],
            ) -> Float[np.ndarray, "..."]:
    """Kendall's tau-b along the last axis: concordant minus discordant pairs, over the geometric
    mean of the pairs untied in x and in y; NaN as for `pearson`.
    """
    x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
    if x.shape[-1] < 3:
        return np.full(x.shape[:-1], np.nan)
    first, second = np.triu_indices(x.shape[-1], k=1)
    in_x, in_y = np.sign(x[..., first] - x[..., second]), np.sign(y[..., first] - y[..., second])
    with np.errstate(divide="ignore", invalid="ignore"):
        tau = (in_x * in_y).sum(-1) / np.sqrt(np.abs(in_x).sum(-1) * np.abs(in_y).sum(-1))
    return np.asarray(tau)


COEFFICIENTS: dict[str, Callable] = {"pearson": pearson, "spearman": spearman, "kendall": kendall}
"""The three coefficients by name, each (x [..., n], y [..., n]) -> [...]."""


def permutation_p(x: Num[np.ndarray, " n"], y: Num[np.ndarray, " n"], coefficient: Callable,
                  groups: Sequence[Hashable] = (), *, samples: int = 10_000, seed: int = 0,
                  ) -> float:
    """Two-sided permutation p-value: the share of pairings of x with a permuted y whose coefficient
    is at least as far from zero as the observed one.

    groups: y is permuted within these alone (families, which aren't exchangeable). Exact over up to
    8! permutations, else seeded Monte Carlo, (1 + hits) / (1 + samples). NaN where the coefficient
    itself is, and where there are fewer than 20 permutations: none could have p <= 0.05.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    observed = abs(float(coefficient(x, y)))
    members = list(pd.Series(range(len(y))).groupby(list(groups) or [0] * len(y)).indices.values())
    count = math.prod(math.factorial(len(group)) for group in members)
    if math.isnan(observed) or count * LARGEST_P < 1:
        return math.nan
    exact = count <= math.factorial(EXACT_UP_TO)
    if exact:
        parts = itertools.product(*map(itertools.permutations, members))
        drawn = np.array([np.concatenate(part) for part in parts])
    else:
        rng = np.random.default_rng(seed)
        drawn = np.concatenate([rng.permuted(np.tile(group, (samples, 1)), axis=1)
                                for group in members], axis=1)
    orders = drawn[:, np.argsort(np.concatenate(members))]
    hits = sum(int((np.abs(coefficient(x, y[orders[i:i + CHUNK]])) >= observed - 1e-9).sum())
               for i in range(0, len(orders), CHUNK))
    return hits / len(orders) if exact else (1 + hits) / (1 + samples)


def correlate(x: Num[np.ndarray, " n"], y: Num[np.ndarray, " n"], *,
              resampled: tuple[np.ndarray, np.ndarray] | None = None,
              groups: Sequence[Hashable] | None = None) -> dict[str, float | int]:
    """`n`, and the `estimate` of every coefficient (by its name), from `groups` with its two-sided
    p-value, permuted within them (`<name>_p`).
    """
    result: dict[str, float | int] = {"n": len(x)}
    for name, coefficient in COEFFICIENTS.items():
        result |= estimate(name, coefficient, x, y, resampled)
        if groups is not None:
            result[f"{name}_p"] = permutation_p(x, y, coefficient, groups)
    return result


def estimate(name: str, coefficient: Callable, x: Num[np.ndarray, " n"], y: Num[np.ndarray, " n"],
             resampled: tuple[np.ndarray, np.ndarray] | None) -> dict[str, float]:
    """A coefficient of x and y with the ends of its 95% percentile interval (`<name>_low`,
    `<name>_high`) from `resampled` = (x, y), both [resamples, n]; NaN without.

    The interval says how sure the number is for *these* models or checkpoints, not for others of
    their kind; that is what a p-value asks.
    """
    value, low, high = float(coefficient(x, y)), math.nan, math.nan
    if resampled is not None and not math.isnan(value):
        drawn = coefficient(*resampled)
        drawn = drawn[~np.isnan(drawn)]      # resamples in which all models tie
        low, high = np.quantile(drawn, TAILS) if len(drawn) else (low, high)
    return {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}


# ---- across models ----

def models_table(frame: pd.DataFrame, accounting: str, *, resamples: Resamples | None = None,
                 ) -> pd.DataFrame:
    """Correlation of log-likelihood and BLEU across the models of one data set and scale.

    frame: `systems.collect`'s rows; several seeds of a model are one point, their mean. resamples:
    of the same rows, for the intervals. One row a `scope` (a family; "latent": gaussian and flow;
    "all") and a `train_data`; then `accounting` and what `correlate` gives, p permuted within
    families, the sign turned where fewer is better. Scopes of fewer than three models have n and
    NaN.
    """
    sign = accounting_named(accounting).sign
    comparable.check(frame, [accounting])
    if len(corpora := sorted(set(frame["dataset"] + "/" + frame["scale"]))) > 1:
        raise DataError("the runs are of several data sets or scales; correlate one at a time: "
                        + ", ".join(corpora))
    frame, averaged = average_seeds(frame, {} if resamples is None else {accounting: resamples})
    families = list(FAMILIES.values())
    scopes = {family: [family] for family in families} | {"latent": list(LATENT), "all": families}
    rows = []
    for data in sorted(frame["train_data"].unique(), reverse=True):   # raw before distilled
        for scope, members in scopes.items():
            chosen = ((frame["train_data"] == data) & frame["family"].isin(members)
                      & frame[accounting].notna()).to_numpy()
            if not chosen.any():
                continue
            systems = frame[chosen]
            drawn = None if not averaged else (
                sign * averaged[accounting].likelihood_resampled[:, chosen],
                averaged[accounting].bleu_resampled[:, chosen])
            rows.append({"train_data": data, "scope": scope, "accounting": accounting} | correlate(
                sign * systems[accounting].to_numpy(np.float64),
                systems["bleu"].to_numpy(np.float64), resampled=drawn,
                groups=systems["family"].tolist()))
    return pd.DataFrame(rows)


def two_decoders(frame: pd.DataFrame, accounting: str, *, headline: Resamples | None = None,
                 mbr: Resamples | None = None) -> pd.DataFrame:
    """`models_table` twice: with BLEU of each run's own decoding, and of minimum Bayes risk.

    frame: rows of `collect` that have a `bleu_mbr`; headline, mbr: resamples of the same rows. A
    first column, `decoder`, is "headline" or "mbr".
    """
    tables = {"headline": models_table(frame, accounting, resamples=headline),
              "mbr": models_table(frame.assign(bleu=frame["bleu_mbr"]), accounting, resamples=mbr)}
    return pd.concat(tables, names=["decoder"]).reset_index("decoder").reset_index(drop=True)
