"""One command for a card that is at hand for minutes: python -m workflow.gpu --plan multi30k_mini.

In this order: the tests marked `gpu`, the benchmarks, then as much of a plan of runs as fits. A run
is trained, scored and timed by a process of its own, several side by side on one card; none is
begun that would not end in time, and what comes back is never half a result. The same command goes
on where the last one stopped. Plans are files in workflow/plans/, their runs in order of weight.
"""

import argparse
import contextlib
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import yaml

from lib.config import MODELS, Config, build, load_config, run_arguments, unknown
from lib.distillation import distil
from lib.errors import ConfigError, ReproError
from lib.evaluation import evaluate
from lib.host import allowed_cores, die_with_parent
from lib.paths import ROOT, cache_root, outputs_root, read_json
from lib.runs import RunFolder, find_runs
from lib.training import Trainer, checkpoints
from workflow.grid.workflow import Grid

__all__ = ["Job", "Plan", "left", "main", "pack", "score", "work_off"]

PLANS = ROOT / "workflow" / "plans"
PARTS = ("tests", "benchmarks", "runs")
BENCHMARKS = {  # and what each is given in a rehearsal
    "benchmarks.gpu_training": ("--models", "tr_s", "--scales", "smoke", "--variants", "eager",
                                "graphs", "--seconds", "0.2", "--minutes", "0.3"),
    "benchmarks.gpu_decoding": ("--minutes", "0.4")}
LATER = os.EX_TEMPFAIL  # 75: call again
MIB = 2**20
SPARE = 15.0  # seconds kept for packing at the end
POLL = 0.2  # seconds
KEPT = ("config.json", "history.csv", "metrics.json", "sentences.csv", "sentences_ll.csv",
        "bleu_counts.npz", "validations.npz")


# ---- plans ----

@dataclass(frozen=True)
class Job:
    """One process: a run that is trained and scored, or a teacher's translation."""

    name: str
    words: tuple[str, ...]
    """what Python is called with"""
    after: tuple[str, ...] = ()
    """names of the jobs that must have ended well before"""
    seconds: float = 0.0
    """how long it may take, as the plan says"""
    scored: bool = False
    """whether it may stop training early, and scores what it has"""
    made: Path | None = None
    """the file that the jobs after it read: weights, or a translation"""
    done: bool = False
    """whether its results are there, of a training that ended by itself with these settings"""


@dataclass(frozen=True)
class Plan:
    """What a card is given to do; see workflow/plans/."""

    dataset: str
    scale: str
    stages: tuple[dict, ...]
    """grids of runs (models, train_data, seeds, overrides), the most important first"""
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
             *more: str) -> Job:
        words = ("-m", "workflow.gpu", "one", "--dataset", run.dataset, "--scale", run.scale,
                 "--model", run.model, "--train-data", run.train_data, "--seed", str(run.seed),
                 "--overrides", json.dumps(grid.overrides), *more)
        known = [float(self.seconds[kind]) for kind in (name, run.model, "other")
                 if kind in self.seconds]
        made = grid.distilled_text if more else run.best
        return Job(name, words, tuple(needs), known[0] if known else 0.0, scored=not more,
                   made=made, done=made.exists() if more else _done(run, grid.config(run)))


def _done(run: RunFolder, config: Config) -> bool:
    """Whether a run was scored after a training with these settings that ended by itself."""
    if not (run.metrics.exists() and run.config.exists()) or run.read_metrics().stopped:
        return False
    trained = read_json(run.config).get("training", {})
    return all(trained.get(name, value) == value
               for name, value in config.as_dict()["training"].items())


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


# ---- one job, in a process of its own ----

class _TimeIsUp(Exception):
    """Training ends here, at a validation; its best weights so far are scored."""


def one(asked: argparse.Namespace) -> int:
    """Train and score one run, or translate the training set; what is done isn't done again.

    Returns 0, or `LATER` for a training that the clock cut off: scored as it is, to be gone on
    with before anything builds on it.
    """
    config = load_config(asked.model, asked.dataset, asked.scale, asked.seed, asked.train_data,
                         **asked.overrides)
    if asked.translation:
        distil(config)
        return 0
    started = time.perf_counter()
    trainer = _train(config, started + asked.seconds)
    trained = time.perf_counter()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    score(trainer)
    print(f"trained {trained - started:.0f} s{'' if trainer.finished else ' of more'}, "
          f"scored {time.perf_counter() - trained:.0f} s")
    return 0 if trainer.finished else LATER


