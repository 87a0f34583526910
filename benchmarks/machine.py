"""What the benchmarks run on, its memory, and the matrix rate that they are compared with."""

import gc
import platform
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm

from lib import runtime
from lib.paths import outputs_root
from lib.runs import write_table

__all__ = ["CPU", "attempt", "describe", "keep", "matrix_rate", "peak_memory", "precision",
           "rounds", "synchronise", "tell", "watch_memory", "write"]

CPU = torch.device("cpu")

SHAPES = ((2048, 512, 2048), (2048, 256, 1024), (2048, 1024, 256))
GPU_SHAPES = ((8192, 8192, 8192), (16384, 4096, 4096))


def describe() -> str:
    """Cores and instruction set, e.g. `2 cores x86_64, AVX512, bf16`."""
    where = runtime.device()
    if where.type == "cuda":
        return torch.cuda.get_device_name(where)
    bf16 = ", bf16" if runtime.has_fast_bf16() else ""
    model = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [line.split(":")[1].strip() for line in info.read_text().splitlines()
                 if line.startswith("model name")]
        model = f" {named[0]}," if named else ""
    count = runtime.cores()
    return (f"{count} core{'s' * (count > 1)},{model} {platform.machine()}, "
            f"{torch.backends.cpu.get_cpu_capability()}{bf16}")


def precision() -> str:
    """What models compute in here, as torch names the type."""
    return "bfloat16" if runtime.has_fast_bf16() else "float32"


def rounds(subjects: Sequence, count: int, threads: Sequence[int]) -> pd.DataFrame:
    """Medians over `count` passes of every subject, interleaved, so that a noisy machine hits all
    alike: a row for each of their `described` and number of threads.

    Each pass measures the matrix rate of the CPU anew. `share`: the pass's flops_per_cpu_second
    over it, with the smallest and largest of the passes, `share_low` and `share_high`.
    """
    rows = []
    for _ in tqdm(range(count), desc="rounds"):
        for number in threads:
            torch.set_num_threads(number)
            for subject in subjects:
                rate = matrix_rate(CPU, clock=time.process_time)
                rows.append({**subject.described, "threads": number, **subject.measure(),
                             "matrix_flops_per_cpu_second": rate})
    frame = pd.DataFrame(rows)
    frame["share"] = frame["flops_per_cpu_second"] / frame["matrix_flops_per_cpu_second"]
    grouped = frame.groupby([*subjects[0].described, "threads"], sort=False)
    result = grouped.median()
    result["share_low"], result["share_high"] = grouped["share"].min(), grouped["share"].max()
    result["precision"], result["machine"] = precision(), describe()
    return result.reset_index()


def synchronise(where: torch.device) -> None:
    """Wait for the GPU; on a CPU nothing is ever outstanding."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)


def matrix_rate(where: torch.device, seconds: float = 0.3,
                clock: Callable[[], float] = time.perf_counter) -> float:
    """The best rate of plain matrix products on a device, in FLOP per second of the clock.

    In bf16 where the device multiplies it; of the sizes of a layer's, on a GPU large enough to fill
    it. With `time.process_time` as the clock: per CPU-second.
    """
    best, dtype = 0.0, getattr(torch, precision())
    for rows, inner, columns in GPU_SHAPES if where.type == "cuda" else SHAPES:
        a, b = (torch.randn(n, inner, device=where).to(dtype) for n in (rows, columns))
        elapsed, count = 0.0, 1
        while elapsed < seconds:  # the first rounds warm up, and are too short to count
            count *= 2
            synchronise(where)
            started = clock()
            for _ in range(count):
                torch.nn.functional.linear(a, b)
            synchronise(where)
            elapsed = clock() - started
        best = max(best, 2 * rows * inner * columns * count / elapsed)
    return best


def attempt(described: dict, measure: Callable[[], dict]) -> dict:
    """A row: where it was measured, what it describes and what is measured; or else the error."""
    gc.collect()  # graphs and their memory go with what held them
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        found = measure()
    except Exception as error:  # the next row may well work
        found = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    return {"device": describe(), **described, **found, "precision": precision(),
            "torch": torch.__version__}


def tell(row: dict) -> None:
    """Print a row in one line."""
    print(" ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
                   for name, value in row.items()
                   if name not in ("device", "precision", "torch")), flush=True)


def write(name: str, table: pd.DataFrame, hidden: Sequence[str] = ()) -> None:
    """Write outputs/bench/<name>.csv, and show it without the `hidden` columns."""
    write_table(outputs_root() / "bench" / f"{name}.csv", table, 4)
    tqdm.write(f"\nbench/{name}.csv, {describe()}\n"
               f"{table.drop(columns=[*hidden], errors='ignore').to_string(index=False)}")


def keep(name: str, made: Sequence[dict], key: Sequence[str]) -> None:
    """Write rows into outputs/bench/<name>.csv, each in place of the one with the same `key`."""
    path = outputs_root() / "bench" / f"{name}.csv"
    before = [pd.read_csv(path)] if path.exists() else []
    table = pd.concat([*before, pd.DataFrame(made)]).drop_duplicates([*key], keep="last")
    write_table(path, table, 4)


def watch_memory(where: torch.device) -> None:
    """Let `peak_memory` count from here, on a GPU."""
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)


def peak_memory(where: torch.device) -> float:
    """Peak MiB of tensors on a GPU, else of what this process had resident."""
    if where.type == "cuda":
        return torch.cuda.max_memory_allocated(where) / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would carry the starter's peak over
        line = next(x for x in status.read_text().split("\n") if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
