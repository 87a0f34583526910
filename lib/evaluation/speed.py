"""How fast models translate: sentences a second, and latency against target length.

Every system translates the same work in each round, one after the other, so that a noisy machine
hits all alike; medians over rounds are reported, and work a CPU-second beside work a second.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64
from torch import Tensor, nn
from tqdm.auto import tqdm

from lib import runtime
from lib.batching import Tokenised, collate
from lib.config import Config
from lib.decoding import Options, hypotheses
from lib.decoding.frozen import freeze
from lib.decoding.graphs import GraphedDecoder, can_be_graphed
from lib.errors import ConfigError
from lib.evaluation.scoring import load_run
from lib.models import count_parameters

__all__ = [
    "KEYS", "System", "Work", "free", "latencies", "measure", "speeds", "time_runs", "work",
]


@dataclass(frozen=True, eq=False)
class Work:
    """A batch to translate."""

    source: Int64[Tensor, "batch source"]
    mask: Tensor | None
    length: int  # subwords of the longest target, one EOS among them


@dataclass(frozen=True)
class System:
    """What is timed: a model with a decoding setting, or another engine's."""

    name: str
    setting: str
    weights: str
    parameters: int
    translate: Callable[[Work], Sequence[Sequence[int]]]  # subwords of each hypothesis, without EOS


def work(data: Tokenised, rows: Sequence, where: torch.device | str = "cpu") -> list[Work]:
    """A `Work` for each group of row numbers of a tokenised corpus."""
    batches = [collate(data, np.asarray(group), 1).to(where) for group in rows]
    return [Work(b.source, b.source_mask, int(b.target_tokens.max())) for b in batches]


def free(name: str, model: nn.Module, setting: str, weights: str = "auto",
         length_penalty: float = 0.6) -> System:
    """A trained model that decides itself how long its outputs are; on a GPU through graphs, where
    the setting can be.
    """
    frozen, options = freeze(model, weights), Options(length_penalty)
    system = partial(System, name, setting, weights, count_parameters(model))
    if model.device.type == "cuda" and can_be_graphed(frozen, setting):
        decoder = GraphedDecoder(frozen, setting, options)
        return system(lambda given: decoder(given.source, given.mask))
    return system(lambda given: hypotheses(frozen, given.source, given.mask, [setting],
                                           options)[setting])


@torch.inference_mode()
def measure(systems: Sequence[System], works: Sequence[Work], rounds: int = 3,
            progress: bool = True) -> pd.DataFrame:
    """Seconds of each system on each batch in each round, after a warm-up on every shape of source
    (on a GPU on every batch: a graph is captured when its shape is met first).

    A row a system, batch and round: `system, setting, weights, parameters, batch, work, round,
    target_length` (subwords that were made, one EOS more; the mean of a batch), `seconds`,
    `cpu_seconds` (of this process: other processes don't count).
    """
    rows = []
    for system in systems:
        shapes = {w.source.shape: w for w in works}.values()
        for given in works if works[0].source.is_cuda else shapes:
            system.translate(given)
    total = rounds * len(systems) * len(works)
    bar = tqdm(total=total, desc="translating", disable=not progress, leave=False)
    with bar:
        for turn in range(rounds):
            for place, given in enumerate(works):
                for system in systems:
                    wall, cpu = time.perf_counter(), time.process_time()
                    decoded = system.translate(given)
                    if given.source.is_cuda:
                        torch.cuda.synchronize()
                    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                    rows.append({
                        "system": system.name, "setting": system.setting,
                        "weights": system.weights, "parameters": system.parameters,
                        "batch": len(given.source), "work": place, "round": turn,
                        "target_length": sum(map(len, decoded)) / len(decoded) + 1,
                        "seconds": wall, "cpu_seconds": cpu})
                    bar.update()
    return pd.DataFrame(rows)


def time_runs(configs: Sequence[Config], sentences: int = 24, size: int = 32, rounds: int = 3,
              weights: str = "auto", progress: bool = True) -> pd.DataFrame:
    """`measure` of trained runs on their test set, on one thread; on a GPU through CUDA graphs.

    `sentences` lines at evenly spaced target lengths alone, then one batch of `size` lines; search
    and length predictors decide how long the outputs are. Settings: the model's `timed_settings`.

    Errors: ConfigError for counts below 1; CheckpointError for a run that isn't trained.
    """
    if min(sentences, size, rounds) < 1:
        raise ConfigError(f"sentences = {sentences}, size = {size}, rounds = {rounds}: 1 or more")
    runtime.prepare(batch=1)
    systems = []
    for config in configs:
        run = load_run(config)
        systems += [free(config.model, run.model, setting, weights,
                         config.evaluation.length_penalty)
                    for setting in run.model.timed_settings(config.evaluation)]
    data = run.task.test
    middle = len(data) // 2 - size // 2
    together = np.argsort(data.target_lengths, kind="stable")[max(0, middle):middle + size]
    works = work(data, [*data.by_length(sentences)[:, None], together], runtime.device())
    return measure(systems, works, rounds, progress)


KEYS = ["system", "setting", "weights", "parameters", "batch"]  # what tells speeds apart


def speeds(times: pd.DataFrame) -> pd.DataFrame:
    """A row a system and batch size: sentences a second and a CPU-second, medians over rounds;
    `low` and `high` are the slowest and the fastest round.
    """
    sums = times.assign(sentences=times["batch"]).groupby([*KEYS, "round"], sort=False)[
        ["seconds", "cpu_seconds", "sentences"]].sum()
    rates = pd.DataFrame({"sentences_per_second": sums["sentences"] / sums["seconds"],
                          "sentences_per_cpu_second": sums["sentences"] / sums["cpu_seconds"]})
    groups = rates.groupby(KEYS, sort=False)
    result = groups.median()
    result["low"] = groups["sentences_per_second"].min()
    result["high"] = groups["sentences_per_second"].max()
    result["rounds"] = groups.size()
    return result.reset_index()


def latencies(times: pd.DataFrame) -> pd.DataFrame:
    """A row a system and sentence translated alone: target length, and milliseconds (median)."""
    alone = times[times["batch"] == 1]
    groups = alone.groupby(["system", "setting", "weights", "work"], sort=False)
    result = groups[["target_length", "seconds", "cpu_seconds"]].median().reset_index()
    return result.assign(milliseconds=1e3 * result.pop("seconds"),
                         cpu_milliseconds=1e3 * result.pop("cpu_seconds"))
