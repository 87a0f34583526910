"""Decoding and scoring speed on a GPU: eager and through CUDA graphs, alone and in batches.

    python -m benchmarks.gpu_decoding [--minutes 4] [--parts protocol bulk likelihood ...]

Random weights at the published IWSLT sizes, 32K subwords, TED's sentence lengths. Random weights
know no end, so every output is made as long as its reference, as in benchmarks/decoding.py. Without
a GPU it is rehearsed at scale smoke. Parts, in the order in which they are measured:

    protocol    the paper's: one sentence at a time, through CUDA graphs
    bulk        a whole test set (1,305 sentences) and distillation, in batches of the device's size
    likelihood  K = 1,000 importance samples a sentence: gpu_likelihood.csv
    batches     32 and 512 sentences of one target length, through CUDA graphs
    eager       1, 32 and 512 without graphs
    others      torch.nn.Transformer and, where it is installed, CTranslate2 in fp16, same weights

Writes outputs/bench/gpu_decoding.csv, gpu_protocol.csv (sentences one at a time: ratios to Tr-B's
beam search, and the paper's) and gpu_likelihood.csv, after each row. A row that fails holds its
error; none is begun after `--minutes`.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from analysis.speed_table import table4
from benchmarks import given_length, gpu_training
from benchmarks.decoding import groups, outside, random_model
from benchmarks.machine import (
    attempt,
    describe,
    keep,
    peak_memory,
    synchronise,
    tell,
    watch_memory,
)
from benchmarks.plain import PlainGreedy
from lib import runtime
from lib.batching import SEQUENCES, Tokenised, collate, evaluation_batches, padded_length
from lib.config import load_config
from lib.decoding import Procedure
from lib.decoding.refinement import refine
from lib.decoding.search import beam_search
from lib.distillation import ON_GPU
from lib.evaluation import speed
from lib.evaluation.scoring import TrainedRun, likelihoods
from lib.models import count_parameters
from lib.paths import outputs_root
from lib.runs import write_table
from lib.task import Task
from lib.training.validation import DECODING_TOKENS

SETTINGS = {"tr_b": ("beam4", "greedy"), "ga_b": ("k1", "k0", "k4"), "fl_b": ("k1", "k0", "k4"),
            "tr_s": ("beam4", "greedy")}
PARTS = ("protocol", "bulk", "likelihood", "batches", "eager", "others")
KEY = ["device", "scale", "system", "setting", "batch", "way"]
LIKELIHOOD_KEY = ["device", "system", "scale", "samples"]
TEST, TRAINING = 1305, 61_000  # sentences of TED's test set and training set


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    scale: str
    pairs: int = 100_000
    """of the random corpus that sentences are taken from"""
    alone: int = 24
    """single sentences, at evenly spaced target lengths"""
    batches: tuple[int, ...] = (32, 512)
    rounds: int = 3
    test: int = TEST
    distilled: int = 8192
    """sentences that distillation is timed on"""
    samples: int = 1000
    scored: tuple[tuple[str, str, int], ...] = (("fl_s", "mini", 1000), ("fl_b", "paper", 250),
                                                ("ga_b", "paper", 250))
    """models, scales and sentences whose likelihood is timed"""


SMALL = Sizes("smoke", 2000, 2, (3,), 1, 8, 8, 4, (("fl_s", "smoke", 6),))


class Bench:
    """Models and sentences, made when they are first needed."""

    def __init__(self, sizes: Sizes):
        self.sizes, self.where = sizes, runtime.device()
        runtime.prepare(batch=1)
        self.data = gpu_training.sentences_of(sizes.scale, sizes.pairs)
        self._models: dict[tuple[str, str], nn.Module] = {}

    def model(self, name: str, scale: str = "") -> nn.Module:
        """Random weights on the device."""
        scale = scale or self.sizes.scale
        if (name, scale) not in self._models:
            made = random_model(name, "ted_de_en", scale, gpu_training.VOCABULARY[scale])
            self._models[name, scale] = made.to(self.where)
        return self._models[name, scale]

    def works(self, batch: int) -> list[speed.Work]:
        """Single sentences, or two batches of one target length each."""
        rows = groups(self.data, self.sizes.alone if batch == 1 else 0, 2 * (batch > 1), batch)
        return speed.work(self.data, rows, self.where)


Row = tuple[dict, Callable[[], dict]]  # what it is, and what measures it


def _timed(bench: Bench, system: Callable[[], speed.System], batch: int) -> dict:
    """Sentences a second of a system, after a warm-up of every work; its memory."""
    started = time.perf_counter()
    made, works = system(), bench.works(batch)
    for given in works:
        made.translate(given)
    synchronise(bench.where)
    warm = time.perf_counter() - started
    watch_memory(bench.where)
    table = speed.measure([made], works, bench.sizes.rounds, progress=False)
    (row,) = speed.speeds(table).to_dict("records")
    shown = ("parameters", "sentences_per_second", "low", "high", "rounds")
    return {**{name: row[name] for name in shown}, "peak_mib": peak_memory(bench.where),
            "warm_s": warm, "milliseconds": 1e3 / row["sentences_per_second"],
            "target_length": table["target_length"].mean()}


def controlled(bench: Bench, batches: Sequence[int], way: str) -> Iterator[Row]:
    """Every model and setting on batches of these sizes, of one target length each."""
    for batch in batches:
        for name, settings in SETTINGS.items():
            for setting in settings:
                def system(name=name, setting=setting):
                    return given_length.controlled(name, bench.model(name), setting,
                                                   graphed=way == "graphs")
                described = {"system": name, "setting": setting, "batch": batch, "way": way}
                yield described, lambda s=system, b=batch: _timed(bench, s, b)


# ---- whole sets, in batches of the device's size ----

def _decode(bench: Bench, name: str, setting: str, data: Tokenised, tokens: int) -> int:
    """All sentences as evaluation and distillation decode them, each as long as its reference."""
    model, procedure, made = bench.model(name), Procedure.parse(setting), 0
    for rows in evaluation_batches(data, tokens, model.multiple, SEQUENCES // 4):
        batch = collate(data, rows, model.multiple).to(bench.where)
        given = batch.source, batch.source_mask
        with torch.no_grad(), runtime.autocast("auto", bench.where):
            if model.latents:
                lengths = padded_length(batch.target_tokens - 1, model.multiple)
                refine(model, *given, [procedure.steps], lengths)
                made += int(lengths.sum())
            else:
                made += sum(len(words) + 1 for words in beam_search(
                    model, *given, procedure.width, 0.6, batch.target_tokens)[0])
    return made


def _bulk(bench: Bench, name: str, setting: str, sentences: int, tokens: int) -> dict:
    data = bench.data.take(bench.data.by_length(sentences))
    _decode(bench, name, setting, data.take(np.arange(min(64, sentences))), tokens)
    synchronise(bench.where)
    watch_memory(bench.where)
    started = time.perf_counter()
    made = _decode(bench, name, setting, data, tokens)
    synchronise(bench.where)
    seconds = time.perf_counter() - started
    return {"parameters": count_parameters(bench.model(name)), "seconds": seconds,
            "sentences_per_second": sentences / seconds, "target_length": made / sentences,
            "peak_mib": peak_memory(bench.where),
            "training_set_s": TRAINING / sentences * seconds}


def bulk(bench: Bench) -> Iterator[Row]:
    """The test set by each family, then distillation by the teacher, as they are without graphs."""
    tokens = runtime.device_positions(bench.where, DECODING_TOKENS)
    for name, setting, sentences, at_once in (
            ("tr_s", "beam4", bench.sizes.test, tokens // 4),
            ("tr_s", "beam4", bench.sizes.distilled, ON_GPU),
            ("tr_s", "greedy", bench.sizes.test, tokens),
            ("ga_b", "k4", bench.sizes.test, tokens), ("fl_b", "k1", bench.sizes.test, tokens)):
        described = {"system": name, "setting": setting, "batch": sentences,
                     "way": "distillation" if at_once == ON_GPU else "bulk"}
        yield described, lambda n=name, s=setting, c=sentences, t=at_once: _bulk(bench, n, s, c, t)


# ---- likelihood ----

def _likelihood(bench: Bench, name: str, scale: str, sentences: int) -> dict:
    config = load_config(name, "ted_de_en", scale)
    run = TrainedRun(config, bench.model(name, scale), Task(config), 0, 0.0)
    data = gpu_training.sentences_of(scale, 20_000)
    data = data.take(data.by_length(sentences))
    likelihoods(run, data.take(np.arange(0, len(data), -(-len(data) // 4))), 32, progress=False)
    watch_memory(bench.where)
    started = time.perf_counter()
    likelihoods(run, data, bench.sizes.samples, progress=False)
    seconds = time.perf_counter() - started
    tokens = int((data.target_lengths + 1).sum())
    return {"parameters": count_parameters(run.model), "sentences": sentences, "seconds": seconds,
            "seconds_for_1000": 1000 / sentences * seconds,
            "microseconds_per_token_and_sample": 1e6 * seconds / tokens / bench.sizes.samples,
            "peak_mib": peak_memory(bench.where)}


def likelihood(bench: Bench) -> Iterator[Row]:
    """The importance-weighted bound of each model that is named."""
    for name, scale, sentences in bench.sizes.scored:
        described = {"system": name, "scale": scale, "samples": bench.sizes.samples}
        yield described, lambda n=name, s=scale, c=sentences: _likelihood(bench, n, s, c)


# ---- yardsticks ----

def others(bench: Bench, folder: Path) -> Iterator[Row]:
    """torch's own Transformer and CTranslate2, with Tr-S's weights."""
    model = bench.model("tr_s")
    kind = "float16" if bench.where.type == "cuda" else "float32"

    def plain() -> speed.System:
        with runtime.autocast("auto", bench.where):
            search = PlainGreedy(model)

        def translate(given: speed.Work) -> list[list[int]]:
            with runtime.autocast("auto", bench.where):
                return search(given.source, given.mask, given.length)

        return speed.System("torch.nn.Transformer", "greedy", "auto", count_parameters(model),
                            translate)

    for batch in (1, *bench.sizes.batches):
        for name, setting, system in (("torch.nn.Transformer", "greedy", plain),
                                      ("ctranslate2", "beam4",
                                       lambda: outside(model, folder, kind, bench.where.type))):
            yield ({"system": name, "setting": setting, "batch": batch, "way": "eager"},
                   lambda s=system, b=batch: _timed(bench, s, b))


# ---- tables ----

def protocol(made: Sequence[dict]) -> None:
    """Write gpu_protocol.csv: one sentence at a time through graphs, ratios to Tr-B's beam."""
    alone = [{**row, "weights": "auto"} for row in made if "error" not in row]
    if any((row["system"], row["setting"]) == ("tr_b", "beam4") for row in alone):
        table = table4(pd.DataFrame(alone), ("tr_b", "beam4")).assign(device=describe())
        write_table(outputs_root() / "bench" / "gpu_protocol.csv", table, 4)


