"""A translation task ready for a model: corpus, joint vocabulary, and tokenised splits."""

import contextlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lib import corpora, subword
from lib.batching import Tokenised, tokenise
from lib.config import Config
from lib.corpora import formats
from lib.errors import DataError
from lib.layers import LONGEST
from lib.paths import TEACHER_SEED, DistilledFolder, read_json

__all__ = ["Task", "distilled_folder", "distilled_targets"]


def distilled_folder(config: Config) -> DistilledFolder:
    """Where the training set of a run on distilled data lies."""
    return DistilledFolder(config.dataset.name, config.scale, config.dataset.teacher, TEACHER_SEED)


def distilled_targets(folder: DistilledFolder, language: str, pairs: corpora.Pairs) -> list[str]:
    """The teacher's translation of each training source, in corpus order; "" where there is none.

    Errors: DataError for a set that is missing, unfinished, damaged, or of another training text.
    """
    path, fix = folder.text(language), f"make it with `{folder.command}`"
    if not path.is_file() or not folder.config.is_file():
        raise DataError(f"there is no distilled training set {path}: {fix}")
    targets = formats.lines(formats.uncompressed(path), str(path))
    try:
        described = read_json(folder.config)
        raw, made = described["training_text"], described["distilled_text"]
    except KeyError as error:
        raise DataError(f"{folder.config} is damaged (it has no {error}): {fix}") from None
    if raw != subword.text_hash(pairs.source, pairs.target):
        raise DataError(f"{path} is a translation of another training set than today's: {fix}")
    if made != subword.text_hash(targets) or len(targets) != len(pairs):
        raise DataError(f"{path} isn't the text that {folder.config.name} beside it describes: "
                        f"{fix}")
    return targets


@dataclass(frozen=True)
class Task:
    """Everything that a run reads, made on demand and cached on disk.

    Distilled data replace the targets of `train` alone: vocabulary, dev and test are those of a run
    on raw data, and `references` gives the original text of every split.
    """

    config: Config

    @cached_property
    def vocabulary(self) -> subword.Vocabulary:
        """The joint vocabulary of the raw training set (distilled runs share it)."""
        return subword.train(self.config.dataset, self.config.scale, self._pairs("train"))

    @cached_property
    def _read(self) -> dict[str, corpora.Pairs]:
        return {}

    def _pairs(self, split: str) -> corpora.Pairs:
        if split not in self._read:
            self._read[split] = corpora.read(self.config.dataset, split)
        return self._read[split]

    def _tokenised(self, split: str, max_tokens: int | None = None) -> Tokenised:
        pairs, name = self._pairs(split), f"{self.config.dataset.name}-{split}"
        data = tokenise(pairs, self.vocabulary, key=name, max_tokens=max_tokens)
        for side, lengths in enumerate((data.source_lengths, data.target_lengths)):
            if lengths.max() >= LONGEST:
                row = int(lengths.argmax())
                raise DataError(
                    f"{pairs.names[side]}, line {data.lines[row] + 1} has {lengths[row]} subwords, "
                    f"models take {LONGEST - 1} at most: shorten it, or remove that line from both "
                    "languages' files" + " (or lower max_tokens)" * (max_tokens is not None))
        return data

    @cached_property
    def train(self) -> Tokenised:
        """Training pairs of at most `max_tokens` subwords a side.

        Errors: DataError for distilled text that nobody has made, or a pair that is too long.
        """
        if self.config.train_data == "distilled":
            return self._distilled()
        return self._tokenised("train", self.config.dataset.max_tokens)

    def _distilled(self) -> Tokenised:
        """The original sources with the teacher's translations; pairs without one are left out."""
        dataset, raw = self.config.dataset, self._pairs("train")
        targets = distilled_targets(distilled_folder(self.config), dataset.target, raw)
        rows = np.array([row for row, line in enumerate(targets) if line], np.int64)
        pairs = corpora.Pairs([raw.source[row] for row in rows], [targets[row] for row in rows])
        data = tokenise(pairs, self.vocabulary, key=f"{dataset.name}-train-distilled",
                        max_tokens=dataset.max_tokens)
        return replace(data, lines=rows[data.lines])

    @cached_property
    def dev(self) -> Tokenised:
        """Validation pairs, all of them. Errors: DataError for one beyond a model's positions."""
        return self._tokenised("dev")

    @cached_property
    def test(self) -> Tokenised:
        """Test pairs, all of them; only evaluation scores them. Errors: as for dev."""
        return self._tokenised("test")

    def check_test(self) -> None:
        """Have a test sentence beyond a model's positions refused before training, not after it.

        A test set that can't be read is for evaluation to refuse. Errors: DataError.
        """
        with contextlib.suppress(DataError):
            self._pairs("test")
        if "test" in self._read:
            _ = self.test

    def sources(self, split: str) -> list[str]:
        """Source lines of a split."""
        return self._pairs(split).source

    def references(self, split: str) -> list[str]:
        """Target lines of a split, as they are (detokenised)."""
        return self._pairs(split).target
