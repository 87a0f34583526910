"""The likelihood audit of several runs side by side: table, figure, and what they say of the ranks.

Log-likelihoods are in nats per token, each as its accounting counts tokens
(`analysis.resampling`).
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.published import MODELS
from analysis.style import FAMILY_COLOURS, style
from lib.config import load_config
from lib.errors import DataError
from lib.evaluation.audit import AuditSettings, audit, read_audit, stopped_audit, summarise
from lib.likelihood.accounting import likelihood_terms, ratio_of_sums
from lib.runs import RunFolder, run_folder

__all__ = ["AuditedRun", "audit_points", "audit_table", "audited_runs", "certainty_table",
           "family_ranking", "likelihood_audit", "verdict"]

ESTIMATES = {"best": "strict", "paper": "paper", "released": "released"}  # column -> accounting
NAMES = {"autoregressive": "autoregressive", "gaussian": "Gaussian", "flow": "flow"}
INK, FAINT = "#333333", "#dddddd"


@dataclass(frozen=True)
class AuditedRun:
    """One evaluated run: name, family, sentences.csv, and audit.csv where there is one."""

    model: str
    family: str
    sentences: pd.DataFrame
    audit: pd.DataFrame | None = None
    samples: int = 1
    """K of the importance-weighted bound in `sentences`."""


def audited_runs(dataset: str, scale: str, train_data: str = "raw", seed: int = 1, *,
                 compute: AuditSettings | None = None, progress: bool = False,
                 ) -> list[AuditedRun]:
    """The evaluated runs of a data set, each with its audit, in the paper's order of models.

    compute: where a latent run has no audit as fine as that but has its weights, it is computed
    and written; without it nothing is computed. A finer one that was stopped halfway is left as
    it is, with a warning that names the command that finishes it.

    Errors: DataError where `compute` is given and there is no evaluated run.
    """
    runs = []
    for model in MODELS:
        config = load_config(model, dataset, scale, seed, train_data)
        folder = run_folder(config)
        if not (folder.metrics.exists() and folder.sentences.exists()):
            continue
        family, found = config.architecture.family, None
        if family != "autoregressive":
            told = read_audit(config, compute)
            found = None if told is None else told[0]
            if found is None and compute is not None and folder.best.exists():
                if command := stopped_audit(config, compute):
                    warnings.warn(f"the audit of {model} was stopped halfway: {command}, with its "
                                  "options, finishes it", stacklevel=2)
                else:
                    found = audit(config, compute, progress)
        samples = folder.read_metrics().log_likelihood["strict"].samples
        runs.append(AuditedRun(model, family, folder.read_sentences(), found, samples))
    if compute is not None and not runs:
        first = RunFolder(dataset, scale, "tr_s", train_data, seed)
        raise DataError(f"no evaluated run of {dataset}/{scale}: `{first.train_command}`, then "
                        f"`{first.evaluate_command}`, and so for every model")
    return runs


# ---- the table ----

def audit_table(runs: Sequence[AuditedRun], truth: Float[np.ndarray, " sentences"] | None = None,
                ) -> pd.DataFrame:
    """One row a run, in the paper's order of models; NaN where there is nothing to know.

    `bound`: strict log-likelihood with sentences.csv's log_prob (exact, or the importance-weighted
    bound), `bound_error` its standard error over sentences; `elbo`, `iw_bound_<k>` with those.
    `annealing_adds`: mean over the audited sentences of AIS minus that same bound, per token, with
    its standard error; `gap`: upper minus lower bound of the simulated sentences, per token.
    `best` = bound + annealing_adds, where there is an audit. `paper`, `released`: metrics.json's;
    between them `paper_mean`, the paper's log-likelihood averaged as the released estimate is, the
    mean over sentences of log p(y|x) / T: released - paper_mean is what the estimator alone does.
    truth: log p*(y|x) of the same sentences; `truth` is per token, and `kl` = truth - best in nats
    per sentence: KL(p* || model) over the test set, an upper bound for latent models.

    Errors: DataError for a truth of another number of sentences.
    """
    rows = [_row(run, truth) for run in runs]
    order = list(MODELS)
    return pd.DataFrame(sorted(rows, key=lambda row: order.index(row["model"])))


def _row(run: AuditedRun, truth: np.ndarray | None) -> dict:
    sentences, audit = run.sentences, run.audit
    if truth is not None and len(truth) != len(sentences):
        raise DataError(f"log p* of {len(truth)} sentences, but {run.model} was scored on "
                        f"{len(sentences)}: give those of the run's own test set")
    joint, tokens = likelihood_terms(sentences, "strict")
    bound, error = ratio_of_sums(joint, tokens)
    row = {"model": run.model, "family": run.family, "truth": math.nan, "bound": bound,
           "bound_error": error, "elbo": math.nan, "audited": 0, "annealing_adds": math.nan,
           "annealing_adds_error": math.nan, "gap": math.nan, "gap_error": math.nan}
    names = ["elbo", *(c for c in sentences if c.startswith("iw_bound_"))]
    length = sentences["log_p_length"].to_numpy()
    for name in names:
        values = pd.to_numeric(sentences[name]).to_numpy()
        row[name] = (values + length).sum() / tokens.sum()
    adds, spread, counted = 0.0, 0.0, 1.0
    if audit is not None:
        same = sentences.iloc[audit["line"]]
        counts = same["n_tokens"].to_numpy(np.float64)
        differences = audit["ais"].to_numpy() - same["log_prob"].to_numpy()
        adds, spread = ratio_of_sums(differences, counts)
        gap, gap_error = ratio_of_sums(
            (audit["simulated_upper"] - audit["simulated_lower"]).to_numpy(), counts)
        row |= {"audited": len(audit), "annealing_adds": adds, "annealing_adds_error": spread,
                "gap": gap, "gap_error": gap_error}
        counted = tokens.mean()
    row |= {"best": bound + adds, "best_error": math.hypot(error, spread)}
    padded = sentences["n_tokens_padded"].to_numpy()
    row |= {"paper": ratio_of_sums(*likelihood_terms(sentences, "paper"))[0],
            "paper_mean": (sentences["log_prob"].to_numpy() / padded).mean(),
            "released": ratio_of_sums(*likelihood_terms(sentences, "released"))[0]}
    if truth is not None:
        kl = truth - joint
        row |= {"truth": truth.sum() / tokens.sum(), "kl": kl.mean() - adds * counted,
                "kl_error": math.hypot(kl.std(ddof=1) / math.sqrt(len(kl)), spread * counted)}
    return row


def certainty_table(runs: Sequence[AuditedRun]) -> pd.DataFrame:
    """One row an audited run: model, and the columns of `summarise` that tell how sure it is."""
    names = ["sentences", "ais_minus_iw", "ais_minus_iw_error", "gap", "gap_error",
             "upper_minus_iw", "upper_minus_iw_error", "released_minus_ais",
             "released_above_upper"]
    found = [{"model": run.model} | summarise(run.audit) for run in runs if run.audit is not None]
    return pd.DataFrame(found, columns=["model", *names])


# ---- what it says ----

def family_ranking(table: pd.DataFrame, column: str) -> list[str]:
    """Families by the best of their models in `column`, best first."""
    best = table.groupby("family")[column].max().sort_values(ascending=False)
    return [NAMES[family] for family in best.index]


def _ranked(table: pd.DataFrame) -> str:
    """The families by strict log-likelihood; ≈ stands between two whose best models are less than
    two standard errors apart (unpaired, which is the careful side).
    """
    best = table.loc[table.groupby("family")["best"].idxmax()].sort_values("best", ascending=False)
    said = ""
    for row, before in zip(best.itertuples(), [None, *best.itertuples()], strict=False):
        apart = before is None or before.best - row.best > 2 * math.hypot(before.best_error,
                                                                           row.best_error)
        said += ("" if before is None else " > " if apart else " ≈ ") + NAMES[row.family]
    return said


def verdict(table: pd.DataFrame) -> str:
    """Whether the families' ranking by log-likelihood survives the accounting, in one sentence."""
    rankings = {name: family_ranking(table, column) for column, name in ESTIMATES.items()}
    strict = rankings["strict"]
    if len(strict) < 2:
        return "One family alone has no rank."
    said = f"Counted strictly, the families rank {_ranked(table)} (best model of each); "
    parts = [f"{who} {'keeps' if rankings[name] == strict else 'does not keep'} this ranking"
             + ("" if rankings[name] == strict else f" but says {' > '.join(rankings[name])}")
             for name, who in (("paper", "the paper's accounting"),
                               ("released", "the released estimate"))]
    return said + ", ".join(parts) + "."


