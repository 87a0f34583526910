"""Under test each process has a copy of the committed results to itself: notebooks write there."""

import os
import shutil
from pathlib import Path

import pytest

from lib.host import allowed_cores
from lib.paths import ROOT, cache_root

LARGEST = 4 * 2**20  # bytes: more than any file that the repository keeps
COPY = pytest.StashKey[Path]()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What `--numprocesses=auto` means: a process a core, of those that are ours."""
    return min(8, allowed_cores())  # each has a kernel of its own


def pytest_configure(config: pytest.Config) -> None:
    """Before any kernel starts, which inherits the environment."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if config.getoption("numprocesses", None) and not worker:
        return  # it only hands out the work
    copy = config.stash[COPY] = cache_root() / "test-outputs" / (worker or "alone")
    os.environ["DISCREPANCY_OUTPUTS"] = str(copy)
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(ROOT / "outputs", copy, ignore=_too_large)


def pytest_unconfigure(config: pytest.Config) -> None:
    """The copy goes."""
    if COPY in config.stash:
        shutil.rmtree(config.stash[COPY], ignore_errors=True)


def _too_large(folder: str, names: list[str]) -> list[str]:
    files = [Path(folder, name) for name in names]
    return [file.name for file in files if file.is_file() and file.stat().st_size > LARGEST]
