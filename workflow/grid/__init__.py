"""The whole grid, resumable, with progress: python -m workflow.grid (make grid, make demo).

Snakemake runs `workflow/Snakefile`; this shows what it is at and how long it will take, and keeps a
second call on the same data set and scale away while one is at work. A workflow that was killed
holds nothing back: the same command goes on from the last checkpoints.
"""

import argparse
import contextlib
import fcntl
import importlib.util
import json
import logging
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from lib.config import MODELS
from lib.errors import ConfigError, ReproError
from lib.host import allowed_cores, have_home
from lib.paths import ROOT, cache_root, outputs_root, writable
from lib.runs import RunFolder
from workflow.grid.workflow import Grid, place, shown

__all__ = ["main", "words"]

SNAKEFILE = ROOT / "workflow" / "Snakefile"
# Seconds of a line on one core of two busy ones, at smoke scale, until one of its kind has ended.
SECONDS = {"train": 60.0, "evaluate": 25.0, "distil": 60.0}
OTHER = 20.0


class Display(logging.Handler):
    """Snakemake's events as a person sees them: a line for each step that ended, the time left."""

    def __init__(self, grid: Grid, cores: int):
        super().__init__()
        self.grid, self.cores = grid, cores
        self.waiting: dict[str, int] = {}  # rule -> lines of it that haven't ended
        self.running: dict[int, tuple[str, str, float]] = {}  # job -> rule, name, start
        self.took: dict[str, list[float]] = {}
        self.done = self.failed = self.all = 0
        self.stopped = False
        self.errors: list[str] = []
        self.bar = tqdm(total=1.0, disable=not sys.stderr.isatty(), leave=False,
                        bar_format="{percentage:3.0f}% |{bar:24}| {desc}")
        self.started = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Take up one event (`snakemake_interface_logger_plugins.common.LogEvent`)."""
        event = str(getattr(record, "event", None))
        if event == "run_info":
            self.waiting = {rule: count for rule, count in record.stats.items()
                            if rule not in ("all", "total")}
            self.all = sum(self.waiting.values())
            tqdm.write(f"{self.all} steps to go, {self.cores} at a time.")
        elif event == "job_info" and record.rule_name != "all":
            name = _name(record.rule_name, record.wildcards or {})
            self.running[record.jobid] = (record.rule_name, name, time.monotonic())
        elif event == "job_finished":
            self._ended(record.job_id, "")
        elif event == "job_error":
            logs = [str(path) for path in record.log or []]
            self._ended(record.jobid, ", ".join(logs) or "the message above")
        elif record.levelno >= logging.ERROR and record.msg is not None:
            self.errors.append(record.getMessage())

    def _ended(self, job: int, log: str) -> None:
        rule, name, since = self.running.pop(job, (None, "", 0.0))
        if rule is None:
            return
        seconds = time.monotonic() - since
        self.waiting[rule] -= 1
        self.done += 1
        if log and self.stopped:
            said = f"stopped after {seconds:.0f} s"
        elif log:
            self.failed += 1
            said = f"FAILED after {seconds:.0f} s, see {log}"
        else:
            self.took.setdefault(rule, []).append(seconds)
            said = f"{seconds:.0f} s"
        tqdm.write(f"[{self.done:2d}/{self.all}] {name:<26} {said}")

    def tick(self) -> None:
        """Draw the bar again."""
        now, running = time.monotonic(), list(self.running.values())
        left = sum(count * self._expected(rule) for rule, count in self.waiting.items())
        left -= sum(min(now - since, 0.9 * self._expected(rule)) for rule, _, since in running)
        left = max(left, 1.0) / self.cores
        passed = now - self.started
        self.bar.n = passed / (passed + left)
        doing = ", ".join(_doing(self.grid, rule, name, since) for rule, name, since in running)
        minutes, seconds = divmod(round(left), 60)
        self.bar.set_description_str(f"about {minutes}:{seconds:02d} left: {doing or 'starting'}")

    def _expected(self, rule: str) -> float:
        """The mean of those that have ended, else the table's figure at the pace so far."""
        if own := self.took.get(rule):
            return sum(own) / len(own)
        ended = [(SECONDS.get(r, OTHER), s) for r, all_of in self.took.items() for s in all_of]
        pace = sum(s for _, s in ended) / sum(e for e, _ in ended) if ended else 1.0
        return SECONDS.get(rule, OTHER) * pace

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Listen to Snakemake, and draw the bar twice a second, while the block lasts."""
        source, over = logging.getLogger("snakemake"), threading.Event()

        def draw() -> None:
            while not over.wait(0.5):
                with self.lock:
                    self.tick()

        thread = threading.Thread(target=draw, daemon=True)
        source.addHandler(self)
        if not self.bar.disable:
            thread.start()
        try:
            yield
        finally:
            over.set()
            source.removeHandler(self)
            self.bar.close()


def _name(rule: str, wildcards) -> str:
    """A step in words: ga_b distilled s1 train."""
    parts = dict(wildcards)
    if "seed" in parts:
        return f"{parts['model']} {parts['train_data']} s{parts['seed']} {rule}"
    return " ".join([*map(str, parts.values())]) if rule == "study" else \
        " ".join([rule, *map(str, parts.values())])


def _doing(grid: Grid, rule: str, name: str, since: float) -> str:
    """A running step in words, with a training's progress as its history tells it."""
    if rule != "train":
        return name
    model, train_data, seed, _ = name.split()
    run = RunFolder(grid.dataset, grid.scale, model, train_data, int(seed[1:]))
    step, ago = "0", time.monotonic() - since
    if run.history.exists() and time.time() - run.history.stat().st_mtime <= ago:
        rows = run.history.read_text(encoding="utf-8").split("\n")
        step = next((row.partition(",")[0] for row in reversed(rows) if row[:1].isdigit()), step)
    return f"{name} {step}/{grid.config(run).training.steps}"


