"""The tables that the notebooks show: a corpus, a training plan, an evaluated run, several runs.

Text of a corpus is shown for the toy task only; of any other corpus, numbers.
"""

import math
import statistics
import time

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure

from analysis import correlation
from analysis.style import style
from lib.batching import collate, training_batches
from lib.config import Config
from lib.errors import ConfigError, DataError
from lib.likelihood.accounting import ACCOUNTINGS
from lib.models import count_parameters
from lib.runs import Metrics, find_runs, run_folder
from lib.synthetic import ToyTask
from lib.task import Task
from lib.training import Trainer

__all__ = [
    "batch_summary", "bleu_table", "collect_runs", "corpus_sizes", "diagnostics_table",
    "divergence_table", "exact_log_prob", "examples", "length_counts", "likelihood_by_length",
    "likelihood_table", "mode_table", "toy_task", "training_plan",
    "vocabulary_table",
]


# ---- a corpus ----

def toy_task(config: Config) -> ToyTask | None:
    """The generator of a synthetic corpus, None for a real one."""
    synthetic = config.dataset.corpus == "synthetic"
    return ToyTask.from_options(config.dataset.options) if synthetic else None


def corpus_sizes(task: Task) -> pd.DataFrame:
    """One row a split: sentence pairs, subwords of both sides, mean and longest lengths.

    Training pairs are those within `max_tokens`; `left out` counts the others.
    """
    rows = []
    for split in ("train", "dev", "test"):
        data, lines = getattr(task, split), len(task.sources(split))
        row = {"split": split, "pairs": len(data), "left out": lines - len(data)}
        for side, lengths in (("source", data.source_lengths), ("target", data.target_lengths)):
            row |= {f"{side} subwords": int(lengths.sum()), f"{side} mean": lengths.mean(),
                    f"{side} longest": int(lengths.max())}
        rows.append(row)
    return pd.DataFrame(rows)


def length_counts(task: Task) -> pd.DataFrame:
    """Training pairs by (source, target) length in subwords: what the length figure plots."""
    lengths = pd.DataFrame({"source": task.train.source_lengths,
                            "target": task.train.target_lengths})
    return lengths.value_counts(sort=False).rename("pairs").reset_index()


def mode_table(toy: ToyTask, source: str) -> pd.DataFrame:
    """The most probable translation of `source` in each mode, with p(mode) and p*(y|x), and how
    many translations the mode has in all.
    """
    rows = {}
    for target, log_prob in toy.support(source):
        mode = int(np.argmax(toy.log_joint(source, target)))
        row = rows.setdefault(mode, {"mode": mode + 1, "p(mode)": toy.modes[mode],
                                     "most probable translation": "", "p*(y|x)": 0.0,
                                     "translations": 0})
        row["translations"] += 1
        if math.exp(log_prob) > row["p*(y|x)"]:
            row |= {"most probable translation": target, "p*(y|x)": math.exp(log_prob)}
    return pd.DataFrame([rows[mode] for mode in sorted(rows)])


def vocabulary_table(task: Task) -> pd.DataFrame:
    """Size and kind of the joint vocabulary, and how finely it cuts the test set."""
    words = {side: sum(len(line.split()) for line in lines) for side, lines in
             (("source", task.sources("test")), ("target", task.references("test")))}
    return pd.DataFrame([{
        "kind": task.config.dataset.subword, "entries": len(task.vocabulary),
        "asked for at most": task.config.dataset.vocabulary[task.config.scale],
        "subwords a source word": task.test.source_lengths.sum() / words["source"],
        "subwords a target word": task.test.target_lengths.sum() / words["target"],
        "fingerprint": task.vocabulary.fingerprint[:12]}])


