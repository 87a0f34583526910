"""No process outlives the one that started it, however that one ends."""

import ctypes
import signal
import sys

__all__ = ["die_with_parent"]

_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
PR_SET_PDEATHSIG = 1


def die_with_parent(how: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel (Linux) send this process a signal when the one that started it is gone.

    Fit for `preexec_fn`, between fork and exec.
    """
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, how, 0, 0, 0)
