"""The likelihood of a test set under a trained run: every sentence, every accounting, how tight.

The pass over the sentences, hours long at the paper's scale, keeps what it has scored beside the
checkpoints and goes on from there. A sentence's draws depend on the seed and its line alone.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from lib import runtime
from lib.batching import SEQUENCES, Batch, Tokenised, collate, evaluation_batches, padded_length
from lib.config import Config
from lib.errors import CheckpointError
from lib.likelihood import (
    LogProbTerms,
    effective_sample_size,
    elbo,
    iw_bound,
    iw_bound_at,
    released_estimate,
)
from lib.likelihood.accounting import ACCOUNTINGS, likelihood_terms, ratio_of_sums
from lib.models import build
from lib.noise import BLOCK
from lib.runs import run_folder
from lib.task import Task
from lib.training import checkpoints

__all__ = ["TrainedRun", "accountings", "convergence", "ladder", "likelihood_batches",
           "likelihoods", "load_run", "table_rows"]

logger = logging.getLogger(__name__)

SAMPLES_AT_ONCE = 16  # importance samples of a sentence that are in memory together
SMALLEST_GROUP = 64  # target tokens of a group of sentences, at least, before they are sampled
SAVE_EVERY = 60.0  # seconds between two savings of what has been scored
PARTIAL = {"bleu": "likelihood.pt", "ll": "likelihood_ll.pt"}  # what a checkpoint's pass has scored
MATERIAL_RISE = 0.01  # nats per token and decade of K: a bound that rises by more isn't converged


@dataclass(frozen=True)
class TrainedRun:
    """A model with its best weights, `by` dev BLEU or dev LL, in evaluation mode, and its task."""

    config: Config
    model: nn.Module
    task: Task
    step: int
    dev_bleu: float
    by: str = "bleu"


def load_run(config: Config, by: str = "bleu") -> TrainedRun:
    """The best checkpoint of a run by dev BLEU or dev LL, on the first GPU or the CPU.

    Errors: CheckpointError for a missing, damaged, foreign or unfitting checkpoint.
    """
    folder, task = run_folder(config), Task(config)
    path = {"bleu": folder.best, "ll": folder.best_ll}[by]
    content = checkpoints.load(path, folder.train_command)
    checkpoints.check_model(content, config.as_dict(), path)
    checkpoints.check_vocabulary(content, task.vocabulary.fingerprint, path)
    model = build(config.architecture, len(task.vocabulary))
    checkpoints.load_weights(model, content["weights"], path)
    return TrainedRun(config, model.to(runtime.device()).eval(), task, content["step"],
                      content["dev_bleu"], by)


# ---- the pass over the sentences ----

def likelihoods(run: TrainedRun, data: Tokenised, samples: int, seed: int = 0,
                progress: bool = True, resumable: bool = False) -> pd.DataFrame:
    """Log-probability terms of every pair, in corpus order; sums over a sentence, in nats.

    Exact likelihoods: in fp32. Others: the importance-weighted bound of `samples` draws, in the
    run's precision, and beside it the ELBO, the released code's estimate, the effective sample
    size, and the bound at each K of `ladder` (`iw_bound_<K>`); of masked models also
    `policy_log_prob`, in the order that their search takes. `attrs["seconds"]`: how long the
    scoring took, interruptions left out.
    """
    model, exact = run.model, run.model.likelihood == "exact"
    samples, resumable = 1 if exact else samples, resumable and not exact
    partial = run_folder(run.config).checkpoints / PARTIAL[run.by]
    settings = {"samples": samples, "seed": seed, "step": run.step, "data": data.fingerprint,
                "precision": runtime.resolved(run.config.training.precision),
                "weights": checkpoints.fingerprint(model.state_dict()) if resumable else ""}
    rows, before = _scored_before(partial, settings) if resumable else ([], 0.0)
    started = time.perf_counter()

    def kept() -> dict:
        return {"settings": settings, "rows": rows,
                "seconds": before + time.perf_counter() - started}

    def score(group: np.ndarray) -> list[dict]:
        parts = runtime.halving(lambda part: _score(
            run, collate(data, part, model.multiple), samples, seed,
            positions * len(part) // len(group)), group)  # fewer rows, not more samples at once
        return [row for part in parts for row in part]

    left = np.flatnonzero(~np.isin(data.lines, [row["line"] for row in rows]))
    where = model.device
    positions = runtime.device_positions(where, run.config.evaluation.batch_tokens)
    at_once = min(samples, SAMPLES_AT_ONCE)
    groups = likelihood_batches(data.take(left), max(SMALLEST_GROUP, positions // at_once),
                                model.multiple, SEQUENCES // at_once)
    saved_at = time.monotonic()
    with tqdm(total=len(data), initial=len(rows), desc=f"likelihood, K = {samples}",
              unit="sentence", disable=not progress, leave=False) as bar:
        for scored in _side_by_side(score, [left[group] for group in groups],
                                    torch.get_num_threads() if where.type == "cpu" else 1):
            rows += scored
            bar.update(len(scored))
            if resumable and time.monotonic() - saved_at > SAVE_EVERY:
                _keep(partial, kept())
                saved_at = time.monotonic()
    done = kept() if len(left) else {"seconds": before}
    if resumable and len(left):
        _keep(partial, done)
    table = pd.DataFrame(rows).sort_values("line").drop(columns="line").reset_index(drop=True)
    table.attrs["seconds"] = done["seconds"]
    return table


def _keep(path: Path, content: dict) -> None:
    try:
        checkpoints.save(path, content)
    except CheckpointError as error:  # the pass goes on: only an interruption would cost more
        logger.warning("%s", error)


def _scored_before(path: Path, settings: dict) -> tuple[list[dict], float]:
    """What an earlier pass alike has scored, and its seconds; nothing of a damaged file."""
    try:
        saved = checkpoints.load(path, "")
    except CheckpointError:
        return [], 0.0
    return (saved["rows"], saved["seconds"]) if saved.get("settings") == settings else ([], 0.0)


def _side_by_side(score: Callable[[np.ndarray], list[dict]], groups: list[np.ndarray],
                  workers: int) -> Iterator[list[dict]]:
    """`score` of every group, in order, by that many threads: the products of a few sentences are
    too small to share.
    """
    if workers == 1:
        yield from map(score, groups)
        return
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(score, groups)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(workers)


def likelihood_batches(data: Tokenised, tokens: int, multiple: int,
                       sequences: int = SEQUENCES) -> list[np.ndarray]:
    """`evaluation_batches`, with one padded target length each where targets are padded at all, so
    that no sample computes padding.
    """
    if multiple == 1 or not len(data):
        return evaluation_batches(data, tokens, multiple, sequences) if len(data) else []
    lengths, groups = padded_length(data.target_lengths, multiple), []
    for length in np.unique(lengths)[::-1]:
        rows = np.flatnonzero(lengths == length)
        groups += [rows[part] for part in evaluation_batches(data.take(rows), tokens, multiple,
                                                             sequences)]
    return groups


@torch.no_grad()
def _score(run: TrainedRun, batch: Batch, samples: int, seed: int, positions: int) -> list[dict]:
    """The rows of one batch; `positions` fill a GPU, by more samples at once of few sentences."""
    model, exact = run.model, run.model.likelihood == "exact"
    where, generators = model.device, None
    if not exact:
        generators = [torch.Generator(where).manual_seed(seed * 1_000_003 + line)
                      for line in batch.index.tolist()]
    precision = "fp32" if exact else run.config.training.precision
    at_once = SAMPLES_AT_ONCE
    if where.type == "cuda":
        room = min(positions // batch.target.numel(), SEQUENCES // len(batch))
        at_once = max(at_once, room - room % BLOCK)
    batch = batch.to(where)
    with runtime.autocast(precision, where):
        terms = model.log_prob_terms(batch, samples, generators, min(samples, at_once))
        policy = model.policy_log_prob(batch)
    padded = padded_length(batch.target_tokens - 1, model.multiple)
    more = {} if policy is None else {"policy_log_prob": policy}
    return _rows(batch, terms, padded, samples, exact, more)


def _rows(batch: Batch, terms: LogProbTerms, padded: torch.Tensor, samples: int, exact: bool,
          more: dict[str, torch.Tensor]) -> list[dict]:
    """One dictionary of plain numbers a sentence."""
    parts = [t.double() for t in (terms.log_p_y, terms.log_p_z, terms.log_q_z)]
    columns = {"line": batch.index, "n_tokens": batch.target_tokens,
               "log_prob": iw_bound(*parts), "log_p_length": terms.log_p_length.double()}
    if not exact:
        columns |= {"elbo": elbo(*parts), "released_estimate": released_estimate(*parts, padded),
                    "effective_sample_size": effective_sample_size(*parts),
                    "reconstruction": parts[0].mean(0)}
        columns |= {f"iw_bound_{k}": iw_bound_at(k, *parts) for k in ladder(samples)}
    return table_rows(columns | more | {"n_tokens_padded": padded})


def table_rows(columns: dict[str, torch.Tensor]) -> list[dict]:
    """Columns of equal length as rows of plain numbers."""
    lists = {name: values.tolist() for name, values in columns.items()}
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


# ---- what a table of sentences says ----

def accountings(sentences: pd.DataFrame, samples: int) -> dict[str, dict]:
    """Mean, standard error over sentences, and number of samples, by accounting.

    Where `impossible` sentences have probability 0, mean and standard error are None.
    """
    never = int((~np.isfinite(sentences["log_prob"].to_numpy(np.float64))).sum())
    if never:
        return {name: {"mean": None, "standard_error": None, "impossible": never,
                       "samples": samples} for name in ACCOUNTINGS}
    return {name: _ratio(*likelihood_terms(sentences, name)) | {"samples": samples}
            for name in ACCOUNTINGS}


def ladder(samples: int) -> list[int]:
    """The K below `samples` that a bound is also given at: 1, 10, 100, ... and samples / 10."""
    decades = [10**power for power in range(len(str(samples)))]
    return sorted({k for k in (*decades, samples // 10) if 0 < k < samples})


def convergence(sentences: pd.DataFrame, samples: int) -> dict:
    """Whether the importance-weighted bound has converged in K, from the same draws.

    `bounds`: the strict and the paper accounting at every K of `ladder` and at `samples`; none
    where the likelihood is exact. `statement`: the same in words, with what the last decade of K
    adds to the strict bound per token. It isn't converged where that is more than its own standard
    error or than 0.01 nats.
    """
    if "elbo" not in sentences or sentences["elbo"].isna().all():
        never = int(np.isinf(sentences["log_prob"]).sum())
        statement = f"exact; {never:,} of {len(sentences):,} sentences have probability 0"
        return {"statement": statement if never else "exact"}
    terms = {k: {name: likelihood_terms(sentences.assign(log_prob=sentences[column]), name)
                 for name in ("strict", "paper")}
             for k, column in (*((k, f"iw_bound_{k}") for k in ladder(samples)),
                               (samples, "log_prob"))}
    bounds = [{"samples": k, **{name: _ratio(*pair) for name, pair in at.items()}}
              for k, at in terms.items()]
    statement = f"a lower bound from {samples:,} importance sample{'s' * (samples > 1)} a sentence"
    if samples == 1:
        return {"bounds": bounds, "statement": f"{statement}: the ELBO"}
    before = max(1, samples // 10)
    top, bottom = terms[samples]["strict"]
    rise = _ratio((top - terms[before]["strict"][0]) / math.log10(samples / before), bottom)
    own = bounds[-1]["strict"]["standard_error"]
    error = "n = 1" if own is None else f"standard error {rise['standard_error']:.4f}"
    rises = rise["mean"] > min(MATERIAL_RISE if own is None else own, MATERIAL_RISE)
    return {"bounds": bounds, "statement": (
        f"{statement}, {'not yet ' * rises}converged: the last tenfold of K raised it by "
        f"{rise['mean']:.4f} nats per token ({error})")}


def _ratio(top: np.ndarray, bottom: np.ndarray) -> dict[str, float | None]:
    """Ratio of two sums over sentences, and its standard error: None for one sentence."""
    ratio = zip(("mean", "standard_error"), ratio_of_sums(top, bottom), strict=True)
    return {name: None if math.isnan(value) else value for name, value in ratio}
