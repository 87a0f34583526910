"""The likelihood audit of several runs side by side, and what it says of the families' ranks (06).

Log-likelihoods are in nats per token, each as its accounting counts tokens
(`lib.likelihood.accounting`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.style import FAINT, INK, family_keys, finish, line, style
from analysis.systems import rank_families
from lib.config import MODELS, load_config, model_name
from lib.errors import DataError
from lib.evaluation.audit import AuditSettings, read_audit, summarise
from lib.likelihood.accounting import likelihood_terms, ratio_of_sums
from lib.runs import RunFolder, run_folder

__all__ = ["ESTIMATES", "AuditedRun", "audit_table", "audited_runs", "bound_against_samples",
           "bound_points", "certainty_table", "likelihood_audit", "verdict"]

ESTIMATES = {"best": "strict", "paper": "paper", "released": "released"}
"""Column of `audit_table` -> accounting."""


@dataclass(frozen=True)
class AuditedRun:
    """One evaluated run: name, family, sentences.csv, and audit.csv where there is one."""

    model: str
    family: str
    sentences: pd.DataFrame
    audit: pd.DataFrame | None = None
    samples: int = 1
    """K of the importance-weighted bound in `sentences`."""


def audited_runs(dataset: str, scale: str, train_data: str = "raw", seed: int = 1,
                 wanted: AuditSettings | None = None) -> list[AuditedRun]:
    """The evaluated runs of a data set, each with its audit where it has one at least as fine as
    `wanted`, in the paper's order of models.

    Errors: DataError where there is no evaluated run.
    """
    runs = []
    for model in MODELS:
        config = load_config(model, dataset, scale, seed, train_data)
        folder, family = run_folder(config), config.architecture.family
        if not (folder.metrics.exists() and folder.sentences.exists()):
            continue
        found = read_audit(config, wanted)
        runs.append(AuditedRun(model, family, folder.read_sentences(), found and found[0],
                               folder.read_metrics().log_likelihood["strict"].samples))
    if not runs:
        first = RunFolder(dataset, scale, MODELS[0], train_data, seed)
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
    `best` = bound + annealing_adds, where there is an audit. `paper`, `released`: metrics.json's,
    with standard errors; between them `paper_mean`, the paper's log-likelihood averaged as the
    released estimate is, the mean over sentences of log p(y|x) / T: released - paper_mean is what
    the estimator alone does. `released_weighted`: the released estimate as a ratio of sums, each
    sentence weighted by its padded tokens; of an autoregressive model that is `paper`.
    truth: log p*(y|x) of the same sentences; `truth` is per token, and `kl` = truth - best in nats
    per sentence: KL(p* || model) over the test set, an upper bound for latent models.

    Errors: DataError for a truth of another number of sentences.
    """
    rows = [_row(run, truth) for run in runs]
    return pd.DataFrame(sorted(rows, key=lambda row: MODELS.index(row["model"])))


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
    row["paper_mean"] = (sentences["log_prob"].to_numpy() / padded).mean()
    for name in ("paper", "released"):
        row[name], row[f"{name}_error"] = ratio_of_sums(*likelihood_terms(sentences, name))
    estimate, _ = likelihood_terms(sentences, "released")
    row["released_weighted"] = (estimate * padded).sum() / padded.sum()
    if truth is not None:
        kl = truth - joint
        row |= {"truth": truth.sum() / tokens.sum(), "kl": kl.mean() - adds * counted,
                "kl_error": math.hypot(kl.std(ddof=1) / math.sqrt(len(kl)), spread * counted)}
    return row


def certainty_table(runs: Sequence[AuditedRun]) -> pd.DataFrame:
    """One row an audited run: model, and the columns of `summarise` that tell how sure it is."""
    names = ["sentences", "ais_minus_iw", "ais_minus_iw_error", "gap", "gap_error",
             "released_minus_ais", "released_above_upper"]
    found = [{"model": run.model} | summarise(run.audit) for run in runs if run.audit is not None]
    return pd.DataFrame(found, columns=["model", *names])


def verdict(table: pd.DataFrame) -> str:
    """The families ranked under each estimate, in one sentence: whether the ranking survives."""
    if table["family"].nunique() < 2:
        return "One family alone has no rank."
    ranks = {name: rank_families(table, column, f"{column}_error")
             for column, name in ESTIMATES.items()}
    others = [f"{who} {'keeps it' if ranks[name] == ranks['strict'] else f'says {ranks[name]}'}"
              for name, who in (("paper", "the paper's accounting"),
                                ("released", "the released estimate"))]
    return (f"Counted strictly, the families rank {ranks['strict']} (best model of each; ≈: less "
            f"than two standard errors apart); {', '.join(others)}.")


# ---- the figure of all estimates ----

