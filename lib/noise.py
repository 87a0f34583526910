"""Random numbers that belong to sentences: the same whatever a sentence is batched with.

On a CPU every sentence draws from a generator of its own. On a GPU that would be a launch a sample,
and numbers from the host would take longer to come than their use. There a sentence's samples come
in blocks of `BLOCK`, a launch each; what a block has too many waits for the next call. Either way
the first n of more samples are the same. The numbers of two kinds of device differ.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["BLOCK", "Noise", "normal", "sentence_generator"]

BLOCK = 16  # samples of a sentence that a GPU draws at once


def sentence_generator(source: np.ndarray, seed: int, *of: int) -> np.random.Generator:
    """What one sentence draws from: made of `seed`, its own subwords, and the numbers `of` alone.
    """
    digest = hashlib.sha256(source.astype("<i8").tobytes()).digest()[:16]
    return np.random.default_rng([seed, int.from_bytes(digest, "little"), *of])


def normal(generators: Sequence[np.random.Generator], samples: int, lengths: Sequence[int],
           like: Tensor, channels: int, scale: float = 1.0, block: int = BLOCK,
           ) -> Float[Tensor, "rows samples length channels"]:
    """Normal numbers of deviation `scale` for each row's own length, 0 beyond it.

    `like` says the device and the precision. `block` 1 spares a GPU samples that no one takes.
    """
    shape = len(generators), samples, max(lengths), channels
    if like.is_cuda:
        return _in_blocks(generators, lengths, like.new_zeros(shape), block).mul_(scale)
    eps = np.zeros(shape)
    for row, generator, length in zip(eps, generators, lengths, strict=True):
        row[:, :length] = generator.standard_normal((samples, length, channels))
    return torch.from_numpy(scale * eps).to(like)


def _in_blocks(generators: Sequence[np.random.Generator], lengths: Sequence[int], eps: Tensor,
               block: int) -> Tensor:
    """`eps` [rows, samples, length, channels], filled a row's block at a time."""
    own = torch.Generator(eps.device)
    for row, generator, length in zip(eps, generators, lengths, strict=True):
        keys = generator.integers(2**63, size=-(-len(row) // block)).tolist()
        for part, key in zip(row.split(block), keys, strict=True):
            drawn = torch.randn(block, length, row.shape[2], dtype=eps.dtype, device=eps.device,
                                generator=own.manual_seed(key))
            part[:, :length] = drawn[:len(part)]
    return eps


class Noise:
    """Standard normal noise for the sentences of a batch, sample after sample."""

    def __init__(self, like: Float[Tensor, "batch length channels"],
                 generator: torch.Generator | list[torch.Generator] | None):
        """`generator`: a list of one a sentence, or one for the whole batch."""
        self.generators = generator if isinstance(generator, list) else [generator]
        self.shape = len(like) // len(self.generators), *like.shape[1:]  # of a generator's sample
        self.like = {"dtype": like.dtype, "device": like.device}
        self.blocks = like.is_cuda and isinstance(generator, list)
        self.left = like.new_empty(len(self.generators), 0, *self.shape)

    def draw(self, count: int) -> Float[Tensor, "samples length channels"]:
        """The next `count` samples of each sentence, [batch * count, length, channels]."""
        if not self.blocks:
            drawn = torch.stack([self._drawn(count, own) for own in self.generators])
            return drawn.movedim(1, 2).flatten(0, 2)
        more = -(-max(0, count - self.left.shape[1]) // BLOCK)
        fresh = torch.empty(len(self.left), more * BLOCK, *self.shape, **self.like)
        for row, own in zip(fresh, self.generators, strict=True):
            for part in row.split(BLOCK):
                part.normal_(generator=own)
        drawn = torch.cat([self.left, fresh], 1) if self.left.shape[1] else fresh
        self.left = drawn[:, count:]
        return drawn[:, :count].movedim(1, 2).flatten(0, 2)

    def _drawn(self, count: int, own: torch.Generator | None) -> Tensor:
        """One sample after the other; at once where torch's generator on a CPU does the same."""
        if self.like["device"].type == "cpu" and not np.prod(self.shape) % 16:
            return torch.randn(count, *self.shape, generator=own, **self.like)
        return torch.stack([torch.randn(self.shape, generator=own, **self.like)
                            for _ in range(count)])
