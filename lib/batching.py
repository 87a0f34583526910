"""From sentence pairs to padded tensors: flat token arrays, length buckets, collation by gather."""

import hashlib
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from lib.errors import ConfigError, DataError
from lib.paths import cache_root, read_arrays, write_cache
from lib.subword import EOS, PAD, text_hash

__all__ = [
    "Batch", "Tokenised", "collate", "collate_fixed", "evaluation_batches",
    "padded_length", "tokenise", "training_batches",
]

CHUNK = 100_000  # lines encoded at once: bounds the memory that Python integers take
SEQUENCES = 2**15  # rows of a batch at most: fused attention on a GPU takes fewer than 2^16


@dataclass(frozen=True, eq=False)
class Batch:
    """Padded token ids of some sentence pairs; in every mask True is a real position.

    A target carries EOS up to a multiple of `multiple`, real positions which a model predicts.
    """

    source: Int64[Tensor, "batch S"]
    """Source ids, every row ending in one EOS, then PAD."""
    source_mask: Bool[Tensor, "batch S"] | None
    """False on PAD; None when every position is real."""
    target: Int64[Tensor, "batch T"]
    """Target ids, every row ending in EOS up to a multiple of `multiple`, then PAD."""
    target_mask: Bool[Tensor, "batch T"] | None
    """False on PAD only (True on the EOS padding); None when every position is real."""
    target_tokens: Int64[Tensor, " batch"]
    """Subwords of the target and one EOS: the EOS padding isn't counted."""
    index: Int64[Tensor, " batch"]
    """Line numbers in the corpus, from 0; -1 in a filler row."""
    fixed: bool = False
    """Whether its shape is one of few (`collate_fixed`), and nothing may take a shape from values.
    Filler rows then follow the real ones: a source of one EOS, a target of PAD alone."""

    def __len__(self) -> int:
        return self.index.shape[0]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on `device`."""
        return replace(self, **{
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items() if isinstance(value, Tensor)
        })


@dataclass(frozen=True, eq=False)
class Tokenised:
    """A tokenised corpus of `pairs` sentence pairs as flat arrays, without special tokens.

    Row i's source is `source_ids[source_offsets[i]:source_offsets[i + 1]]`; targets likewise.
    """

    source_ids: np.ndarray  # int32 [source tokens]
    source_offsets: np.ndarray  # int64 [pairs + 1]
    target_ids: np.ndarray  # int32 [target tokens]
    target_offsets: np.ndarray  # int64 [pairs + 1]
    lines: np.ndarray  # int64 [pairs]: each row's line in the corpus; long pairs may be left out

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def source_lengths(self) -> np.ndarray:
        """int64 [pairs]: subwords of each source, without EOS."""
        return np.diff(self.source_offsets)

    @property
    def target_lengths(self) -> np.ndarray:
        """int64 [pairs]: subwords of each target, without EOS."""
        return np.diff(self.target_offsets)

    @property
    def fingerprint(self) -> str:
        """sha256 of everything in it: other subwords, other order or other lines give another."""
        parts = (np.ascontiguousarray(value).tobytes() for value in vars(self).values())
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()

    def by_length(self, count: int) -> np.ndarray:
        """`count` rows at evenly spaced places of the order by target length."""
        order = np.argsort(self.target_lengths, kind="stable")
        return order[((np.arange(count) + 0.5) / count * len(order)).astype(int)]

    def take(self, rows: np.ndarray) -> "Tokenised":
        """The given rows, in the given order; they keep their line numbers."""
        source_ids, source_offsets = _take(self.source_ids, self.source_offsets, rows)
        target_ids, target_offsets = _take(self.target_ids, self.target_offsets, rows)
        return Tokenised(source_ids, source_offsets, target_ids, target_offsets, self.lines[rows])


def _take(ids: np.ndarray, offsets: np.ndarray, rows: np.ndarray):
    """The ragged rows of a flat array, as (ids, offsets)."""
    lengths = np.diff(offsets)[rows]
    taken = np.concatenate([[0], np.cumsum(lengths)])
    gather = np.arange(taken[-1]) + np.repeat(offsets[:-1][rows] - taken[:-1], lengths)
    return ids[gather], taken


def padded_length(lengths, multiple: int):
    """Positions that `lengths` subwords (integers, arrays, tensors) take with one EOS, rounded up
    to a multiple: at multiple 4, 3 subwords take 4 positions and 4 take 8.
    """
    return (lengths // multiple + 1) * multiple


# ---- tokenising ---------------------------------------------------------------------------------

def _flatten(lines: list[str], vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of all lines in one int32 array, with int64 offsets [lines + 1]."""
    ids, lengths = [np.empty(0, np.int32)], [np.zeros(1, np.int64)]
    for start in range(0, len(lines), CHUNK):
        encoded = vocabulary.encode(lines[start:start + CHUNK])
        lengths.append(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        ids.append(np.fromiter(chain.from_iterable(encoded), np.int32, lengths[-1].sum()))
    return np.concatenate(ids), np.cumsum(np.concatenate(lengths))


def _load(path: Path, pairs: int) -> Tokenised | None:
    """The cached corpus, or None if there is none or it doesn't read: then it's made again."""
    try:
        data = Tokenised(**read_arrays(path))
    except (OSError, ValueError, TypeError):
        return None
    return data if len(data) == pairs else None


def _save(path: Path, data: Tokenised) -> None:
    with open(path, "wb") as file:  # np.savez would add an ending to a name
        np.savez(file, **vars(data))


def tokenise(pairs, vocabulary, *, key: str = "corpus",
             max_tokens: int | None = None) -> Tokenised:
    """Token ids of sentence pairs, from the cache on disk if they were tokenised before.

    The file's name holds the fingerprint of the vocabulary and of the text, and `key` to be read;
    a damaged one is made again.

    pairs: has equally long lists `source` and `target`. vocabulary: has `encode(lines) ->
    list[list[int]]` and `fingerprint`. max_tokens: leave out a pair when either side has more
    subwords (training only). Errors: DataError where nothing is left.
    """
    text = text_hash(pairs.source, pairs.target)
    name = f"{key}-{vocabulary.fingerprint[:16]}-{text[:16]}.npz"
    path = cache_root() / "tokenised" / name.replace("/", "-")
    data = _load(path, len(pairs.source))
    if data is None:
        data = Tokenised(*_flatten(pairs.source, vocabulary), *_flatten(pairs.target, vocabulary),
                         np.arange(len(pairs.source)))
        write_cache(path, lambda temporary: _save(temporary, data))
    if max_tokens is None:
        return data
    short = np.maximum(data.source_lengths, data.target_lengths) <= max_tokens
    if not short.any():
        raise DataError(f"none of the {len(data)} pairs of {key} has at most {max_tokens} subwords "
                        "on both sides: raise max_tokens")
    return data if short.all() else data.take(np.flatnonzero(short))


# ---- batches ------------------------------------------------------------------------------------

def _cut(rows: np.ndarray, width: np.ndarray, bucket: np.ndarray, tokens: int,
         sequences: int = SEQUENCES) -> list[np.ndarray]:
    """Cut rows into groups of one bucket with len(group) x widest <= tokens (at least one row).

    `width` [rows] must not increase inside a bucket: a group's first row is then its widest.
    """
    ends = np.append(np.flatnonzero(np.diff(bucket)) + 1, len(rows))
    groups, start = [], 0
    for end in ends:
        while start < end:
            stop = min(start + max(1, min(sequences, tokens // int(width[start]))), int(end))
            groups.append(rows[start:stop])
            start = stop
    return groups


def training_batches(data: Tokenised, tokens: int, multiple: int, seed: int, epoch: int, *,
                     fixed: bool = False) -> list[np.ndarray]:
    """Groups of rows for one epoch, in the order of training: every row once.

    A group's rows x max(longest source, longest padded target), both with EOS, is at most
    `tokens`. With `multiple` > 1 a group has one padded target length, so that nothing is masked
    on the target side. (seed, epoch) decide the groups.

    fixed: groups for `collate_fixed`, of few shapes instead: the wider side rounded up to a
    multiple of 4, beyond 32 of 8, times as many rows as `tokens` holds; all but the last are full.

    Errors: ConfigError for a pair wider than `tokens`.
    """
    rng = np.random.default_rng([seed, epoch])
    rows = rng.permutation(len(data))
    source, target = _lengths(data, rows, multiple)
    width = np.maximum(source, target)
    taken = _rounded(width) if fixed else width
    _check_widths(data, rows, taken, tokens)
    # Stable sorts of a permutation: which of the equally long sentences meet is left to chance.
    if multiple > 1 and not fixed:
        order, bucket = np.lexsort((-source, target)), target
    else:
        order, bucket = np.lexsort((-(source + target), -width)), np.zeros_like(width)
    groups = _cut(rows[order], taken[order], bucket[order], tokens)
    return [groups[place] for place in rng.permutation(len(groups))]


def _lengths(data: Tokenised, rows: np.ndarray, multiple: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions that the rows' sources and targets take."""
    return data.source_lengths[rows] + 1, padded_length(data.target_lengths[rows], multiple)


def _rounded(width):
    """The width of a batch of fixed shape that holds `width` positions."""
    step = np.where(width > 32, 8, 4)
    return -(-width // step) * step


def _check_widths(data: Tokenised, rows: np.ndarray, width: np.ndarray, tokens: int) -> None:
    if width.max() > tokens:
        line = data.lines[rows[width.argmax()]]
        raise ConfigError(f"a batch of {tokens} positions can't hold line {line + 1} of the "
                          f"training set, which takes {width.max()}: raise batch_tokens or lower "
                          "max_tokens")


def evaluation_batches(data: Tokenised, tokens: int, multiple: int,
                       sequences: int = SEQUENCES) -> list[np.ndarray]:
    """Groups of rows by falling length, every row once: what doesn't fit in memory fails first.

    A group's rows x max(longest source, longest padded target) is at most `tokens`, its rows at
    most `sequences`; a row that is wider than `tokens` makes a group of its own.
    """
    source, target = _lengths(data, np.arange(len(data)), multiple)
    width = np.maximum(source, target)
    order = np.lexsort((-(source + target), -width))
    return _cut(order, width[order], np.zeros_like(order), tokens, sequences)


def _pad(ids: np.ndarray, offsets: np.ndarray, rows: np.ndarray, multiple: int):
    """Rows of a flat array as (padded ids [rows, width], mask or None, lengths without EOS)."""
    lengths = offsets[rows + 1] - offsets[rows]
    ends = padded_length(lengths, multiple)
    position = np.arange(ends.max())
    real = position < ends[:, None]
    padded = np.where(real, EOS, PAD).astype(np.int64)
    inside = position < lengths[:, None]
    padded[inside] = ids[(offsets[rows][:, None] + position)[inside]]
    mask = None if real.all() else torch.from_numpy(real)
    return torch.from_numpy(padded), mask, lengths


def collate(data: Tokenised, rows: np.ndarray, multiple: int) -> Batch:
    """The batch of the given rows, on the CPU; `multiple` is 1 for autoregressive models."""
    rows = np.asarray(rows)
    source, source_mask, _ = _pad(data.source_ids, data.source_offsets, rows, 1)
    target, target_mask, lengths = _pad(data.target_ids, data.target_offsets, rows, multiple)
    return Batch(source, source_mask, target, target_mask, torch.from_numpy(lengths + 1),
                 torch.from_numpy(data.lines[rows]))


def collate_fixed(data: Tokenised, rows: np.ndarray, multiple: int, tokens: int,
                  parts: int = 1) -> list[Batch]:
    """The rows of one of the fixed `training_batches` as `parts` batches of one shape, on the CPU.

    The shape depends on nothing but `tokens`, `parts` and the rounded width.
    """
    rows = np.asarray(rows)
    source, target = _lengths(data, rows, multiple)
    width = int(_rounded(max(source.max(), target.max())))
    each = -(-max(1, min(SEQUENCES, tokens // width)) // parts)
    return [_filled(collate(data, part, multiple) if len(part) else None, each, width)
            for part in (rows[start:start + each] for start in range(0, each * parts, each))]


def _filled(batch: Batch | None, rows: int, width: int) -> Batch:
    """A batch with more rows and wider, its masks spelt out; None is a batch without rows."""
    source, target = (torch.full((rows, width), PAD) for _ in range(2))
    tokens, index = torch.zeros(rows, dtype=torch.long), torch.full((rows,), -1)
    source[:, 0] = EOS
    if batch is not None:
        real = len(batch)
        source[:real, :batch.source.shape[1]] = batch.source
        target[:real, :batch.target.shape[1]] = batch.target
        tokens[:real], index[:real] = batch.target_tokens, batch.index
    return Batch(source, source != PAD, target, target != PAD, tokens, index, fixed=True)
