"""What every test shares: shapes checked at run time, one thread, fixed seeds, no user's files."""

import functools
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for kernels and processes that tests start
os.environ.setdefault("TQDM_DISABLE", "1")

import random

import jaxtyping
import matplotlib
import numpy as np
import pytest
import torch

CHECKED = 3  # calls of each function in each test: to check all of them takes as long as the tests
CALLS: dict[object, int] = {}
ALWAYS = jaxtyping.jaxtyped


def checked_first(*, typechecker):
    """`jaxtyping.jaxtyped` that enforces a function's annotations in its first calls of a test."""
    def decorate(made):
        checked = ALWAYS(typechecker=typechecker)(made)
        if isinstance(made, type):
            return checked

        @functools.wraps(made)
        def call(*arguments, **named):
            count = CALLS.get(made, 0)
            if count >= CHECKED:
                return made(*arguments, **named)
            CALLS[made] = count + 1
            return checked(*arguments, **named)
        return call
    return decorate


# Before any import of them: annotations, tensor shapes included, are then enforced.
jaxtyping.jaxtyped = checked_first
jaxtyping.install_import_hook(["lib", "analysis", "workflow"], "beartype.beartype")

from tiny import AUTOREGRESSIVE, VOCABULARY, model_of, ragged  # noqa: E402 (after the hook)

from lib import corpora, runtime  # noqa: E402
from lib.host import allowed_cores  # noqa: E402
from lib.synthetic import ToyTask  # noqa: E402

matplotlib.use("Agg")  # not by MPLBACKEND, which the kernels would inherit
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option of test_readme.py."""
    parser.addoption("--update-pages", action="store_true", help="write the numbers that results "
                     "give into README.md and docs/, where tests/test_readme.py compares them")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What `--numprocesses=auto` means: one more than the cores that are ours, as tests wait for
    the processes that they start.
    """
    return min(16, allowed_cores() + 1)  # each holds torch in memory


SLOWEST = ("test_notebooks", "test_grid", "test_gpu", "test_audit", "test_training",
           "test_parallel", "test_benchmarks", "test_evaluation", "test_verdicts")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes come first, so that no process is left alone with one."""
    items.sort(key=lambda item: item.path.stem not in SLOWEST)


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers, and types checked anew, whichever tests ran before."""
    CALLS.clear()
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


class MadeOnce(ToyTask):
    """The toy task, each of its corpora drawn once a process: the checks of 22,000 draws' types
    take longer than most tests.
    """

    @functools.cache  # noqa: B019 (few tasks, and for all tests)
    def _made(self, split: str) -> tuple[list[str], list[str]]:
        return super().pairs(split)

    def pairs(self, split: str) -> tuple[list[str], list[str]]:
        source, target = self._made(split)
        return list(source), list(target)


@pytest.fixture(scope="session", autouse=True)
def toy_made_once():
    """Training, evaluation and all else that reads the toy corpus; not the tests of the task."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "ToyTask", MadeOnce)
        yield


@pytest.fixture
def float64():
    """Double precision for every tensor that the test makes without saying otherwise."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield torch.float64
    torch.set_default_dtype(before)


@pytest.fixture
def model():
    """A tiny autoregressive model."""
    return model_of(AUTOREGRESSIVE, VOCABULARY)


@pytest.fixture
def sources():
    """Nine source sentences of differing lengths, of that model's subwords."""
    return [source for source, _ in ragged(9, VOCABULARY)]


@pytest.fixture
def isolated(tmp_path, monkeypatch):
    """An empty place for data, cache and outputs; returns its folder, with the three below it."""
    for name in ("data", "cache", "outputs"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"DISCREPANCY_{name.upper()}", str(tmp_path / name))
    return tmp_path
