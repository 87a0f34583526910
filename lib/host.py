"""What only the operating system knows: the cores that are ours, and when a parent is gone."""

import ctypes
import os
import signal
import sys
from pathlib import Path

__all__ = ["allowed_cores", "die_with_parent", "home"]

_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
PR_SET_PDEATHSIG = 1


def allowed_cores() -> int:
    """Cores that this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def home() -> Path | None:
    """The user's folder; None where `$HOME` and the user list give none (`/` is nobody's)."""
    try:
        folder = Path.home()
    except RuntimeError:
        return None
    return folder if folder.is_absolute() and folder != folder.parent else None


def die_with_parent(how: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel (Linux) send this process a signal when the one that started it is gone,
    however that one ends. Fit for `preexec_fn`, between fork and exec.
    """
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, how, 0, 0, 0)
