"""What a card is given to do: files in workflow/plans/, their runs in order of weight."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import yaml

from lib.config import build, unknown
from lib.errors import ConfigError
from lib.paths import ROOT
from lib.runs import RunFolder
from lib.training import record
from workflow.grid.workflow import Grid
from workflow.job import Job

__all__ = ["Plan", "left"]

PLANS = ROOT / "workflow" / "plans"


@dataclass(frozen=True)
class Plan:
    """Grids of runs of one data set and scale, the most important first."""

    dataset: str
    scale: str
    stages: tuple[dict, ...]
    """each names models, train_data, seeds, overrides"""
    seconds: dict
    """what a run may take with nothing beside it: model -> seconds; `other` for the rest"""
    overrides: dict = field(default_factory=dict)
    """settings of params/ for every stage"""

    @classmethod
    def read(cls, name: str) -> "Plan":
        """The plan workflow/plans/<name>.yaml.

        Errors: ConfigError for an unknown plan, an unknown run in it, a wrong key or type.
        """
        known = sorted(path.stem for path in PLANS.glob("*.yaml"))
        if name not in known:
            raise ConfigError(unknown("plan", name, known))
        path = PLANS / f"{name}.yaml"
        plan = build(cls, yaml.safe_load(path.read_text(encoding="utf-8")), f"plan {name}")
        for grid in plan.grids:
            for run in grid.runs:
                grid.config(run)
        return plan

    @property
    def grids(self) -> list[Grid]:
        """The stages, checked."""
        return [Grid.of({"dataset": self.dataset, "scale": self.scale, **stage,
                         "overrides": {**self.overrides, **stage.get("overrides", {})}})
                for stage in self.stages]

    @property
    def jobs(self) -> list[Job]:
        """Every job once, each after those that it needs."""
        jobs: dict[str, Job] = {}
        for grid in self.grids:
            for run in grid.runs:
                self._add(jobs, grid, run)
        return list(jobs.values())

    def _add(self, jobs: dict[str, Job], grid: Grid, run: RunFolder) -> str:
        """Put a run's job behind those that it needs; its name."""
        name = f"{run.model} {run.train_data} s{run.seed}"
        if name not in jobs:
            needs = []
            if parent := grid.config(run).training.start_from:
                needs.append(self._add(jobs, grid, replace(run, model=parent)))
            if run.train_data == "distilled":
                needs.append(self._add_translation(jobs, grid))
            jobs[name] = self._job(name, grid, run, needs)
        return name

    def _add_translation(self, jobs: dict[str, Job], grid: Grid) -> str:
        name, teacher = "translation", grid.teacher_run
        if name not in jobs:
            needs = [self._add(jobs, grid, teacher)]
            jobs[name] = self._job(name, grid, teacher, needs, "--translation")
        return name

    def _job(self, name: str, grid: Grid, run: RunFolder, needs: Sequence[str],
             *flags: str) -> Job:
        known = [float(self.seconds[kind]) for kind in (name, run.model, "other")
                 if kind in self.seconds]
        made = grid.distilled_text if flags else run.best
        config = grid.config(run)
        stale = run.best.exists() and record.evaluated_otherwise(run, config)  # by other settings
        return Job.of(name, run, grid.overrides, *flags, after=tuple(needs),
                      seconds=known[0] if known else 0.0, scored=not flags, made=made,
                      done=made.exists() if flags else (
                          record.scored_with(run, config) and not stale))


def left(jobs: Sequence[Job]) -> list[Job]:
    """The jobs that have work to do: what isn't done, and what is done but must be made again for
    one of these, as weights and translations don't travel with results.
    """
    kept: dict[str, Job] = {}
    for job in reversed(jobs):
        needed = any(job.name in other.after for other in kept.values())
        if not job.done or (needed and not (job.made and job.made.exists())):
            kept[job.name] = job
    return [replace(job, after=tuple(name for name in job.after if name in kept))
            for job in reversed(kept.values())]
