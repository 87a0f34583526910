"""Training speed on a GPU: eager steps against captured and compiled ones, and torch's Transformer.

    python -m benchmarks.gpu_training [--minutes 3] [--models tr_s ga_b fl_b] [--scales paper mini]

Random subwords at the lengths of real corpora (TED at the published sizes, Multi30k at mini's).
A row a model, scale and way of computing:

    eager     today's way without CUDA graphs: `accumulate` ragged batches of `batch_tokens`
    graphs    what a user gets: the step's positions at once, in fixed shapes, captured
    compiled  the same with `compile: true`
    plain     torch.nn.Transformer at the sizes of Tr-S, eager, on the batches of `graphs`
    plain-graphs  the same model captured

`tokens_per_second` counts real target subwords with one EOS. FLOPs are what torch counts in matrix
products and attention on the same batches, padding included; `share` is of the rate of plain bf16
products that is measured beside (fp32 where the device has no bf16). `peak_mib` is what tensors
took at most, `reserved_mib` what torch held of the card, graphs included. `warm_s` is what it takes
before the first step is timed: kernels, compilation and capture of `shapes` shapes. A row that
fails holds its error. Writes outputs/bench/gpu_training.csv.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import nn

from benchmarks.machine import (
    attempt,
    keep,
    matrix_rate,
    peak_memory,
    synchronise,
    tell,
    watch_memory,
)
from benchmarks.training import PLAIN, QUANTILES, PlainTransformer, corpus, initialise
from lib import runtime
from lib.batching import Batch, Tokenised, collate, collate_fixed, training_batches
from lib.config import load_config
from lib.flops import matrix_flops
from lib.layers import compile_layers
from lib.models import build, count_parameters
from lib.training.averaging import WeightAverage
from lib.training.step import FixedStep, Scalars

VARIANTS = ("eager", "graphs", "compiled", "plain", "plain-graphs")
KEY = ["device", "model", "scale", "variant"]
TERA = 1e12
SECONDS = 2.0  # that the timed steps of a row take at least
GROUPS = 4  # steps of different batches that are repeated

# Subwords a sentence of TED de-en with 32K joint subwords: every twentieth quantile.
TED_SOURCE = (1, 5, 7, 8, 9, 10, 12, 13, 14, 16, 17, 19, 21, 24, 26, 29, 33, 38, 43, 52, 64)
TED_TARGET = (1, 6, 8, 9, 10, 11, 12, 13, 15, 16, 17, 19, 21, 24, 27, 30, 34, 38, 44, 52, 64)
LENGTHS = {"paper": (TED_SOURCE, TED_TARGET), "mini": QUANTILES, "smoke": QUANTILES}
VOCABULARY = {"paper": 32_000, "mini": 8_000, "smoke": 200}


def sentences_of(scale: str, pairs: int) -> Tokenised:
    """Random subwords at the lengths of a scale's corpus."""
    return corpus(pairs, LENGTHS[scale], VOCABULARY[scale], 0.05)


