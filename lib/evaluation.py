"""Scoring a trained run on the test set: BLEU of every decoding setting, every likelihood.

Writes `metrics.json` and `sentences.csv` into the run's folder. The likelihood pass, hours long at
the paper's scale, keeps what it has scored beside the checkpoints and goes on from there.
"""

import json
import os
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sacrebleu.metrics import CHRF
from torch import nn
from tqdm.auto import tqdm

from . import checkpoints, runtime
from .batching import Tokenised, collate, evaluation_batches, padded_length
from .config import Config
from .likelihood import effective_sample_size, elbo, iw_bound, released_estimate
from .models import build, count_parameters
from .resampling import ACCOUNTINGS, likelihood_terms
from .task import Task
from .training import run_folder, train_command
from .validation import bleu, translate

__all__ = ["TrainedRun", "accountings", "decoding_settings", "evaluate", "likelihoods", "load_run"]

SAMPLES_AT_ONCE = 16  # importance samples of a sentence that are in memory together
FIGURES = 6  # significant figures kept in sentences.csv


@dataclass(frozen=True)
class TrainedRun:
    """A model with its best weights, in evaluation mode, and the task it was trained on."""

    config: Config
    model: nn.Module
    task: Task
    step: int
    dev_bleu: float


def load_run(config: Config) -> TrainedRun:
    """The best checkpoint of a run, on the first GPU or the CPU.

    Errors: CheckpointError for a missing, damaged, foreign or unfitting checkpoint.
    """
    path, task = run_folder(config).best, Task(config)
    content = checkpoints.load(path, train_command(config))
    checkpoints.check_vocabulary(content, task.vocabulary.fingerprint, path)
    model = build(config.architecture, len(task.vocabulary))
    checkpoints.load_weights(model, content["weights"], path)
    return TrainedRun(config, model.to(runtime.device()).eval(), task, content["step"],
                      content["dev_bleu"])


def decoding_settings(config: Config) -> list[str]:
    """The decoding settings that metrics.json reports for this family."""
    if config.architecture.family == "autoregressive":
        return ["greedy", f"beam{config.evaluation.beam}"]
    return [f"k{k}" for k in config.evaluation.refinements]


