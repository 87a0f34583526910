"""One run: its training curves (02), and how it did on the test set (03).

Text of a corpus is shown for the toy task only; of any other corpus, numbers.
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.data import exact_log_prob, toy_task
from analysis.style import INK, finish, label_ends, line, style
from lib.config import MODELS, model_name
from lib.errors import ConfigError
from lib.likelihood.accounting import ACCOUNTINGS
from lib.runs import Metrics, RunFolder
from lib.task import Task

__all__ = ["bleu_table", "diagnostics_table", "divergence_table", "examples",
           "length_points", "likelihood_by_length", "likelihood_table", "training_curves"]


FEWEST = 5  # sentences of a length that is drawn


# ---- training ----

def training_curves(histories: Mapping[str, pd.DataFrame], truth: float | None = None) -> Figure:
    """Dev log-likelihood and dev BLEU against steps, a line a model; of a single one also every
    loss term of training (dashed) and dev (solid). histories: {model: history.csv}. truth: log p*
    of the dev set per token, which no strict log-likelihood exceeds but for sampling error.
    """
    alone = len(histories) == 1
    figure = Figure(figsize=(9.6 if alone else 7.6, 3.4), layout="constrained")
    panels = figure.subplots(1, 3 if alone else 2)
    for axes, column, label in zip(panels, ("dev_ll", "dev_bleu"), (
            "dev LL, strict (nats per token), better →", "dev BLEU (0 to 100), better →"),
            strict=False):
        ends, lowest = [], []
        for model, history in histories.items():
            points, of = history.dropna(subset=column), line(model)
            axes.plot(points["step"], points[column], markevery=max(1, len(points) // 8), **of)
            last = points[column].iloc[-1] if len(points) else np.nan
            ends.append((model_name(model), of["color"], float(last)))
            lowest.append(points[column].iloc[len(points) // 4:].min())
        if len(lowest) > 1:  # where they began would hide how they end
            low, high = np.nanmin(lowest), axes.get_ylim()[1]
            axes.set_ylim(bottom=low - 0.08 * (high - low))
        finish(axes, "training step", label)
        label_ends(axes, ends)
    if truth is not None:
        panels[0].axhline(truth, color=INK, lw=1.2)
        panels[0].annotate("truth", (0.02, truth), xycoords=("axes fraction", "data"),
                           xytext=(0, 3), textcoords="offset points", fontsize=9, color=INK)
    if alone:
        _loss_terms(panels[2], next(iter(histories.values())))
    return figure


def _loss_terms(axes: Axes, history: pd.DataFrame) -> None:
    """Every term that has a train_ or dev_ column: one colour a term, train dashed, dev solid."""
    names = [column.partition("_")[2] for column in history
             if column.startswith(("train_", "dev_")) and column not in ("dev_ll", "dev_bleu")]
    palette = ["#333333", "#E69F00", "#56B4E9", "#CC79A7", "#F0E442", "#999999"]
    for term, colour in zip(dict.fromkeys(names), palette, strict=False):
        for split, dash in (("train", "--"), ("dev", "-")):
            if f"{split}_{term}" in history:
                points = history.dropna(subset=f"{split}_{term}")
                axes.plot(points["step"], points[f"{split}_{term}"], dash, color=colour, lw=1.5,
                          marker="." if len(points) == 1 else "",
                          label=f"{term.replace('_', ' ')}, {split}")
    finish(axes, "training step", "← better, loss terms (nats per token)")
    if names:
        axes.legend(frameon=False, fontsize=8)


# ---- on the test set ----

def bleu_table(metrics: Metrics) -> pd.DataFrame:
    """One row a decoding setting: BLEU, chrF, sentences a second, sacreBLEU's signature."""
    speed = metrics.speed["sentences_per_second"]
    return pd.DataFrame([
        {"setting": name + (" (headline)" if name == metrics.headline else ""),
         "bleu": score.score, "chrf": score.chrf,
         "sentences a second": speed.get(name, math.nan), "signature": score.signature}
        for name, score in metrics.bleu.items()])


def likelihood_table(metrics: Metrics) -> pd.DataFrame:
    """One row an accounting: what it counts, mean, standard error over sentences, samples."""
    return pd.DataFrame([
        {"accounting": name, "counts": f"{a.label}, {a.unit}",
         "mean": metrics.log_likelihood[name].mean,
         "standard error": metrics.log_likelihood[name].standard_error,
         "samples K": f"{metrics.log_likelihood[name].samples:,}"
         if metrics.convergence.get("bounds") else "exact"}
        for name, a in ACCOUNTINGS.items() if name in metrics.log_likelihood])


def diagnostics_table(metrics: Metrics) -> pd.DataFrame:
    """What tells a collapsed or undertrained latent model, or the likelihood of a masked one in its
    own order; empty for others.
    """
    named = {"reconstruction": "reconstruction, nats per token", "kl": "KL[q || p], nats per token",
             "bleu_posterior": "BLEU, z from q(z|y, x) at the reference",
             "share_lengths_right": "share of padded lengths predicted right",
             "effective_sample_size": "effective sample size, median over sentences",
             "policy": "LL, strict, in the order that its search takes"}
    found = metrics.diagnostics
    return pd.DataFrame([{"quantity": name, "value": float(found[key])}
                         for key, name in named.items() if key in found],
                        columns=["quantity", "value"])


