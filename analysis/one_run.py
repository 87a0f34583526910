"""One run: its training curves (02), and how it did on the test set (03).

Text of a corpus is shown for the toy task only; of any other corpus, numbers.
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import sem

from analysis.data import exact_log_prob, toy_task
from analysis.style import INK, LABELS, finish, key, label_ends, line, style, text_keys
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
    figure = Figure(figsize=(9.6 if alone else 7.6, 3.4))
    panels = figure.subplots(1, 3 if alone else 2)
    for axes, column in zip(panels, ("dev_ll", "dev_bleu"), strict=False):
        ends, lowest = [], []
        for model, history in histories.items():
            points, of = history.dropna(subset=column), line(model)
            axes.plot(points["step"], points[column], markevery=max(1, len(points) // 8), **of)
            ends += [(model_name(model), of["color"], *end)
                     for end in points[["step", column]].tail(1).to_numpy()]
            lowest.append(points[column].iloc[len(points) // 4:].min())
        if truth is not None and column == "dev_ll":
            axes.axhline(truth, color=INK, lw=1.2)
            ends.append(("truth", INK, axes.get_xlim()[1], truth))
        if len(lowest) > 1:  # where they began would hide how they end
            low, high = np.nanmin(lowest), axes.get_ylim()[1]
            axes.set_ylim(bottom=low - 0.08 * (high - low))
        finish(axes, "training step", LABELS[column])
        label_ends(axes, ends)
    if alone:
        terms = next(iter(histories.values())).filter(regex="^step$|^(train|dev)_(?!ll|bleu)")
        terms = terms.melt("step", var_name="term", value_name="nats").dropna()
        terms[["split", "term"]] = terms["term"].str.split("_", n=1, expand=True)
        seaborn.lineplot(terms, x="step", y="nats", hue="term", style="split", markers=True,
                         ax=panels[2])
        finish(panels[2], "training step", "← better, loss terms (nats per token)")
    return figure


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
    bounded = metrics.convergence.get("bounds")
    return pd.DataFrame([{
        "accounting": name, "counts": f"{ACCOUNTINGS[name].label}, {ACCOUNTINGS[name].unit}",
        "mean": of.mean, "standard error": of.standard_error,
        "samples K": f"{of.samples:,}" if bounded else "exact"}
        for name in ACCOUNTINGS if (of := metrics.log_likelihood.get(name))])


def diagnostics_table(metrics: Metrics) -> pd.DataFrame:
    """What tells a collapsed or undertrained latent model, or the likelihood of a masked one in its
    own order; empty for others.
    """
    named = {"reconstruction": "reconstruction, nats per token", "kl": "KL[q || p], nats per token",
             "bleu_posterior": "BLEU, z from q(z|y, x) at the reference",
             "share_lengths_right": "share of padded lengths predicted right",
             "effective_sample_size": "effective sample size, median over sentences",
             "policy": "LL, strict, in the order that its search takes"}
    return pd.DataFrame([{"quantity": words, "value": float(metrics.diagnostics[name])}
                         for name, words in named.items() if name in metrics.diagnostics])


def divergence_table(task: Task, sentences: pd.DataFrame) -> pd.DataFrame:
    """How far a model is from the truth of the toy task, in nats per sentence.

    KL(p* || model) = E[log p*(y|x) - log p(y|x)], the mean over the test pairs; an upper bound
    where LL is a lower bound (latent models). Errors: ConfigError for a corpus whose p* nobody
    knows.
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
                          "standard error": sem(values)}
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
    return pd.DataFrame({"source": sources, "reference": task.references("test")[:count],
                         "hypothesis": hypotheses, "possible": [
        "yes" if toy.log_prob(x, y) > -math.inf else "no"
        for x, y in zip(sources, hypotheses, strict=True)], **shared})


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

    points: `length_points` of any number of runs; lengths of fewer than `FEWEST` sentences go.
    """
    points = points[points["sentences"] >= FEWEST]
    models = [model for model in MODELS if model in set(points["model"])]
    columns = min(4, len(models))
    rows = -(-len(models) // columns)
    figure = Figure(figsize=(2.5 + 2.1 * columns, 0.9 + 1.9 * rows))
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
        axes.set_title(model_name(model), color=style(model)[0])
    for axes in panels[len(models):]:
        axes.remove()
    figure.supxlabel("target length (subwords with one EOS)")
    figure.supylabel("LL, strict (nats per sentence), better →")
    keys = text_keys(points["train_data"], lines=True)
    if points["exact"].notna().any():
        keys.append(key("log p*(y|x), the truth", INK, "", ls="-"))
    figure.legend(handles=keys, loc="outside upper center", ncols=3)
    return figure
