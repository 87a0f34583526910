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

__all__ = ["MISSING", "NO_BREAK", "compact_table2", "difference", "interval", "intervals",
           "markdown", "read", "show", "side_by_side", "signed", "systems", "table1", "table2",
           "write"]

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


def difference(row: Mapping, name: str, digits: int = 1) -> str:
    """`<name>_delta` of a table's row, signed, with its interval."""
    return interval(*(float(row[f"{name}_{end}"]) for end in ("delta", "low", "high")),
                    digits=digits, plus=True)


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
    columns = [[_heading(name), "---:" if pd.api.types.is_numeric_dtype(cells) else "---", *(
        _cell(cell, digits if isinstance(digits, int) else digits.get(name, 2), name)
        for cell in cells)] for name, cells in frame.items()]
    return "".join("| " + " | ".join(line) + " |\n" for line in zip(*columns, strict=True))


def show(frame: pd.DataFrame, *, digits: int | Mapping[str, int] = 2, notes: str = "") -> Markdown:
    """The table as every notebook shows it, with a note below."""
    return Markdown(markdown(frame, digits=digits) + (f"\n{notes}\n" if notes else ""))


def read(name: str) -> pd.DataFrame | None:
    """The table outputs/tables/<name>.csv; None where there is none."""
    path = outputs_root() / "tables" / f"{name}.csv"
    return pd.read_csv(path) if path.is_file() else None


def write(frame: pd.DataFrame, name: str, *, notes: Sequence[str] = (),
          digits: int | Mapping[str, int] = 2, shown: pd.DataFrame | None = None,
          ) -> tuple[Path, Path]:
    """Write `outputs/tables/<name>.csv` (six digits) and `.md` (the notes below the table).

    shown: what the .md holds, another form of the same table (default: `frame`). Data set, scale
    and accounting that are the same in every row move into a line above it, and columns without any
    number are left out; the CSV keeps all.
    """
    folder = writable(outputs_root() / "tables")
    csv, text = folder / f"{name}.csv", folder / f"{name}.md"
    frame.to_csv(csv, index=False, float_format="%.6g", lineterminator="\n")
    same = {column: frame[column].iloc[0] for column in ("dataset", "scale", "accounting")
            if column in frame and len(set(frame[column])) == 1}
    shown = frame if shown is None else shown
    shown = shown.drop(columns=list(same), errors="ignore").dropna(axis=1, how="all")
    if "accounting" in same:
        of = accounting_named(same["accounting"])
        note = f"; {of.note}" if of.note else ""
        same["accounting"] += f" ({of.label}, {of.unit}{note})"
    head = [f"{column}: {cell}\n\n" for column, cell in same.items()]
    tail = [f"\n{note}\n" for note in notes]
    text.write_text("".join([*head, markdown(shown, digits=digits), *tail]), encoding="utf-8")
    return csv, text


# ---- Tables 1 and 2 ----

def table1(frame: pd.DataFrame, accounting: str, *, resamples: Resamples | None = None,
           ) -> pd.DataFrame:
    """BLEU and log-likelihood, a row a (dataset, scale, model, train_data, seed), and below several
    seeds of a model one more, `seed` "mean"; models in the paper's order, raw before distilled.

    frame: `systems.collect`'s rows. resamples: of the same rows, for the 95% intervals of BLEU over
    test sentences. Columns besides: seeds (how many the row averages), `_sd` (standard deviation
    over seeds), bleu_paper (of `published.paper_setting`), log_likelihood_error (standard error
    over sentences, the largest of the seeds'), precision (of the decoder's products, "" where it
    isn't recorded), and where the paper has the data set published_bleu and
    published_log_likelihood.
    """
    accounting_named(accounting)
    comparable.check(frame, [accounting])
    rows = []
    for key, group in frame.groupby(GROUP, sort=False):
        seeds = [group.iloc[[place]] for place in range(len(group))]
        for part in [*seeds, group] if len(group) > 1 else seeds:
            places = frame.index.get_indexer(part.index)
            bleu, ll = part["bleu"], part[accounting]
            low, high = (math.nan, math.nan) if resamples is None else np.quantile(
                resamples.bleu_resampled[:, places].mean(axis=1), TAILS)
            rows.append(dict(zip(GROUP, key, strict=True)) | {
                "seed": MEAN if len(part) > 1 else str(part["seed"].iloc[0]), "seeds": len(part),
                "parameters": int(part["parameters"].iloc[0]),
                "setting": " ".join(dict.fromkeys(part["setting"])),
                "bleu": bleu.mean(), "bleu_low": low, "bleu_high": high, "bleu_sd": bleu.std(),
                "chrf": part["chrf"].mean(), "bleu_paper": part["bleu_paper"].mean(),
                "accounting": accounting, "log_likelihood": ll.mean(skipna=False),
                "log_likelihood_error": part[f"{accounting}_error"].max(),
                "log_likelihood_sd": ll.std(),
                "precision": " ".join(dict.fromkeys(filter(None, part["precision"]))),
                **{f"published_{name}": published.value(1, name, dataset=key[0], model=key[2],
                                                        train_data=key[4])
                   for name in ("bleu", "log_likelihood")}})
    return _ordered(pd.DataFrame(rows, columns=None if rows else GROUP))


