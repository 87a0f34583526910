"""What is compared: the evaluated runs as rows, their seeds averaged, and the families ranked."""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from analysis import comparable
from analysis.published import paper_setting
from analysis.resampling import Resamples
from analysis.style import family_name
from analysis.training_variance import spreads
from lib.config import FAMILIES, MODELS, family_of
from lib.errors import DataError
from lib.likelihood.accounting import ACCOUNTINGS, likelihood_terms, ratio_of_sums
from lib.runs import RunFolder, find_runs

__all__ = ["MEAN", "RUN_COLUMNS", "average_seeds", "best_of_families", "collect", "collected",
           "model_order", "place_of", "rank_families"]

RUN_COLUMNS = ["dataset", "scale", "model", "family", "train_data", "seed", "parameters"]
PLACES = {model: place for place, model in enumerate(MODELS)}
MEAN = "mean"  # in the column `seed` of a row that averages several


def collect(runs: Iterable[RunFolder] | None = None) -> pd.DataFrame:
    """One row a run: what its metrics.json says, and where it lies.

    Columns: those of `RUN_COLUMNS`, setting (the headline's decoding), bleu, chrf, signature,
    bleu_mbr (minimum Bayes risk), bleu_paper (the paper's decoding), policy (strict LL in the order
    of a masked model's own search), each accounting (`paper` ...), its `_error` (standard error)
    and `_samples`, vocabulary, precision, test_set, lines, references and sources (fingerprints),
    run (the `RunFolder`); NaN for what wasn't run. `runs` defaults to `find_runs()`; those whose
    training was cut off (`Metrics.stopped`) are left out.

    Errors: DataError for runs that can't be compared (`comparable.check`).
    """
    rows = []
    for run in find_runs() if runs is None else runs:
        metrics = run.read_metrics()
        if metrics.stopped:
            continue
        own, test_set = metrics.own, metrics.test_set
        row = {name: getattr(metrics, name) for name in RUN_COLUMNS} | {
            "setting": metrics.headline, "bleu": own.score, "chrf": own.chrf,
            "signature": own.signature}
        for name, score in (("mbr", metrics.mbr),
                            ("paper", metrics.bleu.get(paper_setting(metrics.family)))):
            row[f"bleu_{name}"] = score.score if score else math.nan
        row["policy"] = metrics.diagnostics.get("policy", math.nan)
        for name in ACCOUNTINGS:
            if ll := metrics.log_likelihood.get(name):
                value, error = ll.mean, ll.standard_error
            else:  # scored before there was this accounting
                value, error = ratio_of_sums(*likelihood_terms(run.read_sentences(), name))
            row |= {name: value, f"{name}_error": error,
                    f"{name}_samples": float(metrics.log_likelihood["strict"].samples)}
        rows.append(row | {"vocabulary": metrics.vocabulary, "precision": metrics.precision,
                           "test_set": test_set.name, "lines": test_set.lines,
                           "references": test_set.references, "sources": test_set.sources,
                           "run": run})
    frame = pd.DataFrame(rows) if rows else pd.DataFrame(columns=[
        *RUN_COLUMNS, "bleu", "signature", *ACCOUNTINGS, "run"])
    comparable.check(frame)
    return frame


def collected(dataset: str, scale: str) -> pd.DataFrame:
    """`collect` of the evaluated runs of a data set and scale.

    Errors: DataError, naming the commands, where there is none.
    """
    runs = find_runs(dataset, scale)
    frame = collect(runs)
    if frame.empty:
        first = (*runs, RunFolder(dataset, scale, MODELS[0]))[0]
        raise DataError(f"no evaluated run of {dataset}/{scale} is trained to its end: "
                        f"`{first.train_command}`, then `{first.evaluate_command}`, and so for "
                        "every model to compare")
    return frame


def place_of(model: str) -> int:
    """Where a model stands in every table, one that params/ doesn't name after all others."""
    return PLACES.get(model, len(PLACES))


def model_order(models: pd.Series) -> pd.Series:
    """`place_of` each model; for `sort_values`."""
    return models.map(place_of)


def average_seeds(frame: pd.DataFrame, drawn: Mapping[str, Resamples] | None = None,
                  ) -> tuple[pd.DataFrame, dict[str, Resamples]]:
    """One row a system (data set, scale, model, training data) in the paper's order, raw first.

    frame: `collect`'s rows. Numbers are means over the seeds; `<name>_error`, over the same test
    sentences, is the largest of the seeds'. Added: `seeds`, how many, and of BLEU and every
    accounting `<name>_training`, its `training_variance.Spread` or None. drawn, by accounting, is
    averaged in the same way. What is averaged already is returned as it is.
    """
    drawn = dict(drawn or {})
    if "seeds" in frame:
        return frame, drawn
    order = model_order(frame["model"])
    keys = list(zip(frame["dataset"], frame["scale"], frame["train_data"] != "raw", order,
                    frame["model"], strict=True))
    names = sorted(set(keys))
    groups = np.array([names.index(key) for key in keys], dtype=np.int64)
    errors = [name for name in frame if name.endswith("_error")]
    scores = ["bleu", *(name.removesuffix("_error") for name in errors)]
    rows, parts = [], [frame[groups == group] for group in range(len(names))]
    for runs in parts:
        row = runs.iloc[0].drop("seed", errors="ignore").to_dict() | {"seeds": len(runs)}
        row |= {name: runs[name].mean(skipna=False) for name in (*scores, "chrf")
                if name in runs}  # NaN: one seed finds a sentence impossible
        row["policy"] = runs["policy"].mean(skipna=False) if "policy" in runs else math.nan
        row |= {name: runs[name].max() for name in errors}
        rows.append(row)
    columns = dict.fromkeys([*frame.columns.drop("seed", errors="ignore"), "policy", "seeds"])
    systems = pd.DataFrame(rows, columns=list(columns))
    keys = [(name[:2], row["train_data"], family_of(row["model"]), row["model"])
            for name, row in zip(names, rows, strict=True)]
    for name in scores:
        systems[f"{name}_training"] = pd.Series(spreads(
            [runs[name].to_numpy(np.float64) for runs in parts], keys), dtype=object)
    return systems, {name: resamples.averaged(groups) for name, resamples in drawn.items()}


def best_of_families(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """The row of the best model of each family in `column` (higher is better), best family first,
    of equals in the order of tables. The one place that ranks families.
    """
    frame = frame.dropna(subset=column)
    best = frame.loc[frame.groupby("family")[column].idxmax()]
    return best.assign(place=best["family"].map(list(FAMILIES.values()).index)).sort_values(
        [column, "place"], ascending=[False, True])


def rank_families(frame: pd.DataFrame, column: str, error: str) -> str:
    """`best_of_families` in words, "autoregressive > Gaussian ≈ flow"; ≈: the best models are less
    than two standard errors apart (unpaired, which is the careful side).
    """
    words, before = "", None
    for row in best_of_families(frame, column).to_dict("records"):
        if before is not None:
            apart = before[column] - row[column] > 2 * math.hypot(before[error], row[error])
            words += " > " if apart else " ≈ "
        words, before = words + family_name(row["family"]), row
    return words
