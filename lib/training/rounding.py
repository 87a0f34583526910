"""Weights that products alone read, rounded for all of them at once.

Autocast rounds each weight where it is used, and its gradient back: two small kernels a weight,
hundreds a step. Here one pass rounds all, and one takes the gradients back: the same numbers.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lib.layers import SourceKeysValues
from lib.training import parallel

__all__ = ["RoundedWeights"]


class RoundedWeights:
    """A model's loss terms and gradients by way of rounded copies of some of its weights."""

    def __init__(self, model: nn.Module, dtype: torch.dtype | None):
        """`dtype`: what autocast rounds to; None: nothing is rounded."""
        products = [] if dtype is None else [
            f"{name}.{own}" for name, module in model.named_modules()
            if isinstance(module, nn.Linear | SourceKeysValues)
            for own, _ in module.named_parameters(recurse=False)]
        named = dict(model.named_parameters())
        self.parameters = list(named.values())
        self._losses = parallel.replicate(model, unused=False)
        self._exact = [named[name] for name in products]
        self._copies = [exact.detach().to(dtype).requires_grad_() for exact in self._exact]
        self._names = [f"model.{name}" for name in products]
        copies = dict(zip(map(id, self._exact), self._copies, strict=True))
        self._leaves = [copies.get(id(p), p) for p in self.parameters]

    def losses(self, *arguments) -> dict[str, Tensor]:
        """`model.loss_terms(*arguments)`, the weights rounded anew."""
        if self._copies:
            with torch.no_grad():
                torch._foreach_copy_(self._copies, self._exact)
        return functional_call(self._losses, dict(zip(self._names, self._copies, strict=True)),
                               arguments)

    def gradients(self, loss: Tensor) -> list[Tensor | None]:
        """That of each parameter, in its own precision; None where the loss doesn't need it."""
        gradients = list(torch.autograd.grad(loss, self._leaves, allow_unused=True))
        rounded = [place for place, (p, leaf) in enumerate(
            zip(self.parameters, self._leaves, strict=True))
            if leaf is not p and gradients[place] is not None]
        if rounded:
            exact = [torch.empty_like(self.parameters[place]) for place in rounded]
            torch._foreach_copy_(exact, [gradients[place] for place in rounded])
            for place, gradient in zip(rounded, exact, strict=True):
                gradients[place] = gradient
        return gradients
