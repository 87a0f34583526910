"""Trainings with other settings than params/: where they lie, and the jobs that make them.

They lie in the cache, an outputs folder for each choice of settings, so that no notebook takes one
for a run of the repository. Where the settings are those of params/, the run of outputs/ counts if
it was made with them and ended by itself.
"""

import math
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from lib.config import Config, load_config
from lib.paths import cache_root, outputs_root
from lib.runs import run_folder, seed_of
from lib.training.record import scored_with, trained_with
from workflow.job import Job
from workflow.side_by_side import work_off

__all__ = ["Trial", "train_all"]


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
        return load_config(self.model, self.dataset, self.scale, self.seed, "raw", **self.settings)

    @property
    def in_params(self) -> bool:
        """Whether the settings are those that params/ holds."""
        return self.config == load_config(self.model, self.dataset, self.scale, self.seed)

    @property
    def outputs(self) -> Path:
        """The outputs folder that the run is in, or will be."""
        there = scored_with if self.scored else trained_with
        if self.in_params and there(run_folder(self.config), self.config):
            return outputs_root()
        name = "_".join([self.model, *(f"{key}={value}" for key, value in self.settings.items())])
        return cache_root() / "trials" / self.dataset / self.scale / name

    def file(self, name: str) -> Path:
        """A file of the run."""
        return self.outputs / run_folder(self.config).path.relative_to(outputs_root()) / name

    def files(self, name: str) -> list[Path]:
        """Those of the runs with these settings of any seed, in order of it, that there are."""
        there = {seed_of(file.parent): file
                 for file in self.file(name).parent.parent.glob(f"s*/{name}")}
        return [there[seed] for seed in sorted(there.keys() - {None})]

    @property
    def job(self) -> Job | None:
        """The process that makes the run; None for a run of outputs/."""
        if self.outputs == outputs_root():
            return None
        return Job.of(f"{self.outputs.name}_s{self.seed}", run_folder(self.config), self.settings,
                      *() if self.scored else ("--only-train",), outputs=self.outputs)

    def bring_start(self) -> None:
        """Copy the weights that the training starts from to where it will look for them."""
        if not self.config.training.start_from:
            return
        start = replace(run_folder(self.config), model=self.config.training.start_from)
        there = self.outputs / start.path.relative_to(outputs_root())
        if start.best.exists() and not there.exists():
            there.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.outputs) as half:  # a half copy isn't one
                shutil.copytree(start.path, Path(half) / there.name,
                                ignore=shutil.ignore_patterns("last.pt")).rename(there)


def train_all(trials: Iterable[Trial], side_by_side: int) -> None:
    """Make all runs that aren't there yet, so many side by side; SystemExit where one fails."""
    missing = [(trial, job) for trial in trials if (job := trial.job) is not None]
    for trial, _ in missing:
        trial.bring_start()
    if work_off([job for _, job in missing], side_by_side, math.inf).failed:
        raise SystemExit(1)
