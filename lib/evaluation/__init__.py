"""Scoring a trained run on the test set: BLEU of every decoding setting, every likelihood.

Writes `metrics.json`, `sentences.csv` and `bleu_counts.npz` into the run's folder, and into its
`config.json` the settings that they were made with.
"""

import time
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from sacrebleu.metrics import CHRF

from lib import runtime
from lib.batching import Tokenised, collate, evaluation_batches, padded_length
from lib.bleu import bleu, bleu_from_counts, bleu_statistics, resample_weights, with_interval
from lib.config import Config, unknown
from lib.decoding import Options
from lib.errors import ConfigError
from lib.evaluation.refining import some_lines
from lib.evaluation.scoring import TrainedRun, accountings, convergence, likelihoods, load_run
from lib.likelihood.accounting import likelihood_terms, ratio_of_sums
from lib.models import count_parameters, model_class
from lib.paths import read_json, writable, write_arrays, write_json
from lib.runs import run_folder, write_table
from lib.subword import text_fingerprint
from lib.training import record
from lib.training.history import ended_by
from lib.training.validation import DECODING_TOKENS, translate

__all__ = ["FIGURES", "decoding_settings", "evaluate", "mbr_setting", "sentence_table",
           "translations"]

TIMED = 256  # test sentences, evenly spaced, that a decoding setting's speed is measured on
FIGURES = 6  # significant figures kept in sentences.csv
COLUMNS = ("hypothesis", "n_tokens", "n_tokens_padded", "n_chars", "log_prob", "log_p_length",
           "elbo", "released_estimate", "effective_sample_size")  # empty where a model has none


def decoding_settings(config: Config) -> list[str]:
    """The decoding settings that metrics.json reports for this family."""
    mbr = [mbr_setting(config)] if config.evaluation.mbr_samples else []
    return [*model_class(config.architecture).settings(config.evaluation), *mbr]


def mbr_setting(config: Config) -> str:
    """Minimum-Bayes-risk decoding, of any family: it uses a model as a distribution only."""
    return f"mbr{config.evaluation.mbr_samples}-chrf"


def evaluate(config: Config, progress: bool = True) -> dict:
    """Score a run's best checkpoint on the test set; returns what metrics.json holds."""
    threads, settings = runtime.prepare(), decoding_settings(config)
    if config.evaluation.headline not in settings:
        raise ConfigError(unknown("headline", config.evaluation.headline, settings))
    run = load_run(config)
    writable(run_folder(config).path)  # before hours of scoring, not after them
    references = run.task.references("test")
    samples = 1 if run.model.likelihood == "exact" else config.evaluation.samples
    _check_not_coarser(run, samples)
    lines = translations(run, run.task.test, settings, progress)
    speed = {setting: _speed(run, setting) for setting in settings}
    sentences = sentence_table(run, lines[config.evaluation.headline], samples, progress)
    if config.evaluation.mbr_samples:
        sentences["hypothesis_mbr"] = lines[mbr_setting(config)]
    scores, counts = _scores(lines, references, config.dataset.bleu_tokenizer)
    metrics = {
        "model": config.model, "family": config.architecture.family,
        "objective": config.objective, "dataset": config.dataset.name, "scale": config.scale,
        "train_data": config.train_data, "seed": config.seed,
        "parameters": count_parameters(run.model), "step": run.step, "dev_bleu": run.dev_bleu,
        "training": _training(config), "bleu": scores, "headline": config.evaluation.headline,
        "log_likelihood": accountings(sentences, samples),
        "convergence": convergence(sentences, samples),
        "diagnostics": _diagnostics(run, sentences, references),
        "speed": {"sentences_per_second": speed,
                  "batch_tokens": runtime.device_positions(runtime.device(), DECODING_TOKENS),
                  "lines": min(TIMED, len(references)), "threads": threads,
                  "device": str(runtime.device()),
                  "likelihood_seconds": sentences.attrs["seconds"]},
        "vocabulary": run.task.vocabulary.fingerprint,
        "precision": runtime.resolved(config.training.precision),
        "test_set": {"name": config.dataset.test, "lines": len(references),
                     "references": text_fingerprint(references),
                     "sources": text_fingerprint(run.task.sources("test"))},
        "best_ll": _best_by_likelihood(config, run, samples, progress),
    }
    folder = run_folder(config)
    write_arrays(folder.bleu_counts, **{s: of.astype(np.uint16) for s, of in counts.items()})
    write_table(folder.sentences, sentences, FIGURES)
    write_json(folder.metrics, metrics)
    record.write_evaluation(folder, config)
    return metrics


def sentence_table(run: TrainedRun, hypotheses: list[str], samples: int, progress: bool,
                   resumable: bool = True) -> pd.DataFrame:
    """The rows of sentences.csv."""
    sentences = likelihoods(run, run.task.test, samples, progress=progress, resumable=resumable)
    sentences["hypothesis"] = hypotheses
    sentences["n_chars"] = [len(line) for line in run.task.references("test")]
    others = (column for column in sentences if column not in COLUMNS)
    return sentences.reindex(columns=[*COLUMNS, *others])


