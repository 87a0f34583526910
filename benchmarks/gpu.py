"""What a GPU makes of the models as they are trained: training speed, latency, and their limits.

scripts/gpu_iwslt.py calls it on real data, and on a CPU to rehearse. Shares are of the rate of
plain bf16 products (fp32 where the device has no bf16) that is measured beside each number.
"""

import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import (
    describe,
    matrix_rate,
    peak_resident,
    precision,
    synchronise,
)
from lib import runtime
from lib.config import Config
from lib.decoding import Options, hypotheses
from lib.decoding.frozen import freeze
from lib.decoding.graphs import GraphedDecoder
from lib.evaluation.scoring import TrainedRun
from lib.evaluation.speed import Work, work
from lib.models import count_parameters
from lib.paths import outputs_root, write_text
from lib.runs import RunFolder
from lib.training import Trainer

RUN = ["device", "dataset", "scale", "model", "train_data"]  # what tells the rows of runs apart
MIB, TERA = 2**20, 1e12
WARM_UP = 3  # training steps before anything is counted
TOGETHER = 32  # sentences of the batch that is timed beside single ones

Translate = Callable[[Work], Sequence[Sequence[int]]]


@dataclass(frozen=True)
class Scratch(RunFolder):
    """A run's folder that is elsewhere, for a trainer that shall leave nothing behind."""

    where: Path = Path()

    @property
    def path(self) -> Path:
        """The folder."""
        return self.where


def of_run(config: Config) -> dict[str, str]:
    """The columns `RUN` of a run on this machine."""
    return {"device": describe(), "dataset": config.dataset.name, "scale": config.scale,
            "model": config.model, "train_data": config.train_data}


def _from_here(where: torch.device) -> None:
    """Peak memory counts from now on (a CPU's from the start of the process)."""
    if where.type == "cuda":
        gc.collect()  # graphs and their memory go with the decoder that held them
        torch.cuda.synchronize(where)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(where)


def _peak(where: torch.device) -> float:
    """Peak MiB: allocated on the GPU, or resident on a CPU."""
    peak = torch.cuda.max_memory_allocated(where) if where.type == "cuda" else peak_resident()
    return peak / MIB


# ---- training ----

def training_speed(config: Config, steps: int = 8) -> dict:
    """Target tokens a second of a run's own training steps, from its start, in a row of a table.

    Data, batches, collation and optimiser are those of the run; the KL has its full weight and
    weights are fresh. FLOPs, as torch counts them in matrix products and attention, and time are
    taken on the same steps, one after the other (where those reach into a second epoch: on steps
    alike).
    """
    anew = replace(config.training, kl_start=0, kl_ramp=0, start_from="")
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(replace(config, training=anew), progress=False,
                          folder=Scratch("", "", "", where=Path(folder)))
        where = trainer.device
        for _ in range(WARM_UP):
            trainer.train_step()
        place = trainer.place
        with FlopCounterMode(display=False) as counter:
            counted = sum(trainer.train_step()["tokens"] for _ in range(steps))
        if trainer.epoch == 0:
            trainer.place = place
        before = matrix_rate(where)
        _from_here(where)
        started = time.perf_counter()
        tokens = sum(trainer.train_step()["tokens"] for _ in range(steps))
        synchronise(where)
        seconds, peak = time.perf_counter() - started, _peak(where)
        best = max(before, matrix_rate(where))
    rate = counter.get_total_flops() / counted * tokens / seconds
    return {**of_run(config), "parameters": count_parameters(trainer.model),
            "batch_tokens": anew.batch_tokens, "accumulate": anew.accumulate, "steps": steps,
            "tokens_per_second": tokens / seconds, "tflops": rate / TERA,
            "matrix_tflops": best / TERA, "share": rate / best, "peak_mib": peak,
            "precision": str(precision()).split(".")[-1]}


# ---- decoding ----

def settings_of(run: TrainedRun) -> list[str]:
    """The decoding settings that are timed."""
    return run.model.timed_settings(run.config.evaluation)


