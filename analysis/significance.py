"""Which of two models is better, by BLEU and by log-likelihood, and whether the two agree.

By intervals over the resamples of sacreBLEU's paired bootstrap (Koehn 2004), for all pairs at once.
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
from analysis.training_variance import OVER, Difference, widened
from lib.bleu import TAILS
from lib.config import family_of, model_name
from lib.likelihood.accounting import accounting_named

__all__ = ["MULTIPLICITY", "ORDERS", "PAIR_COLUMNS", "compact_pairs", "compact_summary",
           "concordance", "concordance_of", "order_of", "pairs"]

ORDERS = ("agree", "disagree", "undecided")
"""Both quantities prefer the same model; they prefer different ones; one interval contains zero."""

PAIR_COLUMNS = [
    "dataset", "scale", "accounting", "kind", "train_data", "first", "first_data", "first_seeds",
    "second", "second_data", "second_seeds", "bleu_delta", "bleu_low", "bleu_high",
    "bleu_seeds", "bleu_sentences", "ll_delta", "ll_error", "ll_low", "ll_high", "ll_seeds",
    "ll_sentences", "order", "over",
]
GROUP = ["dataset", "scale", "accounting", "kind", "train_data"]
SHOWN = ("strict", "paper", "released")
"""The accountings that the tables for reading hold: ours, the paper's words, its code."""
MULTIPLICITY = ("Each pair has two intervals of its own at 95%, without a correction for their "
                "number. Pairs share models, so that many of them may be one contrast, repeated. "
                "Read the counts, not single pairs.")


def pairs(frame: pd.DataFrame, drawn: Mapping[str, Resamples]) -> pd.DataFrame:
    """Every pair of systems of one data set and scale under every accounting: `PAIR_COLUMNS`. Two
    systems have one training text, or are one model on raw and on distilled text.

    frame: `systems.collect`'s rows; seeds are averaged. drawn: accounting -> resamples of the same
    rows, from `resampling.resample_runs`. A delta is the first system's value minus the second's,
    better likelihood positive. `kind`: of `kinds.KINDS`; `train_data`: what both were trained on,
    or "mixed". Intervals are 95% percentiles over paired resamples of the test sentences,
    `ll_error` the paired standard error, both widened by what training varies where `over` says so,
    and on the side to which an importance-weighted bound may still move the difference by its
    `Resamples.slack`. `order`: of `ORDERS`; `_seeds` and `_sentences` are what would decide an
    undecided pair (`training_variance.to_decide`).
    """
    systems, drawn = average_seeds(frame, drawn)
    rows = []
    for accounting, resamples in drawn.items():
        sign = accounting_named(accounting).sign
        slack = np.zeros(len(systems)) + resamples.slack
        for a, b in combinations(range(len(systems)), 2):
            if math.isnan(resamples.likelihood[a] - resamples.likelihood[b]):
                continue
            first, second = systems.iloc[a], systems.iloc[b]
            same = first["train_data"] == second["train_data"]
            if not same and first["model"] != second["model"]:
                continue  # they differ in more than one thing
            bleu_drawn = resamples.bleu_resampled[:, a] - resamples.bleu_resampled[:, b]
            ll_drawn = sign * (resamples.likelihood_resampled[:, a]
                               - resamples.likelihood_resampled[:, b])
            bleu = _difference(resamples.bleu[a] - resamples.bleu[b], bleu_drawn, first, second,
                               "bleu")
            ll = _difference(sign * (resamples.likelihood[a] - resamples.likelihood[b]), ll_drawn,
                             first, second, accounting, (slack[b], slack[a]))
            spread = [system[f"{accounting}_training"] for system in (first, second)]
            rows.append({
                "dataset": first["dataset"], "scale": first["scale"], "accounting": accounting,
                "kind": pair_kind(family_of(first["model"]), family_of(second["model"]),
                                  same_text=same),
                "train_data": first["train_data"] if same else "mixed",
                **{f"{end}{column}": system[name]
                   for end, system in (("first", first), ("second", second))
                   for column, name in (("", "model"), ("_data", "train_data"),
                                        ("_seeds", "seeds"))},
                **{f"{name}_{column}": value for name, of in (("bleu", bleu), ("ll", ll))
                   for column, value in (("delta", of.value), ("low", of.low), ("high", of.high),
                                         ("seeds", of.seeds), ("sentences", of.sentences))},
                "ll_error": math.hypot(ll_drawn.std(ddof=1), *(
                    math.sqrt(of.variance / of.seeds) for of in spread if of)),
                "order": order_of((bleu.low, bleu.high), (ll.low, ll.high)),
                "over": min(bleu.over, ll.over, key=OVER.index)})
    return pd.DataFrame(rows, columns=PAIR_COLUMNS)


