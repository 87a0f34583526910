"""Whether runs may stand in one table: one test text, one scale of BLEU, of likelihood and of K."""

from collections.abc import Iterable, Sequence

import pandas as pd

from lib.bleu import tokenizer_of
from lib.errors import DataError
from lib.likelihood.accounting import accounting_named
from lib.subword import text_fingerprint

__all__ = ["check", "check_text"]

BOUNDED = (("gaussian", "flow"), ("masked",))  # families whose likelihood is a bound at some K


def check(frame: pd.DataFrame, accountings: Iterable[str] = ()) -> None:
    """Refuse rows of `systems.collect` whose numbers have no common scale.

    Of one data set and scale, all must be of one test text and one tokeniser of BLEU; under an
    accounting per subword, of one vocabulary; and bounds of one kind at one number of samples.

    Errors: DataError that names what differs, the runs, and the way out.
    """
    accountings = list(accountings)
    for (dataset, scale), runs in frame.groupby(["dataset", "scale"], sort=False):
        where = f"{dataset}/{scale}:"
        for side in ("references", "sources"):
            _check_one(runs, side, f"{where} runs were scored on different test texts ({side} ")
        if "signature" in runs:
            _check_one(runs.assign(tokenizer=runs["signature"].map(tokenizer_of)), "tokenizer",
                       f"{where} BLEU of runs is by different tokenisers (")
        if any(accounting_named(name).per_subword for name in accountings):
            _check_one(runs, "vocabulary", f"{where} likelihoods per subword of different "
                       "vocabularies have no common scale, per_sentence and bits_per_char have (")
        for families in BOUNDED:
            for name in accountings:
                bounds = runs[runs["family"].isin(families) & runs[name].notna()]
                _check_one(bounds, f"{name}_samples",
                           f"{where} likelihood bounds are at different numbers of samples K (")


def check_text(frame: pd.DataFrame, references: Sequence[str]) -> None:
    """Refuse a test text that isn't the one that these runs were scored on. Errors: DataError."""
    now = text_fingerprint(references)
    for row in frame.to_dict("records"):
        if row.get("references") not in (None, "", now):
            raise DataError(
                f"{_name(row)} of {row['dataset']}/{row['scale']} was scored on another test text "
                f"({row['references']}) than today's ({now}): restore it, or evaluate the run "
                "again with notebooks/03_eval.ipynb")


def _check_one(runs: pd.DataFrame, column: str, problem: str) -> None:
    """Refuse more than one value; where some runs have none, nobody knows that it is the same."""
    if column not in runs:
        return
    groups = runs.apply(_name, axis=1).groupby(runs[column].map(str), sort=False).agg(", ".join)
    if len(groups) > 1:
        shown = "; ".join(f"{value[:16] or 'not recorded'}: {names}"
                          for value, names in groups.items())
        raise DataError(f"{problem}{shown}): evaluate them again alike with "
                        "notebooks/03_eval.ipynb, or move those that don't belong out of "
                        "outputs/runs")


def _name(row: pd.Series | dict) -> str:
    return f"{row['model']} {row['train_data']} s{row['seed']}"
