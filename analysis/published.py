"""What Lee, Tran, Firat and Cho (2020) published, cell by cell, each with where it was read.

"On the Discrepancy between Density Estimation and Sequence Generation", arXiv 2002.07233.

Every cell of Tables 1 to 4 has its place here, but most are NaN: only the paper's abstract and
what this project's design notes quote from it (parameter counts, two speed ratios, the findings)
could be read when this file was written, and nothing is given from memory. A NaN means "not
transcribed", never "not published". Whoever has the paper at hand fills the four `_TABLE`
constants below; every table and figure picks them up.
"""

import math
from dataclasses import dataclass
from itertools import product

import pandas as pd

__all__ = [
    "COLUMNS", "DATASETS", "FINDINGS", "MODELS", "PARAMETERS", "REFINEMENT_STEPS", "SOURCES",
    "Finding", "column", "table1", "table2", "table3", "table4", "value",
]

DATASETS = {
    "iwslt16_de_en": "IWSLT'16 De-En",
    "wmt14_de_en": "WMT'14 De-En",
    "wmt14_en_de": "WMT'14 En-De",
    "wmt16_en_ro": "WMT'16 En-Ro",
    "wmt16_ro_en": "WMT'16 Ro-En",
}
"""This repository's name of a data set -> the paper's name of it."""

MODELS = {
    "tr_s": "Tr-S", "tr_b": "Tr-B", "tr_l": "Tr-L", "ga_b": "Ga-B", "ga_l": "Ga-L",
    "fl_s": "Fl-S", "fl_b": "Fl-B", "fl_l": "Fl-L",
}
"""This repository's name of a model -> the paper's name of it, in the order of every table."""

REFINEMENT_STEPS = (0, 1, 2, 4, 8)
"""The numbers of delta-posterior steps k of Table 3."""

SOURCES = {
    "abstract": "the abstract of arXiv 2002.07233",
    "design": "the paper, as quoted in this project's design notes",
    "paper": "the table of that number in arXiv 2002.07233",
    "missing": "not transcribed: the tables of the paper could not be read",
}
"""Key of the column `source` -> where a value was read."""

PARAMETERS = {
    "tr_s": 17e6, "tr_b": 60e6, "tr_l": 208e6, "ga_b": 75e6, "ga_l": 95e6,
    "fl_s": math.nan, "fl_b": 75e6, "fl_l": 258e6,
}
"""Parameters at the WMT sizes with a vocabulary of 32K (source: design; Fl-L is Ma et al.'s)."""

# (dataset, model, train_data) -> (test BLEU, test log-likelihood in nats per token)
_TABLE1: dict[tuple[str, str, str], tuple[float, float]] = {}
# (dataset, model) -> Pearson's correlation of log-likelihood and BLEU across checkpoints
_TABLE2: dict[tuple[str, str], float] = {}
# (model, k) -> (BLEU, ELBO)
_TABLE3: dict[tuple[str, int], tuple[float, float]] = {}
# (model, refinement steps or None for beam search) -> speed over that of Tr-B's beam, batch size 1.
# For Fl-B the notes do not say after how many steps of refinement it was timed.
_TABLE4: dict[tuple[str, int | None], float] = {("tr_b", None): 1.0, ("ga_b", 1): 8.0,
                                                ("fl_b", None): 2.2}

COLUMNS = ["table", "dataset", "model", "train_data", "setting", "metric", "value", "source"]
"""Columns of every table here; a cell is one row, and `value` is NaN where not transcribed."""


@dataclass(frozen=True)
class Finding:
    """One claim of the paper that this repository tests.

    number: its place in the project's list. claim: one sentence. source: a key of `SOURCES`.
    """

    number: int
    claim: str
    source: str


FINDINGS = (
    Finding(1, "Within a family, log-likelihood and BLEU rank models alike.", "abstract"),
    Finding(2, "Across families they do not: flow priors give the best log-likelihood and the "
               "worst BLEU.", "abstract"),
    Finding(3, "Distillation hurts log-likelihood and helps non-autoregressive BLEU.", "design"),
    Finding(4, "Delta-posterior refinement helps Gaussian priors much more than flow priors.",
            "design"),
    Finding(5, "For fast generation a simple prior with distillation and refinement is best.",
            "design"),
)
"""The paper's findings, numbered as in the README."""


def table1() -> pd.DataFrame:
    """Test BLEU and log-likelihood (nats per token) for 5 data sets x 7 models x raw, distilled.

    Which accounting and which estimator stand behind the published log-likelihoods isn't known.
    """
    rows = []
    for dataset, model, data in product(DATASETS, list(MODELS)[:7], ("raw", "distilled")):
        cell = _TABLE1.get((dataset, model, data), (math.nan, math.nan))
        rows += [_row(1, dataset, model, data, "", metric, number)
                 for metric, number in zip(("bleu", "log_likelihood"), cell, strict=True)]
    return pd.DataFrame(rows, columns=COLUMNS)


def table2() -> pd.DataFrame:
    """Pearson's correlation of log-likelihood and BLEU across the checkpoints of one run."""
    rows = [_row(2, dataset, model, "raw", "", "pearson", _TABLE2.get((dataset, model), math.nan))
            for dataset, model in product(DATASETS, list(MODELS)[:7])]
    return pd.DataFrame(rows, columns=COLUMNS)


def table3() -> pd.DataFrame:
    """BLEU and ELBO after k steps of refinement, for the Gaussian and flow priors.

    The data set of the published table isn't transcribed, so `dataset` is empty.
    """
    rows = []
    for model, k in product(("ga_b", "ga_l", "fl_s", "fl_b"), REFINEMENT_STEPS):
        cell = _TABLE3.get((model, k), (math.nan, math.nan))
        rows += [_row(3, "", model, "", f"k{k}", metric, number)
                 for metric, number in zip(("bleu", "elbo"), cell, strict=True)]
    return pd.DataFrame(rows, columns=COLUMNS)


def table4() -> pd.DataFrame:
    """Sizes (parameters) and speeds relative to Tr-B's beam search at batch size 1."""
    rows = [_row(4, "", model, "", "", "parameters", number) for model, number in
            PARAMETERS.items()]
    rows += [_row(4, "", model, "", "" if k is None else f"k{k}", "speed_ratio", number)
             for (model, k), number in _TABLE4.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def column(dataset: str) -> str | None:
    """The paper's name of a data set, None where the paper has no counterpart (toy, Multi30k)."""
    return DATASETS.get(dataset)


def value(table: pd.DataFrame, **keys: str) -> float:
    """The value of the one row of `table` whose columns equal `keys`; NaN where there is none."""
    chosen = table
    for name, key in keys.items():
        chosen = chosen[chosen[name] == key]
    if len(chosen) > 1:
        raise ValueError(f"{len(chosen)} rows match {keys}; name more columns of {COLUMNS}")
    return float(chosen["value"].iloc[0]) if len(chosen) else math.nan


def _row(table: int, dataset: str, model: str, train_data: str, setting: str, metric: str,
         number: float) -> tuple:
    source = "missing" if math.isnan(number) else "design" if table == 4 else "paper"
    return table, dataset, model, train_data, setting, metric, number, source