def _best_by_likelihood(config: Config, run: TrainedRun, samples: int, progress: bool) -> dict:
    """The scores of the checkpoint with the best dev LL, its sentences in sentences_ll.csv.

    Of one that is of the same step only that; {} of a run that kept none.
    """
    folder, setting = run_folder(config), config.evaluation.headline
    if not folder.best_ll.exists():
        return {}
    other = load_run(config, by="ll")
    if other.step == run.step:
        folder.sentences_ll.unlink(missing_ok=True)
        return {"step": other.step}
    lines = translations(other, run.task.test, [setting], progress)
    sentences = sentence_table(other, lines[setting], samples, progress)
    write_table(folder.sentences_ll, sentences, FIGURES)
    scores, _ = _scores(lines, run.task.references("test"), config.dataset.bleu_tokenizer)
    return {"step": other.step, "dev_bleu": other.dev_bleu, "bleu": scores,
            "log_likelihood": accountings(sentences, samples)}


def _training(config: Config) -> dict:
    """How far the run was trained; what ended it: patience (converged), steps, or nothing yet.

    It was trained by the settings that its config.json holds, which overrides may have changed.
    """
    folder = run_folder(config)
    if not folder.history.exists():
        return {}  # of a shipped checkpoint, say
    recorded = read_json(folder.config).get("training", {})
    known = {name: recorded[name] for name in ("steps", "kl_start", "kl_ramp", "patience")
             if name in recorded}
    s, rows = replace(config.training, **known), folder.read_history().to_dict("records")
    last = rows[-1]
    return {name: last[name] for name in ("step", "tokens", "seconds") if name in last} | {
        "ended_by": ended_by(rows, last["step"], s)}


def _check_not_coarser(run: TrainedRun, samples: int) -> None:
    """Refuse to put a bound from fewer samples in the place of one of the same weights."""
    folder = run_folder(run.config)
    there = folder.known_metrics()
    if there is None or (there.step, there.dev_bleu) != (run.step, run.dev_bleu):
        return
    known = there.log_likelihood["strict"].samples
    if known > samples:
        raise ConfigError(f"{folder.metrics} is of {known:,} samples a sentence, {samples:,} are "
                          "fewer: delete it first, or set DISCREPANCY_OUTPUTS to another folder")


def translations(run: TrainedRun, data: Tokenised, settings: list[str],
                 progress: bool = False) -> dict[str, list[str]]:
    """Hypotheses of all settings; refinement runs once, to the last step that is asked for."""
    with runtime.autocast(run.config.training.precision):
        return translate(run.model, data, run.task.vocabulary, settings,
                         Options(run.config.evaluation.length_penalty),
                         progress=f"test, {', '.join(settings)}" if progress else None)


def _speed(run: TrainedRun, setting: str) -> float:
    """Sentences a second of one setting alone, on `TIMED` sentences of the test set."""
    whole = run.task.test
    data = whole.take(some_lines(len(whole), TIMED))
    started = time.perf_counter()
    translations(run, data, [setting])
    return len(data) / (time.perf_counter() - started)


def _scores(lines: dict[str, list[str]], references: list[str], tokenizer: str,
            ) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """BLEU and chrF of each setting, with 95% intervals over resampled test sentences; and BLEU's
    counts of each setting and sentence.

    `gain` is over the first setting (greedy search, or no refinement), on the same resamples.
    """
    weights, entries, first = resample_weights(len(references)), {}, None
    counts = {setting: bleu_statistics(texts, references, tokenizer=tokenizer)
              for setting, texts in lines.items()}
    for setting, texts in lines.items():
        score, signature = bleu(texts, references, tokenizer)
        drawn = bleu_from_counts(weights @ counts[setting])
        entries[setting] = {**with_interval("score", score.score, drawn), "signature": signature,
                            "chrf": CHRF().corpus_score(texts, [references]).score}
        if first is None:
            first = score.score, drawn
        else:
            entries[setting] |= with_interval("gain", score.score - first[0], drawn - first[1])
    return entries, counts


@torch.no_grad()
def _diagnostics(run: TrainedRun, sentences: pd.DataFrame, references: list[str]) -> dict:
    """What shows a collapsed or undertrained latent model: KL, reconstruction, BLEU through q (z =
    mean of q(z|y, x) at the reference), how often the predicted padded length is the reference's.
    Of a masked model `policy`, its strict log-likelihood in the order that its own search takes.
    """
    if "policy_log_prob" in sentences:
        policy = sentences.assign(log_prob=sentences["policy_log_prob"])
        return dict(zip(("policy", "policy_error"),
                        ratio_of_sums(*likelihood_terms(policy, "strict")), strict=True))
    if not run.model.latents:
        return {}
    data, subwords = run.task.test, sentences["n_tokens"].sum()
    reconstruction = sentences["reconstruction"].sum() / subwords
    lines, right = [""] * len(data), 0
    where = run.model.device
    tokens = runtime.device_positions(where, DECODING_TOKENS)
    for rows in evaluation_batches(data, tokens, run.model.multiple):
        batch = collate(data, rows, run.model.multiple).to(where)
        with runtime.autocast(run.config.training.precision, where):
            memory = run.model.encode(batch.source, batch.source_mask)
            z = run.model.posterior(memory, batch.target, batch.target_mask).mean
            ids = run.model.decode(z, memory, batch.target_mask).argmax()
            lengths = run.model.length_predictor.predict(memory)
        padded = padded_length(batch.target_tokens - 1, run.model.multiple)
        right += int((lengths == padded).sum())
        for row, line in zip(rows, run.task.vocabulary.decode(ids.tolist()), strict=True):
            lines[row] = line
    return {"reconstruction": float(reconstruction),
            "kl": float(reconstruction - sentences["elbo"].sum() / subwords),
            "bleu_posterior": bleu(lines, references, run.config.dataset.bleu_tokenizer)[0].score,
            "share_lengths_right": right / len(data),
            "effective_sample_size": float(sentences["effective_sample_size"].median())}