def decoding_speed(run: TrainedRun, sentences: int = 24, rounds: int = 3) -> list[dict]:
    """Milliseconds a sentence of a trained run on its test set, rows of a table.

    A row a setting for `sentences` single sentences at evenly spaced target lengths, with and
    without CUDA graphs in turns (`graphs`: how many were captured, 0 on a CPU; `same`: the share of
    hypotheses that agree), and one for a batch of 32 without. Medians over rounds, after a warm-up
    that captures. `eager` is `lib.decoding.hypotheses` with the frozen model.
    """
    where = runtime.device()
    runtime.prepare(batch=1)
    data, frozen = run.task.test, freeze(run.model)
    order = np.argsort(data.target_lengths, kind="stable")
    alone = order[((np.arange(sentences) + 0.5) / sentences * len(order)).astype(int)]
    middle = max(0, len(order) // 2 - TOGETHER // 2)
    single = work(data, list(alone[:, None]), where)
    batch = work(data, [order[middle:middle + TOGETHER]], where)
    # the packed products of a CPU aren't counted; those of fp32 are the same ones
    counted = frozen if where.type == "cuda" else freeze(run.model, "fp32")
    best = matrix_rate(where)
    rows = []
    for setting in run.model.timed_settings(run.config.evaluation):
        timed = {"eager": _eager(frozen, setting, run)}
        flops = {"eager": _flops(_eager(counted, setting, run), single)}
        decoder = None
        if not setting.startswith("beam"):
            decoder = GraphedDecoder(frozen, setting)
            timed["graphs"] = _graphed(decoder)
            flops["graphs"] = _flops(_graphed(GraphedDecoder(counted, setting, False)), single)
        row = {**of_run(run.config), "step": run.step, "setting": setting, "batch": 1,
               "sentences": sentences, **_times(timed, single, rounds, where)}
        for name, count in flops.items():
            row[f"{name}_share"] = count / (row[f"{name}_ms"] / 1e3 * sentences) / best
        row["graphs"] = 0 if decoder is None else decoder.captured
        together = _times({"eager": timed["eager"]}, batch, rounds, where)
        rows += [row, {**of_run(run.config), "step": run.step, "setting": setting,
                       "batch": len(batch[0].source), "sentences": len(batch[0].source),
                       **together}]
    return [{**row, "matrix_tflops": best / TERA, "precision": str(precision()).split(".")[-1]}
            for row in rows]


def _eager(model: torch.nn.Module, setting: str, run: TrainedRun) -> Translate:
    penalty = run.config.evaluation.length_penalty
    return lambda given: hypotheses(model, given.source, given.mask, [setting],
                                    Options(penalty))[setting]


def _graphed(decoder: GraphedDecoder) -> Translate:
    return lambda given: [decoder(given.source)]


def _flops(translate: Translate, works: Sequence[Work]) -> int:
    """Matrix FLOPs of one pass."""
    with FlopCounterMode(display=False) as counter:
        for given in works:
            translate(given)
    return counter.get_total_flops()


def _times(systems: dict[str, Translate], works: Sequence[Work], rounds: int,
           where: torch.device) -> dict[str, float]:
    """`<system>_ms` a sentence and `<system>_peak_mib` of each; `ratio` and `same` of two."""
    found, row = {}, {}
    for name, translate in systems.items():
        _from_here(where)
        found[name] = [ids for given in works for ids in translate(given)]
        synchronise(where)
        row[f"{name}_peak_mib"] = _peak(where)
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(rounds):
        for name, translate in systems.items():
            synchronise(where)
            started = time.perf_counter()
            for given in works:
                translate(given)
            synchronise(where)
            seconds[name].append(time.perf_counter() - started)
    sentences = len(found["eager"])
    row["target_length"] = sum(map(len, found["eager"])) / sentences + 1
    for name in systems:
        row[f"{name}_ms"] = 1e3 * float(np.median(seconds[name])) / sentences
    if "graphs" in systems:
        pairs = zip(found["eager"], found["graphs"], strict=True)
        row["same"] = sum(list(a) == list(b) for a, b in pairs) / sentences
        row["ratio"] = row["eager_ms"] / row["graphs_ms"]
    return row


# ---- tables ----

def kept(name: str) -> pd.DataFrame:
    """The table outputs/bench/<name>.csv, empty where there is none."""
    path = outputs_root() / "bench" / f"{name}.csv"
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=RUN)


def has(name: str, config: Config, **values) -> bool:
    """Whether a table has rows of a run on this machine, with these values."""
    table = kept(name)
    wanted = {**of_run(config), **values}
    if not set(wanted) <= set(table):
        return False
    return bool(np.logical_and.reduce([table[key] == value for key, value in wanted.items()]).any())


def keep(name: str, rows: Sequence[dict]) -> None:
    """Write a run's rows into a table, in place of those that it has of the same run and device."""
    table, new = kept(name), pd.DataFrame(rows)
    if len(table):
        runs = new[RUN].drop_duplicates()
        old = table.merge(runs, on=RUN, how="left", indicator=True)["_merge"] == "both"
        new = pd.concat([table[~old.to_numpy()], new])
    write_text(outputs_root() / "bench" / f"{name}.csv",
               new.to_csv(index=False, float_format="%.4g"))
