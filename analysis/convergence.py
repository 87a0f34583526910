"""Two figures of how close a likelihood is to what it should be: to the truth as training goes on,
and to the likelihood itself as importance samples are added.
"""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from analysis.audit_figure import AuditedRun, audit_table
from analysis.published import MODELS
from analysis.reports import exact_log_prob
from analysis.style import finish, style
from lib.likelihood.accounting import likelihood_terms
from lib.runs import run_folder
from lib.task import Task

__all__ = ["bound_against_samples", "bound_points", "divergence_against_steps",
           "divergence_points"]

LATENT_LINES = {"s": "-", "b": "--", "l": ":"}  # sizes of one family share its colour


def bound_points(runs: Mapping[str, Sequence[AuditedRun]]) -> pd.DataFrame:
    """What `bound_against_samples` plots: dataset, model, samples (K), strict nats per token.

    K = 1 is the ELBO. `annealing`: with what annealing adds to the last bound, NaN without an
    audit. All K of a model come from the same draws.
    """
    rows = []
    for title, of in runs.items():
        best = audit_table(of).set_index("model")
        for run in of:
            if run.family == "autoregressive":
                continue
            bounds = {int(name.removeprefix("iw_bound_")): run.sentences[name]
                      for name in run.sentences if name.startswith("iw_bound_")}
            bounds[run.samples] = run.sentences["log_prob"]
            audited = best.loc[run.model, "audited"] > 0
            for samples, bound in sorted(bounds.items()):
                top, bottom = likelihood_terms(run.sentences.assign(log_prob=bound), "strict")
                rows.append({"dataset": title, "model": run.model, "samples": samples,
                             "log_likelihood": top.sum() / bottom.sum(),
                             "annealing": best.loc[run.model, "best"] if audited else float("nan")})
    return pd.DataFrame(rows, columns=["dataset", "model", "samples", "log_likelihood",
                                       "annealing"])


def bound_against_samples(points: pd.DataFrame) -> Figure:
    """A panel a data set: the importance-weighted bound against K, a line a model.

    The star right of a line is the same with annealed importance sampling, where that was run.
    """
    panels = list(dict.fromkeys(points["dataset"]))
    figure = Figure(figsize=(5.6 * max(1, len(panels)), 3.6), layout="constrained")
    for axes, title in zip(figure.subplots(1, max(1, len(panels)), squeeze=False)[0], panels,
                           strict=False):
        for model, part in points[points["dataset"] == title].groupby("model", sort=False):
            colour, marker = style(model)
            axes.plot(part["samples"], part["log_likelihood"], LATENT_LINES[model[-1]],
                      color=colour, marker=marker, markersize=4, label=MODELS[model])
            axes.plot(2.2 * part["samples"].max(), part["annealing"].iloc[0], "*", color=colour,
                      markersize=9)
        axes.set_title(title, fontsize=10)
        finish(axes, "importance samples K (1: ELBO; star: annealed)",
               "strict LL (nats per token), better →")
        axes.set_xscale("log")
        known = sorted(set(points.loc[points["dataset"] == title, "samples"]))
        axes.set_xticks(known, [f"{samples:,}" for samples in known])
        axes.minorticks_off()
        axes.legend(fontsize=8, frameon=False)
    return figure


def divergence_points(tasks: Sequence[Task]) -> pd.DataFrame:
    """What `divergence_against_steps` plots: model, step, nats per sentence of KL(p* || model).

    Of each task's run, from history.csv: the mean over its dev sentences of log p*(y|x) minus the
    model's strict log-likelihood, which estimates -H* - LL with less noise than the entropy H*
    does. `dev_ll` of latent models is a bound from `dev_samples` draws, so theirs are upper bounds.
    Empty for a corpus whose p* nobody knows.
    """
    rows = []
    for task in tasks:
        config = task.config
        truth = exact_log_prob(task, "dev")
        if truth is None:
            break
        count = config.training.dev_sentences
        tokens = (task.dev.target_lengths[:count] + 1).mean()
        history = run_folder(config).read_history()
        for row in history.itertuples():
            rows.append({"model": config.model, "step": row.step,
                         "kl": truth[:count].mean() - row.dev_ll * tokens})
    return pd.DataFrame(rows, columns=["model", "step", "kl"])


def divergence_against_steps(points: pd.DataFrame) -> Figure:
    """KL(p* || model) on the dev set against training steps, a line a model, both axes from 0."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for model, part in points.groupby("model", sort=False):
        colour, marker = style(model)
        axes.plot(part["step"], part["kl"], LATENT_LINES[model[-1]], color=colour, marker=marker,
                  markersize=4, label=MODELS[model])
    axes.set_yscale("log")
    finish(axes, "training step", "KL(p* || model) (nats per sentence), ← better")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
