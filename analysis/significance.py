"""Which of two models is better, by BLEU and by log-likelihood, and whether the two agree.

BLEU differences are tested by sacreBLEU's paired bootstrap (Koehn 2004): the same resamples and
the same p-value as `sacrebleu.significance.PairedTest(test_type="bs")`, from per-sentence counts
and so for all pairs at once. Counting the pairs that both quantities order alike is the plainest
answer to the question of this repository.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis.kinds import KINDS, pair_kind
from analysis.resampling import Resamples
from analysis.systems import average_seeds
from analysis.tables import interval, signed
from analysis.training_variance import half_width, needed, needs_text, over
from lib.bleu import TAILS
from lib.config import family_of, model_name
from lib.likelihood.accounting import accounting_named

__all__ = ["MULTIPLICITY", "ORDERS", "PAIR_COLUMNS", "SUMMARY_COLUMNS", "compact_pairs",
           "compact_summary", "concordance", "order_of", "pair_name", "paired_p", "pairs",
           "widened"]

ORDERS = ("agree", "undecided", "disagree")
"""Both quantities prefer the same model; one interval contains zero; they prefer different ones."""

PAIR_COLUMNS = [
    "dataset", "scale", "accounting", "kind", "train_data", "first", "first_data", "first_seeds",
    "second", "second_data", "second_seeds", "bleu_delta", "bleu_low", "bleu_high", "bleu_p",
    "bleu_seeds", "bleu_sentences", "ll_delta", "ll_error", "ll_low", "ll_high", "ll_seeds",
    "ll_sentences", "order", "over",
]
SUMMARY_COLUMNS = ["dataset", "scale", "accounting", "kind", "train_data", "pairs", *ORDERS, "over"]
MULTIPLICITY = ("Pairs share models and each has intervals of its own at 95%: of pairs without any "
                "difference, about one in twenty is decided by chance, and no correction is made. "
                "Read the counts, not single pairs.")


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
    character change their sign). `kind` is what the two differ in (`kinds.KINDS`), `train_data`
    what both were trained on or "mixed". Intervals are 95% percentiles over paired resamples of the
    test sentences, `ll_error` the paired standard error; they are widened by what training varies
    (`training_variance.half_width`), in quadrature, and `over` says whether that is known. An
    importance-weighted bound may lie below its likelihood: on the side where the pair's difference
    would then lie, its `Resamples.slack` is added to the interval. What likelihoods leave out
    besides (longer paddings, other segmentations: `lib.likelihood.accounting.likelihood_terms`) is
    not, and is worth up to 0.011 nats a token of toy between a latent and an autoregressive model.
    `order` says whether BLEU and likelihood order the pair alike, "undecided" if an interval
    contains zero; `bleu_seeds`, `bleu_sentences` and those of LL are then what would decide it, the
    difference staying as it is (`training_variance.needed`).
    """
    systems, drawn = average_seeds(frame, drawn)
    rows = []
    for accounting, resamples in drawn.items():
        sign = accounting_named(accounting).sign
        slack = np.zeros(len(systems)) + resamples.slack
        for a, b in combinations(range(len(systems)), 2):
            first, second = systems.iloc[a], systems.iloc[b]
            if math.isnan(resamples.likelihood[a] - resamples.likelihood[b]):
                continue
            gap = resamples.bleu_resampled[:, a] - resamples.bleu_resampled[:, b]
            bleu = _difference(resamples.bleu[a] - resamples.bleu[b], gap, first, second, "bleu")
            ll = _difference(
                sign * (resamples.likelihood[a] - resamples.likelihood[b]),
                sign * (resamples.likelihood_resampled[:, a]
                        - resamples.likelihood_resampled[:, b]),
                first, second, accounting, slack=(slack[b], slack[a]))
            text = first["train_data"], second["train_data"]
            same = text[0] == text[1]
            rows.append({
                "dataset": first["dataset"], "scale": first["scale"], "accounting": accounting,
                "kind": pair_kind(family_of(first["model"]), family_of(second["model"]),
                                  same_text=same),
                "train_data": text[0] if same else "mixed",
                "first": first["model"], "first_data": text[0], "first_seeds": first["seeds"],
                "second": second["model"], "second_data": text[1], "second_seeds": second["seeds"],
                "bleu_p": paired_p(float(bleu["delta"]), gap),
                **{f"{name}_{key}": value for name, of in (("bleu", bleu), ("ll", ll))
                   for key, value in of.items()},
                "order": order_of((bleu["low"], bleu["high"]), (ll["low"], ll["high"])),
                "over": over(bleu["training"], ll["training"])})
    return pd.DataFrame(rows, columns=PAIR_COLUMNS)


