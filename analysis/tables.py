"""Tables of whatever runs exist, the paper's numbers beside ours, as CSV and Markdown."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import comparable, published
from analysis.resampling import Resamples
from analysis.significance import pair_name
from lib.likelihood.accounting import accounting_named
from lib.paths import outputs_root, writable

__all__ = [
    "compact_checkpoints", "compact_pairs", "compact_summary", "interval", "markdown",
    "side_by_side", "systems", "table1", "table2", "write",
]

GROUP = ["dataset", "scale", "model", "family", "train_data"]
MEAN = "mean"          # in the column `seed` of a row that averages several
MISSING = "–"
NOT_TRANSCRIBED = ("The paper has numbers for this data set, which are not transcribed here "
                   "(see analysis/published.py).")


def table1(frame: pd.DataFrame, accounting: str, *, resamples: Resamples | None = None,
           ) -> pd.DataFrame:
    """BLEU and log-likelihood of each model, one row a (dataset, scale, model, train_data, seed),
    and where a model has several seeds one more with `seed` "mean" below them.

    frame: `correlation.collect`'s rows. resamples: of the same rows, from
    `correlation.resample_runs(frame, ...)`; gives the 95% intervals bleu_low to bleu_high over
    test sentences (in the row of the mean: of the mean over seeds).
    Columns besides: seeds (how many the row averages), parameters, setting, bleu, bleu_low,
    bleu_high, bleu_sd (standard deviation over seeds), chrf, accounting, log_likelihood,
    log_likelihood_error (standard error over sentences, the largest of the seeds'),
    log_likelihood_sd, precision (of the decoder's products; "" where it isn't recorded), and where
    the paper has the data set: published_bleu,
    published_log_likelihood (NaN where not transcribed). Rows come in the paper's order of models,
    raw before distilled.
    """
    accounting_named(accounting)
    comparable.check(frame, [accounting])
    theirs = published.table1()
    rows = []
    for key, group in frame.groupby(GROUP, sort=False):
        where = {"dataset": key[0], "model": key[2], "train_data": key[4]}
        paper = {f"published_{metric}": published.value(theirs, metric=metric, **where)
                 for metric in ("bleu", "log_likelihood")}
        parts = [group.iloc[[place]] for place in range(len(group))]
        for part in [*parts, group] if len(group) > 1 else parts:
            places = frame.index.get_indexer(part.index)
            rows.append(dict(zip(GROUP, key, strict=True))
                        | _scores(part, places, accounting, resamples) | paper)
    table = pd.DataFrame(rows, columns=[
        *GROUP, "seed", "seeds", "parameters", "setting", "bleu", "bleu_low", "bleu_high",
        "bleu_sd", "chrf", "accounting", "log_likelihood", "log_likelihood_error",
        "log_likelihood_sd", "precision", "published_bleu", "published_log_likelihood"])
    return _ordered(_without_counterpart(table))


def table2(checkpoints: pd.DataFrame) -> pd.DataFrame:
    """Correlation of dev log-likelihood (strict) and dev BLEU across the checkpoints of each run.

    checkpoints: from `trajectory.across_checkpoints`. A model of several seeds gets one more row,
    `seed` "mean", with the means of the coefficients and `pearson_sd`, Pearson's standard deviation
    over the seeds. Adds `seeds`, `accounting` and, where the paper has the data set,
    `published_pearson` (NaN where not transcribed).
    """
    theirs = published.table2()
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
        published.value(theirs, dataset=run.dataset, model=run.model)
        for run in table.itertuples()])
    return _ordered(_without_counterpart(table))


def systems(table: pd.DataFrame) -> pd.DataFrame:
    """The one row of each model and training data in `table1` or `table2`: the mean over seeds
    where there are several.
    """
    most = table.groupby(["dataset", "scale", "model", "train_data"])["seeds"].transform("max")
    return table[table["seeds"] == most].reset_index(drop=True)


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """`table1` as the paper prints it: a row a model, raw beside distilled, ours beside theirs.

    BLEU with its 95% interval, likelihood with its standard error over test sentences; means over
    seeds where there are several, with their number and the standard deviation (sd). A column
    `precision` where runs were decoded in different ones.
    """
    rows = []
    for (_, _, model), group in systems(table).groupby(["dataset", "scale", "model"], sort=False):
        row = {"model": published.MODELS[model], "parameters": int(group["parameters"].iloc[0])}
        cells = {data: part.iloc[0] for data, part in group.groupby("train_data")}
        for data in ("raw", "distilled"):
            if not (table["train_data"] == data).any():
                continue
            found = cells.get(data)
            row[f"BLEU, {data}"] = MISSING if found is None else (
                interval(found["bleu"], found["bleu_low"], found["bleu_high"])
                + _spread(found, "bleu", 1))
            row[f"LL, {data}"] = MISSING if found is None else (
                f"{_signed(found['log_likelihood'], 3)}{_error(found['log_likelihood_error'])}"
                + _spread(found, "log_likelihood", 3))
            if "published_bleu" in table:
                row |= {f"paper's {name}, {data}": math.nan if found is None else
                        found[f"published_{key}"]
                        for name, key in (("BLEU", "bleu"), ("LL", "log_likelihood"))}
        if len(set(table["precision"])) > 1:
            row["precision"] = ", ".join(dict.fromkeys(group["precision"].replace("", "unknown")))
        rows.append(row)
    return pd.DataFrame(rows)


def compact_checkpoints(table: pd.DataFrame) -> pd.DataFrame:
    """`table2` for reading: each coefficient with its interval in one cell."""
    shown = table.copy()
    for name in ("pearson", "spearman", "kendall", "pearson_changes"):
        ends = [f"{name}_low", f"{name}_high"]
        if name in table:
            shown[name] = [interval(*values, digits=2)
                           for values in table[[name, *ends]].itertuples(index=False)]
            shown = shown.drop(columns=ends)
    return shown


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
            f"{_signed(found['ll_delta'], 3)} ± {found['ll_error']:.3f}")
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


def interval(value: float, low: float, high: float, *, digits: int = 1, plus: bool = False) -> str:
    """A number with the ends of its interval, "1.2 [0.8, 1.6]"; without them if they are NaN."""
    text = _signed(value, digits, plus=plus)
    if math.isnan(low):
        return text
    return f"{text} [{_signed(low, digits, plus=plus)}, {_signed(high, digits, plus=plus)}]"


def markdown(frame: pd.DataFrame, *, digits: int = 2) -> str:
    """A GitHub table of `frame` without its index: numbers to `digits` decimals and right-aligned,
    whole numbers with thousands separators, NaN as a dash.
    """
    if not len(frame.columns):
        return "*(nothing to show yet)*\n"
    numeric = [pd.api.types.is_numeric_dtype(frame[name]) for name in frame.columns]
    lines = [list(map(_heading, frame.columns)),
             ["---:" if number else "---" for number in numeric]]
    lines += [[_cell(cell, digits) for cell in row]
              for row in frame.itertuples(index=False, name=None)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def write(frame: pd.DataFrame, name: str, *, notes: Sequence[str] = (), digits: int = 2,
          shown: pd.DataFrame | None = None) -> tuple[Path, Path]:
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
    theirs = [column for column in frame if column.startswith("published_")]
    if theirs and frame[theirs].isna().all(axis=None):
        notes = [*notes, NOT_TRANSCRIBED]
    tail = "".join(f"\n{note}\n" for note in notes)
    text.write_text(head + markdown(shown, digits=digits) + tail, encoding="utf-8")
    return csv, text


def _scores(part: pd.DataFrame, places: np.ndarray, accounting: str,
            resamples: Resamples | None) -> dict:
    """The numbers of one row of Table 1; `places` of its runs among the resamples' models."""
    low = high = math.nan
    if resamples is not None:
        low, high = np.quantile(resamples.bleu_resampled[:, places].mean(axis=1), [0.025, 0.975])
    return {"seed": MEAN if len(part) > 1 else str(part["seed"].iloc[0]), "seeds": len(part),
            "parameters": int(part["parameters"].iloc[0]),
            "setting": " ".join(dict.fromkeys(part["setting"])),
            "bleu": part["bleu"].mean(), "bleu_low": low, "bleu_high": high,
            "bleu_sd": part["bleu"].std(ddof=1), "chrf": part["chrf"].mean(),
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


def _signed(value: float, digits: int, *, plus: bool = False) -> str:
    """The number with a true minus sign, and with `plus` a plus sign as well."""
    if math.isnan(value):
        return MISSING
    return f"{value:{'+' if plus else ''}.{digits}f}".replace("-", "\N{MINUS SIGN}")


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
    note = f"; {accounting.note}" if accounting.note else ""
    return f"{cell} ({accounting.label}, {accounting.unit}{note})"


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