def likelihood_audit(table: pd.DataFrame) -> Figure:
    """A row a model: log-likelihood (filled), released estimate (hollow).

    table: of `audit_table`; its log-likelihoods with two standard errors, and for latent models the
    range from the ELBO to the best estimate plus the gap. The bar between the two, |, is the
    likelihood as the released estimate counts it: given the length, per padded token, averaged over
    sentences. The grey zone lies right of the truth, where no strict log-likelihood can be but for
    sampling error.
    """
    models = table["model"].tolist()
    figure = Figure(figsize=(7.4, 1.7 + 0.34 * max(1, len(models))), layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(table.itertuples()):
        _mark(axes, y, row)
    axes.autoscale_view()
    left, right = axes.get_xlim()
    axes.set_xlim(left - 0.04 * (right - left), right + 0.04 * (right - left))
    for truth in table["truth"].dropna().head(1):
        axes.axvline(truth, color=INK, lw=1.4)
        right = max(axes.get_xlim()[1], truth + 0.08 * np.ptp(axes.get_xlim()))
        axes.axvspan(truth, right, color=FAINT, alpha=0.6, lw=0, zorder=0)
        axes.set_xlim(right=right)
        axes.text(truth, len(models) - 0.4, " truth", fontsize=9, color=INK, va="bottom",
                  ha="center")
    axes.set_title("\n".join(
        f"{look}, {name}: {rank_families(table, column, f'{column}_error')}"
        for column, look, name in (("best", "filled", "strict"), ("released", "hollow",
                                                                  "released estimate"))
        if len(table)), fontsize=9.5, color=INK, loc="left")
    finish(axes, "nats per token, better →", "")
    axes.set_yticks(range(len(models)), map(model_name, models), fontsize=9)
    for label, model in zip(axes.get_yticklabels(), models, strict=True):
        label.set_color(style(model)[0])
    axes.set_ylim(len(models) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    handles = [*family_keys(models),
               Patch(color="#888888", alpha=0.35, label="ELBO to upper bound"),
               Line2D([], [], color="#888888", marker="o", mfc="white", mew=1.5, ls="", ms=8,
                      label="released estimate"),
               Line2D([], [], color="#888888", marker="|", mew=2, ls="", ms=10,
                      label="LL as it counts")]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)),
                  frameon=False, fontsize=8.5, handletextpad=0.4, columnspacing=1.2)
    return figure


def _mark(axes: Axes, y: int, row: tuple) -> None:
    """Draw one model's row of `audit_table`."""
    colour, marker = style(row.model)
    axes.errorbar(row.best, y, xerr=2 * row.best_error, fmt=marker, color=colour, ms=7,
                  elinewidth=1.2, zorder=4)
    if math.isnan(row.elbo):
        return  # exact
    top = row.best + (0.0 if math.isnan(row.gap) else max(0.0, row.gap))
    axes.barh(y, top - row.elbo, left=row.elbo, height=0.5, color=colour, alpha=0.35, lw=0,
              zorder=2)
    axes.plot(row.paper_mean, y, "|", color=colour, mew=2, ms=10, zorder=3)
    axes.annotate("", (row.released, y), (row.best, y), zorder=1, arrowprops={
        "arrowstyle": "->", "color": colour, "lw": 0.9, "shrinkA": 5, "shrinkB": 5})
    axes.plot(row.released, y, marker, color=colour, mfc="white", mew=1.5, ms=7, zorder=5)


# ---- the bound against its samples ----

def bound_points(runs: Sequence[AuditedRun]) -> pd.DataFrame:
    """What `bound_against_samples` plots: model, samples (K), strict nats per token.

    K = 1 is the ELBO. `annealing`: with what annealing adds to the last bound, NaN without an
    audit. All K of a model come from the same draws.
    """
    rows, best = [], audit_table(runs).set_index("model")
    for run in runs:
        bounds = {int(name.removeprefix("iw_bound_")): run.sentences[name]
                  for name in run.sentences if name.startswith("iw_bound_")}
        if not bounds:
            continue  # exact
        bounds[run.samples] = run.sentences["log_prob"]
        audited = best.loc[run.model, "audited"] > 0
        for samples, bound in sorted(bounds.items()):
            top, bottom = likelihood_terms(run.sentences.assign(log_prob=bound), "strict")
            rows.append({"model": run.model, "samples": samples,
                         "log_likelihood": top.sum() / bottom.sum(),
                         "annealing": best.loc[run.model, "best"] if audited else math.nan})
    return pd.DataFrame(rows, columns=["model", "samples", "log_likelihood", "annealing"])


def bound_against_samples(points: pd.DataFrame) -> Figure:
    """The importance-weighted bound against K, a line a model.

    The star right of a line is the same with annealed importance sampling, where that was run.
    """
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    for model, part in points.groupby("model", sort=False):
        axes.plot(part["samples"], part["log_likelihood"], **line(model), label=model_name(model))
        axes.plot(2.2 * part["samples"].max(), part["annealing"].iloc[0], "*",
                  color=style(model)[0], markersize=9)
    finish(axes, "importance samples K (1: ELBO; star: annealed)",
           "strict LL (nats per token), better →")
    axes.set_xscale("log")
    known = sorted(set(points["samples"]))
    axes.set_xticks(known, [f"{samples:,}" for samples in known])
    axes.minorticks_off()
    if len(points):
        axes.legend(fontsize=8, frameon=False)
    return figure
