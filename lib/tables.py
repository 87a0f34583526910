"""Tables 1 and 2 from whatever runs exist, the paper's numbers beside ours, as CSV and Markdown."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib import published
from lib.paths import outputs_root
from lib.resampling import Resamples, accounting_named

__all__ = ["markdown", "table1", "table2", "write"]

GROUP = ["dataset", "scale", "model", "family", "train_data"]
MISSING = "–"
NOT_TRANSCRIBED = ("The paper has numbers for this data set, which are not transcribed here "
                   "(see lib/published.py).")


def table1(frame: pd.DataFrame, accounting: str, *, resamples: Resamples | None = None,
           ) -> pd.DataFrame:
    """BLEU and log-likelihood of each model, one row a (dataset, scale, model, train_data).

    frame: `correlation.collect`'s rows. Several seeds are averaged, `seeds` says how many.
    resamples: from `correlation.resample_runs(frame, ...)`; gives the 95% intervals bleu_low to
    bleu_high over test sentences (with several seeds, of their mean).
    Columns besides the group's: seeds, parameters, setting, bleu, bleu_low, bleu_high, chrf,
    accounting, log_likelihood, log_likelihood_error (standard error over sentences, the largest
    of the seeds'), and where the paper has the data set: published_bleu, published_log_likelihood
    (NaN where not transcribed). Rows come in the paper's order of models, raw before distilled.
    """
    accounting_named(accounting)
    theirs = published.table1()
    rows = []
    for key, group in frame.groupby(GROUP, sort=False):
        row = dict(zip(GROUP, key, strict=True))
        places = frame.index.get_indexer(group.index)
        low = high = math.nan
        if resamples is not None:
            low, high = np.quantile(resamples.bleu_resampled[:, places].mean(axis=1),
                                    [0.025, 0.975])
        row |= {"seeds": len(group), "parameters": int(group["parameters"].iloc[0]),
                "setting": " ".join(dict.fromkeys(group["setting"])),
                "bleu": group["bleu"].mean(), "bleu_low": low, "bleu_high": high,
                "chrf": group["chrf"].mean(), "accounting": accounting,
                "log_likelihood": group[accounting].mean(),
                "log_likelihood_error": group[f"{accounting}_error"].max()}
        where = {key: row[key] for key in ("dataset", "model", "train_data")}
        for metric in ("bleu", "log_likelihood"):
            row[f"published_{metric}"] = published.value(theirs, metric=metric, **where)
        rows.append(row)
    table = pd.DataFrame(rows, columns=[
        *GROUP, "seeds", "parameters", "setting", "bleu", "bleu_low", "bleu_high", "chrf",
        "accounting", "log_likelihood", "log_likelihood_error", "published_bleu",
        "published_log_likelihood"])
    return _ordered(_without_counterpart(table))


def table2(checkpoints: pd.DataFrame) -> pd.DataFrame:
    """Correlation of dev log-likelihood (strict) and dev BLEU across the checkpoints of each run.

    checkpoints: from `correlation.across_checkpoints`. Adds `accounting` and, where the paper has
    the data set, `published_pearson` (NaN where not transcribed).
    """
    theirs = published.table2()
    table = checkpoints.assign(accounting="strict", published_pearson=[
        published.value(theirs, dataset=run.dataset, model=run.model)
        for run in checkpoints.itertuples()])
    return _ordered(_without_counterpart(table))


def markdown(frame: pd.DataFrame, *, digits: int = 2) -> str:
    """A GitHub table of `frame` without its index: numbers to `digits` decimals and right-aligned,
    whole numbers with thousands separators, NaN as a dash.
    """
    numeric = [pd.api.types.is_numeric_dtype(frame[name]) for name in frame.columns]
    lines = [list(map(_heading, frame.columns)),
             ["---:" if number else "---" for number in numeric]]
    lines += [[_cell(cell, digits) for cell in row]
              for row in frame.itertuples(index=False, name=None)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def write(frame: pd.DataFrame, name: str, *, notes: Sequence[str] = (), digits: int = 2,
          ) -> tuple[Path, Path]:
    """Write `outputs/tables/<name>.csv` (six digits) and `.md` (the notes below the table).

    Columns that are the same in every row of the .md (the data set, the accounting) move into a
    line above it, and columns without any number are left out; the CSV keeps all. Returns both.
    """
    folder = outputs_root() / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    csv, text = folder / f"{name}.csv", folder / f"{name}.md"
    frame.to_csv(csv, index=False, float_format="%.6g", lineterminator="\n")
    same = {column: frame[column].iloc[0] for column in ("dataset", "scale", "accounting")
            if column in frame and len(set(frame[column])) == 1}
    shown = frame.drop(columns=list(same)).dropna(axis=1, how="all")
    head = "".join(f"{_heading(column)}: {_described(column, cell)}\n\n"
                   for column, cell in same.items())
    theirs = [column for column in frame if column.startswith("published_")]
    if theirs and frame[theirs].isna().all(axis=None):
        notes = [*notes, NOT_TRANSCRIBED]
    tail = "".join(f"\n{note}\n" for note in notes)
    text.write_text(head + markdown(shown, digits=digits) + tail, encoding="utf-8")
    return csv, text


def _without_counterpart(table: pd.DataFrame) -> pd.DataFrame:
    """The table, without its published columns where the paper has none of its data sets."""
    if any(published.column(name) for name in table["dataset"]):
        return table
    return table.drop(columns=[name for name in table if name.startswith("published_")])


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by data set, scale, raw before distilled, then in the paper's order of models."""
    order = {name: place for place, name in enumerate(published.MODELS)}
    keys = [table["dataset"], table["scale"], table["train_data"] != "raw",
            table["model"].map(order)]
    places = pd.concat(keys, axis=1).set_axis(list("abcd"), axis=1).sort_values(
        list("abcd"), kind="stable").index
    return table.loc[places].reset_index(drop=True)


def _heading(column: str) -> str:
    return str(column).replace("_", " ").replace("bleu", "BLEU").replace("chrf", "chrF")


def _described(column: str, cell: str) -> str:
    if column != "accounting":
        return cell
    accounting = accounting_named(cell)
    return f"{cell} ({accounting.label}, {accounting.unit})"


def _cell(cell: object, digits: int) -> str:
    if isinstance(cell, (bool, np.bool_)):
        return str(cell)
    if isinstance(cell, (int, np.integer)):
        return f"{cell:,}"
    if isinstance(cell, (float, np.floating)):
        if math.isnan(cell):
            return MISSING
        return f"{cell:.{digits}f}".replace("-", "\N{MINUS SIGN}")
    return str(cell).replace("|", r"\|").replace("\n", " ")
