"""The whole grid, resumable, with progress: python -m workflow.grid (make grid, make demo).

Snakemake runs `workflow/Snakefile`; this shows what it is at and how long it will take, and keeps a
second call on the same data set and scale away while one is at work. A workflow that was killed
holds nothing back: the same command goes on from the last checkpoints. On a cluster (`--profile
workflow/profiles/slurm`) its jobs outlive it: they are named, and nothing starts beside them.
"""

import argparse
import contextlib
import fcntl
import importlib.util
import json
import shutil
import signal
import sys
import time
from collections.abc import Iterator

from tqdm import tqdm

from lib.config import MODELS
from lib.errors import ConfigError, ReproError
from lib.host import allowed_cores
from lib.paths import ROOT, cache_root, outputs_root, writable
from workflow.grid.cluster import PROFILES, Place, no_jobs_left
from workflow.grid.display import Display, Plan, show
from workflow.grid.workflow import Grid, shown, working_folder

__all__ = ["main", "words"]

SNAKEFILE = ROOT / "workflow" / "Snakefile"


def words(grid: Grid, place: Place, plan: bool = False) -> list[str]:
    """The command line that Snakemake is given; plan: which only says what it would do."""
    settings = {name: " ".join(map(str, value)) if isinstance(value, tuple) else value
                for name, value in vars(grid).items()}
    if grid.overrides:
        settings["overrides"] = json.dumps(grid.overrides)
    # --nolock: our own lock, which a killed workflow doesn't leave behind, stands in its place
    return ["--snakefile", str(SNAKEFILE), "--directory", str(working_folder()),
            *place.words(grid), *["--dry-run"] * plan, "--nolock", "--quiet", "all", "--config",
            *(f"{name}={value}" for name, value in settings.items() if value not in ("", {}))]


@contextlib.contextmanager
def _alone(grid: Grid) -> Iterator[None]:
    """Hold the grid's lock, which the system lets go of however this process ends."""
    path = writable(cache_root() / "grid") / f"{grid.dataset}-{grid.scale}.lock"
    with open(path, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"the grid on {grid.dataset} at scale {grid.scale} is being run "
                              "already: wait for it, or stop it and call again") from None
        except OSError as error:  # a file system without locks
            raise ConfigError(f"{path} can't be locked ({error.strerror}): set DISCREPANCY_CACHE "
                              "to a folder on another file system") from None
        yield


def _forget(grid: Grid) -> None:
    """Remove what the grid would go on from: checkpoints, distilled text, and its stamps."""
    for run in grid.runs:
        shutil.rmtree(run.checkpoints, ignore_errors=True)
    if "distilled" in grid.train_data:
        shutil.rmtree(grid.distilled.shards, ignore_errors=True)
        grid.distilled_text.unlink(missing_ok=True)
    shutil.rmtree(working_folder() / grid.shared(""), ignore_errors=True)


def _run(grid: Grid, place: Place, plan: bool = False) -> int:
    """Have Snakemake make what isn't there, or list it; its exit code."""
    from snakemake.cli import main as snakemake

    display = (Plan if plan else Display)(grid, place.side_by_side)

    def stop(_number: int, _frame) -> None:
        display.stopped = True  # Snakemake ends its lines, and exits as if one had failed
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    try:
        with display.shown():
            snakemake(words(grid, place, plan))
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        signal.signal(signal.SIGINT, before)
    if display.stopped:
        raise KeyboardInterrupt
    if code and not display.failed:
        print("\n".join(display.errors) or "Snakemake couldn't start", file=sys.stderr)
    return code


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m workflow.grid", description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="toy")
    parser.add_argument("--scale", default="smoke")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--train-data", nargs="+", default=["raw", "distilled"])
    parser.add_argument("--students", nargs="+", default=[], metavar="MODEL",
                        help="models that learn from distilled text, too (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--seeded", nargs="+", default=[], metavar="MODEL",
                        help="models that take every seed, others the first (default: all)")
    parser.add_argument("--seeded-data", nargs="+", default=[], metavar="DATA",
                        help="training data on which they do (default: all)")
    parser.add_argument("--accountings", nargs="+", default=["strict"],
                        help="of log-likelihood, a table and a figure each")
    parser.add_argument("--overrides", default={},
                        help="settings of params/ for training and evaluation: '{samples: 200}'")
    parser.add_argument("--processes", type=int, default=1,
                        help="that share each training, one a GPU or some of the cores each")
    parser.add_argument("--gpus", type=int, default=1,
                        help="that each process asks a cluster for; 0: none")
    parser.add_argument("--cores", type=int, default=min(8, allowed_cores()),
                        help="steps at a time, one core each (default: one a core, 8 at most)")
    parser.add_argument("--profile", default=str(PROFILES / "default"),
                        help="Snakemake's profile: workflow/profiles/slurm for a cluster")
    parser.add_argument("--list", action="store_true",
                        help="list what is to do, with what it took where it was done before")
    parser.add_argument("--fresh", action="store_true",
                        help="delete this grid's checkpoints, start again")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run what isn't done yet; 1 if anything failed, 130 if it was interrupted."""
    asked = vars(_arguments(arguments))
    cores, profile = max(1, asked.pop("cores")), asked.pop("profile")
    fresh, plan = asked.pop("fresh"), asked.pop("list")
    tqdm.monitor_interval = 0
    started = time.monotonic()
    try:
        grid, place = Grid.of(asked), Place.of(profile, cores)
        if importlib.util.find_spec("snakemake") is None:
            raise ConfigError("the grid needs Snakemake: pip install -e '.[grid]' "
                              "-c constraints.txt")
        show(f"The grid on {grid.dataset} at scale {grid.scale}: {len(grid.runs)} runs." + (
            "" if plan else " Stop it whenever you like; the same command goes on."))
        if plan:
            return _run(grid, place, plan)
        writable(outputs_root())
        with _alone(grid):
            if place.executor == "slurm":
                no_jobs_left(grid)
            if fresh:
                _forget(grid)
            code = _run(grid, place)
    except KeyboardInterrupt:
        show("\nStopped. The same command goes on from the last checkpoints.")
        return 130
    except ReproError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    took = f"{(time.monotonic() - started) / 60:.1f} minutes"
    if code:
        show(f"Failed after {took}. What failed is named above; the same command tries it again.")
        return 1
    show(f"Done after {took}.")
    root = outputs_root()
    show(f"  figures, tables and runs in one page: {shown(root / 'README.md')}\n"
         f"  tables: {shown(root / 'tables')}\n  figures: {shown(root / 'figures')}\n"
         "  runs, with their executed notebooks: "
         f"{shown(root / 'runs' / grid.dataset / grid.scale)}")
    return 0