def divergence_table(task: Task, sentences: pd.DataFrame) -> pd.DataFrame:
    """How far a model is from the truth of the toy task, in nats per sentence.

    KL(p* || model) = -H* - LL = E[log p*(y|x) - log p(y|x)], the mean over the test pairs of the
    difference, which varies less than its two parts. With a lower bound for LL (latent models) it
    is an upper bound.

    Errors: ConfigError for a corpus whose p* nobody knows.
    """
    truth = exact_log_prob(task)
    if truth is None:
        raise ConfigError(f"p*(y|x) of {task.config.dataset.name} isn't known: only toy has one")
    toy = toy_task(task.config)
    model = (sentences["log_prob"] + sentences["log_p_length"]).to_numpy()
    entropy = np.array([toy.entropy(source) for source in task.sources("test")])
    rows = [("H*, the entropy of p*(y|x)", entropy), ("-log p*(y|x) of the references", -truth),
            ("-LL of the model, strict", -model), ("KL(p* || model)", truth - model)]
    return pd.DataFrame([{"quantity": name, "mean": values.mean(),
                          "standard error": values.std(ddof=1) / math.sqrt(len(values))}
                         for name, values in rows])


def examples(task: Task, sentences: pd.DataFrame, count: int = 5) -> pd.DataFrame:
    """The first test sentences: texts for toy, numbers alone for any other corpus."""
    first = sentences.head(count)
    shared = {"tokens": first["n_tokens"], "nats": first["log_prob"] + first["log_p_length"]}
    toy = toy_task(task.config)
    if toy is None:
        words = first["hypothesis"].astype(str).str.split().str.len()
        return pd.DataFrame({"line": first.index, "words of the hypothesis": words, **shared})
    sources = task.sources("test")[:count]
    hypotheses = first["hypothesis"].astype(str)
    possible = [toy.log_prob(x, y) > -math.inf for x, y in zip(sources, hypotheses, strict=True)]
    return pd.DataFrame({"source": sources, "reference": task.references("test")[:count],
                         "hypothesis": hypotheses,
                         "possible": ["yes" if p else "no" for p in possible], **shared})


def length_points(run: RunFolder, task: Task) -> pd.DataFrame:
    """Strict log-likelihood of a run's test sentences by their length.

    Columns: model, train_data, tokens, sentences, mean and standard_error of the nats per sentence
    (NaN for one sentence), and exact, the mean of log p*(y|x), NaN where nobody knows it.
    """
    frame, truth = run.read_sentences(), exact_log_prob(task)
    frame = frame.assign(nats=frame["log_prob"] + frame["log_p_length"],
                         exact=np.nan if truth is None else truth)
    grouped = frame.groupby("n_tokens")
    return pd.DataFrame({
        "model": run.model, "train_data": run.train_data, "sentences": grouped.size(),
        "mean": grouped["nats"].mean(), "standard_error": grouped["nats"].sem(),
        "exact": grouped["exact"].mean()}).rename_axis("tokens").reset_index()


def likelihood_by_length(points: pd.DataFrame) -> Figure:
    """A panel a model: strict log-likelihood against target length, of the model trained on raw
    (solid) and on distilled text (dashed), beside the truth's where it is known.

    points: `length_points` of any number of runs. Lengths of fewer than `FEWEST` sentences are
    left out.
    """
    points = points[points["sentences"] >= FEWEST]
    models = [model for model in MODELS if model in set(points["model"])]
    columns = min(4, len(models))
    rows = -(-len(models) // columns)
    figure = Figure(figsize=(2.5 + 2.1 * columns, 0.9 + 1.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for axes, model in zip(panels, models, strict=False):
        of = points[points["model"] == model]
        for data, dash in (("raw", "-"), ("distilled", "--")):
            part = of[of["train_data"] == data]
            axes.errorbar(part["tokens"], part["mean"], 2 * part["standard_error"], ls=dash,
                          color=style(model)[0], lw=1.2, elinewidth=0.8)
        truth = of.drop_duplicates("tokens").sort_values("tokens")
        axes.plot(truth["tokens"], truth["exact"], color=INK, lw=1, zorder=3)
        finish(axes, "", "")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_title(model_name(model), fontsize=9.5, color=style(model)[0], loc="left")
    for axes in panels[len(models):]:
        axes.remove()
    figure.supxlabel("target length (subwords with one EOS)", fontsize=9, color=INK)
    figure.supylabel("LL, strict (nats per sentence), better →", fontsize=9, color=INK)
    keys = [Line2D([], [], color="#888888", ls=dash, label=f"trained on {data} text")
            for data, dash in (("raw", "-"), ("distilled", "--"))
            if (points["train_data"] == data).any()]
    if points["exact"].notna().any():
        keys.append(Line2D([], [], color=INK, label="log p*(y|x), the truth"))
    figure.legend(handles=keys, loc="outside upper center", ncols=3, frameon=False, fontsize=8.5)
    return figure