# ---- the figure ----

def audit_points(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What the figure plots: dataset, model, family, quantity, nats per token, two limits.

    The limits of `log-likelihood` are two standard errors away, those of `range` the ELBO and the
    best estimate plus the gap.
    """
    rows = []
    for dataset, table in tables.items():
        for row in table.itertuples():
            head = {"dataset": dataset, "model": row.model, "family": row.family}
            rows.append(head | {"quantity": "log-likelihood", "value": row.best,
                                "low": row.best - 2 * row.best_error,
                                "high": row.best + 2 * row.best_error})
            if not math.isnan(row.elbo):
                gap = 0.0 if math.isnan(row.gap) else max(0.0, row.gap)
                rows.append(head | {"quantity": "range", "value": row.best, "low": row.elbo,
                                    "high": row.best + gap})
                rows.append(head | {"quantity": "log-likelihood, its accounting",
                                    "value": row.paper_mean})
                rows.append(head | {"quantity": "released estimate", "value": row.released})
        if len(table) and not math.isnan(table["truth"].iloc[0]):
            rows.append({"dataset": dataset, "model": "p*", "family": "truth",
                         "quantity": "truth", "value": table["truth"].iloc[0]})
    return pd.DataFrame(rows, columns=["dataset", "model", "family", "quantity", "value", "low",
                                       "high"])


def likelihood_audit(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """A panel a data set, a row a model: log-likelihood (filled), released estimate (hollow).

    tables: {title: `audit_table`}. The bar between the two, |, is the likelihood as the released
    estimate counts it: given the length, per padded token, averaged over sentences. The grey zone
    lies right of the truth, where no strict log-likelihood can be but for sampling error.
    """
    counts = [max(1, len(table)) for table in tables.values()]
    figure = Figure(figsize=(7.4, 1.5 + 0.34 * sum(counts) + 0.9 * len(counts)),
                    layout="constrained")
    panels = figure.subplots(len(counts), 1, squeeze=False, height_ratios=counts)[:, 0]
    points = audit_points(tables)
    for axes, (title, table) in zip(panels, tables.items(), strict=True):
        _panel(axes, title, table, points[points["dataset"] == title])
    panels[-1].set_xlabel("nats per token, better →", color=INK, fontsize=9)
    families = [f for f in FAMILY_COLOURS if f in set(points["family"])]
    handles = [Line2D([], [], color=FAMILY_COLOURS[f], marker="o", ls="", ms=8, label=NAMES[f])
               for f in families]
    handles += [Patch(color="#888888", alpha=0.35, label="ELBO to upper bound"),
                Line2D([], [], color="#888888", marker="o", mfc="white", mew=1.5, ls="", ms=8,
                       label="released estimate"),
                Line2D([], [], color="#888888", marker="|", mew=2, ls="", ms=10,
                       label="LL as it counts")]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False,
                  fontsize=8.5, handletextpad=0.4, columnspacing=1.2)
    return figure


def _panel(axes, title: str, table: pd.DataFrame, points: pd.DataFrame) -> None:
    models = table["model"].tolist() if len(table) else []
    for point in points[points["quantity"] != "truth"].itertuples():
        colour, marker = style(point.model)
        y = models.index(point.model)
        if point.quantity == "range":
            axes.barh(y, point.high - point.low, left=point.low, height=0.5, color=colour,
                      alpha=0.35, lw=0, zorder=2)
        elif point.quantity == "log-likelihood":
            axes.errorbar(point.value, y, xerr=point.high - point.value, fmt=marker, color=colour,
                          ms=7, elinewidth=1.2, zorder=4)
        elif point.quantity == "log-likelihood, its accounting":
            axes.plot(point.value, y, "|", color=colour, mew=2, ms=10, zorder=3)
        else:
            best = table["best"].iloc[y]
            axes.annotate("", (point.value, y), (best, y), zorder=1, arrowprops={
                "arrowstyle": "->", "color": colour, "lw": 0.9, "shrinkA": 5, "shrinkB": 5})
            axes.plot(point.value, y, marker, color=colour, mfc="white", mew=1.5, ms=7, zorder=5)
    axes.autoscale_view()
    left, right = axes.get_xlim()
    axes.set_xlim(left - 0.04 * (right - left), right + 0.04 * (right - left))
    for truth in points.loc[points["quantity"] == "truth", "value"]:
        axes.axvline(truth, color=INK, lw=1.4)
        right = max(axes.get_xlim()[1], truth + 0.08 * np.ptp(axes.get_xlim()))
        axes.axvspan(truth, right, color=FAINT, alpha=0.6, lw=0, zorder=0)
        axes.set_xlim(right=right)
        axes.text(truth, len(models) - 0.4, " truth", fontsize=9, color=INK, va="bottom",
                  ha="center")
    rankings = " · ".join(f"{name}: {' > '.join(family_ranking(table, column))}"
                          for column, name in (("best", "filled"), ("released", "hollow")))
    axes.set_title(f"{title}\n{rankings}", fontsize=9.5, color=INK, loc="left")
    axes.set_yticks(range(len(models)), [MODELS[model] for model in models], fontsize=9)
    for label, model in zip(axes.get_yticklabels(), models, strict=True):
        label.set_color(style(model)[0])
    axes.set_ylim(len(models) - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=9)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
