"""How fast models translate: sentences a second, and latency against target length.

Every system translates the same work in each round, one after the other, so that a noisy machine
hits all alike; medians over rounds are reported, and work a CPU-second beside work a second.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64
from torch import Tensor, nn
from tqdm.auto import tqdm

from lib import runtime
from lib.batching import Tokenised, collate, padded_length
from lib.config import Config
from lib.decoding import Options, Procedure, hypotheses
from lib.decoding.frozen import freeze
from lib.decoding.graphs import GraphedDecoder, can_be_graphed
from lib.decoding.refinement import refine
from lib.decoding.search import beam_search
from lib.errors import ConfigError
from lib.evaluation.scoring import load_run
from lib.models import count_parameters
from lib.subword import EOS

__all__ = [
    "KEYS", "System", "Work", "controlled", "free", "latencies", "measure", "never_ending",
    "speeds", "time_runs", "work",
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
    if _on_gpu(model) and can_be_graphed(frozen, setting):
        decoder = GraphedDecoder(frozen, setting, options)
        return system(lambda given: decoder(given.source, given.mask))
    return system(lambda given: hypotheses(frozen, given.source, given.mask, [setting],
                                           options)[setting])


def _on_gpu(model: nn.Module) -> bool:
    return next(model.parameters()).is_cuda


def controlled(name: str, model: nn.Module, setting: str, weights: str = "auto",
               graphed: bool | None = None) -> System:
    """An untrained model whose outputs are made as long as the references.

    Random weights know no end. Search runs for exactly the reference's subwords (give a
    `never_ending` model); a latent model gets the reference's padded length, and every refinement
    step is taken: `GraphedDecoder` always does, else outputs are kept from settling. `graphed`: by
    default on a GPU.

    Errors: ConfigError for a setting other than greedy, beam<width>, k<steps>.
    """
    procedure = Procedure.parse(setting)
    if not procedure.plain and procedure.search not in ("greedy", "beam"):
        raise ConfigError(f"setting '{setting}' can't be timed at a given length: greedy, "
                          "beam<width> or k<steps>")
    procedure.check(model)
    frozen = freeze(model, weights)
    system = partial(System, name, setting, weights, count_parameters(model))
    if graphed or (graphed is None and _on_gpu(model)):
        decoder = GraphedDecoder(frozen, setting, Options(length_penalty=0.0))
        return system(lambda given: decoder(given.source, given.mask, given.length))
    steps = _keep_moving(frozen) if model.latents else None

    def search(given: Work) -> list[list[int]]:
        return beam_search(frozen, given.source, given.mask, procedure.width, 0.0, given.length)[0]

    def refined(given: Work) -> list[list[int]]:
        padded = padded_length(given.length - 1, frozen.multiple)
        lengths = torch.full((len(given.source),), padded, device=given.source.device)
        before = len(steps) + 1
        decoded = refine(frozen, given.source, given.mask, [procedure.steps], lengths)
        if len(steps) - before != procedure.steps:
            raise ConfigError(f"{name}, {setting}: refinement ended after {len(steps) - before} "
                              "steps; its time would be that of fewer steps")
        return decoded[procedure.steps]

    return system(search if steps is None else refined)


def _keep_moving(model: nn.Module) -> list[int]:
    """Make each step's output differ from the last one's, so that none settles: the number of every
    second output's subwords is raised by one. Returns a list that grows by a decoding.
    """
    decode, vocabulary, steps = model.decode, len(model.embedding.weight), []

    def moving(*given):
        steps.append(len(steps))
        tokens, parity = decode(*given), len(steps) % 2
        return SimpleNamespace(argmax=lambda: (tokens.argmax() + parity) % vocabulary)

    model.decode = moving
    return steps


def never_ending(model: nn.Module) -> nn.Module:
    """A copy of a Transformer that gives EOS hardly any probability, so that a limit ends it."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.decoder.norm.bias[0] = 20.0
        model.embedding.weight[:, 0] = 0.0
        model.embedding.weight[EOS, 0] = -2.0
    return model


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
