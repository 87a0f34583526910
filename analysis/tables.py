"""Every table: shown in a notebook, written as CSV and Markdown, and the paper's Tables 1 and 2."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Markdown

from analysis import comparable, published
from analysis.resampling import Resamples
from analysis.systems import MEAN, model_order
from lib.bleu import TAILS
from lib.config import model_name
from lib.likelihood.accounting import accounting_named
from lib.paths import outputs_root, writable

__all__ = ["compact_checkpoints", "intervals", "interval", "markdown", "show", "side_by_side",
           "signed", "systems", "table1", "table2", "write"]

GROUP = ["dataset", "scale", "model", "family", "train_data"]
MISSING = "–"
NO_BREAK = "\N{NO-BREAK SPACE}"
MODEL_COLUMNS = ("model", "system", "first", "second")  # hold names that readers see as Tr-S
WORDS = {"bleu": "BLEU", "chrf": "chrF", "ll": "LL", "kl": "KL", "elbo": "ELBO"}


# ---- cells, Markdown, files ----

def signed(value: float, digits: int, *, plus: bool = False) -> str:
    """The number with a true minus sign, and with `plus` a plus sign as well."""
    if math.isnan(value):
        return MISSING
    return f"{value:{'+' if plus else ''},.{digits}f}".replace("-", "\N{MINUS SIGN}")


def interval(value: float, low: float, high: float, *, digits: int = 1, plus: bool = False) -> str:
    """A number with the ends of its interval, "1.2 [0.8, 1.6]", unbreakable; without them if they
    are NaN.
    """
    text = signed(value, digits, plus=plus)
    if math.isnan(low):
        return text
    ends = f"[{signed(low, digits, plus=plus)}, {signed(high, digits, plus=plus)}]"
    return f"{text} {ends}".replace(" ", NO_BREAK)


def intervals(table: pd.DataFrame, *, digits: int | Mapping[str, int] = 1,
              plus: Sequence[str] = ()) -> pd.DataFrame:
    """The table with `<name>_low` and `<name>_high` drawn into the column `<name>`, as text."""
    shown = table.copy()
    for name in [column.removesuffix("_low") for column in table if column.endswith("_low")]:
        places = digits if isinstance(digits, int) else digits.get(name, 1)
        ends = table[[name, f"{name}_low", f"{name}_high"]].astype(float)
        shown[name] = [interval(*row, digits=places, plus=name in plus)
                       for row in ends.itertuples(index=False)]
    return shown.drop(columns=[c for c in table if c.endswith(("_low", "_high"))])


def markdown(frame: pd.DataFrame, *, digits: int | Mapping[str, int] = 2) -> str:
    """A GitHub table of `frame` without its index: numbers to `digits` decimals (of a column, or of
    all) and right-aligned, whole numbers with thousands separators, NaN as a dash, models by the
    names that readers know.
    """
    if not len(frame.columns):
        return "*(nothing to show yet)*\n"
    numeric = [pd.api.types.is_numeric_dtype(frame[name]) for name in frame.columns]
    places = [digits if isinstance(digits, int) else digits.get(name, 2) for name in frame.columns]
    lines = [list(map(_heading, frame.columns)),
             ["---:" if number else "---" for number in numeric]]
    lines += [[_cell(cell, digits, name) for cell, digits, name in
               zip(row, places, frame.columns, strict=True)]
              for row in frame.itertuples(index=False, name=None)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def show(frame: pd.DataFrame, *, digits: int | Mapping[str, int] = 2, notes: str = "") -> Markdown:
    """The table as every notebook shows it, with a note below."""
    return Markdown(markdown(frame, digits=digits) + (f"\n{notes}\n" if notes else ""))


def write(frame: pd.DataFrame, name: str, *, notes: Sequence[str] = (),
          digits: int | Mapping[str, int] = 2, shown: pd.DataFrame | None = None,
          ) -> tuple[Path, Path]:
    """Write `outputs/tables/<name>.csv` (six digits) and `.md` (the notes below the table).

    shown: what the .md holds, another form of the same table (default: `frame`). Columns that are
    the same in every row of the .md (the data set, the accounting) move into a line above it, and
    columns without any number are left out; the CSV keeps all. Returns both.
    """
    folder = writable(outputs_root() / "tables")
    csv, text = folder / f"{name}.csv", folder / f"{name}.md"
    frame.to_csv(csv, index=False, float_format="%.6g", lineterminator="\n")
    same = {column: frame[column].iloc[0] for column in ("dataset", "scale", "accounting")
            if column in frame and len(set(frame[column])) == 1}
    shown = frame if shown is None else shown
    shown = shown.drop(columns=list(same), errors="ignore").dropna(axis=1, how="all")
    head = "".join(f"{_heading(column)}: {_described(column, cell)}\n\n"
                   for column, cell in same.items())
    tail = "".join(f"\n{note}\n" for note in notes)
    text.write_text(head + markdown(shown, digits=digits) + tail, encoding="utf-8")
    return csv, text


# ---- Tables 1 and 2 ----

def table1(frame: pd.DataFrame, accounting: str, *, resamples: Resamples | None = None,
           ) -> pd.DataFrame:
    """BLEU and log-likelihood of each model, one row a (dataset, scale, model, train_data, seed),
    and where a model has several seeds one more with `seed` "mean" below them.

    frame: `systems.collect`'s rows. resamples: of the same rows, from
    `resampling.resample_runs(frame, ...)`; gives the 95% intervals bleu_low to bleu_high over
    test sentences (in the row of the mean: of the mean over seeds).
    Columns besides: seeds (how many the row averages), parameters, setting, bleu, bleu_low,
    bleu_high, bleu_sd (standard deviation over seeds), chrf, bleu_paper (BLEU of the paper's
    decoding, `published.paper_setting`), accounting, log_likelihood, log_likelihood_error
    (standard error over sentences, the largest of the seeds'), log_likelihood_sd, precision (of the
    decoder's products; "" where it isn't recorded), and where the paper has the data set:
    published_bleu, published_log_likelihood. Rows come in the paper's order
    of models, raw before distilled.
    """
    accounting_named(accounting)
    comparable.check(frame, [accounting])
    rows = []
    for key, group in frame.groupby(GROUP, sort=False):
        where = {"dataset": key[0], "model": key[2], "train_data": key[4]}
        paper = {f"published_{name}": published.value(1, name, **where)
                 for name in ("bleu", "log_likelihood")}
        parts = [group.iloc[[place]] for place in range(len(group))]
        for part in [*parts, group] if len(group) > 1 else parts:
            places = frame.index.get_indexer(part.index)
            rows.append(dict(zip(GROUP, key, strict=True))
                        | _scores(part, places, accounting, resamples) | paper)
    table = pd.DataFrame(rows, columns=[
        *GROUP, "seed", "seeds", "parameters", "setting", "bleu", "bleu_low", "bleu_high",
        "bleu_sd", "chrf", "bleu_paper", "accounting", "log_likelihood", "log_likelihood_error",
        "log_likelihood_sd", "precision", "published_bleu", "published_log_likelihood"])
    return _ordered(table)


def table2(checkpoints: pd.DataFrame) -> pd.DataFrame:
    """Correlation of dev log-likelihood (strict) and dev BLEU across the checkpoints of each run.

    checkpoints: from `within_training.across_checkpoints`. A model of several seeds gets one more
    row, `seed` "mean", with the means of the coefficients and `pearson_sd`, Pearson's standard
    deviation over the seeds. Adds `seeds`, `accounting` and, where the paper has the data set,
    `published_pearson`.
    """
    means = ["pearson", "spearman", "kendall", "pearson_changes"]
    parts = []
    for key, group in checkpoints.groupby(GROUP, sort=False):
        parts.append(group.assign(seed=group["seed"].astype(str), seeds=1))
        if len(group) > 1:
            row = dict(zip(GROUP, key, strict=True)) | {
                "seed": MEAN, "seeds": len(group), "n": round(group["n"].mean()),
                "pearson_sd": group["pearson"].std(ddof=1)}
            row |= {name: group[name].mean() for name in means if name in group}
            parts.append(pd.DataFrame([row]))
    table = pd.concat(parts, ignore_index=True) if parts else checkpoints.assign(seeds=[])
    table = table.assign(accounting="strict", published_pearson=[
        published.value(2, "pearson", dataset=run.dataset, model=run.model,
                        train_data=run.train_data) for run in table.itertuples()])
    return _ordered(table)


def systems(table: pd.DataFrame) -> pd.DataFrame:
    """The one row of each model and training data in `table1` or `table2`: the mean over seeds
    where there are several.
    """
    most = table.groupby(["dataset", "scale", "model", "train_data"])["seeds"].transform("max")
    return table[table["seeds"] == most].reset_index(drop=True)


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """`table1` as the paper prints it: a row a model, raw beside distilled, ours beside theirs.

    BLEU with its 95% interval, likelihood with its standard error over test sentences; means over
    seeds where there are several, with their number and the standard deviation (sd). Where the
    paper has the data set, BLEU of its decoding stands beside, and its numbers. A column
    `precision` where runs were decoded in different ones.
    """
    rows = []
    for (_, _, model), group in systems(table).groupby(["dataset", "scale", "model"], sort=False):
        row = {"model": model_name(model), "parameters": int(group["parameters"].iloc[0])}
        cells = {data: part.iloc[0] for data, part in group.groupby("train_data")}
        for data in ("raw", "distilled"):
            if not (table["train_data"] == data).any():
                continue
            found = cells.get(data)
            row[f"BLEU, {data}"] = MISSING if found is None else (
                interval(found["bleu"], found["bleu_low"], found["bleu_high"])
                + _spread(found, "bleu", 1))
            row[f"LL, {data}"] = MISSING if found is None else (
                f"{signed(found['log_likelihood'], 3)}{_error(found['log_likelihood_error'])}"
                + _spread(found, "log_likelihood", 3)).replace(" ", NO_BREAK)
            if "published_bleu" in table:
                row |= {f"{name}, {data}": math.nan if found is None else found[key]
                        for name, key in (("BLEU as the paper decodes", "bleu_paper"),
                                          ("paper's BLEU", "published_bleu"),
                                          ("paper's LL", "published_log_likelihood"))}
        if len(set(table["precision"])) > 1:
            row["precision"] = ", ".join(dict.fromkeys(group["precision"].replace("", "unknown")))
        rows.append(row)
    return pd.DataFrame(rows)


def compact_checkpoints(table: pd.DataFrame) -> pd.DataFrame:
    """`table2` for reading: a row a system (the mean where it has several seeds), Pearson's r with
    its interval, and that of the changes.
    """
    kept = ["model", "train_data", "seeds", "n", "pearson", "pearson_low", "pearson_high",
            "pearson_sd", "pearson_changes", "pearson_changes_low", "pearson_changes_high",
            "published_pearson"]
    shown = systems(table)
    shown = shown[[name for name in kept if name in shown]]
    return intervals(shown, digits=2).dropna(axis=1, how="all")


# ---- parts ----

def _scores(part: pd.DataFrame, places: np.ndarray, accounting: str,
            resamples: Resamples | None) -> dict:
    """The numbers of one row of Table 1; `places` of its runs among the resamples' models."""
    low = high = math.nan
    if resamples is not None:
        low, high = np.quantile(resamples.bleu_resampled[:, places].mean(axis=1), TAILS)
    return {"seed": MEAN if len(part) > 1 else str(part["seed"].iloc[0]), "seeds": len(part),
            "parameters": int(part["parameters"].iloc[0]),
            "setting": " ".join(dict.fromkeys(part["setting"])),
            "bleu": part["bleu"].mean(), "bleu_low": low, "bleu_high": high,
            "bleu_sd": part["bleu"].std(ddof=1), "chrf": part["chrf"].mean(),
            "bleu_paper": part["bleu_paper"].mean() if "bleu_paper" in part else math.nan,
            "accounting": accounting, "log_likelihood": part[accounting].mean(),
            "log_likelihood_error": part[f"{accounting}_error"].max(),
            "log_likelihood_sd": part[accounting].std(ddof=1),
            "precision": " ".join(dict.fromkeys(filter(None, part.get("precision", ""))))}


