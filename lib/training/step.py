"""One optimiser step without the host: fixed shapes, tensors that stay in place, CUDA graphs.

Eager training waits for the host, which launches thousands of small kernels a step. Here the work
of a step is captured as two CUDA graphs: forward and backward pass, once for each shape of batch
and for the steps with and without the KL; and the update (clipping, Adam, the moving average). A
step copies its batch and four numbers into place and replays them. Nothing is read back: every
step's loss terms and gradient norm are logged on the device, and the trainer reads the log every
`READ_EVERY` steps and before each validation, so that a step that went wrong is never saved.

The first step of each shape is computed by plain calls, which is the warm-up that a capture needs,
and captured after it. On a CPU all steps are plain calls of the same functions.
"""

import gc
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lib import runtime
from lib.batching import Batch
from lib.config import Training
from lib.errors import TrainingError
from lib.subword import PAD
from lib.training import parallel
from lib.training.averaging import WeightAverage
from lib.training.rounding import RoundedWeights

__all__ = ["READ_EVERY", "FixedStep", "Logged", "Scalars", "takes_fixed_shapes"]

READ_EVERY = 32  # steps between two looks at the log
TERMS = 15  # loss terms that a step can have
MOST_PARTS = 64  # into which a step's batch is cut before memory is given up on
ALIGNED = 64  # numbers: each parameter's gradient starts at a multiple of this


def takes_fixed_shapes(training: Training, where: torch.device) -> bool:
    """Whether a run's steps go this way: one process on a GPU, unless `graphs` is off."""
    return where.type == "cuda" and training.graphs and parallel.processes() == 1


@dataclass(frozen=True)
class Scalars:
    """The numbers that change from step to step."""

    rate: float  # learning rate
    weight: float  # of the KL
    inverse: float  # 1 / target tokens of the step
    decay: float  # of the moving average


@dataclass(frozen=True)
class Logged:
    """What is known of a step once the log was read: summed loss terms, and the gradient's norm."""

    step: int
    terms: dict[str, float]
    norm: float


