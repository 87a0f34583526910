"""Subwords: one joint SentencePiece vocabulary per corpus and size, whose decoding loses nothing.

The paper cuts words with tensor2tensor's word pieces; SentencePiece's byte-pair encoding stands in
for them because its decoding gives the text back, so BLEU is that of the text itself. Identity
normalisation leaves every character and every space as it is. Characters too rare for a piece of
their own fall back to UTF-8 bytes, so that no two strings share an encoding through an unknown
token: else log p(y|x) would not be the probability of one string.

One character can't be kept: U+2581, SentencePiece's own mark for a space, decodes as a space. A
vocabulary of whole words (`subword: word`, for the synthetic corpus) knows the training text's
words only; all others encode as `UNK`.
"""

import contextlib
import hashlib
import io
from collections.abc import Iterator, Sequence
from itertools import chain

import sentencepiece
from jaxtyping import Int
from torch import Tensor

from lib.errors import ConfigError, DataError
from lib.host import allowed_cores
from lib.paths import cache_root, write_cache

__all__ = ["BOS", "EOS", "PAD", "UNK", "Vocabulary", "before_end", "one_line",
           "text_fingerprint", "text_hash", "train"]

PAD, BOS, EOS, UNK = 0, 1, 2, 3

COVERAGE = 0.9999  # share of the text's characters with a piece of their own; the rest are bytes
ENDS = str.maketrans(  # what ends a line or a text for some reader: `one_line`
    dict.fromkeys("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029", " ") | {"\0": "\ufffd"})
TRAINING_PAIRS = 2_000_000  # evenly spaced pairs that a vocabulary is trained on, at most


class Vocabulary:
    """A trained vocabulary: text to token ids and back."""

    def __init__(self, model: bytes):
        """Errors: DataError where the bytes aren't a SentencePiece model of this repository's."""
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, ValueError) as error:
            raise DataError("the vocabulary is truncated or not a SentencePiece model") from error
        processor = self._processor
        special = (processor.pad_id(), processor.bos_id(), processor.eos_id(), processor.unk_id())
        if special != (PAD, BOS, EOS, UNK):
            raise DataError(f"the vocabulary is truncated or foreign: its pad, bos, eos and unk are"
                            f" {special}, not {(PAD, BOS, EOS, UNK)}")
        self.model = model

    def __len__(self) -> int:
        """Number of token ids, special ones included."""
        return self._processor.get_piece_size()

    @property
    def fingerprint(self) -> str:
        """sha256 of the model's bytes, in hexadecimal: equal only for the same vocabulary."""
        return hashlib.sha256(self.model).hexdigest()

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """Token ids of each line, without BOS and EOS."""
        threads = allowed_cores() if len(lines) > 1_000 else 1
        return self._processor.encode(list(lines), num_threads=threads)

    def decode(self, ids: Sequence[Sequence[int]] | Int[Tensor, "batch T"]) -> list[str]:
        """The text of each row of ids, up to its first EOS and without PAD and BOS.

        Bytes that aren't UTF-8 decode as U+FFFD, and a line break as a space: one row, one line.
        """
        rows = ids.tolist() if isinstance(ids, Tensor) else ids
        texts = self._processor.decode([before_end(row) for row in rows])
        return [text.replace("\n", " ") for text in texts]


def one_line(text: str) -> str:
    """The text as one line for every reader of lines: what any of them takes for the end of one
    (str.splitlines, C, CSV) is a space, and NUL, which ends a text in C, is U+FFFD.
    """
    return text.translate(ENDS)


def before_end(row: Sequence[int]) -> list[int]:
    """Ids before the first EOS that stand for text, without PAD and BOS."""
    end = row.index(EOS) if EOS in row else len(row)
    return [int(token) for token in row[:end] if token not in (PAD, BOS)]


def text_hash(*sides: Sequence[str]) -> str:
    """sha256 (hexadecimal) of lists of lines; their numbers are hashed too, so that moving a line
    from one list to the next changes it."""
    digest = hashlib.sha256()
    for lines in sides:
        digest.update(f"{len(lines)}\n".encode())
        for start in range(0, len(lines), 100_000):
            digest.update("\n".join([*lines[start:start + 100_000], ""]).encode())
    return digest.hexdigest()


def text_fingerprint(lines: Sequence[str]) -> str:
    """The first 16 digits of `text_hash`: enough to tell one text from another."""
    return text_hash(lines)[:16]


def _spaced(pairs) -> Iterator[str]:
    """Source and target of at most TRAINING_PAIRS pairs, evenly spaced over the corpus."""
    count = min(len(pairs.source), TRAINING_PAIRS)
    rows = (i * len(pairs.source) // count for i in range(count))
    return chain.from_iterable((pairs.source[row], pairs.target[row]) for row in rows)


def _fit(lines: Iterator[str], size: int, subword: str) -> bytes:
    """Train a SentencePiece model: the same text gives the same bytes."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, model_type=subword, vocab_size=size,
        hard_vocab_limit=False,  # a small corpus gives fewer pieces, no error
        character_coverage=COVERAGE if subword == "bpe" else 1.0,
        byte_fallback=subword == "bpe",
        normalization_rule_name="identity", remove_extra_whitespaces=False,
        pad_id=PAD, bos_id=BOS, eos_id=EOS, unk_id=UNK, minloglevel=2)
    return model.getvalue()


def train(dataset, scale: str, pairs) -> Vocabulary:
    """The joint vocabulary of a training set's source and target, from the cache if it's there.

    Special tokens and the 256 bytes of 'bpe' count in the size; a small corpus may give fewer.

    dataset: has `name`, `subword` ('bpe' or 'word') and `vocabulary`, sizes by scale. pairs: has
    equally long lists `source` and `target`.

    Errors: ConfigError for a size too small for the text's characters.
    """
    size = dataset.vocabulary[scale]
    settings = [dataset.subword, str(size), sentencepiece.__version__]
    digest = text_hash(settings, pairs.source, pairs.target)[:16]
    path = cache_root() / "vocabularies" / f"{dataset.name}-{scale}-{digest}.model"
    with contextlib.suppress(DataError, OSError):  # else trained again below, to the same bytes
        return Vocabulary(path.read_bytes())
    try:
        vocabulary = Vocabulary(_fit(_spaced(pairs), size, dataset.subword))
    except RuntimeError as error:
        raise ConfigError(f"vocabulary {scale} of {dataset.name}: no vocabulary of {size} can be "
                          f"trained on this text: {str(error).splitlines()[0]}") from error
    write_cache(path, lambda temporary: temporary.write_bytes(vocabulary.model))
    return vocabulary
