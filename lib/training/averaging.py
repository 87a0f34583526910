"""The moving average of a model's weights: it is validated and kept, the weights train on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """An exponential moving average of all parameters of a model.

    Its decay is min(decay, step / (step + 10)), so that the random start is soon forgotten; decay 0
    is the weights themselves.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay = model, decay
        self.values = {n: p.detach().clone() for n, p in model.named_parameters()}

    @torch.no_grad()
    def restart(self) -> None:
        """Begin again at the weights as they are."""
        for name, value in self.model.named_parameters():
            self.values[name].copy_(value)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step `step`, counted from 1."""
        torch._foreach_lerp_(list(self.values.values()),
                             [p.detach() for p in self.model.parameters()], 1 - self.decay_at(step))

    def decay_at(self, step: int) -> float:
        """The decay after optimiser step `step`."""
        return min(self.decay, step / (step + 10))

    @torch.no_grad()
    def follow(self, decay: Tensor) -> None:
        """Take in the weights with a decay that the host doesn't read, a scalar tensor."""
        values = list(self.values.values())
        ahead = torch._foreach_sub([p.detach() for p in self.model.parameters()], values)
        torch._foreach_mul_(ahead, 1 - decay)
        torch._foreach_add_(values, ahead)

    def weights(self) -> dict[str, Tensor]:
        """The averaged parameters with the model's buffers, as a model's state."""
        return {**self.model.state_dict(), **self.values}

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let the model have the averaged parameters inside the block, and its own after it."""
        own = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        self._load(self.values)
        try:
            yield
        finally:
            self._load(own)

    @torch.no_grad()
    def _load(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.copy_(values[name])