class Subject:
    """One model, one way of computing, and the steps that are timed."""

    def __init__(self, name: str, scale: str, variant: str, tokens: int = 0):
        config = load_config(name, "ted_de_en" if scale == "paper" else "multi30k_de_en", scale)
        anew = {"batch_tokens": tokens or config.training.batch_tokens, "start_from": ""}
        self.settings = replace(config.training, **anew)
        self.where = runtime.device()
        runtime.prepare()
        torch.manual_seed(0)
        self.model = (PlainTransformer if variant.startswith("plain") else build)(
            config.architecture, VOCABULARY[scale], self.settings.dropout)
        self.model.to(self.where).train()
        on_gpu = self.where.type == "cuda"
        self.optimiser = torch.optim.Adam(
            self.model.parameters(), lr=1e-4, betas=self.settings.adam_betas, fused=True,
            eps=self.settings.adam_epsilon, capturable=on_gpu)
        self.average = WeightAverage(self.model, self.settings.average)
        self.positions = self.settings.accumulate * self.settings.batch_tokens
        multiple = self.model.multiple
        self.data = sentences_of(scale, max(500, 30 * self.positions // 20))
        self.steps = 0
        if variant == "eager":
            groups = training_batches(self.data, self.settings.batch_tokens, multiple, 0, 0)
            each = self.settings.accumulate
            self.groups = [groups[n * each:(n + 1) * each] for n in range(GROUPS)]
        else:
            self.groups = self._typical(training_batches(
                self.data, self.positions, multiple, 0, 0, fixed=True))
        initialise(self.model, collate(self.data, np.arange(64), multiple).to(self.where))
        self.flops = self._flops()  # neither replays nor compiled layers tell them
        if variant == "compiled":
            compile_layers(self.model)
        self.fixed = None
        if variant not in ("eager", "plain"):
            self.fixed = FixedStep(self.model, self.optimiser, self.average, self.settings, 0)

    def _typical(self, groups: list[np.ndarray]) -> list[np.ndarray]:
        """GROUPS of them, at evenly spaced places of their order by length."""
        order = np.argsort([self.data.target_lengths[rows].mean() for rows in groups])
        at = ((np.arange(GROUPS) + 0.5) / GROUPS * len(groups)).astype(int)
        return [groups[place] for place in order[at]]

    def _fixed_batches(self, rows: np.ndarray, parts: int = 1) -> list[Batch]:
        return collate_fixed(self.data, rows, self.model.multiple, self.positions, parts)

    def batches(self, group) -> list[Batch]:
        """What a step of this group computes."""
        if isinstance(group, list):
            return [collate(self.data, rows, self.model.multiple) for rows in group]
        return self._fixed_batches(group)

    def tokens(self, group) -> int:
        """Real target subwords of a step, each sentence with one EOS."""
        rows = np.concatenate(group) if isinstance(group, list) else group
        return int((self.data.target_lengths[rows] + 1).sum())

    def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        """A batch's loss terms."""
        with runtime.autocast("auto", self.where):
            return self.model.loss_terms(batch, self.settings, 1.0)

    def step(self, group) -> None:
        """One optimiser step, as `lib.training` takes it."""
        self.steps += 1
        tokens = self.tokens(group)
        if self.fixed is not None:
            self.fixed(self.steps, partial(self._fixed_batches, group),
                       Scalars(1e-4, 1.0, 1 / tokens, self.average.decay_at(self.steps)))
            if self.fixed.full:
                self.fixed.read()
            return
        self.optimiser.zero_grad(set_to_none=True)
        for batch in self.batches(group):
            losses = self.losses(batch.to(self.where))
            (losses["loss"] / tokens).backward()
        float(losses["loss"].detach())  # every step is checked before the weights move
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        if torch.isfinite(norm):
            self.optimiser.step()
        self.average.update(self.steps)

    def _flops(self) -> float:
        """Matrix FLOPs of one pass over the groups, forward and backward."""
        flops = matrix_flops(lambda: [
            self.losses(batch.to(self.where))["loss"].backward()
            for group in self.groups for batch in self.batches(group)])
        self.optimiser.zero_grad(set_to_none=True)
        return flops

    def once(self) -> None:
        """All groups once, and waited for."""
        for group in self.groups:
            self.step(group)
        synchronise(self.where)

    def measure(self, seconds: float) -> dict:
        """The row's numbers."""
        started = time.perf_counter()
        self.once()
        self.once()
        warm = time.perf_counter() - started
        before = matrix_rate(self.where, 0.2)
        watch_memory(self.where)
        rounds, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            self.once()
            rounds += 1
        elapsed = (time.perf_counter() - started) / rounds
        on_gpu = self.where.type == "cuda"
        memory = {"peak_mib": peak_memory(self.where), "reserved_mib":
                  torch.cuda.max_memory_reserved(self.where) / 2**20 if on_gpu else np.nan}
        best = max(before, matrix_rate(self.where, 0.2))
        tokens = sum(map(self.tokens, self.groups))
        shapes = {tuple(b.target.shape) for group in self.groups for b in self.batches(group)}
        rate = self.flops / elapsed
        return {"parameters": count_parameters(self.model), "positions": self.positions,
                "step_ms": 1e3 * elapsed / len(self.groups), "tokens_per_second": tokens / elapsed,
                "tflops": rate / TERA, "matrix_tflops": best / TERA, "share": rate / best,
                **memory, "shapes": len(shapes), "warm_s": warm,
                "parts": 1 if self.fixed is None else self.fixed.parts,
                "captured": 0 if self.fixed is None else self.fixed.captured}


def row(name: str, scale: str, variant: str, seconds: float = SECONDS, tokens: int = 0) -> dict:
    """One row of the table; where it fails, the error."""
    described = {"model": PLAIN if variant.startswith("plain") else name,
                 "scale": scale, "variant": variant}
    return attempt(described, lambda: Subject(name, scale, variant, tokens).measure(seconds))


def rows(models: Sequence[str], scales: Sequence[str], variants: Sequence[str], end: float,
         tell: Callable[[dict], None], **options) -> list[dict]:
    """All rows that can be begun before `end` (of time.monotonic), the slow ones last."""
    wanted = [(name, scale, variant) for variant in variants for scale in scales
              for name in models if not variant.startswith("plain") or name == "tr_s"]
    made = []
    for which in wanted:
        if time.monotonic() > end:
            break
        made.append(row(*which, **options))
        tell(made[-1])
    return made


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write after each row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["tr_s", "ga_b", "fl_b"])
    parser.add_argument("--scales", nargs="+", default=["mini", "paper"])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--minutes", type=float, default=4.0, help="no row is begun after them")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="that a row times steps")
    parser.add_argument("--tokens", type=int, default=0, help="instead of batch_tokens")
    asked = parser.parse_args(arguments)

    def keep_and_tell(made: dict) -> None:
        keep("gpu_training", [made], KEY)
        tell(made)

    rows(asked.models, asked.scales, asked.variants, time.monotonic() + 60 * asked.minutes,
         keep_and_tell, seconds=asked.seconds, tokens=asked.tokens)


if __name__ == "__main__":
    main()
