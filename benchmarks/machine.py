"""What the benchmarks run on, and the matrix throughput that they are compared with."""

import platform
import time
from pathlib import Path

import torch

from lib import runtime

__all__ = ["describe", "matrix_throughput"]

SHAPES = ((2048, 512, 2048), (2048, 256, 1024), (2048, 1024, 256))


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
    return (f"{runtime.cores()} cores,{model} {platform.machine()}, "
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
