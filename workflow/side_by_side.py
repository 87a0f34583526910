"""Several jobs at a time, until all have ended or the clock runs out."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lib.errors import check_range
from lib.host import allowed_cores, die_with_parent
from lib.paths import ROOT, cache_root
from workflow.job import LATER, Job

__all__ = ["work_off"]

POLL = 0.2  # seconds


class _Work:
    """Jobs that wait, run and have ended."""

    def __init__(self, jobs: Sequence[Job], side_by_side: int, end: float, logs: Path,
                 spare: float):
        self.waiting, self.side_by_side, self.end, self.logs = list(jobs), side_by_side, end, logs
        self.spare = spare
        self.running: dict[str, tuple[Job, subprocess.Popen, float]] = {}
        self.took: dict[str, float] = {}
        self.failed: dict[str, str] = {}
        self.cut_off: set[str] = set()  # scored as they are, and not to be built on
        self.planned: dict[str, float] = {}  # seconds by the plan, of what has ended

    def log(self, name: str) -> Path:
        """The file of what a job says."""
        return self.logs / f"{name.replace(' ', '_')}.log"

    def fits(self, job: Job) -> bool:
        """Whether it would end in time, at the pace of what has ended against the plan."""
        planned = sum(self.planned.values())
        pace = sum(self.took[name] for name in self.planned) / planned if planned else 1.0
        return time.monotonic() + job.seconds * max(0.5, pace) < self.end

    def start(self) -> None:
        """Begin what may begin."""
        for job in list(self.waiting):
            if len(self.running) >= self.side_by_side:
                return
            if any(name in self.failed for name in job.after):
                self.waiting.remove(job)
                self.failed[job.name] = "what it needs failed"
            elif all(name in self.took for name in job.after) and self.fits(job):
                self.waiting.remove(job)
                environment = os.environ | {
                    "OMP_NUM_THREADS": str(max(1, allowed_cores() // self.side_by_side)),
                    "TQDM_DISABLE": "1", "DISCREPANCY_SIDE_BY_SIDE": str(self.side_by_side)}
                if job.outputs is not None:
                    environment["DISCREPANCY_OUTPUTS"] = str(job.outputs)
                words = [*job.words]
                if job.scored:
                    words += ["--seconds", f"{self.end - time.monotonic() - self.spare:.0f}"]
                with open(self.log(job.name), "w") as log:
                    process = subprocess.Popen(
                        [sys.executable, *words], cwd=ROOT, env=environment, stdout=log,
                        stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT,
                        preexec_fn=die_with_parent)
                self.running[job.name] = job, process, time.monotonic()

    def collect(self) -> None:
        """Take up what has ended."""
        for name, (job, process, since) in list(self.running.items()):
            if process.poll() is None:
                continue
            del self.running[name]
            seconds = time.monotonic() - since
            lines = self.log(name).read_text(errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "")
            if process.returncode == LATER:
                self.cut_off.add(name)
                print(f"  {name}: cut off after {seconds:.0f} s ({last})", flush=True)
            elif process.returncode:
                self.failed[name] = last
                print(f"  {name}: failed after {seconds:.0f} s: {last}", flush=True)
            else:
                self.took[name] = seconds
                if job.seconds:
                    self.planned[name] = job.seconds
                print(f"  {name}: {seconds:.0f} s ({last})", flush=True)

    def stop(self) -> None:
        """End what still runs; its checkpoints stay for the next call."""
        for _, process, _ in self.running.values():
            process.terminate()
        for _, process, _ in self.running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(3)
            process.kill()


def work_off(jobs: Sequence[Job], side_by_side: int, end: float, spare: float = 60.0) -> _Work:
    """Run the jobs, as many side by side, until all have ended or time is up (`end`, monotonic).

    A job that would end later is not begun. A run that is still training `spare` seconds before the
    end stops there, and its best weights are scored. Errors: ConfigError for none side by side.
    """
    check_range("--side-by-side", side_by_side, 1)
    logs = cache_root() / "jobs"
    logs.mkdir(parents=True, exist_ok=True)
    work = _Work(jobs, side_by_side, end, logs, spare)
    try:
        while time.monotonic() < end:
            work.collect()
            work.start()
            if not work.running:
                break
            time.sleep(POLL)
    finally:
        work.stop()
    return work