def table2(checkpoints: pd.DataFrame) -> pd.DataFrame:
    """Correlation of dev log-likelihood (strict) and dev BLEU across the checkpoints of each run.

    checkpoints: from `within_training.across_checkpoints`. Several seeds get one more row, `seed`
    "mean", with the means of the coefficients and `pearson_sd`. Adds `seeds`, `accounting` and,
    where the paper has the data set, `published_pearson`.
    """
    means = ["pearson", "spearman", "kendall", "pearson_changes", "pearson_rising",
             "pearson_falling"]
    parts = []
    for key, group in checkpoints.groupby(GROUP, sort=False):
        parts.append(group.assign(seed=group["seed"].astype(str), seeds=1))
        if len(group) > 1:
            row = dict(zip(GROUP, key, strict=True)) | {
                "seed": MEAN, "seeds": len(group), "n": round(group["n"].mean()),
                "pearson_sd": group["pearson"].std()}
            row |= {name: group[name].mean() for name in means if name in group}
            parts.append(pd.DataFrame([row]))
    table = pd.concat(parts, ignore_index=True) if parts else checkpoints.assign(seeds=[])
    return _ordered(table.assign(accounting="strict", published_pearson=[
        published.value(2, "pearson", dataset=run.dataset, model=run.model,
                        train_data=run.train_data) for run in table.itertuples()]))


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


def systems(table: pd.DataFrame) -> pd.DataFrame:
    """The one row of each model and training data in `table1` or `table2`: the mean over seeds
    where there are several.
    """
    most = table.groupby(["dataset", "scale", "model", "train_data"])["seeds"].transform("max")
    return table[table["seeds"] == most].reset_index(drop=True)


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """`table1` as the paper prints it: a row a model, raw beside distilled, ours beside theirs.

    BLEU with its 95% interval, likelihood with its standard error over test sentences; means over
    several seeds with their standard deviation (sd). A column `precision` where runs differ in it.
    """
    rows: dict[tuple, dict] = {}
    texts = [text for text in ("raw", "distilled") if (table["train_data"] == text).any()]
    beside = {"BLEU as the paper decodes": "bleu_paper", "paper's BLEU": "published_bleu",
              "paper's LL": "published_log_likelihood"} if "published_bleu" in table else {}
    for system in systems(table).to_dict("records"):
        row = rows.setdefault((system["dataset"], system["scale"], system["model"]), {
            "model": model_name(system["model"]), "parameters": system["parameters"]} | {
            f"{name}, {text}": missing for text in texts
            for name, missing in ({"BLEU": MISSING, "LL": MISSING}
                                  | dict.fromkeys(beside, math.nan)).items()})
        text, seeds = system["train_data"], system["seeds"]
        error = system["log_likelihood_error"]
        sd = [f" (sd {system[f'{name}_sd']:.{digits}f}, {seeds} seeds)" if seeds > 1 else ""
              for name, digits in (("bleu", 1), ("log_likelihood", 3))]
        row[f"BLEU, {text}"] = interval(system["bleu"], system["bleu_low"],
                                        system["bleu_high"]) + sd[0]
        row[f"LL, {text}"] = (signed(system["log_likelihood"], 3) + (
            " (n = 1)" if math.isnan(error) else f" ± {error:.3f}") + sd[1]
            ).replace(" ", NO_BREAK)
        row |= {f"{name}, {text}": system[column] for name, column in beside.items()}
        if len(set(table["precision"])) > 1:
            row["precision"] = ", ".join(dict.fromkeys(
                [*filter(None, [row.get("precision")]), system["precision"] or "unknown"]))
    return pd.DataFrame(rows.values())


def compact_table2(table: pd.DataFrame) -> pd.DataFrame:
    """`table2` for reading: a row a system (the mean where it has several seeds), Pearson's r with
    its interval, that of the changes, and those up to the best dev LL and from it on.
    """
    kept = ["model", "train_data", "seeds", "n", "pearson", "pearson_low", "pearson_high",
            "pearson_sd", *(f"pearson_{part}{end}" for part in ("changes", "rising", "falling")
                            for end in ("", "_low", "_high")), "published_pearson"]
    return intervals(systems(table).reindex(columns=kept), digits=2).dropna(axis=1, how="all")


# ---- parts ----

def _heading(column: str) -> str:
    words = str(column) if " " in str(column) else str(column).replace("_", " ")
    return " ".join(WORDS.get(word, word) for word in words.split(" ")).replace("|", r"\|")


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
