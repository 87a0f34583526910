"""What a person sees of a grid at work: a line for each step that ended, and the time left."""

import contextlib
import io
import logging
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator

from tqdm import tqdm

from lib.errors import DataError
from lib.paths import read_json
from lib.runs import RunFolder
from workflow.grid.workflow import Grid

__all__ = ["Display", "Plan", "show"]

# Seconds of a line on one core of two busy ones, at smoke scale, until one of its kind has ended.
SECONDS = {"train": 60.0, "evaluate": 25.0, "distil": 60.0}
OTHER = 20.0


def show(text: str) -> None:
    """Write a line; where whatever read them has closed (`| head`), the work goes on unseen."""
    try:
        tqdm.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Display(logging.Handler):
    """Snakemake's events as a person sees them: a line for each step that ended, the time left."""

    def __init__(self, grid: Grid, cores: int):
        super().__init__()
        self.grid, self.cores = grid, cores
        self.waiting: dict[str, int] = {}  # rule -> lines of it that haven't ended
        self.running: dict[int, tuple[str, str, float]] = {}  # job -> rule, name, start
        self.retried: set[int] = set()  # jobs that failed, and may start again
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
            show(f"{self.all} steps to go, {self.cores} at a time.")
        elif event == "job_info" and record.rule_name != "all":
            name = _name(record.rule_name, record.wildcards or {})
            if record.jobid in self.retried:  # as a profile's `retries` has it
                self.retried.remove(record.jobid)
                self.waiting[record.rule_name] += 1
                self.done, self.failed = self.done - 1, self.failed - 1
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
            ending = f"stopped after {seconds:.0f} s"
        elif log:
            self.failed += 1
            self.retried.add(job)
            ending = f"FAILED after {seconds:.0f} s, see {log}"
        else:
            self.took.setdefault(rule, []).append(seconds)
            ending = f"{seconds:.0f} s"
        show(f"[{self.done:2d}/{self.all}] {name:<26} {ending}")

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


class Plan(Display):
    """Snakemake's events of a dry run: the steps to do, with what a training took that was done
    before, here or where the committed results are from.
    """

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Listen to Snakemake while the block lasts, instead of its own pages; then say it."""
        try:
            with super().shown(), contextlib.redirect_stdout(io.StringIO()), \
                    contextlib.redirect_stderr(io.StringIO()):
                yield
        finally:  # Snakemake ends by SystemExit
            if not self.errors:
                self._list()

    def _list(self) -> None:
        hours: dict[str, float] = defaultdict(float)
        for rule, name, _ in self.running.values():
            before = _took_before(_run_of(self.grid, name)) if rule == "train" else None
            if before is not None:
                seconds, device = before
                hours[device] += seconds / 3600
                name = f"{name:<26} {seconds / 60:.1f} minutes on {device} before"
            show(f"  {name}")
        took = " and ".join(f"{total:.1f} hours on {device}" for device, total in hours.items())
        show(f"{self.all} steps, {self.waiting.get('train', 0)} of them trainings" +
             f"; those with a time took {took}" * bool(took))


def _took_before(run: RunFolder) -> tuple[float, str] | None:
    """Seconds of the run's training by its history, and its device; None where one isn't known."""
    try:
        return (float(run.read_history()["seconds"].iloc[-1]),
                read_json(run.config)["device"])
    except (DataError, KeyError, IndexError):
        return None


def _run_of(grid: Grid, name: str) -> RunFolder:
    """The run of a training by its name."""
    model, train_data, seed, _ = name.split()
    return RunFolder(grid.dataset, grid.scale, model, train_data, int(seed[1:]))


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
    run = _run_of(grid, name)
    step, ago = "0", time.monotonic() - since
    if run.history.exists() and time.time() - run.history.stat().st_mtime <= ago:
        rows = run.history.read_text(encoding="utf-8").split("\n")
        step = next((row.partition(",")[0] for row in reversed(rows) if row[:1].isdigit()), step)
    return f"{name} {step}/{grid.config(run).training.steps}"