@torch.no_grad()
def likelihoods(run: TrainedRun, data: Tokenised, samples: int, seed: int = 0,
                progress: bool = True, resumable: bool = False) -> pd.DataFrame:
    """Log-probability terms of every pair, in corpus order; sums over a sentence, in nats.

    Autoregressive models: exact, in fp32. Latent models: the importance-weighted bound with
    `samples` draws from the posterior, in the run's precision, and beside it the ELBO, the released
    code's estimate, the effective sample size, the largest normalised weight, and the bound with
    1, 10, 100, ... of the same draws (`iw_bound_<K>`), to see whether it has converged.
    """
    model, exact = run.model, run.model.decoding == "stepwise"
    where = next(model.parameters()).device
    samples = 1 if exact else samples
    at_once = min(samples, SAMPLES_AT_ONCE)
    groups = evaluation_batches(data, max(64, run.config.evaluation.batch_tokens // at_once),
                                model.multiple)
    partial = run_folder(run.config).checkpoints / "likelihood.pt"
    asked = {"samples": samples, "seed": seed, "step": run.step, "lines": len(data)}
    rows: list[dict] = []
    if resumable and not exact and partial.exists():
        saved = checkpoints.load(partial, train_command(run.config))
        rows = saved["rows"] if saved["asked"] == asked else []
    done, saved_at = {row["line"] for row in rows}, time.monotonic()
    bar = tqdm(total=len(data), initial=len(rows), desc=f"likelihood, K = {samples}",
               unit="sentence", disable=not progress, leave=False)
    with bar:
        for group in groups:
            batch = collate(data, group, model.multiple).to(where)
            if int(batch.index[0]) in done:
                continue
            generator = torch.Generator(where).manual_seed(seed * 1_000_003 + int(batch.index[0]))
            with runtime.autocast("fp32" if exact else run.config.training.precision, where):
                terms = model.log_prob_terms(batch, samples, generator, at_once)
            rows += _rows(batch, terms, samples, exact)
            bar.update(len(batch))
            if resumable and not exact and time.monotonic() - saved_at > 60:
                checkpoints.save(partial, {"asked": asked, "rows": rows})
                saved_at = time.monotonic()
    if resumable and not exact:
        partial.unlink(missing_ok=True)
    return pd.DataFrame(rows).sort_values("line").drop(columns="line").reset_index(drop=True)


def _rows(batch, terms, samples: int, exact: bool) -> list[dict]:
    """One dictionary of plain numbers a sentence."""
    parts = [t.double() for t in (terms.log_p_y, terms.log_p_z, terms.log_q_z)]
    padded = batch.target_tokens
    columns = {"line": batch.index, "n_tokens": batch.target_tokens,
               "log_prob": iw_bound(*parts), "log_p_length": terms.log_p_length.double()}
    if not exact:
        padded = padded_length(batch.target_tokens - 1, 4)
        weights = (parts[0] + parts[1] - parts[2]).softmax(0)
        columns |= {"elbo": elbo(*parts), "released_estimate": released_estimate(*parts, padded),
                    "effective_sample_size": effective_sample_size(*parts),
                    "largest_weight": weights.amax(0),
                    "reconstruction": parts[0].mean(0)}
        columns |= {f"iw_bound_{k}": iw_bound(*(p[:k] for p in parts))
                    for k in (1, 10, 100) if k < samples}
    columns["n_tokens_padded"] = padded
    lists = {name: values.tolist() for name, values in columns.items()}
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def accountings(sentences: pd.DataFrame, samples: int) -> dict[str, dict]:
    """Mean, standard error over sentences, and number of samples, by accounting.

    A mean is a ratio of sums over sentences; its standard error is that of the ratio (delta
    method): sqrt(n / (n - 1) sum_i (a_i - r b_i)^2) / sum_i b_i.
    """
    result = {}
    for name in ACCOUNTINGS:
        top, bottom = likelihood_terms(sentences, name)
        ratio, n = top.sum() / bottom.sum(), len(top)
        error = np.sqrt(n / max(1, n - 1) * np.square(top - ratio * bottom).sum()) / bottom.sum()
        result[name] = {"mean": float(ratio), "standard_error": float(error), "samples": samples}
    return result


def evaluate(config: Config, progress: bool = True) -> dict:
    """Score a run's best checkpoint on the test set; returns what metrics.json holds."""
    threads = runtime.prepare()
    run = load_run(config)
    task, settings = run.task, decoding_settings(config)
    references, data = task.references("test"), task.test
    speed, lines = {}, {}
    with runtime.autocast(config.training.precision):
        for setting in settings:
            started = time.perf_counter()
            lines |= translate(run.model, data, task.vocabulary, [setting], 1024,
                               config.evaluation.length_penalty,
                               f"test, {setting}" if progress else None)
            speed[setting] = len(data) / (time.perf_counter() - started)
    samples = config.evaluation.samples if run.model.decoding == "parallel" else 1
    sentences = likelihoods(run, data, samples, progress=progress, resumable=True)
    sentences.insert(0, "hypothesis", lines[config.evaluation.headline])
    sentences.insert(3, "n_chars", [len(line) for line in references])
    for name in ("elbo", "released_estimate", "effective_sample_size"):
        if name not in sentences:
            sentences[name] = np.nan
    metrics = {
        "model": config.model, "family": config.architecture.family,
        "dataset": config.dataset.name, "scale": config.scale, "train_data": config.train_data,
        "seed": config.seed, "parameters": count_parameters(run.model), "step": run.step,
        "dev_bleu": run.dev_bleu,
        "bleu": {s: _scores(lines[s], references) for s in settings},
        "headline": config.evaluation.headline,
        "log_likelihood": accountings(sentences, samples),
        "diagnostics": _diagnostics(run, sentences, references, data),
        "speed": {"sentences_per_second": speed, "batch_tokens": 1024, "threads": threads,
                  "device": str(runtime.device())},
        "test_set": {"name": config.dataset.test, "lines": len(references)},
    }
    _write(config, metrics, sentences)
    return metrics


def _scores(lines: list[str], references: list[str]) -> dict:
    score, signature = bleu(lines, references)
    return {"score": score.score, "signature": signature,
            "chrf": CHRF().corpus_score(lines, [references]).score}


@torch.no_grad()
def _diagnostics(run: TrainedRun, sentences: pd.DataFrame, references: list[str],
                 data: Tokenised) -> dict:
    """What shows a collapsed or undertrained latent model: KL, reconstruction, BLEU through q.

    `bleu_posterior` decodes z = mean of q(z|y, x) at the reference; `share_lengths_right` is how
    often the predicted padded length is the reference's.
    """
    if run.model.decoding == "stepwise":
        return {}
    tokens = sentences["n_tokens"].sum()
    reconstruction = sentences["reconstruction"].sum() / tokens
    lines, right = [""] * len(data), 0
    where = next(run.model.parameters()).device
    for rows in evaluation_batches(data, 1024, run.model.multiple):
        batch = collate(data, rows, run.model.multiple).to(where)
        with runtime.autocast(run.config.training.precision, where):
            memory = run.model.encode(batch.source, batch.source_mask)
            z = run.model.posterior(memory, batch.target, batch.target_mask).mean
            ids = run.model.decode(z, memory, batch.target_mask).argmax()
            lengths = run.model.length_predictor.predict(memory)
        right += int((lengths == padded_length(batch.target_tokens - 1, 4)).sum())
        for row, line in zip(rows, run.task.vocabulary.decode(ids.tolist()), strict=True):
            lines[row] = line
    return {"reconstruction": float(reconstruction),
            "kl": float(reconstruction - sentences["elbo"].sum() / tokens),
            "bleu_posterior": bleu(lines, references)[0].score,
            "share_lengths_right": right / len(data),
            "effective_sample_size": float(sentences["effective_sample_size"].median())}


def _write(config: Config, metrics: dict, sentences: pd.DataFrame) -> None:
    """Both files, each in one move."""
    folder = run_folder(config)
    order = ["hypothesis", "n_tokens", "n_tokens_padded", "n_chars", "log_prob", "log_p_length",
             "elbo", "released_estimate", "effective_sample_size"]
    ordered = sentences[[*order, *(c for c in sentences if c not in order)]]
    for path, text in ((folder.sentences,
                        ordered.to_csv(index=False, float_format=f"%.{FIGURES}g")),
                       (folder.metrics, json.dumps(metrics, indent=2) + "\n")):
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