def score(trainer: Trainer) -> None:
    """Score what was trained on the test set, unless metrics.json is of these weights already."""
    folder = trainer.folder
    best, scored = checkpoints.load(folder.best, folder.train_command), read_json(folder.metrics)
    if (scored.get("step"), scored.get("dev_bleu"), scored.get("training", {}).get("step")) != (
            best["step"], best["dev_bleu"], trainer.step):
        evaluate(trainer.config, progress=False)


def _train(config: Config, end: float) -> Trainer:
    """Train a run, or go on, until it is finished or a validation comes after `end`."""
    trainer = Trainer(config, progress=False)

    def check(_row: dict) -> None:
        if time.perf_counter() > end and trainer.best_row():
            raise _TimeIsUp

    with contextlib.suppress(_TimeIsUp):
        trainer.run(check)
    return trainer


# ---- several jobs at a time, until the clock runs out ----

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
    end stops there, and its best weights are scored.
    """
    logs = cache_root() / "gpu"
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


@contextlib.contextmanager
def shared_card(side_by_side: int) -> Iterator[None]:
    """Let several processes compute on one card at the same instant, where its driver can (MPS)."""
    command = shutil.which("nvidia-cuda-mps-control")
    if command is None or side_by_side == 1 or not torch.cuda.is_available():
        yield
        return
    folder = cache_root() / "mps"
    folder.mkdir(parents=True, exist_ok=True)
    names = ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY")
    environment = os.environ | dict.fromkeys(names, str(folder))
    probe = [sys.executable, "-c", "import torch; torch.zeros(1, device='cuda').item()"]
    try:
        subprocess.run([command, "-d"], env=environment, timeout=10, check=True,
                       capture_output=True)
        subprocess.run(probe, env=environment, timeout=60, check=True, capture_output=True)
        os.environ |= dict.fromkeys(names, str(folder))
        print("  processes share the card (MPS)", flush=True)
    except (subprocess.SubprocessError, OSError):
        print("  no MPS here: processes take turns on the card", flush=True)
    try:
        yield
    finally:
        with contextlib.suppress(subprocess.SubprocessError, OSError):
            subprocess.run([command], input=b"quit\n", env=environment, timeout=10,
                           capture_output=True)
        for name in names:
            os.environ.pop(name, None)


# ---- what comes back ----

def pack(folder: Path, weights: Sequence[str] = (), largest: int = 15 * MIB) -> list[Path]:
    """Archives of all finished runs' small files, benchmarks and distilled sets, to be
    unpacked over `outputs/`; each holds whole runs and at most about `largest` bytes.

    weights: models whose best weights travel, too, rounded to bf16.
    """
    root, groups = outputs_root(), []
    for run in find_runs():
        groups.append([run.path / name for name in KEPT] + [run.best] * (run.model in weights))
    groups.append(sorted((root / "bench").glob("*")))
    groups += [sorted(made.glob("*")) for made in sorted((root / "distilled").glob("*/*/*"))]
    folder.mkdir(parents=True, exist_ok=True)
    archives: list[Path] = []
    with contextlib.ExitStack() as stack:
        for files in groups:
            entries = [(file, _travelling(file)) for file in files if file.is_file()]
            size = sum(len(data) for _, data in entries)
            if not archives or archives[-1].stat().st_size + size > largest:
                stack.close()
                archives.append(folder / f"results_{len(archives) + 1}.tar.gz")
                archive = stack.enter_context(tarfile.open(archives[-1], "w:gz"))
            for file, data in entries:
                entry = tarfile.TarInfo(file.relative_to(root).as_posix())
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return archives


def _travelling(file: Path) -> bytes:
    """A file's content; of a checkpoint, with its weights rounded to bf16."""
    if file.suffix != ".pt":
        return file.read_bytes()
    checkpoint = checkpoints.load(file, "")
    checkpoint["weights"] = {name: weight.to(torch.bfloat16) if weight.is_floating_point()
                             else weight for name, weight in checkpoint["weights"].items()}
    data = io.BytesIO()
    torch.save(checkpoint, data)
    return data.getvalue()


# ---- the command ----

def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plan", default="multi30k_mini", help="a file of workflow/plans/")
    parser.add_argument("--minutes", type=float, default=60.0, help="time of this call")
    parser.add_argument("--side-by-side", type=int, default=8, help="runs at a time on the card")
    parser.add_argument("--spare", type=float, default=60.0,
                        help="seconds before the end at which runs stop training and are scored")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--archive", type=Path, default=None,
                        help="folder for archives of the results (default: none)")
    parser.add_argument("--weights", nargs="+", default=[], choices=MODELS,
                        help="models whose best weights the archives hold, rounded to bf16")
    parser.add_argument("--dry-run", action="store_true", help="say what it would do")
    parser.add_argument("--cpu", action="store_true", help="a rehearsal without a GPU")
    return parser.parse_args(words)