def _error(error: float) -> str:
    """A standard error behind its number; one sentence has none."""
    return " (n = 1)" if math.isnan(error) else f" ± {error:.3f}"


def _spread(row: pd.Series, name: str, digits: int) -> str:
    """Number of seeds and standard deviation over them, nothing for one seed."""
    return "" if row["seeds"] < 2 else f" (sd {row[f'{name}_sd']:.{digits}f}, {row['seeds']} seeds)"


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by data set, scale, raw before distilled, then in the paper's order of models; without
    the published columns where the paper has none of the data sets.
    """
    keys = table[["dataset", "scale"]].assign(data=table["train_data"] != "raw",
                                              model=model_order(table["model"]))
    table = table.loc[keys.sort_values(list(keys), kind="stable").index].reset_index(drop=True)
    if any(published.column(name) for name in set(table["dataset"])):
        return table
    return table.drop(columns=[name for name in table if name.startswith("published_")])


def _heading(column: str) -> str:
    words = str(column) if " " in str(column) else str(column).replace("_", " ")
    return " ".join(WORDS.get(word, word) for word in words.split(" "))


def _described(column: str, cell: str) -> str:
    if column != "accounting":
        return cell
    accounting = accounting_named(cell)
    note = f"; {accounting.note}" if accounting.note else ""
    return f"{cell} ({accounting.label}, {accounting.unit}{note})"


def _cell(cell: object, digits: int, column: str) -> str:
    if isinstance(cell, (bool, np.bool_)):
        return "yes" if cell else "no"
    if isinstance(cell, (int, np.integer)):
        return f"{cell:,}"
    if isinstance(cell, (float, np.floating)):
        return signed(float(cell), digits)
    text = model_name(str(cell)) if column in MODEL_COLUMNS else str(cell)
    text = text.replace("|", r"\|").replace("\n", " ")
    return f"`{text}`" if "@" in text else text  # or it becomes a link to a mail address
