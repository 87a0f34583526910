"""What only the operating system knows: the cores that are ours, and when a parent is gone."""

import ctypes
import getpass
import os
import signal
import sys
from pathlib import Path

__all__ = ["allowed_cores", "die_with_parent", "have_home", "home"]

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


def have_home(spare: Path) -> None:
    """Make `spare` this process's home where its user has none, or can't write in it, as in a
    container, and the user's number its name: Jupyter, Snakemake and matplotlib ask for both.
    """
    if home() is None or not os.access(home(), os.W_OK):
        spare.mkdir(parents=True, exist_ok=True)
        os.environ["HOME"] = str(spare)
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = str(os.getuid())


def die_with_parent(how: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel (Linux) send this process a signal when the one that started it is gone,
    however that one ends. Fit for `preexec_fn`, between fork and exec.
    """
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, how, 0, 0, 0)
