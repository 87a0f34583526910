"""One training run in several processes: who this one is, its share, and what all must agree on.

Started by torchrun (or `run`), each process holds the same weights and computes the gradient of
its own batches of a step; DistributedDataParallel sums the gradients. A process that nobody else
shares the run with goes the same way through every function here, which then does nothing.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lib.errors import ConfigError, ReproError, TrainingError
from lib.host import die_with_parent
from lib.paths import ROOT

__all__ = ["first_goes_ahead", "from_first", "is_first", "joined", "local", "processes", "rank",
           "replicate", "run", "share", "totals"]

MEETING = timedelta(minutes=2)  # for all processes to have started
WAITING = timedelta(hours=12)  # for the first one to have validated, or tokenised a corpus
GRACE = 20.0  # seconds that torchrun has to end its processes
POLL = 0.5  # seconds between two looks at them

Item, Made = TypeVar("Item"), TypeVar("Made")


# ---- who is there ----

def rank() -> int:
    """This process's place among all of them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes() -> int:
    """How many share the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that validates and writes."""
    return rank() == 0


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Meet the other processes that torchrun started; without torchrun, nothing.

    gloo on the CPU, nccl on GPUs, one GPU a process. A process whose launcher is gone ends.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    die_with_parent(signal.SIGKILL)
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=MEETING)
    _GROUPS.append(dist.new_group(timeout=WAITING))
    try:
        yield
    finally:
        _GROUPS.clear()
        dist.destroy_process_group()


_GROUPS: list = []  # the group of all processes whose calls may wait for long


def _group():
    return _GROUPS[-1] if _GROUPS else None


# ---- shares, sums, agreement ----

def share(batches: Sequence[Item]) -> list[Item]:
    """This process's own of the batches of a step: each belongs to exactly one process.

    Errors: ConfigError where there are fewer batches than processes.
    """
    if len(batches) < processes():
        raise ConfigError(
            f"{processes()} processes can't share a step of accumulate = {len(batches)} "
            f"batch{'es' * (len(batches) > 1)}: start {len(batches)}, or set accumulate to a "
            f"multiple of {processes()} (the result then depends on it, not on the processes)")
    return list(batches[rank()::processes()])


def totals(terms: dict[str, Tensor]) -> dict[str, float]:
    """Each scalar summed over all processes, in double precision: the same numbers in each."""
    values = torch.stack([value.double() for value in terms.values()])
    if dist.is_initialized():
        dist.all_reduce(values, group=_group())
    return dict(zip(terms, values.tolist(), strict=True))


def from_first(make: Callable[[], Made]) -> Made:
    """What `make` returns (plain Python) in the first process, in every process; a ReproError of
    its is raised in all of them.
    """
    if not dist.is_initialized():
        return make()
    made = [None, None]
    if is_first():
        try:
            made[0] = make()
        except ReproError as error:
            made[1] = error
    dist.broadcast_object_list(made, src=0, group=_group(), device=torch.device("cpu"))
    if made[1] is not None:
        raise made[1]
    return made[0]


@contextlib.contextmanager
def first_goes_ahead() -> Iterator[None]:
    """The first process does the block alone (it fills caches on disk), then the others do."""
    if not is_first():
        from_first(lambda: None)
    yield
    if is_first():
        from_first(lambda: None)


# ---- the model ----

class _Losses(nn.Module):
    """A model that gives its loss terms when called, which is how DDP reaches it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *arguments) -> dict[str, Tensor]:
        return self.model.loss_terms(*arguments)


def replicate(model: nn.Module, unused: bool) -> nn.Module:
    """A module that gives the model's loss terms when called, its gradients averaged over all.

    `unused`: some parameters get no gradient for now (a prior while the KL weight is 0); make a new
    replica when that changes.
    """
    losses = _Losses(model)
    if not dist.is_initialized():
        return losses
    return DistributedDataParallel(losses, process_group=_group(), forward_sync_buffers=False,
                                   find_unused_parameters=unused)


def local(replica: nn.Module, last: bool):
    """The context of a process's batch; only in the last one of a step gradients are exchanged."""
    alone = last or not isinstance(replica, DistributedDataParallel)
    return contextlib.nullcontext() if alone else replica.no_sync()


# ---- starting ----

def run(count: int, words: Sequence[str], threads: int,
        on_tick: Callable[[], None] = lambda: None) -> None:
    """`count` processes of `python WORDS` under torchrun, each with so many threads; waits.

    However this or torchrun ends, none of them is left. Errors: TrainingError with their last
    words.
    """
    command = (sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--nproc-per-node", str(count), *words)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
                                   stdout=log, stderr=subprocess.STDOUT,
                                   preexec_fn=die_with_parent)
        try:
            while process.poll() is None:
                on_tick()
                time.sleep(POLL)
        finally:
            _end(process)
        on_tick()
        if process.returncode:
            log.seek(0)
            lines = [line.strip() for line in log if line.strip()] or ["torchrun said nothing"]
            errors = [line for line in lines if line.startswith("error: ")]
            raise TrainingError((errors or lines)[-1].removeprefix("error: "))


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()  # those that it started follow it
            process.wait()
