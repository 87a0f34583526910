"""Steps that depend on one another, run as processes side by side; what is done isn't done again.

No process outlives its starter: each has a group of its own, which ends with the run, and (on
Linux) a signal for the case that the starter is killed.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat

from .notebook import clean
from .paths import NOTEBOOKS, ROOT, cache_root

__all__ = ["Event", "Step", "notebook_step", "order_problem", "run_steps"]

_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
PR_SET_PDEATHSIG = 1
GRACE = 5.0  # seconds that a process has to end by itself


@dataclass(frozen=True)
class Step:
    """One process, and how to tell that its work is done already.

    name: unique. command: its words. seconds: expected, on one core. needs: names of the steps
    that must be done before. stamp: the file that is written last. makes: other files that must
    exist. inputs: files that must not be newer than the stamp. work: where an executed notebook
    lies until it has succeeded, None for a step that isn't a notebook.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    stamp: Path
    needs: tuple[str, ...] = ()
    makes: tuple[Path, ...] = ()
    inputs: tuple[Path, ...] = ()
    work: Path | None = None

    @property
    def log(self) -> Path:
        """What the process wrote to its two outputs."""
        return cache_root() / "steps" / f"{self.name.replace(' ', '-')}.log"

    def done(self) -> bool:
        """Whether everything exists and nothing that it was made from is newer."""
        if not all(path.exists() for path in (self.stamp, *self.makes, *self.inputs)):
            return False
        made = self.stamp.stat().st_mtime_ns
        return all(path.stat().st_mtime_ns <= made for path in self.inputs)


@dataclass(frozen=True)
class Event:
    """What happened to a step: `kept` (was done), `started`, `done`, `failed` or `skipped`.

    seconds: what it took. reason: of a failure, its last error line; of a skip, the step it needs.
    """

    step: Step
    kind: str
    seconds: float = 0.0
    reason: str = ""


def notebook_step(name: str, notebook: str, target: Path, seconds: float,
                  parameters: Mapping[str, str | int], **others) -> Step:
    """A step that runs notebooks/<notebook>.ipynb by papermill; its clean copy goes to `target`."""
    work = cache_root() / "steps" / f"{name.replace(' ', '-')}.ipynb"
    words = [word for key, value in parameters.items() for word in ("-p", key, str(value))]
    command = (sys.executable, "-m", "papermill", "--no-progress-bar",
               str(NOTEBOOKS / f"{notebook}.ipynb"), str(work), *words)
    return Step(name, command, seconds, target, work=work, **others)


def order_problem(steps: list[Step]) -> str:
    """What is wrong with the steps' order, "" if each needs only steps before it."""
    seen: set[str] = set()
    for step in steps:
        for name in step.needs:
            if name not in seen:
                return f"{step.name} needs {name}, which no step before it makes"
        seen.add(step.name)
    return ""


def run_steps(steps: list[Step], slots: int, on_event: Callable[[Event], None],
              on_tick: Callable[[], None] = lambda: None, poll: float = 0.5) -> list[Event]:
    """Run all steps, `slots` at a time, in the given order as far as their needs allow.

    A failure skips the steps that need it; the others go on. Returns the last event of each step.
    However this ends, no process of it is left.
    """
    if problem := order_problem(steps):
        raise ValueError(problem)
    ended: dict[str, Event] = {}
    running: dict[str, tuple[Step, subprocess.Popen, float]] = {}
    waiting = list(steps)

    def tell(event: Event) -> None:
        if event.kind != "started":
            ended[event.step.name] = event
        on_event(event)

    with _none_survives(running):
        while waiting or running:
            for name, (step, process, started) in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    tell(_ended(step, process.returncode, time.monotonic() - started))
            for step in list(waiting):
                bad = [n for n in step.needs if n in ended and ended[n].kind in _BAD]
                if bad:
                    waiting.remove(step)
                    tell(Event(step, "skipped", reason=bad[0]))
                elif all(n in ended for n in step.needs) and len(running) < slots:
                    waiting.remove(step)
                    fresh = [n for n in step.needs if ended[n].kind == "done"]
                    if not fresh and step.done():
                        tell(Event(step, "kept"))
                    else:
                        running[step.name] = (step, _start(step), time.monotonic())
                        tell(Event(step, "started"))
            on_tick()
            if running:
                time.sleep(poll)
    return [ended[step.name] for step in steps]


_BAD = ("failed", "skipped")


def _start(step: Step) -> subprocess.Popen:
    """The step's process, in a group of its own, with one thread and nothing to read from."""
    step.log.parent.mkdir(parents=True, exist_ok=True)
    step.stamp.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1",
                                "JUPYTER_PREFER_ENV_PATH": "1"}
    with open(step.log, "wb") as log:
        return subprocess.Popen(step.command, cwd=ROOT, env=environment, stdout=log,
                                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                start_new_session=True, preexec_fn=_die_with_parent)


def _die_with_parent() -> None:
    """Between fork and exec: have the kernel end this process when its starter is gone."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _ended(step: Step, code: int, seconds: float) -> Event:
    if code:
        return Event(step, "failed", seconds, _error_line(step, code))
    if step.work is not None:
        notebook = nbformat.read(step.work, as_version=4)
        clean(notebook)
        partial = step.stamp.with_name(step.stamp.name + ".partial")
        nbformat.write(notebook, partial)
        partial.replace(step.stamp)
        step.work.unlink()
    missing = [path for path in (step.stamp, *step.makes) if not path.exists()]
    if missing:
        return Event(step, "failed", seconds, f"it ended well, but made no {missing[0]}")
    return Event(step, "done", seconds)


def _error_line(step: Step, code: int) -> str:
    """The error of the executed notebook, else the last line that the process wrote."""
    if step.work is not None and step.work.exists():
        notebook = nbformat.read(step.work, as_version=4)
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                if output.output_type == "error":
                    return f"{output.ename}: {(output.evalue.splitlines() or [''])[0]}"
    lines = step.log.read_text(encoding="utf-8", errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return said[-1] if said else f"it ended with code {code} and said nothing"


@contextmanager
def _none_survives(running: dict) -> Iterator[None]:
    """End the groups of all running processes when the block is left, by whatever way."""
    try:
        yield
    finally:
        processes = [process for _, process, _ in running.values()]
        for how, wait in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
            for process in processes:
                if process.poll() is None:
                    os.killpg(process.pid, how)
            limit = time.monotonic() + wait
            while any(p.poll() is None for p in processes) and time.monotonic() < limit:
                time.sleep(0.05)
