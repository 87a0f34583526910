"""The likelihood audit of several runs side by side, and what it says of the families' ranks (06).

Log-likelihoods are in nats per token, each as its accounting counts tokens.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy.stats import sem

from analysis.style import FAINT, GREY, INK, family_keys, finish, key, line, style
from analysis.systems import rank_families
from lib.config import MODELS, load_config, model_name
from lib.errors import DataError
from lib.evaluation.audit import AuditSettings, read_audit, summarise
from lib.likelihood.accounting import likelihood_terms, ratio_of_sums
from lib.runs import RunFolder, run_folder

__all__ = ["AuditedRun", "audit_table", "audited_runs", "bound_against_samples", "bound_points",
           "certainty_table", "likelihood_audit", "ranking"]

TITLE = 84  # characters of a line of the figure's title


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
        audit = read_audit(config, wanted)
        runs.append(AuditedRun(model, family, folder.read_sentences(), audit and audit[0],
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
    `annealing_adds`: mean over the audited sentences of AIS minus that bound, per token, `gap`:
    upper minus lower bound of the simulated sentences, per token; `best` = bound + annealing_adds.
    `paper`, `released`: metrics.json's; between them `paper_mean`, the mean over sentences of log
    p(y|x) / T: released - paper_mean is what the estimator alone does. `released_weighted`: the
    released estimate weighted by padded tokens; of an autoregressive model that is `paper`. truth:
    log p*(y|x) of the same sentences; `truth` is per token, and `kl` = truth - best in nats per
    sentence: KL(p* || model) over the test set, an upper bound for latent models.

    Errors: DataError for a truth of another number of sentences.
    """
    rows = [_row(run, truth) for run in sorted(runs, key=lambda run: MODELS.index(run.model))]
    return pd.DataFrame(rows)


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
    for name in ["elbo", *(c for c in sentences if c.startswith("iw_bound_"))]:
        values = pd.to_numeric(sentences[name]) + sentences["log_p_length"]
        row[name] = values.to_numpy().sum() / tokens.sum()
    adds, spread, counted = 0.0, 0.0, 1.0
    if audit is not None:
        same = sentences.iloc[audit["line"]].reset_index(drop=True)
        counts = same["n_tokens"].to_numpy(np.float64)
        adds, spread = ratio_of_sums((audit["ais"] - same["log_prob"]).to_numpy(), counts)
        gap, gap_error = ratio_of_sums(
            (audit["simulated_upper"] - audit["simulated_lower"]).to_numpy(), counts)
        row |= {"audited": len(audit), "annealing_adds": adds, "annealing_adds_error": spread,
                "gap": gap, "gap_error": gap_error}
        counted = tokens.mean()
    padded = sentences["n_tokens_padded"].to_numpy()
    row |= {"best": bound + adds, "best_error": math.hypot(error, spread),
            "paper_mean": (sentences["log_prob"].to_numpy() / padded).mean()}
    for name in ("paper", "released"):
        row[name], row[f"{name}_error"] = ratio_of_sums(*likelihood_terms(sentences, name))
    estimate, _ = likelihood_terms(sentences, "released")
    row["released_weighted"] = (estimate * padded).sum() / padded.sum()
    if truth is not None:
        kl = truth - joint
        row |= {"truth": truth.sum() / tokens.sum(), "kl": kl.mean() - adds * counted,
                "kl_error": math.hypot(sem(kl), spread * counted)}
    return row


def certainty_table(runs: Sequence[AuditedRun]) -> pd.DataFrame:
    """One row an audited run: model, and the columns of `summarise` that tell how sure it is."""
    rows = [{"model": run.model} | summarise(run.audit) for run in runs if run.audit is not None]
    return pd.DataFrame(rows, columns=[
        "model", "sentences", "ais_minus_iw", "ais_minus_iw_error", "gap", "gap_error",
        "released_minus_ais", "released_above_upper"])


def ranking(table: pd.DataFrame) -> str:
    """The families ranked under each estimate, in one sentence: whether the ranking survives."""
    if table["family"].nunique() < 2:
        return "One family alone has no rank."
    strict, paper, released = (rank_families(table, column, f"{column}_error")
                               for column in ("best", "paper", "released"))
    others = [f"{who} {'keeps it' if rank == strict else f'says {rank}'}" for who, rank in (
        ("the paper's accounting", paper), ("the released estimate", released))]
    return (f"Counted strictly, the families rank {strict} (best model of each; ≈: less than two "
            f"standard errors apart); {', '.join(others)}.")


# ---- the figure of all estimates ----

