"""Where a grid's lines run: on this machine, or as jobs of a cluster, which outlive a workflow."""

import hashlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from lib.errors import ConfigError
from lib.paths import ROOT, outputs_root
from workflow.grid.workflow import Grid

__all__ = ["PROFILES", "Place", "job_prefix", "no_jobs_left"]

PROFILES = ROOT / "workflow" / "profiles"


@dataclass(frozen=True)
class Place:
    """Where a grid's lines run: on this machine, or as jobs of a cluster."""

    profile: Path  # a folder with a Snakemake profile, `config.yaml`
    executor: str  # the profile's: local, slurm, ...
    side_by_side: int  # lines on this machine, one core each, or jobs in the cluster's queue

    @classmethod
    def of(cls, profile: str, cores: int) -> "Place":
        """Errors: ConfigError for a folder that holds no profile."""
        folder = (ROOT / Path(profile).expanduser()).resolve()
        try:
            settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"the profile {folder} can't be read: "
                              f"{' '.join(str(error).split())}") from None
        if not isinstance(settings, dict):
            raise ConfigError(f"the profile {folder} holds no settings: give lines like "
                              "`executor: slurm`")
        executor = settings.get("executor", "local")
        if executor != "local" and not re.fullmatch(r"[\w/.+-]+", sys.executable):
            raise ConfigError(f"a cluster's jobs can't start {sys.executable}, as Snakemake doesn't"
                              " quote it: use a Python in a folder without spaces or quotes")
        return cls(folder, executor, cores if executor == "local" else settings.get("jobs", cores))

    def words(self, grid: Grid) -> list[str]:
        """What Snakemake is told of it."""
        given = ["--workflow-profile", str(self.profile)]
        if self.executor == "local":
            return [*given, "--cores", str(self.side_by_side)]
        if self.executor == "slurm":
            return [*given, "--slurm-jobname-prefix", job_prefix(grid)]
        return given


def job_prefix(grid: Grid) -> str:
    """How the names of the grid's jobs start: another text for other outputs, too."""
    readable = re.sub(r"\W", "-", f"{grid.dataset}-{grid.scale}", flags=re.ASCII)[:40]
    return f"{readable}-{hashlib.sha256(os.fsencode(outputs_root())).hexdigest()[:8]}"


def no_jobs_left(grid: Grid) -> None:
    """Errors: ConfigError where jobs of the grid, of a workflow that was killed, are in SLURM's
    queue: submitted again, their runs would be trained twice in one folder.
    """
    asked = ["squeue", "--me", "--noheader", "--format", "%i %j"]
    try:
        queue = subprocess.run(asked, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                               check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(f"no answer from SLURM's queue ({' '.join(asked)}): "
                          f"{getattr(error, 'stderr', '') or error}".strip()) from None
    jobs = [job for job, _, name in (line.partition(" ") for line in queue.splitlines())
            if name.startswith(f"{job_prefix(grid)}_")]
    if jobs:
        raise ConfigError(f"{len(jobs)} job{'s' * (len(jobs) > 1)} of a workflow on this grid that "
                          "was killed are in the queue: let them end, or stop them "
                          f"(scancel {' '.join(jobs)}), then start again")