def concordance(table: pd.DataFrame) -> pd.DataFrame:
    """How many pairs BLEU and likelihood order alike, a row an accounting, kind and training data:
    `SUMMARY_COLUMNS`. table: of `pairs`. `over`: what all of these pairs' intervals are over.
    """
    rows = []
    keys = ["dataset", "scale", "accounting", "kind", "train_data"]
    for key, found in table.groupby(keys, sort=False):
        counts = found["order"].value_counts()
        rows.append([*key, len(found), *(int(counts.get(order, 0)) for order in ORDERS),
                     " / ".join(sorted(set(found["over"])))])
    summary = pd.DataFrame(rows, columns=SUMMARY_COLUMNS)
    places = summary["kind"].map(KINDS.index) if len(summary) else []
    return summary.assign(place=places).sort_values("place", kind="stable").drop(
        columns="place").reset_index(drop=True)


def pair_name(first: str, first_data: str, second: str, second_data: str) -> str:
    """A pair as readers know it: "Tr-S, Ga-B" or, of different data, "Ga-B, Ga-B distilled"."""
    data = [f" {kind}" if first_data != second_data and kind != "raw" else ""
            for kind in (first_data, second_data)]
    return f"{model_name(first)}{data[0]}, {model_name(second)}{data[1]}"


def compact_pairs(pairs: pd.DataFrame, accountings: Sequence[str] = ("strict", "released"),
                  ) -> pd.DataFrame:
    """`pairs` for reading: a row a pair, differences with their intervals, p, and under each
    accounting whether likelihood orders the pair as BLEU does, or what would decide it.
    """
    kept = [name for name in accountings if name in set(pairs["accounting"])]
    names = ["first", "first_data", "second", "second_data"]
    rows = {}
    for found in pairs[pairs["accounting"].isin(kept)].to_dict("records"):
        key = tuple(found[name] for name in names)
        row = rows.setdefault(key, {
            "first, second": pair_name(*key), "kind": found["kind"],
            "train data": found["train_data"],
            "BLEU difference": interval(found["bleu_delta"], found["bleu_low"],
                                        found["bleu_high"]),
            "p": f"{found['bleu_p']:.3f}", "over": found["over"]})
        row[f"LL difference, {found['accounting']}"] = (
            f"{signed(found['ll_delta'], 3)} ± {found['ll_error']:.3f}")
        words = [f"{label}: {text}" for name, label in (("bleu", "BLEU"), ("ll", "LL"))
                 if (text := needs_text(found[f"{name}_seeds"], found[f"{name}_sentences"]))]
        row[f"order, {found['accounting']}"] = found["order"] + (
            f" ({'; '.join(words)})" if words else "")
    return pd.DataFrame(rows.values())


def compact_summary(summary: pd.DataFrame, accountings: Sequence[str] = ("strict", "released"),
                    ) -> pd.DataFrame:
    """`concordance` for reading: a row a kind and training data, agree / undecided / disagree under
    each accounting.
    """
    rows = {}
    for found in summary[summary["accounting"].isin(accountings)].to_dict("records"):
        row = rows.setdefault((found["kind"], found["train_data"]), {
            "kind": found["kind"], "train data": found["train_data"], "pairs": found["pairs"]})
        row[f"agree / undecided / disagree, {found['accounting']}"] = " / ".join(
            str(found[order]) for order in ORDERS)
        row["over"] = found["over"]
    return pd.DataFrame(rows.values())


def widened(value: float, low: float, high: float, training: float) -> tuple[float, float]:
    """The ends of an interval over sentences, widened in quadrature by training's half width (NaN:
    not known, and not added).
    """
    training = 0.0 if math.isnan(training) else training
    below, above = np.hypot(np.maximum(0.0, [value - low, high - value]), training)
    return float(value - below), float(value + above)


def order_of(bleu: Sequence[float], likelihood: Sequence[float]) -> str:
    """Which of `ORDERS` two differences have, from the ends (low, high) of their intervals."""
    if any(low <= 0 <= high for low, high in (bleu, likelihood)):
        return "undecided"
    return "agree" if (bleu[0] > 0) == (likelihood[0] > 0) else "disagree"


# ---- parts ----

def _difference(value: float, resampled: Float[np.ndarray, " resamples"], first: pd.Series,
                second: pd.Series, name: str, slack: tuple[float, float] = (0.0, 0.0),
                ) -> dict[str, float]:
    """delta, low, high, error, what would decide it (seeds, sentences), and training's half width;
    see `pairs`. slack: how far a bound may move the difference down and up.
    """
    value = float(value)
    ends = np.quantile(resampled, TAILS)
    parts = [(1.0, first[f"{name}_training"]), (-1.0, second[f"{name}_training"])]
    training = half_width(parts)
    low, high = widened(value, *ends, training)
    low, high = low - slack[0], high + slack[1]
    errors = (math.sqrt(spread.variance / spread.seeds) for _, spread in parts if spread)
    found = {"delta": value, "low": low, "high": high, "training": training,
             "error": math.hypot(float(resampled.std(ddof=1)), *errors),
             "seeds": math.nan, "sentences": math.nan}
    if low <= 0 <= high:
        down = value > 0
        half = float(max(0.0, value - ends[0] if down else ends[1] - value))
        found["seeds"], found["sentences"] = needed(
            abs(value) - slack[0 if down else 1], half, int(first["lines"]), parts)
    return found
