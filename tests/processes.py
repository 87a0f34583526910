"""Waiting for processes that a test started, or that those started."""

import time
from collections.abc import Callable


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected doesn't."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(what: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until `what` gives something true; it is a failure that it doesn't."""
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.05)
