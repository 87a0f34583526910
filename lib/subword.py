"""Subwords: one joint SentencePiece vocabulary per corpus and size, whose decoding loses nothing."""

__all__ = ["BOS", "EOS", "PAD", "UNK"]

PAD, BOS, EOS, UNK = 0, 1, 2, 3
