"""One command for a card that is at hand for minutes: python -m workflow.gpu --plan multi30k_mini.

In this order: the tests marked `gpu`, the benchmarks, then as much of a plan of runs as fits. A run
is trained, scored and timed by a process of its own, several side by side on one card; none is
begun that would not end in time, and what comes back is never half a result. The same command goes
on where the last one stopped. Plans are files in workflow/plans/, their runs in order of weight.
"""

import argparse
import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from lib.config import MODELS
from lib.errors import ConfigError, ReproError
from lib.host import die_with_parent
from lib.paths import ROOT, cache_root, outputs_root
from lib.runs import find_runs
from lib.training import checkpoints
from workflow.job import LATER, Job
from workflow.plans import Plan, left
from workflow.side_by_side import work_off

__all__ = ["main", "pack"]

PARTS = ("tests", "benchmarks", "runs")
BENCHMARKS = {  # and what each is given in a rehearsal
    "benchmarks.gpu_training": ("--models", "tr_s", "--scales", "smoke", "--variants", "eager",
                                "graphs", "--seconds", "0.2", "--minutes", "0.3"),
    "benchmarks.gpu_decoding": ("--minutes", "0.4")}
MIB = 2**20
SPARE = 15.0  # seconds kept for packing at the end
KEPT = ("config.json", "history.csv", "metrics.json", "sentences.csv", "sentences_ll.csv",
        "bleu_counts.npz", "validations.npz")


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
    ours = False  # not a daemon that another command started
    try:
        subprocess.run([command, "-d"], env=environment, timeout=10, check=True,
                       capture_output=True)
        ours = True
        subprocess.run(probe, env=environment, timeout=60, check=True, capture_output=True)
        os.environ |= dict.fromkeys(names, str(folder))
        print("  processes share the card (MPS)", flush=True)
    except (subprocess.SubprocessError, OSError):
        print("  no MPS here: processes take turns on the card", flush=True)
    try:
        yield
    finally:
        if ours:
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
    """Do what isn't done yet; 0 when all is, 75 when anything is left, 2 on a wrong call, 130 when
    it was interrupted: what is whole by then comes back.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
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
    try:
        code = 0 if _do_parts(asked, jobs) else LATER
    except KeyboardInterrupt:
        print("stopped: the same command goes on", flush=True)
        code = 130
    if asked.archive is not None:
        for path in pack(asked.archive, asked.weights):
            print(f"{path}: {path.stat().st_size / MIB:.1f} MiB", flush=True)
    return code


def _do_parts(asked: argparse.Namespace, jobs: Sequence[Job]) -> bool:
    """Tests, benchmarks and runs, as asked for; whether all of it is done."""
    end = time.monotonic() + 60 * asked.minutes - SPARE
    complete = True
    if "tests" in asked.parts:
        complete &= _part("tests", ["pytest", "-q", "-m", "gpu", *_gpu_tests()], end)
    if "benchmarks" in asked.parts:
        for module, rehearsed in BENCHMARKS.items():
            complete &= _part(module, [module, *(rehearsed if asked.cpu else ())], end)
    if "runs" in asked.parts:
        complete &= _begin_runs(jobs, asked, end)
    return complete


if __name__ == "__main__":
    sys.exit(main())
