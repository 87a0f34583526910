"""The published IWSLT sizes on one GPU: trained raw and distilled, evaluated, and timed.

    python scripts/gpu_iwslt.py

Tr-S, Ga-B, Fl-S and Fl-B at scale `paper` on ted_de_en (params/datasets/ted_de_en.yaml says where
the files lie), a run after the other: its training is timed on a few steps, then it is trained,
scored on the test set, and its decoding timed. The teacher's translation of the training set comes
between raw and distilled runs. It writes

    outputs/bench/gpu_training.csv   tokens a second, peak memory, share of the matrix rate
    outputs/bench/gpu_decoding.csv   milliseconds a sentence, eager and through CUDA graphs, memory
    outputs/runs/, outputs/distilled/   as training, distillation and evaluation always do

Every row has the rate of plain bf16 products measured beside it, in TFLOP/s, and the share of it
that was reached (columns: benchmarks/gpu.py). Beam search has no graphs
(lib/decoding/graphs.py): its row is eager only.

The same command goes on where the last one stopped, at any stage; what is done isn't done again
(another training recipe needs its run's checkpoints deleted, other evaluation settings its
metrics.json). Without options it takes the published recipe: days. On a GPU that is lent for
minutes at a time, three calls of under ten minutes each:

    python scripts/gpu_iwslt.py --steps 2000 --minutes 1.5 --call-minutes 9 --overrides \
        '{batch_tokens: 32768, accumulate: 1, samples: 100, mbr_samples: 0}'

--steps shortens warm-up and KL annealing with it; --minutes is what a run may train in all calls
together, then it counts as trained; --call-minutes ends a call between two steps or stages, with
exit code 75 while anything is left. A batch of 32,768 positions is the published 8 of 4,096 at
once, and fills a GPU better. A call that is killed loses little: training since its last
validation, two thousand sentences of distillation, a minute of the likelihood.

Without a GPU, a rehearsal of it all with hardly trained models, into cache/rehearsal (or
$DISCREPANCY_OUTPUTS), two minutes of one core (add `distilled` to --train-data for more):

    python scripts/gpu_iwslt.py --cpu --dataset toy --scale smoke --train-data raw --steps 3 \
        --overrides '{samples: 2, mbr_samples: 0}'
"""

import argparse
import json
import math
import os
import sys
import time

import torch
import yaml
from tqdm.auto import tqdm

from benchmarks import gpu
from lib.config import Config, Training, load_config, load_dataset
from lib.distillation import distil
from lib.errors import ReproError
from lib.evaluation import evaluate
from lib.evaluation.scoring import load_run
from lib.paths import cache_root
from lib.task import TEACHER_SEED
from lib.training import Trainer, checkpoints, run_folder, train_command

MODELS = ("tr_s", "ga_b", "fl_s", "fl_b")
LATER = os.EX_TEMPFAIL  # 75: call again
REHEARSAL = ("python scripts/gpu_iwslt.py --cpu --dataset toy --scale smoke --train-data raw "
             "--steps 3 --overrides '{samples: 2, mbr_samples: 0}'")
SHOWN = {
    "gpu_training": ["model", "train_data", "tokens_per_second", "tflops", "matrix_tflops", "share",
                     "peak_mib"],
    "gpu_decoding": ["model", "train_data", "setting", "batch", "eager_ms", "graphs_ms", "ratio",
                     "same", "eager_share", "graphs_share", "eager_peak_mib", "graphs_peak_mib"]}


class OutOfTime(Exception):
    """This call's minutes are over; everything is saved."""


class Clock:
    """The time that this call may take."""

    def __init__(self, minutes: float):
        self.end = time.monotonic() + 60 * minutes

    @property
    def over(self) -> bool:
        """Whether it has passed."""
        return time.monotonic() >= self.end

    def check(self) -> None:
        """Errors: OutOfTime where it has passed."""
        if self.over:
            raise OutOfTime