def run(sizes: Sizes, parts: Sequence[str], end: float, tell: Callable[[dict], None]) -> list[dict]:
    """All rows that can be begun before `end` (of time.monotonic)."""
    bench, made = Bench(sizes), []
    with tempfile.TemporaryDirectory() as folder:
        rows = {"protocol": lambda: controlled(bench, (1,), "graphs"),
                "bulk": lambda: bulk(bench), "likelihood": lambda: likelihood(bench),
                "batches": lambda: controlled(bench, sizes.batches, "graphs"),
                "eager": lambda: controlled(bench, (1, *sizes.batches), "eager"),
                "others": lambda: others(bench, Path(folder))}
        for part in parts:
            name, key = ("gpu_likelihood", LIKELIHOOD_KEY) if part == "likelihood" else (
                "gpu_decoding", KEY)
            for described, how in rows[part]():
                if time.monotonic() > end:
                    return made
                made.append(attempt({"scale": sizes.scale, **described}, how))
                keep(name, made[-1:], key)
                tell(made[-1])
                if part == "protocol":
                    protocol(made)
    return made


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write after each row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=4.0, help="no row is begun after them")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    asked = parser.parse_args(arguments)
    rehearsal = runtime.device().type == "cpu"
    run(SMALL if rehearsal else Sizes("paper"), asked.parts,
        time.monotonic() + 60 * asked.minutes, tell)


if __name__ == "__main__":
    main()
