"""What the machine has and how to use it: device, threads, precision, random numbers, versions."""

import contextlib
import gc
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import sacrebleu
import sentencepiece
import torch

from lib.host import allowed_cores
from lib.paths import ROOT

__all__ = ["autocast", "commit", "cores", "device", "device_positions", "halving", "has_fast_bf16",
           "no_collection", "out_of_memory", "prepare", "resolved", "seed", "side_by_side",
           "versions"]

Rows = TypeVar("Rows", list, np.ndarray)
Result = TypeVar("Result")

FAST_MATH = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")
POSITION_BYTES = 2**16  # of a GPU's memory that a position takes while its sentence is decoded
MOST_POSITIONS = 2**18  # a GPU is full with fewer


def device() -> torch.device:
    """This process's GPU (the first, where it didn't choose) where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cores() -> int:
    """Cores that this process may use; `OMP_NUM_THREADS` lowers them (two runs side by side)."""
    available = allowed_cores()
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(available, int(limit)) if limit.isdigit() and int(limit) > 0 else available


def prepare(batch: int | None = None) -> int:
    """Set threads (one for batches of one sentence) and the fast route for fp32 products; returns
    the number of threads.

    "medium" sends fp32 products through oneDNN on a CPU: twice as fast on AMD, and fp32-accurate
    where oneDNN has no faster format. Elsewhere (TF32 on a GPU, bf16 with AMX or on Arm, oneDNN's
    variable for fast math) they stay fp32: rounding would move exact likelihoods.
    """
    for name in FAST_MATH:
        if name in os.environ:
            os.environ[name] = "STRICT"
    threads = 1 if batch == 1 else cores()
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest" if _rounds_medium() else "medium")
    return threads


def _rounds_medium() -> bool:
    """Whether fp32 products at "medium" precision may be computed from rounded factors."""
    return (torch.cuda.is_available() or platform.machine() not in ("x86_64", "AMD64")
            or torch.cpu._is_amx_tile_supported())


def device_positions(where: torch.device, on_cpu: int, size: int = POSITION_BYTES) -> int:
    """Positions, times beam or samples, that are decoded or scored together.

    On a CPU `on_cpu`: what stays in its caches. On a GPU what half of its free memory holds at
    `size` bytes each, a power of two so that like cards cut alike; runs side by side on one card
    share it ($DISCREPANCY_SIDE_BY_SIDE of them).
    """
    if where.type != "cuda":
        return on_cpu
    free = (torch.cuda.mem_get_info(where)[0] + torch.cuda.memory_reserved(where)
            - torch.cuda.memory_allocated(where))
    fitting = max(1, free // (2 * side_by_side() * size))
    return max(on_cpu, min(MOST_POSITIONS, 1 << (fitting.bit_length() - 1)))


def side_by_side() -> int:
    """How many runs share this machine's card, as $DISCREPANCY_SIDE_BY_SIDE says."""
    return max(1, int(os.environ.get("DISCREPANCY_SIDE_BY_SIDE", "1")))


def halving(function: Callable[[Rows], Result], rows: Rows) -> list[Result]:
    """What `function` gives for all rows, or for parts of them where the GPU's memory is too small.

    Errors: those of `function`; out of memory only where a single row is too much.
    """
    try:
        return [function(rows)]
    except RuntimeError as error:
        if len(rows) < 2 or not out_of_memory(error):
            raise
    torch.cuda.empty_cache()  # not inside `except`, whose traceback keeps the tensors alive
    middle = len(rows) // 2
    return halving(function, rows[:middle]) + halving(function, rows[middle:])


def out_of_memory(error: BaseException | None) -> bool:
    """Whether the device's memory didn't suffice, for a tensor or for a library's own needs; also
    where the end of a graph's capture failed for it.
    """
    while error is not None:
        if (isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error)
                or "out of memory" in str(error)):
            return True
        error = error.__context__
    return False


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Python's garbage collector waits: it could destroy a CUDA graph while another is captured,
    which that capture doesn't survive.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


def has_fast_bf16(where: torch.device | None = None) -> bool:
    """Whether the hardware multiplies bf16 numbers itself."""
    where = where or device()
    if where.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


def autocast(precision: str = "auto", where: torch.device | None = None, cache: bool = True):
    """The context of a model's products: bf16 where the hardware has it, else fp32. Without `cache`
    a weight is rounded where it is used, as a CUDA graph needs it.
    """
    where = where or device()
    if resolved(precision, where) == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(where.type, dtype=torch.bfloat16, cache_enabled=cache)


def resolved(precision: str, where: torch.device | None = None) -> str:
    """What `precision` (auto, bf16 or fp32) is on a device: bf16 or fp32."""
    if precision != "auto":
        return precision
    return "bf16" if has_fast_bf16(where) else "fp32"


def seed(*numbers: int) -> None:
    """Seed torch's global generators from whole numbers, 0 or more, hashed together; faster than
    torch.manual_seed, which asks every kind of device.
    """
    hashed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    torch.default_generator.manual_seed(hashed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed(hashed)


def versions() -> dict[str, str]:
    """What a run's numbers may depend on besides its settings."""
    return {"python": platform.python_version(), "torch": torch.__version__,
            "sentencepiece": sentencepiece.__version__, "sacrebleu": sacrebleu.__version__}


def commit() -> str:
    """The commit that is checked out, `unknown` outside git and where there is no git."""
    try:
        done = subprocess.run(["git", "rev-parse", "--show-toplevel", "HEAD"], cwd=ROOT,
                              capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    except OSError:
        return "unknown"
    top, _, head = done.stdout.partition("\n")  # top: of an unpacked archive, not another's
    return head.strip() if top == str(ROOT) and not done.returncode else "unknown"
