"""Trainings with other settings than params/: where they lie, and the process that makes one.

They lie in the cache, an outputs folder for each choice of settings, so that no notebook takes one
for a run of the repository. Where the settings are those of params/, the run of outputs/ counts.
"""

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from lib.config import Config, load_config, run_arguments
from lib.errors import ReproError
from lib.paths import cache_root, outputs_root
from lib.runs import RunFolder, run_folder
from lib.training import Trainer
from workflow.gpu import Job, score, work_off

__all__ = ["Trial", "main", "train_all"]


@dataclass(frozen=True)
class Trial:
    """One training."""

    model: str
    dataset: str
    scale: str
    seed: int = 1
    settings: dict = field(default_factory=dict)
    """what differs from params/; a setting's value there may be named as well"""
    scored: bool = False
    """whether it is scored on the test set, not on dev alone"""

    @cached_property
    def config(self) -> Config:
        """Every setting. Errors: ConfigError for one that is unknown or out of range."""
        return load_config(self.model, self.dataset, self.scale, self.seed, **self.settings)

    @property
    def in_params(self) -> bool:
        """Whether the settings are those that params/ holds."""
        return self.config == load_config(self.model, self.dataset, self.scale, self.seed)

    @property
    def outputs(self) -> Path:
        """The outputs folder that the run is in, or will be."""
        run = run_folder(self.config)
        if self.in_params and (run.metrics if self.scored else run.history).exists():
            return outputs_root()
        name = "_".join([self.model, *(f"{key}={value}" for key, value in self.settings.items())])
        return cache_root() / "trials" / self.dataset / self.scale / name

    def file(self, name: str) -> Path:
        """A file of the run."""
        return self.outputs / run_folder(self.config).path.relative_to(outputs_root()) / name

    def files(self, name: str) -> list[Path]:
        """Those of the runs with these settings of any seed, in order of it, that there are."""
        there = self.file(name).parent.parent.glob(f"s*/{name}")
        return sorted(there, key=lambda file: int(file.parent.name[1:]))

    @property
    def job(self) -> Job | None:
        """The process that makes the run; None for a run of outputs/."""
        if self.outputs == outputs_root():
            return None
        words = ("-m", "workflow.trials", "--outputs", str(self.outputs), "--model", self.model,
                 "--dataset", self.dataset, "--scale", self.scale, "--seed", str(self.seed),
                 "--settings", json.dumps(self.settings), *["--score"] * self.scored)
        return Job(f"{self.outputs.name}_s{self.seed}", words)


def train_all(trials: Iterable[Trial], side_by_side: int) -> None:
    """Make all runs that aren't there yet, so many side by side; SystemExit where one fails."""
    jobs = [job for trial in trials if (job := trial.job) is not None]
    if work_off(jobs, side_by_side, math.inf).failed:
        raise SystemExit(1)


def main(words: list[str] | None = None) -> None:
    """Make one run, from where it was stopped; SystemExit on a wrong call or failure."""
    parser = argparse.ArgumentParser(description="One training with settings of its own.")
    run_arguments(parser)
    parser.add_argument("--outputs", type=Path, required=True)
    parser.add_argument("--settings", type=json.loads, default={})
    parser.add_argument("--score", action="store_true")
    asked = vars(parser.parse_args(sys.argv[1:] if words is None else words))
    outputs, scored = asked.pop("outputs"), asked.pop("score")
    try:
        config = load_config(**asked.pop("settings"), **asked)
        if config.training.start_from:
            _bring(RunFolder(config.dataset.name, config.scale, config.training.start_from),
                   outputs)
        os.environ["DISCREPANCY_OUTPUTS"] = str(outputs)
        trainer = Trainer(config)
        trainer.run()
        if scored:
            score(trainer)
    except ReproError as error:
        raise SystemExit(f"error: {error}") from None


def _bring(start: RunFolder, outputs: Path) -> None:
    """Copy the weights that a training starts from to where it will look for them."""
    there = outputs / start.path.relative_to(outputs_root())
    if start.best.exists() and not there.exists():
        shutil.copytree(start.path, there, ignore=shutil.ignore_patterns("last.pt"))


if __name__ == "__main__":
    main()
