"""Which runs a grid has, what each of them waits for, and the files that say it is done.

`workflow/Snakefile` holds the lines that make these files. A stamp below `checkpoints/` or the
cache says that a line has ended well on this machine; neither is in git, so that a fresh clone
makes everything itself. Deleting a run's checkpoints folder takes its stamps along.
"""

import contextlib
import hashlib
import itertools
import json
import math
import os
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from lib.config import (
    LATENT,
    MODELS,
    Config,
    build,
    family_of,
    load_config,
    load_dataset,
    parse_overrides,
    unknown,
)
from lib.errors import ConfigError
from lib.likelihood.accounting import accounting_named
from lib.paths import NOTEBOOKS, ROOT, TEACHER_SEED, DistilledFolder, cache_root, outputs_root
from lib.runs import RunFolder

__all__ = ["Grid", "shown", "working_folder"]

DRAWN = ("ga_b", "fl_b")  # the default of 04_latent_space
CROSSED = {"na_b", "da_b", "ct_b", "md_b"}  # what crosses the decoder with the objective


def working_folder() -> Path:
    """The folder that the lines run in, where Snakemake keeps its notes.

    The repository's root; below the cache where the root is read-only.
    """
    return ROOT if os.access(ROOT, os.W_OK) else cache_root() / "grid" / "snakemake"


def shown(path: Path) -> str:
    """The path as a line of the workflow gives it: from its folder where it is below."""
    start = working_folder()
    return str(path.relative_to(start) if path.is_relative_to(start) else path)