def _difference(value: float, resampled: Float[np.ndarray, " resamples"], first: pd.Series,
                second: pd.Series, name: str, slack: tuple[float, float] = (0.0, 0.0),
                ) -> Difference:
    parts = [(1.0, first[f"{name}_training"]), (-1.0, second[f"{name}_training"])]
    lines = int(first["lines"])
    ends = np.quantile(resampled, TAILS) if lines > 1 else (math.nan, math.nan)
    return widened(float(value), *map(float, ends), parts, lines, slack)


def order_of(bleu: Sequence[float], likelihood: Sequence[float]) -> str:
    """Which of `ORDERS` two differences have, from the ends (low, high) of their intervals."""
    if not all(low > 0 or high < 0 for low, high in (bleu, likelihood)):
        return "undecided"  # as are unknown ends
    return "agree" if (bleu[0] > 0) == (likelihood[0] > 0) else "disagree"


def concordance(table: pd.DataFrame) -> pd.DataFrame:
    """How many pairs BLEU and likelihood order alike, a row an accounting, kind and training data:
    columns dataset to train_data, pairs, `ORDERS`, and over: what all of these intervals are over.
    table: of `pairs`.
    """
    rows = [[*key, len(part), *((part["order"] == order).sum() for order in ORDERS),
             " / ".join(sorted(set(part["over"])))]
            for key, part in table.groupby(GROUP, sort=False)]
    summary = pd.DataFrame(rows, columns=[*GROUP, "pairs", *ORDERS, "over"])
    return summary.sort_values("kind", kind="stable", ignore_index=True,
                               key=lambda kinds: kinds.map(KINDS.index))


def concordance_of(frame: pd.DataFrame, drawn: Resamples) -> pd.DataFrame:
    """`concordance` by strict LL where `drawn` scores the rows of `systems.collect` otherwise than
    metrics.json (another checkpoint, a temperature): what training varies is of its numbers, too.
    """
    scored = frame.assign(strict=drawn.likelihood, bleu=drawn.bleu)
    return concordance(pairs(scored, {"strict": drawn}))


# ---- for reading ----

def compact_pairs(pairs: pd.DataFrame) -> pd.DataFrame:
    """`pairs` for reading: a row a pair, differences with their intervals, and under each
    accounting whether likelihood orders the pair as BLEU does, or what would decide it.
    """
    rows: dict[tuple, dict] = {}
    for pair in pairs[pairs["accounting"].isin(SHOWN)].to_dict("records"):
        texts = pair["first_data"], pair["second_data"]
        names = [model_name(model) + (f" {text}" if len(set(texts)) > 1 and text != "raw" else "")
                 for model, text in zip((pair["first"], pair["second"]), texts, strict=True)]
        row = rows.setdefault(tuple(names) + texts, {
            "first, second": ", ".join(names), "kind": pair["kind"],
            "train data": pair["train_data"],
            "BLEU difference": interval(*(pair[f"bleu_{end}"] for end in ("delta", "low", "high"))),
            "intervals over": pair["over"]})
        if pair["accounting"] == SHOWN[0]:
            row[f"LL difference, {pair['accounting']}"] = (
                f"{signed(pair['ll_delta'], 3)} ± {pair['ll_error']:.3f}")
        needs = [f"{label}: {of.needs}" for name, label in (("bleu", "BLEU"), ("ll", "LL"))
                 if (of := pair_difference(pair, name)).needs]
        row[f"order, {pair['accounting']}"] = pair["order"] + (
            f" ({'; '.join(needs)})" if needs else "")
    return pd.DataFrame(rows.values())


def pair_difference(pair: pd.Series | dict, name: str) -> Difference:
    """The difference of `name`, bleu or ll, in a row of `pairs`."""
    return Difference(*(float(pair[f"{name}_{end}"]) for end in ("delta", "low", "high")),
                      pair["over"], *(float(pair[f"{name}_{what}"])
                                      for what in ("seeds", "sentences")))


def compact_summary(summary: pd.DataFrame) -> pd.DataFrame:
    """`concordance` for reading: a row a kind and training data, agree / disagree / undecided under
    each accounting.
    """
    rows: dict[tuple, dict] = {}
    for counts in summary[summary["accounting"].isin(SHOWN)].to_dict("records"):
        row = rows.setdefault((counts["kind"], counts["train_data"]), {
            "kind": counts["kind"], "train data": counts["train_data"], "pairs": counts["pairs"]})
        row[f"agree / disagree / undecided, {counts['accounting']}"] = " / ".join(
            str(counts[order]) for order in ORDERS)
        row["over"] = counts["over"]
    return pd.DataFrame(rows.values())