def words(grid: Grid, cores: int) -> list[str]:
    """The command line that Snakemake is given."""
    settings = {"dataset": grid.dataset, "scale": grid.scale, "models": " ".join(grid.models),
                "train_data": " ".join(grid.train_data), "seeds": " ".join(map(str, grid.seeds)),
                "seeded": " ".join(grid.seeded), "seeded_data": " ".join(grid.seeded_data),
                "accountings": " ".join(grid.accountings),
                "overrides": json.dumps(grid.overrides), "processes": str(grid.processes)}
    # --nolock: our own lock, which a killed workflow doesn't leave behind, stands in its place
    return ["--snakefile", str(SNAKEFILE), "--directory", str(place()), "--cores", str(cores),
            "--nolock", "--quiet", "all", "--config",
            *(f"{name}={value}" for name, value in settings.items() if value and value != "{}")]


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
        yield


def _forget(grid: Grid) -> None:
    """Remove what the grid would go on from: checkpoints, distilled text, and its stamps."""
    for run in grid.runs:
        shutil.rmtree(run.checkpoints, ignore_errors=True)
    if "distilled" in grid.train_data:
        shutil.rmtree(grid.distilled.shards, ignore_errors=True)
        grid.distilled_text.unlink(missing_ok=True)
    shutil.rmtree(place() / grid.shared(""), ignore_errors=True)


def _run(grid: Grid, cores: int) -> int:
    """Have Snakemake make what isn't there; its exit code."""
    from snakemake.cli import main as snakemake

    display = Display(grid, cores)

    def stop(_number: int, _frame) -> None:
        display.stopped = True  # Snakemake ends its lines, and exits as if one had failed
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    try:
        with display.shown():
            snakemake(words(grid, cores))
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
    parser.add_argument("--cores", type=int, default=min(8, allowed_cores()),
                        help="steps at a time, one core each (default: one a core, 8 at most)")
    parser.add_argument("--fresh", action="store_true",
                        help="delete this grid's checkpoints, start again")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run what isn't done yet; 1 if anything failed, 130 if it was interrupted."""
    asked = vars(_arguments(arguments))
    cores, fresh = max(1, asked.pop("cores")), asked.pop("fresh")
    tqdm.monitor_interval = 0
    started = time.monotonic()
    try:
        grid = Grid.of(asked)
        if importlib.util.find_spec("snakemake") is None:
            raise ConfigError("the grid needs Snakemake: pip install -e '.[grid]' "
                              "-c constraints.txt")
        print(f"The grid on {grid.dataset} at scale {grid.scale}: {len(grid.runs)} runs. Stop it "
              "whenever you like; the same command goes on.", flush=True)
        writable(outputs_root())
        with _alone(grid):
            have_home(cache_root() / "home")
            if fresh:
                _forget(grid)
            code = _run(grid, cores)
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from the last checkpoints.")
        return 130
    except ReproError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    took = f"{(time.monotonic() - started) / 60:.1f} minutes"
    if code:
        print(f"Failed after {took}. What failed is named above; the same command tries it again.")
        return 1
    print(f"Done after {took}.")
    for what, where in _where(grid):
        print(f"  {what}: {shown(where)}")
    return 0


def _where(grid: Grid) -> list[tuple[str, Path]]:
    """Where to look: what lies there, and the path."""
    root = outputs_root()
    return [("figures, tables and runs in one page", root / "README.md"),
            ("tables", root / "tables"), ("figures", root / "figures"),
            ("runs, with their executed notebooks", root / "runs" / grid.dataset / grid.scale)]