def _job_arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One job of a plan.")
    run_arguments(parser)
    parser.add_argument("--overrides", type=json.loads, default={})
    parser.add_argument("--seconds", type=float, default=math.inf, help="of training, at most")
    parser.add_argument("--translation", action="store_true")
    return parser.parse_args(words)


def _check(asked: argparse.Namespace, jobs: Sequence[Job]) -> None:
    """Errors: ConfigError, before anything starts."""
    if asked.side_by_side < 1 or asked.minutes <= 0:
        raise ConfigError("--side-by-side must be 1 or more, --minutes above 0")
    if not asked.cpu and not torch.cuda.is_available():
        raise ConfigError("torch finds no CUDA GPU (no card, or a driver too old for torch "
                          f"{torch.__version__}); to rehearse without one: --cpu --plan rehearsal")
    shortest = min((job.seconds for job in jobs), default=0.0)
    if "runs" in asked.parts and 60 * asked.minutes - SPARE < shortest:
        raise ConfigError(f"--minutes {asked.minutes:g} is too short for one run of this plan, "
                          f"which takes {shortest:.0f} s and {SPARE:.0f} s for the results")


def _part(name: str, words: Sequence[str], end: float) -> bool:
    """One command of this Python, stopped when time is up; whether it ended well."""
    started, left = time.monotonic(), end - time.monotonic()
    if left < 1:
        print(f"{name}: no time left", flush=True)
        return False
    try:
        code = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, timeout=left, check=False,
                              stdin=subprocess.DEVNULL, preexec_fn=die_with_parent).returncode
    except subprocess.TimeoutExpired:
        code = "time is up"
    print(f"{name}: {time.monotonic() - started:.0f} s{f', {code}' * bool(code)}", flush=True)
    return not code


def _gpu_tests() -> list[str]:
    """The test modules that have tests for a card: the others may need what a card lacks."""
    return [str(path) for path in sorted((ROOT / "tests").glob("test_*.py"))
            if "pytest.mark.gpu" in path.read_text(encoding="utf-8")]


def _begin_runs(jobs: Sequence[Job], asked: argparse.Namespace, end: float) -> bool:
    """The plan's part; whether all of it is done."""
    started = time.monotonic()
    with shared_card(asked.side_by_side):
        work = work_off(jobs, asked.side_by_side, end, asked.spare)
    print(f"runs: {time.monotonic() - started:.0f} s; {len(work.took)} of {len(jobs)} jobs ended "
          f"well, {len(work.cut_off)} were cut off and scored, {len(work.failed)} failed, "
          f"{len(work.running)} were stopped, "
          f"{len(work.waiting)} not begun", flush=True)
    return len(work.took) == len(jobs)


def main(words: list[str] | None = None) -> int:
    """Do what isn't done yet; 0 when all is, 75 when anything is left, 2 on a wrong call."""
    words = sys.argv[1:] if words is None else words
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if words[:1] == ["one"]:
            return one(_job_arguments(words[1:]))
        asked = _arguments(words)
        if asked.cpu:  # never over results that are there
            os.environ.setdefault("DISCREPANCY_OUTPUTS", str(cache_root() / "rehearsal"))
        planned = Plan.read(asked.plan).jobs
        jobs = left(planned)
        print(f"plan {asked.plan}: {len(jobs)} of {len(planned)} jobs are left, "
              f"{asked.side_by_side} side by side, "
              f"{asked.minutes:g} minutes: {', '.join(job.name for job in jobs)}", flush=True)
        if asked.dry_run:
            return 0
        _check(asked, jobs)
    except ReproError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    end = time.monotonic() + 60 * asked.minutes - SPARE
    complete = True
    if "tests" in asked.parts:
        complete &= _part("tests", ["pytest", "-q", "-m", "gpu", *_gpu_tests()], end)
    if "benchmarks" in asked.parts:
        for module, rehearsed in BENCHMARKS.items():
            complete &= _part(module, [module, *(rehearsed if asked.cpu else ())], end)
    if "runs" in asked.parts:
        complete &= _begin_runs(jobs, asked, end)
    if asked.archive is not None:
        for path in pack(asked.archive, asked.weights):
            print(f"{path}: {path.stat().st_size / MIB:.1f} MiB", flush=True)
    return 0 if complete else LATER


if __name__ == "__main__":
    sys.exit(main())
