"""What the benchmarks run on, its memory, and the matrix rate that they are compared with."""

import platform
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from lib import runtime
from lib.paths import outputs_root, write_text

__all__ = ["describe", "keep", "matrix_rate", "matrix_throughput", "medians", "peak_resident",
           "precision", "synchronise"]

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


def matrix_throughput(dtype: torch.dtype, seconds: float = 0.3) -> float:
    """The best rate of plain matrix products, in FLOP per CPU-second, over layer-like shapes."""
    best = 0.0
    for rows, inner, columns in SHAPES:
        a, b = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
        count, started, wall = 0, time.process_time(), time.perf_counter()
        while time.perf_counter() - wall < seconds:
            torch.nn.functional.linear(a, b)
            count += 1
        best = max(best, 2 * rows * inner * columns * count / (time.process_time() - started))
    return best


def precision() -> torch.dtype:
    """What models compute in here."""
    return torch.bfloat16 if runtime.has_fast_bf16() else torch.float32


def medians(rows: list[dict], keys: list[str]) -> pd.DataFrame:
    """Medians over rounds, a row for each of `keys`, and what they were measured on.

    Added: `share`, flops_per_cpu_second over the matrix rate of the same round, and the smallest
    and largest of the rounds, `share_low` and `share_high`.
    """
    frame = pd.DataFrame(rows)
    frame["share"] = frame["flops_per_cpu_second"] / frame["matrix_flops_per_cpu_second"]
    grouped = frame.groupby(keys, sort=False)
    result = grouped.median()
    result["share_low"], result["share_high"] = grouped["share"].min(), grouped["share"].max()
    result["precision"], result["machine"] = str(precision()).split(".")[-1], describe()
    return result.reset_index()


def synchronise(where: torch.device) -> None:
    """Wait for the GPU; on a CPU nothing is ever outstanding."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)


def matrix_rate(where: torch.device, seconds: float = 0.3) -> float:
    """The best rate of plain matrix products on a device, in FLOP per second of the clock.

    In bf16 where the device multiplies it; products large enough to fill a GPU.
    """
    best, dtype = 0.0, precision()
    for rows, inner, columns in GPU_SHAPES if where.type == "cuda" else SHAPES:
        a, b = (torch.randn(n, inner, device=where).to(dtype) for n in (rows, columns))
        elapsed, count = 0.0, 1
        while elapsed < seconds:  # the first rounds warm up, and are too short to count
            count *= 2
            synchronise(where)
            started = time.perf_counter()
            for _ in range(count):
                torch.nn.functional.linear(a, b)
            synchronise(where)
            elapsed = time.perf_counter() - started
        best = max(best, 2 * rows * inner * columns * count / elapsed)
    return best


def keep(name: str, made: Sequence[dict], key: Sequence[str]) -> None:
    """Write rows into outputs/bench/<name>.csv, each in place of the one with the same `key`."""
    path, new = outputs_root() / "bench" / f"{name}.csv", pd.DataFrame(made)
    if path.exists():
        old = pd.read_csv(path)
        if set(key) <= set(old):
            both = old.merge(new[[*key]], on=[*key], how="left", indicator=True)["_merge"] == "both"
            new = pd.concat([old[~both.to_numpy()], new])
    write_text(path, new.to_csv(index=False, float_format="%.4g"))


def peak_resident() -> float:
    """Peak resident bytes of this process (ru_maxrss would carry the starter's peak over)."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().split("\n") if x.startswith("VmHWM"))
        return 1024.0 * int(line.split()[1])
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
