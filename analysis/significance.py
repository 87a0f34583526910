"""Which of two models is better, by BLEU and by log-likelihood, and whether the two agree.

BLEU differences are tested by sacreBLEU's paired bootstrap (Koehn 2004): the same resamples and
the same p-value as `sacrebleu.significance.PairedTest(test_type="bs")`, from per-sentence counts
and so for all pairs at once. Counting the pairs that both quantities order alike is the plainest
answer to the question of this repository.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import t as student

from analysis.resampling import Resamples
from analysis.systems import average_seeds
from analysis.tables import interval, signed
from lib.config import FAMILIES, LATENT, family_of, model_name
from lib.likelihood.accounting import accounting_named

__all__ = ["ORDERS", "PAIR_COLUMNS", "SUMMARY_COLUMNS", "TAILS", "compact_pairs",
           "compact_summary", "concordance", "orders_by_kind", "pair_name", "paired_p", "pairs",
           "seed_spread"]

ORDERS = ("agree", "undecided", "disagree")
"""Both quantities prefer the same model; one interval contains zero; they prefer different ones."""

PAIR_COLUMNS = [
    "dataset", "scale", "accounting", "scope", "train_data", "first", "first_data", "first_seeds",
    "second", "second_data", "second_seeds", "bleu_delta", "bleu_low", "bleu_high", "bleu_p",
    "ll_delta", "ll_error", "ll_low", "ll_high", "order",
]
SUMMARY_COLUMNS = ["dataset", "scale", "accounting", "train_data", "scope", "pairs", *ORDERS,
                   "alike", "alike_low", "alike_high"]
TAILS = [0.025, 0.975]
KINDS = ("Transformer, latent model", "Gaussian prior, flow prior", "other two families",
         "one family", "raw, distilled")
"""What the two models of a pair differ in, the first four trained on the same text."""


def paired_p(difference: float, resampled: Float[np.ndarray, " resamples"]) -> float:
    """SacreBLEU's p-value of a difference of scores, from the differences on the resamples.

    The share, with one added to both counts, of resamples whose absolute difference exceeds its
    own mean by more than the observed absolute difference (two-sided).
    """
    absolute = np.abs(resampled)
    beyond = int((absolute - absolute.mean() > abs(difference)).sum())
    return (beyond + 1) / (len(resampled) + 1)


def pairs(frame: pd.DataFrame, drawn: Mapping[str, Resamples]) -> pd.DataFrame:
    """Every pair of systems of one data set and scale under every accounting: `PAIR_COLUMNS`.

    frame: `systems.collect`'s rows; seeds are averaged. drawn: accounting -> resamples of the
    same rows, from `resampling.resample_runs`.
    A delta is the first system's value minus the second's, better likelihood positive (bits per
    character change their sign). `scope` is the family of both or "across", `train_data` what both
    were trained on or "mixed". Intervals are 95% percentiles over paired resamples of the test
    sentences, `ll_error` the paired standard error; where a system has several seeds, they are
    widened by those of the mean over seeds (Student's t), added in quadrature. An importance-
    weighted bound may lie below its likelihood: on the side where the pair's difference would then
    lie, its `Resamples.slack` is added to the interval. What likelihoods leave out besides (longer
    paddings, other segmentations: `lib.likelihood.accounting.likelihood_terms`) is not, and is
    worth up to 0.011 nats a token of toy between a latent and an autoregressive model. `order` says
    whether BLEU and likelihood order the pair alike, "undecided" if an interval contains zero.
    """
    systems, drawn = average_seeds(frame, drawn)
    rows = []
    for accounting, resamples in drawn.items():
        sign = accounting_named(accounting).sign
        for a, b in combinations(range(len(systems)), 2):
            first, second = systems.iloc[a], systems.iloc[b]
            gap = resamples.bleu_resampled[:, a] - resamples.bleu_resampled[:, b]
            bleu, bleu_low, bleu_high, _ = _difference(
                resamples.bleu[a] - resamples.bleu[b], gap, first, second, "bleu")
            ll, ll_low, ll_high, error = _difference(
                sign * (resamples.likelihood[a] - resamples.likelihood[b]),
                sign * (resamples.likelihood_resampled[:, a]
                        - resamples.likelihood_resampled[:, b]), first, second, accounting)
            if math.isnan(ll):
                continue
            slack = np.zeros(len(systems)) + resamples.slack
            ll_low, ll_high = ll_low - slack[b], ll_high + slack[a]
            rows.append([
                first["dataset"], first["scale"], accounting, *_kind(first, second),
                first["model"], first["train_data"], int(first["seeds"]), second["model"],
                second["train_data"], int(second["seeds"]), bleu, bleu_low, bleu_high,
                paired_p(bleu, gap), ll, error, ll_low, ll_high,
                _order((bleu_low, bleu_high), (ll_low, ll_high))])
    return pd.DataFrame(rows, columns=PAIR_COLUMNS)


def concordance(table: pd.DataFrame, frame: pd.DataFrame, drawn: Mapping[str, Resamples],
                ) -> pd.DataFrame:
    """How many pairs BLEU and likelihood order alike, a row an accounting, training data and
    scope: `SUMMARY_COLUMNS`.

    table: of `pairs(frame, drawn)`. Scopes are each family, "within" (all families), "across"
    and "all"; training data raw, distilled, mixed and "all". `alike` is the share of all pairs
    whose two differences have one sign, decided or not, with its 95% interval over the resamples;
    noise turns close pairs in some of them, which draws the interval towards a half.
    """
    systems, drawn = average_seeds(frame, drawn)
    places = {key: place for place, key in enumerate(
        zip(systems["model"], systems["train_data"], strict=True))}
    rows = []
    for accounting, found in table.groupby("accounting", sort=False):
        resamples, sign = drawn[accounting], accounting_named(accounting).sign
        a = [places[key] for key in zip(found["first"], found["first_data"], strict=True)]
        b = [places[key] for key in zip(found["second"], found["second_data"], strict=True)]
        bleu, ll = resamples.bleu_resampled, sign * resamples.likelihood_resampled
        alike = ((bleu[:, a] - bleu[:, b]) * (ll[:, a] - ll[:, b])) > 0     # [resamples, pairs]
        observed = (found["bleu_delta"] * found["ll_delta"] > 0).to_numpy()
        for data, scope, chosen in _scopes(found):
            counts = found.loc[chosen, "order"].value_counts()
            low, high = np.quantile(alike[:, chosen].mean(axis=1), TAILS)
            rows.append([found["dataset"].iloc[0], found["scale"].iloc[0], accounting, data, scope,
                         int(chosen.sum()), *(int(counts.get(order, 0)) for order in ORDERS),
                         observed[chosen].mean(), low, high])
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)


def orders_by_kind(table: pd.DataFrame) -> dict[str, tuple[int, int, int]]:
    """Pairs that agree, disagree and are undecided, by what the two models differ in.

    table: `pairs` under one accounting. Kinds: a Transformer and a latent model, a Gaussian and a
    flow prior, any other two families, one family, all trained on the same text; and raw against
    distilled text. Only kinds that there are.
    """
    kinds = [_pair_kind(row) for row in table.itertuples()]
    orders = table["order"].to_numpy()
    return {kind: tuple(int(((np.array(kinds) == kind) & (orders == order)).sum())
                        for order in ("agree", "disagree", "undecided"))
            for kind in KINDS if kind in kinds}


def _pair_kind(row: tuple) -> str:
    of = {family_of(row.first), family_of(row.second)}
    if row.first_data != row.second_data:
        return KINDS[4]
    if len(of) == 1:
        return KINDS[3]
    if of == set(LATENT):
        return KINDS[1]
    return KINDS[0] if "autoregressive" in of and of & set(LATENT) else KINDS[2]


def pair_name(first: str, first_data: str, second: str, second_data: str) -> str:
    """A pair as readers know it: "Tr-S, Ga-B" or, of different data, "Ga-B, Ga-B distilled"."""
    data = [f" {kind}" if first_data != second_data and kind != "raw" else ""
            for kind in (first_data, second_data)]
    return f"{model_name(first)}{data[0]}, {model_name(second)}{data[1]}"


def compact_pairs(pairs: pd.DataFrame, accountings: Sequence[str] = ("strict", "released"),
                  ) -> pd.DataFrame:
    """`significance.pairs` for reading: a row a pair, differences with their intervals, p, and
    under each accounting whether likelihood orders the pair as BLEU does.
    """
    kept = [name for name in accountings if name in set(pairs["accounting"])]
    names = ["first", "first_data", "second", "second_data"]
    rows = {}
    for found in pairs[pairs["accounting"].isin(kept)].to_dict("records"):
        key = tuple(found[name] for name in names)
        row = rows.setdefault(key, {
            "first, second": pair_name(*(found[name] for name in
                                         ("first", "first_data", "second", "second_data"))),
            "scope": found["scope"], "train data": found["train_data"],
            "BLEU difference": interval(found["bleu_delta"], found["bleu_low"],
                                        found["bleu_high"]),
            "p": f"{found['bleu_p']:.3f}"})
        row[f"LL difference, {found['accounting']}"] = (
            f"{signed(found['ll_delta'], 3)} ± {found['ll_error']:.3f}")
        row[f"order, {found['accounting']}"] = found["order"]
    return pd.DataFrame(rows.values())


def compact_summary(summary: pd.DataFrame, accountings: Sequence[str] = ("strict", "released"),
                    ) -> pd.DataFrame:
    """`significance.concordance` for reading: a row a scope, agree / undecided / disagree and the
    share of pairs ordered alike under each accounting.
    """
    rows = {}
    for found in summary[summary["accounting"].isin(accountings)].to_dict("records"):
        row = rows.setdefault((found["train_data"], found["scope"]), {
            "train data": found["train_data"], "scope": found["scope"], "pairs": found["pairs"]})
        row[f"agree / undecided / disagree, {found['accounting']}"] = (
            f"{found['agree']} / {found['undecided']} / {found['disagree']}")
        row[f"alike, {found['accounting']}"] = interval(
            found["alike"], found["alike_low"], found["alike_high"], digits=2)
    return pd.DataFrame(rows.values())


# ---- parts ----

def _difference(value: float, resampled: Float[np.ndarray, " resamples"], first: pd.Series,
                second: pd.Series, name: str) -> tuple[float, float, float, float]:
    """The difference, the ends of its interval, its standard error; see `pairs`."""
    low, high = np.quantile(resampled, TAILS)
    of = [(system[f"{name}_sd"], int(system["seeds"])) for system in (first, second)]
    spread = math.hypot(*(seed_spread(sd, seeds) for sd, seeds in of))
    below, above = (math.hypot(max(0.0, side), spread) for side in (value - low, high - value))
    errors = (sd / math.sqrt(seeds) for sd, seeds in of if seeds > 1)
    error = math.hypot(float(resampled.std(ddof=1)), *errors)
    return float(value), float(value - below), float(value + above), error


def seed_spread(sd: float, seeds: int) -> float:
    """Half the 95% interval of a mean over that many seeds whose standard deviation is `sd`:
    Student's t with seeds - 1 degrees of freedom; 0 for one seed, which says nothing of others.
    """
    if seeds < 2:
        return 0.0
    return float(student.ppf(TAILS[1], seeds - 1)) * sd / math.sqrt(seeds)


def _kind(first: pd.Series, second: pd.Series) -> tuple[str, str]:
    scope = first["family"] if first["family"] == second["family"] else "across"
    data = first["train_data"] if first["train_data"] == second["train_data"] else "mixed"
    return scope, data


def _order(bleu: Sequence[float], likelihood: Sequence[float]) -> str:
    if any(low <= 0 <= high for low, high in (bleu, likelihood)):
        return "undecided"
    return "agree" if (bleu[0] > 0) == (likelihood[0] > 0) else "disagree"


def _scopes(found: pd.DataFrame) -> Iterator[tuple[str, str, np.ndarray]]:
    """(training data, scope, which rows of `found`) of every part that holds a pair."""
    for data in ("raw", "distilled", "mixed", "all"):
        of_data = np.full(len(found), True) if data == "all" else (
            found["train_data"] == data).to_numpy()
        if data == "all" and found["train_data"].nunique() < 2:
            continue
        within = (found["scope"] != "across").to_numpy()
        parts = {family: (found["scope"] == family).to_numpy() for family in FAMILIES.values()}
        parts |= {"within": within, "across": ~within, "all": np.full(len(found), True)}
        for scope, chosen in parts.items():
            if (of_data & chosen).any():
                yield data, scope, of_data & chosen
