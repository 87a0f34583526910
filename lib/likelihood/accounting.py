"""What counts as the log-likelihood: from the terms of each test sentence to one number.

Every accounting is a ratio of two sums over sentences, so that it can be resampled.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Num

from lib.errors import ConfigError

__all__ = ["ACCOUNTINGS", "Accounting", "accounting_named", "bound_slack", "likelihood_terms",
           "ratio_of_sums"]


@dataclass(frozen=True)
class Accounting:
    """One way to turn per-sentence terms into the number that is called log-likelihood.

    name: its key in metrics.json. label, unit: for axes and headings.
    sign: +1 where higher is better, -1 where lower is; correlations use sign * value.
    terms: numerator and denominator of each sentence, from the columns of sentences.csv.
    per_subword: whether its unit is a vocabulary's own, so that others' have no common scale.
    note: what it leaves out, for tables in which small differences are compared.
    """

    name: str
    label: str
    unit: str
    sign: int
    terms: Callable[[pd.DataFrame], tuple[np.ndarray, np.ndarray]]
    per_subword: bool = True
    note: str = ""


def _joint(sentences: pd.DataFrame) -> np.ndarray:
    """log p(y, T|x): of the string and its padded length."""
    return sentences["log_prob"].to_numpy(np.float64) + sentences["log_p_length"].to_numpy(
        np.float64)


def _released(sentences: pd.DataFrame) -> np.ndarray:
    """The released estimate; where a model has none, being exact, its log p(y|x) / T."""
    estimate = pd.to_numeric(sentences["released_estimate"]).to_numpy(np.float64)
    exact = sentences["log_prob"] / sentences["n_tokens_padded"]
    return np.where(np.isnan(estimate), exact, estimate)


_ONE = "a lower bound: one padding and one segmentation of the string count"
ACCOUNTINGS = {accounting.name: accounting for accounting in (
    Accounting("paper", "log-likelihood given the true length", "nats per padded token", 1,
               lambda of: (of["log_prob"], of["n_tokens_padded"])),
    Accounting("strict", "log-likelihood of the string", "nats per token", 1,
               lambda of: (_joint(of), of["n_tokens"]), note=_ONE),
    Accounting("per_sentence", "log-likelihood of the string", "nats per sentence", 1,
               lambda of: (_joint(of), np.ones(len(of))), per_subword=False, note=_ONE),
    Accounting("bits_per_char", "code length of the string", "bits per character", -1,
               lambda of: (-_joint(of) / math.log(2.0), of["n_chars"]), per_subword=False,
               note=_ONE.replace("lower", "upper")),
    Accounting("released", "released code's estimate", "nats per padded token", 1,
               lambda of: (_released(of), np.ones(len(of)))),
)}
"""Every accounting, by its name: an entry here is all that a new one takes, as every table computes
it from sentences.csv where metrics.json lacks it. `significance.SHOWN` names those that all tables
for reading hold.
"""


def accounting_named(name: str) -> Accounting:
    """The accounting of that name, or a `ConfigError` that lists the names there are."""
    if name not in ACCOUNTINGS:
        raise ConfigError(f"unknown accounting {name!r}; choose one of {', '.join(ACCOUNTINGS)}")
    return ACCOUNTINGS[name]


def ratio_of_sums(top: Num[np.ndarray, " sentences"], bottom: Num[np.ndarray, " sentences"],
                  ) -> tuple[float, float]:
    """Ratio of two sums over sentences, and its standard error by the delta method.

    sqrt(n / (n - 1) sum_i (a_i - r b_i)^2) / sum_i b_i; NaN for one sentence, which has none.
    """
    ratio, n = top.sum() / bottom.sum(), len(top)
    if n < 2:
        return float(ratio), math.nan
    error = np.sqrt(n / (n - 1) * np.square(top - ratio * bottom).sum()) / bottom.sum()
    return float(ratio), float(error)


def likelihood_terms(sentences: pd.DataFrame, accounting: str,
                     ) -> tuple[Float[np.ndarray, " sentences"], Float[np.ndarray, " sentences"]]:
    """Numerator and denominator a sentence, from the columns of sentences.csv, whose logarithms are
    in nats; the ratio of their sums is the accounting's value, in its `unit`.

    p(y, T|x), T the padded length, is that of y's own subwords, padded to the next multiple of 4
    where a model pads. The same string padded further, or cut into other subwords, is left out,
    though a decoder would write it as well: `strict` and its like are lower bounds even where
    p(y, T|x) is exact. On toy, longer paddings add 0.003 (Ga-B, Fl-B, 50 samples) to 0.011 nats a
    token to a latent model and nothing to an autoregressive one: a smaller difference between the
    two says little.
    """
    top, bottom = accounting_named(accounting).terms(sentences)
    return np.asarray(top, np.float64), np.asarray(bottom, np.float64)


def bound_slack(sentences: pd.DataFrame, accounting: str) -> float:
    """What the last tenfold of importance samples still raised the bound by, in the accounting's
    unit, 0 or more: a lower bound may be as far again below what it bounds.

    0 where the likelihood is exact, where the released estimate stands (it bounds nothing), and
    where sentences.csv has no bound at fewer samples.
    """
    fewer = [int(name.removeprefix("iw_bound_")) for name in sentences
             if name.startswith("iw_bound_")]
    if not fewer or accounting == "released":
        return 0.0
    # bounds are at 1, 10, 100, ... and at a tenth of all samples: the one that is no power of ten
    tenth = next((k for k in fewer if str(k).strip("0") != "1"), max(fewer))
    (top, bottom), (less, _) = (likelihood_terms(frame, accounting) for frame in (
        sentences, sentences.assign(log_prob=sentences[f"iw_bound_{tenth}"])))
    return abs(float((top - less).sum() / bottom.sum()))