def batch_summary(task: Task) -> pd.DataFrame:
    """One epoch of training batches for both ways of padding: how many, how full.

    The share of padding counts positions that no loss is taken at (PAD), EOS padding apart: the
    latent models predict that.
    """
    tokens, rows = task.config.training.batch_tokens, []
    for family, multiple in (("autoregressive", 1), ("latent", 4)):
        groups = training_batches(task.train, tokens, multiple, task.config.seed, 0)
        chosen = groups[:: max(1, len(groups) // 200)]  # an evenly spaced sample of a large corpus
        batches = [collate(task.train, group, multiple) for group in chosen]
        target = sum(b.target.numel() for b in batches)
        real = sum(b.target.numel() if b.target_mask is None else int(b.target_mask.sum())
                   for b in batches)
        source = sum(b.source.numel() for b in batches)
        source_real = sum(b.source.numel() if b.source_mask is None else int(b.source_mask.sum())
                          for b in batches)
        counted = sum(int(b.target_tokens.sum()) for b in batches)
        rows.append({"models": family, "targets padded to a multiple of": multiple,
                     "batches an epoch": len(groups),
                     "sentences a batch": len(task.train) / len(groups),
                     "source padding": 1 - source_real / source,
                     "target padding": 1 - real / target,
                     "target EOS padding": (real - counted) / target})
    return pd.DataFrame(rows)


# ---- training ----

def training_plan(config: Config, steps: int = 4) -> dict[str, float | int | str]:
    """What a run will do, with the time that it will take, from `steps` timed steps.

    The steps are taken at the full KL weight by a trainer that is thrown away: nothing of them
    goes into the run. `minutes left` leaves out validations; 0 where the run is finished.
    """
    trial = Trainer(config, progress=False)
    plan = {"parameters": count_parameters(trial.model), "device": str(trial.device),
            "threads": trial.threads, "steps": config.training.steps, "steps done": trial.step}
    if trial.finished:
        return plan | {"tokens a step": 0, "tokens a second": 0, "minutes left": 0.0}
    left = config.training.steps - trial.step
    trial.step = max(trial.step, config.training.kl_start)
    trial.train_step()  # initialises what depends on data, and warms up
    tokens, seconds = [], []
    for _ in range(steps):
        started = time.perf_counter()
        tokens.append(trial.train_step()["tokens"])
        seconds.append(time.perf_counter() - started)
    return plan | {"tokens a step": round(sum(tokens) / steps),
                   "tokens a second": round(sum(tokens) / sum(seconds)),
                   "minutes left": round(left * statistics.median(seconds) / 60, 2)}


# ---- one evaluated run ----

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
         "samples K": metrics.log_likelihood[name].samples}
        for name, a in ACCOUNTINGS.items() if name in metrics.log_likelihood])


def diagnostics_table(metrics: Metrics) -> pd.DataFrame:
    """What tells a collapsed or undertrained latent model; empty for autoregressive ones."""
    named = {"reconstruction": "reconstruction, nats per token", "kl": "KL[q || p], nats per token",
             "bleu_posterior": "BLEU, z from q(z|y, x) at the reference",
             "share_lengths_right": "share of padded lengths predicted right",
             "effective_sample_size": "effective sample size, median over sentences"}
    found = metrics.diagnostics
    return pd.DataFrame([{"quantity": name, "value": float(found[key])}
                         for key, name in named.items() if key in found],
                        columns=["quantity", "value"])


def exact_log_prob(task: Task, split: str = "test") -> Float[np.ndarray, " sentences"] | None:
    """log p*(y|x) of every pair of a split in nats, where the corpus has one (toy)."""
    toy = toy_task(task.config)
    if toy is None:
        return None
    pairs = zip(task.sources(split), task.references(split), strict=True)
    return np.array([toy.log_prob(source, target) for source, target in pairs])


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


def likelihood_by_length(task: Task, sentences: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Strict log-likelihood of a sentence against its length, and the truth's where it is known.

    Returns the figure and its points: tokens, sentences, mean and standard error of the nats per
    sentence, and for toy `exact`, the mean of log p*(y|x).
    """
    nats = sentences["log_prob"] + sentences["log_p_length"]
    grouped = nats.groupby(sentences["n_tokens"])
    points = pd.DataFrame({"sentences": grouped.size(), "mean": grouped.mean(),
                           "standard_error": grouped.sem().fillna(0.0)})
    truth = exact_log_prob(task)
    if truth is not None:
        points["exact"] = pd.Series(truth).groupby(sentences["n_tokens"].to_numpy()).mean()
    points = points.rename_axis("tokens").reset_index()
    colour, marker = style(task.config.model)
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.errorbar(points["tokens"], points["mean"], 2 * points["standard_error"], color=colour,
                  marker=marker, lw=1.5, label=f"{task.config.model}, mean ± 2 standard errors")
    if truth is not None:
        axes.plot(points["tokens"], points["exact"], "--", color="#333333",
                  label="log p*(y|x), the truth")
    axes.set_xlabel("target length (subwords with one EOS)")
    axes.set_ylabel("LL, strict (nats per sentence), better →")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure, points


# ---- several runs ----

def collect_runs(config: Config) -> pd.DataFrame:
    """`correlation.collect` of the evaluated runs of this data set and scale.

    Errors: DataError, naming the commands, where there is none.
    """
    runs = find_runs(config.dataset.name, config.scale)
    if not runs:
        first = run_folder(config)
        raise DataError(f"no evaluated run of {config.dataset.name}/{config.scale}: "
                        f"`{first.train_command}`, then `{first.evaluate_command}`, and so for "
                        "every model to compare")
    return correlation.collect(runs)
