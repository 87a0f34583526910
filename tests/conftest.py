"""What every test shares: shapes checked at run time, one thread, fixed seeds, no user's files."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for kernels and processes that tests start
os.environ.setdefault("TQDM_DISABLE", "1")

import random

import matplotlib
import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

# Before any import of them: every annotation, tensor shapes included, is then enforced.
install_import_hook(["lib", "analysis", "workflow"], "beartype.beartype")

from lib import runtime  # noqa: E402 (after the hook)
from lib.host import allowed_cores  # noqa: E402

matplotlib.use("Agg")  # not by MPLBACKEND, which the kernels would inherit
torch.set_num_threads(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What `--numprocesses=auto` means: a process a core, of those that are ours."""
    return min(16, allowed_cores())  # each holds torch in memory


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers for a test whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (for libraries that draw from the global state)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def without_gpu(request, monkeypatch):
    """A test that isn't marked `gpu` runs on the CPU, whatever the machine has; others need one."""
    if "gpu" not in request.keywords:
        monkeypatch.setattr(runtime, "device", lambda: torch.device("cpu"))
    elif not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")


@pytest.fixture
def float64():
    """Double precision for every tensor that the test makes without saying otherwise."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield torch.float64
    torch.set_default_dtype(before)


@pytest.fixture
def isolated(tmp_path, monkeypatch):
    """An empty place for data, cache and outputs; returns its folder, with the three below it."""
    for name in ("data", "cache", "outputs"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"DISCREPANCY_{name.upper()}", str(tmp_path / name))
    return tmp_path