def shortened(steps: int, published: Training) -> dict:
    """The published schedule for fewer steps: a tenth warm-up, full KL weight at an eighth."""
    return {"steps": steps, "warmup_steps": min(published.warmup_steps, max(1, steps // 10)),
            "kl_start": min(published.kl_start, steps // 40),
            "kl_ramp": min(published.kl_ramp, steps // 10),
            "validate_every": min(published.validate_every, max(1, steps // 4))}


def settings(asked: argparse.Namespace, model: str, train_data: str) -> Config:
    """The resolved settings of one run."""
    which = model, asked.dataset, asked.scale, TEACHER_SEED, train_data
    config = load_config(*which, **asked.overrides)
    if not asked.steps:
        return config
    return load_config(*which, **{**shortened(asked.steps, config.training), **asked.overrides})


def train(config: Config, minutes: float, clock: Clock) -> None:
    """Train a run to its end, or for `minutes` in all; saved when the call's time is over.

    Errors: OutOfTime.
    """
    trainer, limit = Trainer(config), 60 * minutes
    every = config.training.validate_every
    with tqdm(total=config.training.steps, initial=trainer.step, unit="step", mininterval=1.0,
              desc=f"{config.model} {config.train_data}") as bar:
        while not trainer.finished and trainer.seconds < limit:
            if clock.over:
                trainer.save()
                raise OutOfTime
            started = time.perf_counter()
            terms = trainer.train_step()
            trainer.seconds += time.perf_counter() - started
            bar.update()
            bar.set_postfix(loss=f"{terms['loss'] / terms['tokens']:.3f}", refresh=False)
            if trainer.step % every == 0 or trainer.finished or trainer.seconds >= limit:
                row = trainer.validate()
                bar.write(f"  step {row['step']}, {row['seconds']:.0f} s: dev BLEU "
                          f"{row['dev_bleu']:.1f}, dev LL {row['dev_ll']:.3f} a token")


def best_step(config: Config) -> int | None:
    """The step of the best checkpoint; None while there is none."""
    path = run_folder(config).best
    return checkpoints.load(path, train_command(config))["step"] if path.exists() else None


def scored_step(config: Config) -> int | None:
    """The step that metrics.json is of; None where there is none."""
    path = run_folder(config).metrics
    return json.loads(path.read_text(encoding="utf-8"))["step"] if path.exists() else None


def run(config: Config, asked: argparse.Namespace, clock: Clock) -> None:
    """Everything of one run that isn't done yet.

    Errors: OutOfTime.
    """
    clock.check()
    if not gpu.has("gpu_training", config, batch_tokens=config.training.batch_tokens,
                   accumulate=config.training.accumulate):
        tqdm.write("  timing its training")
        gpu.keep("gpu_training", [gpu.training_speed(config, asked.timed_steps)])
    clock.check()
    train(config, asked.minutes, clock)
    step = best_step(config)
    if step is None:
        tqdm.write("  no checkpoint: the KL's weight has not reached 1 yet; give more --minutes or "
                   "fewer --steps (left out)")
        return
    clock.check()
    if scored_step(config) != step:
        evaluate(config)
    clock.check()
    if not gpu.has("gpu_decoding", config, step=step):
        tqdm.write("  timing its decoding")
        gpu.keep("gpu_decoding", gpu.decoding_speed(load_run(config), asked.sentences,
                                                    asked.rounds))


def runs(asked: argparse.Namespace, clock: Clock) -> None:
    """All runs in turn, the teacher's translation before the distilled ones.

    Errors: OutOfTime.
    """
    total, place = len(asked.models) * len(asked.train_data), 0
    for train_data in asked.train_data:
        if train_data == "distilled":
            clock.check()
            distil(settings(asked, load_dataset(asked.dataset).teacher, "raw"))
        for model in asked.models:
            place += 1
            tqdm.write(f"[{place}/{total}] {model} {train_data}")
            run(settings(asked, model, train_data), asked, clock)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # for the next one, whose peak is measured


def show() -> None:
    """Print the tables."""
    for name, columns in SHOWN.items():
        table = gpu.kept(name)
        if len(table):
            shown = table[[c for c in columns if c in table]].round(4).to_string(index=False)
            print(f"\nbench/{name}.csv, {', '.join(table['device'].unique())}\n{shown}")


def arguments(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="ted_de_en", help="a file of params/datasets/")
    parser.add_argument("--scale", default="paper", help="smoke mini paper")
    parser.add_argument("--models", nargs="+", default=list(MODELS),
                        help="the teacher first, and whatever others start from")
    parser.add_argument("--train-data", nargs="+", default=["raw", "distilled"],
                        choices=["raw", "distilled"])
    parser.add_argument("--steps", type=int, default=0, help="optimiser steps a run; 0: published")
    parser.add_argument("--minutes", type=float, default=math.inf,
                        help="training time a run, all calls together")
    parser.add_argument("--call-minutes", type=float, default=math.inf, help="time of this call")
    parser.add_argument("--overrides", type=yaml.safe_load, default={},
                        help="settings of params/: '{samples: 100}'")
    parser.add_argument("--timed-steps", type=int, default=8, help="training steps that are timed")
    parser.add_argument("--sentences", type=int, default=24, help="sentences that are timed alone")
    parser.add_argument("--rounds", type=int, default=3, help="times that they are")
    parser.add_argument("--cpu", action="store_true", help="a rehearsal without a GPU")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Do what isn't done yet; 0 when all is, 75 when the call's time was over, 1 on an error."""
    asked = arguments(words)
    if asked.cpu:  # never over results that are there
        os.environ.setdefault("DISCREPANCY_OUTPUTS", str(cache_root() / "rehearsal"))
    elif not torch.cuda.is_available():
        print(f"error: torch finds no CUDA GPU; to rehearse without one:\n    {REHEARSAL}",
              file=sys.stderr)
        return 1
    try:
        runs(asked, Clock(asked.call_minutes))
    except OutOfTime:
        show()
        print("\nThis call's time is over. The same command goes on.")
        return LATER
    except ReproError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show()
    return 0


if __name__ == "__main__":
    sys.exit(main())
