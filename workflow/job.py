"""One job, in a process of its own: a run that is trained and scored, or a teacher's translation.

    python -m workflow.job --model ga_b --dataset toy --scale smoke

What is done isn't done again, and what was stopped is gone on with.
"""

import argparse
import contextlib
import gc
import json
import math
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from lib.config import Config, config_of, run_arguments
from lib.distillation import distil
from lib.errors import ReproError
from lib.evaluation import evaluate
from lib.runs import RunFolder
from lib.training import Trainer, checkpoints, record

__all__ = ["LATER", "Job", "main"]

LATER = os.EX_TEMPFAIL  # 75: call again


@dataclass(frozen=True)
class Job:
    """What such a process is given, and when."""

    name: str
    words: tuple[str, ...]
    """what Python is called with"""
    after: tuple[str, ...] = ()
    """names of the jobs that must have ended well before"""
    seconds: float = 0.0
    """how long it may take"""
    scored: bool = False
    """whether it may stop training early, and scores what it has"""
    made: Path | None = None
    """the file that the jobs after it read: weights, or a translation"""
    done: bool = False
    """whether its results are there, of a training that ended by itself with these settings"""
    outputs: Path | None = None
    """the outputs folder, if not that of this process"""

    @classmethod
    def of(cls, name: str, run: RunFolder, overrides: dict, *flags: str, **more) -> "Job":
        """The job of one run; flags as of `python -m workflow.job`."""
        return cls(name, ("-m", "workflow.job", "--dataset", run.dataset, "--scale", run.scale,
                          "--model", run.model, "--train-data", run.train_data,
                          "--seed", str(run.seed), "--overrides", json.dumps(overrides), *flags),
                   **more)


class _TimeIsUp(Exception):
    """Training ends here, at a validation; its best weights so far are scored."""


def main(words: list[str] | None = None) -> int:
    """Do it; 0, 2 on a wrong call, or `LATER` for a training that the clock cut off: scored as it
    is, to be gone on with before anything builds on it.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    run_arguments(parser)
    parser.add_argument("--overrides", default="",
                        help="settings other than those of params/, in JSON or YAML")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of training, at most")
    parser.add_argument("--only-train", action="store_true", help="no score on the test set")
    parser.add_argument("--translation", action="store_true",
                        help="the run's translation of the training set instead")
    asked = parser.parse_args(words)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        config = config_of(asked)
        if asked.translation:
            distil(config)
            return 0
        return _run(config, asked.seconds, not asked.only_train)
    except ReproError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(config: Config, seconds: float, scored: bool) -> int:
    started = time.perf_counter()
    trainer = _train(config, started + seconds)
    folder, step, finished = trainer.folder, trainer.step, trainer.finished
    trained = time.perf_counter()
    del trainer
    if scored:
        gc.collect()  # the memory of its graphs, too
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _score(folder, config, step)
    print(f"trained {trained - started:.0f} s{'' if finished else ' of more'}, "
          f"scored {time.perf_counter() - trained:.0f} s")
    return 0 if finished else LATER


def _train(config: Config, end: float) -> Trainer:
    """Train a run, or go on, until it is finished or a validation comes after `end`."""
    trainer = Trainer(config, progress=False)

    def check(_row: dict) -> None:
        if time.perf_counter() > end and trainer.best_row():
            raise _TimeIsUp

    with contextlib.suppress(_TimeIsUp):
        trainer.run(check)
    return trainer


def _score(folder: RunFolder, config: Config, step: int) -> None:
    """Score what was trained for so many steps on the test set, unless metrics.json is of these
    weights already, and config.json of these settings.
    """
    best, there = checkpoints.load(folder.best, folder.train_command), folder.known_metrics()
    if there is None or record.evaluated_otherwise(folder, config) or (
            there.step, there.dev_bleu, there.training.get("step")) != (
            best["step"], best["dev_bleu"], step):
        evaluate(config, progress=False)


if __name__ == "__main__":
    sys.exit(main())