@dataclass(frozen=True)
class Grid:
    """The runs of one data set and scale: models x training data x seeds."""

    dataset: str = "toy"
    scale: str = "smoke"
    models: tuple[str, ...] = MODELS
    train_data: tuple[str, ...] = ("raw", "distilled")
    students: tuple[str, ...] = ()  # models that learn from distilled text, too; () = all
    seeds: tuple[int, ...] = (1,)
    seeded: tuple[str, ...] = ()  # models that take every seed, others the first; () = all
    seeded_data: tuple[str, ...] = ()  # training data on which they do; () = all
    accountings: tuple[str, ...] = ("strict",)  # of log-likelihood, a table each
    overrides: dict = field(default_factory=dict)  # settings of params/, for training, evaluation
    processes: int = 1  # that share each training's batches, one a GPU or some CPU cores each
    gpus: int = 1  # that each process asks a cluster for; 0: none

    @classmethod
    def of(cls, values: dict) -> "Grid":
        """The grid that Snakemake's `--config` or our own command line describes.

        Lists may be texts, "tr_s ga_b"; the overrides may be YAML or JSON. Errors: ConfigError for
        an unknown name (with the nearest right one), type or value.
        """
        values = {name: value for name, value in values.items() if value is not None}
        for name in ("models", "train_data", "students", "seeds", "seeded", "seeded_data",
                     "accountings"):
            if isinstance(values.get(name), str | int):
                values[name] = str(values[name]).split()
        if "seeds" in values:
            values["seeds"] = _typed([*values["seeds"]])
        if "overrides" in values:
            read = values["overrides"]
            values["overrides"] = _typed(parse_overrides(read) if isinstance(read, str) else read)
        for root in (outputs_root(), cache_root()):
            if set("{}") & set(shown(root)):
                raise ConfigError(f"grid: {root}: Snakemake takes braces in a path for wildcards, "
                                  "so neither the outputs nor the cache may lie there")
        grid = build(cls, values, "grid")
        for name in ("models", "train_data", "seeds", "accountings"):
            if not getattr(grid, name):
                raise ConfigError(f"grid: {name} is empty, name at least one")
        for name in grid.accountings:
            accounting_named(name)
        for names, kind, known in (("students", "model", grid.models),
                                   ("seeded", "model", grid.models),
                                   ("seeded_data", "training text", grid.train_data)):
            for name in getattr(grid, names):
                if name not in known:
                    raise ConfigError(f"grid: {names}: {unknown(kind, name, known)}")
        if grid.processes < 1:
            raise ConfigError(f"grid: processes is {grid.processes}, must be 1 or more")
        if grid.gpus not in (0, 1):
            raise ConfigError(f"grid: gpus is {grid.gpus}, must be 1 (for each process) or 0")
        for run in grid.runs:
            batches = grid.config(run).training.accumulate
            if batches % grid.processes:
                raise ConfigError(
                    f"grid: {grid.processes} processes can't share a step of {run.model}, which is "
                    f"{batches} batch{'es' * (batches > 1)} (accumulate): give a divisor, or the "
                    f"override {{accumulate: {grid.processes}}}, which changes what a step is")
        return grid

    @property
    def runs(self) -> list[RunFolder]:
        """Every run, smaller models first, raw before distilled."""
        seeded, on = self.seeded or self.models, self.seeded_data or self.train_data
        return [RunFolder(self.dataset, self.scale, model, data, seed)
                for model, data in itertools.product(self.models, self.train_data)
                if data == "raw" or model in (self.students or self.models)
                for seed in (self.seeds if model in seeded and data in on else self.seeds[:1])]

    def run(self, wildcards) -> RunFolder:
        """The run that a rule's wildcards name."""
        return RunFolder(self.dataset, self.scale, wildcards.model, wildcards.train_data,
                         int(wildcards.seed))

    def config(self, run: RunFolder) -> Config:
        """The resolved settings of a run of this grid."""
        return load_config(run.model, run.dataset, run.scale, run.seed, run.train_data,
                           **self.overrides)

    def settings(self, run: RunFolder, *sections: str) -> str:
        """What the sections of the run's settings come to: another text, another result."""
        described = self.config(run).as_dict()
        text = json.dumps([described[section] for section in sections], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def distilled(self) -> DistilledFolder:
        """The teacher's translation of the training set."""
        teacher = load_dataset(self.dataset).teacher
        return DistilledFolder(self.dataset, self.scale, teacher, TEACHER_SEED)

    @property
    def distilled_text(self) -> Path:
        """The file that says that the distilled set is there."""
        return self.distilled.text(load_dataset(self.dataset).target)

    @property
    def teacher_run(self) -> RunFolder:
        """The run that translates the training set."""
        return RunFolder(self.dataset, self.scale, self.distilled.teacher, "raw", TEACHER_SEED)

    def before_training(self, run: RunFolder) -> list[str]:
        """The files that must be there before the run can start."""
        parent = self.config(run).training.start_from
        files = [self.distilled_text] if run.train_data == "distilled" else []
        if parent:
            files.append(replace(run, model=parent).checkpoints / "trained")
        return [shown(path) for path in files]

    def studies(self) -> dict[str, dict]:
        """The notebooks on all runs together that this grid can feed, with their parameters.

        Speed is measured of the models trained on distilled text, too: "08_speed_distilled".
        """
        of = {data: [run.model for run in self.runs if (run.train_data, run.seed) == (data, 1)]
              for data in ("raw", "distilled")}
        latent = [model for model in of["raw"] if family_of(model) in LATENT]
        flow = "fl_b" if "fl_b" in latent else "fl_s"
        baseline = "tr_b" if "tr_b" in self.models else "tr_s"
        teacher = self.teacher_run.model
        asked: dict[str, dict] = {}
        if set(DRAWN) <= set(latent):
            asked["04_latent_space"] = {}
        if latent:
            asked["06_likelihood_audit"] = {}
        if latent and teacher in of["raw"]:
            asked["07_refinement"] = {"teacher": teacher, "compared": [
                model for model in (teacher, "ga_b", flow) if model in of["raw"]]}
        if baseline in of["raw"]:
            asked["08_speed"] = {"baseline": baseline}
        if baseline in of["distilled"]:
            asked["08_speed_distilled"] = {"train_data": "distilled", "baseline": baseline}
        if CROSSED & set(of["raw"]):
            asked["10_objective_or_factorisation"] = {}
        if len(of["raw"]) > 1:
            asked["11_two_sided"] = {}
        if self.scale != "smoke":  # which is a demonstration
            asked["12_calibration"] = {}
        return asked

    @staticmethod
    def notebook(study: str) -> str:
        """The notebook of a study, as a line of the workflow names it."""
        return shown(NOTEBOOKS / f"{study.removesuffix('_distilled')}.ipynb")

    def study_options(self, wildcards) -> str:
        """The parameters of the study that a rule's wildcard names, as words of its line."""
        return _as_option(self.studies()[wildcards.study])

    @property
    def options(self) -> str:
        """The overrides as words of a papermill line."""
        return _as_option({"overrides": self.overrides}) if self.overrides else ""

    @property
    def train_options(self) -> str:
        """What the line of a training has besides the run's name and the overrides."""
        several = f"-p processes {self.processes}" if self.processes > 1 else ""
        return f"{self.options} {several}".strip()

    # ---- places, as the Snakefile names them ----

    def shared(self, name: str) -> str:
        """A file of the whole grid: a stamp, or the executed notebook of several runs."""
        return shown(cache_root() / "grid" / f"{self.dataset}-{self.scale}" / name)

    def file(self, name: str, run: RunFolder | None = None) -> str:
        """A file in a run's folder; without a run, in that of any, with Snakemake's wildcards."""
        if run is not None:
            return shown(run.path / name)
        folder = RunFolder(self.dataset, self.scale, "{model}", "{train_data}").path.parent
        return shown(folder / "s{seed}" / name)

    def table(self, name: str) -> str:
        """A file in the folder of tables."""
        return shown(outputs_root() / "tables" / name)


def _as_option(parameters: dict) -> str:
    """A notebook's parameters as words of a papermill line."""
    # as YAML, which papermill reads: JSON's 1e-05 is a text there
    text = yaml.safe_dump(parameters, default_flow_style=True, width=math.inf, sort_keys=False)
    return f"-y {shlex.quote(text.strip())}" if parameters else ""


def _typed(value):
    """`value` with numbers and booleans for the texts that stand for them, as Snakemake has it."""
    if isinstance(value, dict):
        return {str(key): _typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    with contextlib.suppress(ValueError, AttributeError):  # other text, or no text
        return json.loads(value.lower())
    return value