def likelihood_audit(table: pd.DataFrame) -> Figure:
    """A row a model: log-likelihood (filled), released estimate (hollow; of an exact model its
    likelihood as that counts it).

    table: of `audit_table`; its log-likelihoods with two standard errors, and for latent models the
    range from the ELBO to the best estimate plus the gap. The mark |, between the two, is the
    likelihood as the released estimate counts it. The grey zone lies right of the truth, where no
    strict log-likelihood can be but for sampling error.
    """
    models = table["model"].tolist()
    figure = Figure(figsize=(7.4, 1.7 + 0.34 * max(1, len(models))))
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
        axes.text(truth, len(models) - 0.4, " truth", fontsize=9, color=INK, va="bottom")
    axes.set_title("\n".join(textwrap.fill(
        f"{look}, {name}: {rank_families(table, column, f'{column}_error')}", TITLE)
        for column, look, name in (("best", "filled", "strict"),
                                   ("released", "hollow", "released estimate"))))
    finish(axes, "nats per token, better →", "")
    axes.set_yticks(range(len(models)), map(model_name, models))
    for label, model in zip(axes.get_yticklabels(), models, strict=True):
        label.set_color(style(model)[0])
    axes.set_ylim(len(models) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    figure.legend(handles=[
        *family_keys(models), key("strict LL ± two standard errors", ls="-", lw=1.2),
        Patch(color=GREY, alpha=0.35, label="ELBO to upper bound"),
        key("released estimate", mfc="white", mew=1.5),
        key("LL, counted as the released code counts", marker="|", mew=2)],
        loc="outside lower center", ncols=3)
    return figure


def _mark(axes: Axes, y: int, row: tuple) -> None:
    """Draw one model's row of `audit_table`."""
    colour, marker = style(row.model)
    axes.errorbar(row.best, y, xerr=2 * row.best_error, fmt=marker, color=colour, ms=7,
                  elinewidth=1.2, zorder=4)
    if not math.isnan(row.elbo):  # a bound
        top = row.best + (0.0 if math.isnan(row.gap) else max(0.0, row.gap))
        axes.barh(y, top - row.elbo, left=row.elbo, height=0.5, color=colour, alpha=0.35, lw=0,
                  zorder=2)
    axes.plot(row.paper_mean, y, "|", color=colour, mew=2, ms=10, zorder=3)
    axes.annotate("", (row.released, y), (row.best, y), zorder=1, arrowprops={
        "arrowstyle": "->", "color": colour, "lw": 0.9, "shrinkA": 5, "shrinkB": 5})
    axes.plot(row.released, y, marker, color=colour, mfc="white", mew=1.5, ms=7, zorder=5)


# ---- the bound against its samples ----

def bound_points(runs: Sequence[AuditedRun]) -> pd.DataFrame:
    """What `bound_against_samples` plots: model, samples (K; 1 is the ELBO), strict nats per token,
    and `annealing`: with what annealing adds to the last bound, NaN without an audit, and
    `annealing_error`, the standard error of what it adds, over the audited sentences.
    """
    rows, best = [], audit_table(runs).set_index("model")
    for run in runs:
        bounds = {int(name.removeprefix("iw_bound_")): run.sentences[name]
                  for name in run.sentences if name.startswith("iw_bound_")}
        if not bounds:
            continue  # exact
        annealed, error = best.loc[run.model, ["best", "annealing_adds_error"]] if (
            run.audit is not None) else (math.nan, math.nan)
        for samples, bound in sorted((bounds | {run.samples: run.sentences["log_prob"]}).items()):
            strict, _ = ratio_of_sums(*likelihood_terms(run.sentences.assign(log_prob=bound),
                                                        "strict"))
            rows.append({"model": run.model, "samples": samples, "log_likelihood": strict,
                         "annealing": annealed, "annealing_error": error})
    return pd.DataFrame(rows, columns=["model", "samples", "log_likelihood", "annealing",
                                       "annealing_error"])


def bound_against_samples(points: pd.DataFrame) -> Figure:
    """The importance-weighted bound against K, a line a model.

    Hollow, right of the lines and beside one another: the same with annealed importance sampling,
    where that was run, with two standard errors of what it adds.
    """
    figure = Figure(figsize=(7.0, 3.6))
    axes = figure.subplots()
    keys, last = [], 2 * points["samples"].max()
    for place, (model, part) in enumerate(points.groupby("model", sort=False)):
        keys += axes.plot(part["samples"], part["log_likelihood"], **line(model),
                          label=model_name(model))
        axes.errorbar(last * 1.4 ** place, part["annealing"].iloc[0],
                      2 * part["annealing_error"].iloc[0], fmt=style(model)[1],
                      color=style(model)[0], mfc="white", ms=6, elinewidth=1.2)
    finish(axes, "importance samples K (1: ELBO)", "strict LL (nats per token), better →")
    axes.set_xscale("log")
    known = sorted(set(points["samples"]))
    axes.set_xticks(known, [f"{samples:,}" for samples in known])
    axes.minorticks_off()
    if points["annealing"].notna().any():
        keys.append(key("annealed ± two\nstandard errors", mfc="white", ms=6, ls="-", lw=1.2))
    figure.legend(handles=keys, loc="outside right upper")
    return figure
