"""A translation task ready for a model: corpus, joint vocabulary, and tokenised splits."""

from dataclasses import dataclass
from functools import cached_property

from . import corpora, subword
from .batching import Tokenised, tokenise
from .config import Config
from .errors import DataError

__all__ = ["Task"]


@dataclass(frozen=True)
class Task:
    """Everything that a run reads, made on demand and cached on disk."""

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
        name = f"{self.config.dataset.name}-{split}"
        return tokenise(self._pairs(split), self.vocabulary, key=name, max_tokens=max_tokens)

    @cached_property
    def train(self) -> Tokenised:
        """Training pairs of at most `max_tokens` subwords a side.

        Errors: DataError for distilled training data, which nothing here makes yet.
        """
        if self.config.train_data != "raw":
            raise DataError(f"there is no {self.config.train_data} training data of "
                            f"{self.config.dataset.name}: train with train_data=raw")
        return self._tokenised("train", self.config.dataset.max_tokens)

    @cached_property
    def dev(self) -> Tokenised:
        """Validation pairs, all of them."""
        return self._tokenised("dev")

    @cached_property
    def test(self) -> Tokenised:
        """Test pairs, all of them; only evaluation reads them."""
        return self._tokenised("test")

    def sources(self, split: str) -> list[str]:
        """Source lines of a split."""
        return self._pairs(split).source

    def references(self, split: str) -> list[str]:
        """Target lines of a split, as they are (detokenised)."""
        return self._pairs(split).target