class FixedStep:
    """Optimiser steps of one model on batches of fixed shapes."""

    def __init__(self, model: nn.Module, optimiser: torch.optim.Optimizer, average: WeightAverage,
                 training: Training, seed: int):
        """`optimiser`: on a GPU a capturable one; from now on its learning rate is each step's."""
        self.model, self.optimiser, self.average = model, optimiser, average
        self.training, self.seed, self.parts = training, seed, 1
        self.parameters = list(model.parameters())
        self.where = self.parameters[0].device
        on_gpu = self.where.type == "cuda"
        exact = torch.float32 if on_gpu else self.parameters[0].dtype
        self._scalars = torch.zeros(4, dtype=exact, device=self.where)
        self._rate, self._weight, self._inverse, self._decay = self._scalars.unbind()
        for group in optimiser.param_groups:
            group["lr"] = self._rate
        optimiser._warned_capturable_if_run_uncaptured = True  # a first step is by plain calls
        self._gradient, self._gradients = _flat(self.parameters)
        rounds = runtime.resolved(training.precision, self.where) == "bf16"
        self._rounded = RoundedWeights(model, torch.bfloat16 if rounds else None)
        self._sums = torch.zeros(TERMS, dtype=torch.float64, device=self.where)
        self._log = torch.zeros(READ_EVERY, TERMS + 1, dtype=torch.float64, device=self.where)
        self._slot = torch.zeros(1, dtype=torch.long, device=self.where)
        self.unread: list[tuple[int, tuple[str, ...]]] = []  # steps since the log was read
        self._pool = torch.cuda.graph_pool_handle() if on_gpu else None
        self._aside = torch.cuda.Stream() if on_gpu else None
        self._shapes: dict[tuple, _Shape] = {}
        self._updates: dict[bool, _Stage] = {}
        self._names: dict[bool, tuple[str, ...]] = {}  # of the terms, with the KL and without
        self._used: dict[bool, list[bool]] = {}  # which parameters have a gradient
        self._with_kl: bool | None = None  # which of the two the parameters are set up for

    # ---- a step ----

    def __call__(self, step: int, batches: Callable[[int], list[Batch]],
                 scalars: Scalars) -> dict[str, Tensor]:
        """Take step number `step`; its loss terms, which wait for the device where they are read.

        `batches(parts)` gives the step's rows as so many batches of one fixed shape. Where memory
        runs out, `parts` is doubled from then on: the gradient is the same sum.
        The terms hold until the log is full.

        Errors: TrainingError where memory doesn't suffice for the smallest parts.
        """
        if not self.model.training:
            self.model.train()
        self._set(scalars)
        with_kl = scalars.weight > 0
        while not self._fits(step, batches(self.parts), with_kl):
            self._halve()
        self._update(with_kl)
        names, row = self._names[with_kl], self._log[len(self.unread)]
        self.unread.append((step, names))
        return dict(zip(names, row, strict=False))

    @property
    def full(self) -> bool:
        """Whether the log must be read before the next step."""
        return len(self.unread) == READ_EVERY

    def read(self) -> list[Logged]:
        """All steps since the last reading, in order; waits for the device."""
        if not self.unread:
            return []
        rows = self._log[:len(self.unread)].tolist()
        logged = [Logged(step, dict(zip(names, row, strict=False)), row[-1])
                  for (step, names), row in zip(self.unread, rows, strict=True)]
        self.unread.clear()
        self._slot.zero_()
        return logged

    @property
    def captured(self) -> int:
        """How many graphs there are so far."""
        return sum(stage.graph is not None for stage in self._stages)

    @property
    def _stages(self) -> list["_Stage"]:
        return [*(shape.stage for shape in self._shapes.values()), *self._updates.values()]

    def _set(self, scalars: Scalars) -> None:
        """Put the numbers in place, without waiting for what still reads the last ones."""
        values = torch.tensor([*vars(scalars).values()], dtype=self._scalars.dtype,
                              pin_memory=self.where.type == "cuda")
        self._scalars.copy_(values, non_blocking=True)

    # ---- forward and backward ----

    def _fits(self, step: int, batches: list[Batch], with_kl: bool) -> bool:
        """Add up the batches' gradients and terms; whether memory sufficed."""
        try:
            for place, batch in enumerate(batches):
                runtime.seed(self.seed, step, place)
                key = (*batch.source.shape, *batch.target.shape, with_kl)
                if key not in self._shapes:
                    self._shapes[key] = _Shape(self, batch, with_kl)
                self._shapes[key](batch)
        except RuntimeError as error:
            if not runtime.out_of_memory(error):
                raise
            return False
        return True

    def _halve(self) -> None:
        """Start the step again, in twice as many parts, with the memory that graphs held."""
        if self.parts == MOST_PARTS:
            raise TrainingError(
                f"the GPU's memory doesn't suffice, though each step is computed in {self.parts} "
                f"parts: lower batch_tokens = {self.training.batch_tokens}")
        self.parts *= 2
        warnings.warn(
            f"the GPU's memory doesn't suffice for accumulate x batch_tokens = "
            f"{self.training.accumulate} x {self.training.batch_tokens} positions at once: each "
            f"step is now computed in {self.parts} parts, with the same gradient (lower "
            "batch_tokens for smaller steps)", stacklevel=2)
        self._shapes.clear()
        self._updates.clear()  # of the same pool, which gives nothing back while one graph is left
        self._sums.zero_()
        self._gradient.zero_()
        if self.where.type == "cuda":
            self._pool = self._pool and torch.cuda.graph_pool_handle()
            gc.collect()
            torch.cuda.empty_cache()

    def _backward(self, batch: Batch, with_kl: bool) -> None:
        """Add a batch's gradients and loss terms to those of the step; it can be captured."""
        real = replace(batch, source_mask=batch.source != PAD, target_mask=batch.target != PAD)
        with runtime.autocast(self.training.precision, self.where, cache=False):
            losses = self._rounded.losses(real, self.training, self._weight if with_kl else 0.0)
        gradients = self._rounded.gradients(losses["loss"] * self._inverse)
        self._names[with_kl] = tuple(losses)
        self._used[with_kl] = [new is not None for new in gradients]
        torch._foreach_add_(
            [kept for kept, new in zip(self._gradients, gradients, strict=True) if new is not None],
            [new for new in gradients if new is not None])
        values = torch.stack([value.detach().double() for value in losses.values()])
        self._sums[:len(values)] += values

    # ---- the update ----

    def _update(self, with_kl: bool) -> None:
        if self._with_kl != with_kl:  # a parameter without a gradient must not be moved or counted
            for parameter, gradient, used in zip(self.parameters, self._gradients,
                                                 self._used[with_kl], strict=True):
                parameter.grad = gradient if used else None
            self._with_kl = with_kl
        if with_kl not in self._updates:
            self._updates[with_kl] = _Stage(self._move, self)
        try:
            self._updates[with_kl]()
        except RuntimeError as error:
            if not runtime.out_of_memory(error):
                raise
            raise TrainingError(
                "the GPU's memory doesn't suffice for the update of the weights: lower "
                f"batch_tokens = {self.training.batch_tokens}, or have fewer runs share the card; "
                "the same command goes on from the last validation") from error

    @torch.no_grad()
    def _move(self) -> None:
        """Clip, move the weights, their average, and write the log; it can be captured."""
        norm = torch.linalg.vector_norm(self._gradient)
        self._gradient.mul_((self.training.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        self.optimiser.step()
        self.average.follow(self._decay)
        row = torch.cat([self._sums, norm.double()[None]])
        self._log.index_copy_(0, self._slot, row[None])
        self._slot.add_(1)
        self._sums.zero_()
        self._gradient.zero_()

    def _give_up(self, error: Exception) -> None:
        """Go on by plain calls alone after a failed capture: what was captured before it would draw
        from the generator that is left behind.
        """
        warnings.warn(f"training goes on without CUDA graphs, for a capture failed: "
                      f"{str(error).splitlines()[0]}", stacklevel=2)
        self._pool = None
        for stage in self._stages:
            stage.graph = None
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        generator.graphsafe_set_state(torch.Generator(generator.device))


class _Shape:
    """The forward and backward pass of batches of one shape, with and without the KL."""

    def __init__(self, owner: FixedStep, like: Batch, with_kl: bool):
        self.batch = like.to(owner.where)
        self.stage = _Stage(lambda: owner._backward(self.batch, with_kl), owner)

    def __call__(self, batch: Batch) -> None:
        """Copy the batch into place, and go."""
        for name in ("source", "target", "target_tokens"):
            place, values = getattr(self.batch, name), getattr(batch, name)
            if place.is_cuda:
                values = values.pin_memory()  # the copy then waits for nothing
            place.copy_(values, non_blocking=True)
        self.stage()


class _Stage:
    """Work on tensors that stay in their places: done by plain calls once, then captured."""

    def __init__(self, work: Callable[[], None], owner: FixedStep):
        self.work, self.owner, self.graph = work, owner, None

    def __call__(self) -> None:
        """Do the work once."""
        if self.graph is not None:
            self.graph.replay()
        elif self.owner._pool is None:
            self.work()
        else:
            aside, here = self.owner._aside, torch.cuda.current_stream()
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                self.work()
            here.wait_stream(aside)
            self._capture()

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        here = torch.cuda.stream(torch.cuda.current_stream())  # also after a capture that failed
        try:
            with here, runtime.no_collection(), torch.cuda.graph(
                    graph, pool=self.owner._pool, capture_error_mode="thread_local"):
                self.work()
        except RuntimeError as error:
            if runtime.out_of_memory(error):
                raise
            self.owner._give_up(error)
        else:
            self.graph = graph


def _flat(parameters: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Zeros for all gradients in one tensor, and their places in it."""
    ends = torch.tensor([-(-p.numel() // ALIGNED) * ALIGNED for p in parameters]).cumsum(0).tolist()
    like = parameters[0]
    whole = torch.zeros(ends[-1], dtype=like.dtype, device=like.device)
    return whole, [whole[start:start + p.numel()].view_as(p)
                   for start, p in zip([0, *ends], parameters, strict=False)]
