"""Whether runs may stand in one table: one test text, one scale of BLEU, of likelihood and of K."""

from collections.abc import Callable, Iterable, Sequence

import pandas as pd

from lib.bleu import tokenizer_of
from lib.errors import DataError
from lib.subword import text_fingerprint

__all__ = ["PER_TOKEN", "check", "check_text"]

PER_TOKEN = ("paper", "strict", "released")  # accountings per subword: a vocabulary's own scale
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
            _one(runs, side, f"{where} runs were scored on different test texts ({side} ")
        _one(runs, "signature", f"{where} BLEU of runs is by different tokenisers (", tokenizer_of)
        if set(accountings) & set(PER_TOKEN):
            _one(runs, "vocabulary", f"{where} likelihoods per subword of different vocabularies "
                 "have no common scale, per_sentence and bits_per_char have (")
        for families in BOUNDED:
            bounds = runs[runs["family"].isin(families)]
            for name in accountings:
                known = bounds[bounds[name].notna()]
                _one(known, f"{name}_samples",
                     f"{where} likelihood bounds are at different numbers of samples K (")


def check_text(frame: pd.DataFrame, references: Sequence[str]) -> None:
    """Refuse a test text that isn't the one that these runs were scored on.

    Errors: DataError.
    """
    now = text_fingerprint(references)
    for row in frame.to_dict("records"):
        if row.get("references") not in (None, "", now):
            raise DataError(
                f"{_name(row)} of {row['dataset']}/{row['scale']} was scored on another test text "
                f"({row['references']}) than today's ({now}): restore it, or evaluate the run "
                "again with notebooks/03_eval.ipynb")


def _one(runs: pd.DataFrame, column: str, told: str, of: Callable = str) -> None:
    """Refuse more than one value; where some runs have none, nobody knows that it is the same."""
    groups: dict[str, list[str]] = {}
    for row in runs.to_dict("records") if column in runs else ():
        groups.setdefault(of(row[column]), []).append(_name(row))
    if len(groups) > 1:
        shown = "; ".join(f"{value[:16] or 'not recorded'}: {', '.join(names)}"
                          for value, names in groups.items())
        raise DataError(f"{told}{shown}): evaluate them again alike with notebooks/03_eval.ipynb, "
                        "or move those that don't belong out of outputs/runs")


def _name(row: dict) -> str:
    return f"{row['model']} {row['train_data']} s{row['seed']}"
