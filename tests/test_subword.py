"""Subwords: text survives encoding and decoding, the same text gives the same bytes."""

import csv
import shutil
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from lib import subword
from lib.errors import ConfigError, DataError
from lib.subword import BOS, EOS, PAD, UNK, Vocabulary, one_line, text_hash, train

SOURCE = ["Ein  Mann mit zwei  Leerzeichen.", "  vorn und hinten  ", "Ümläute, Straße und 3,5 %",
          "geschütztes\u00a0Leerzeichen", "ein Tab\tdarin", "Zeilen\u2028trenner und \u0085 auch"]
TARGET = ["a man with two  spaces .", "&quot; escaped &amp; @-@ text", "ﬁne ½ Å e\u0301 é ﷺ",
          "<s> not a symbol </s> <unk> <pad>", "ţară, țară", "猫 and 🙂 and ⁇"]
WORDS = SimpleNamespace(source=["balu mire", "mire toka toka"], target=["sefi nado", "nado"])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DISCREPANCY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def dataset(kind="bpe", size=400):
    return SimpleNamespace(name="trial", subword=kind, vocabulary={"smoke": size})


@pytest.fixture
def pairs():
    return SimpleNamespace(source=SOURCE * 5, target=TARGET * 5)


def test_special_tokens_have_fixed_ids():
    assert (PAD, BOS, EOS, UNK) == (0, 1, 2, 3)


def test_text_survives_encoding_and_decoding(pairs):
    vocabulary = train(dataset(), "smoke", pairs)
    unseen = ["Жук \x00 \x1f", "   ", "many     spaces", "a\r", "👩‍👩‍👧 family"]
    lines = SOURCE + TARGET + unseen
    encoded = vocabulary.encode(lines)
    assert vocabulary.decode(encoded) == lines
    assert min(min(row) for row in encoded if row) > UNK


def test_the_mark_of_a_space_is_the_one_loss(pairs):
    vocabulary = train(dataset(), "smoke", pairs)
    assert vocabulary.decode(vocabulary.encode(["a\u2581b"])) == ["a b"]


def test_many_lines_give_the_ids_that_one_gives(pairs):
    vocabulary = train(dataset(), "smoke", pairs)
    lines = SOURCE * 300
    assert vocabulary.encode(lines) == [vocabulary.encode([line])[0] for line in SOURCE] * 300


def test_decoding_stops_at_the_first_eos_and_passes_over_padding(pairs):
    vocabulary = train(dataset(), "smoke", pairs)
    (a, *_), (b, *_) = vocabulary.encode(["Ein", "a"])
    rows = [[BOS, a, PAD, b, EOS, b, EOS], [EOS, a, a, a, a, a, a]]
    assert vocabulary.decode(rows) == vocabulary.decode([[a, b], []])
    assert vocabulary.decode(torch.tensor(rows)) == vocabulary.decode(rows)
    assert vocabulary.decode([]) == []


def test_a_row_of_made_up_bytes_is_still_one_line(pairs):
    vocabulary = train(dataset(), "smoke", pairs)
    byte = vocabulary.encode(["\x00"])[0][-1]  # the 256 byte pieces follow each other
    text, = vocabulary.decode([[byte + 0x0A, byte + 0xFF, byte + 0x41]])
    assert "\n" not in text
    assert text.endswith("A")


def test_one_line_is_one_for_every_reader(tmp_path):
    """str.splitlines, lines of a file, CSV by Python and by pandas; and nothing else is changed."""
    ends = [chr(code) for code in range(sys.maxunicode) if len(f"a{chr(code)}b".splitlines()) > 1]
    kept = "\t\x07\x1a\x1f\ufeff\u00a0\u200b,\"'\\;ü👩‍👩‍👧"
    texts = [one_line(f"a{end}b") for end in [*ends, "\0", "\r\n"]] + [kept, "nan", '"', ""]
    assert len(ends) == 10 and texts[:10] == ["a b"] * 10 and texts[10:12] == ["a\ufffdb", "a  b"]
    assert texts[12] == kept
    path = tmp_path / "sentences.csv"
    path.write_text(pd.DataFrame({"hypothesis": texts, "n": 1}).to_csv(index=False))
    assert pd.read_csv(path, keep_default_na=False)["hypothesis"].tolist() == texts
    with open(path, newline="", encoding="utf-8") as file:
        assert [row["hypothesis"] for row in csv.DictReader(file)] == texts
    assert len(path.read_text().splitlines()) == 1 + len(texts)


def test_the_same_text_gives_the_same_bytes(pairs, monkeypatch, tmp_path):
    first = train(dataset(), "smoke", pairs)
    monkeypatch.setenv("DISCREPANCY_CACHE", str(tmp_path / "another"))
    second = train(dataset(), "smoke", pairs)
    assert first.model == second.model
    assert first.fingerprint == second.fingerprint
    assert len(first.fingerprint) == 64


def test_the_cache_is_used_and_follows_text_and_settings(pairs, cache, monkeypatch):
    first = train(dataset(), "smoke", pairs)
    fit = subword._fit
    monkeypatch.setattr(subword, "_fit", lambda *_: pytest.fail("trained twice"))
    assert train(dataset(), "smoke", pairs).fingerprint == first.fingerprint
    monkeypatch.setattr(subword, "_fit", fit)
    assert len(train(dataset(size=380), "smoke", pairs)) < len(first)
    pairs.target[0] += " more"
    train(dataset(), "smoke", pairs)
    names = [path.name for path in (cache / "vocabularies").iterdir()]
    assert len(names) == 3
    assert all(name.startswith("trial-smoke-") and name.endswith(".model") for name in names)


def test_a_damaged_cache_file_is_made_again(pairs, cache):
    first = train(dataset(), "smoke", pairs)
    path, = (cache / "vocabularies").iterdir()
    path.write_bytes(first.model[:1000])
    assert train(dataset(), "smoke", pairs).fingerprint == first.fingerprint
    assert path.read_bytes() == first.model


def test_a_cache_that_cannot_be_written_costs_time_alone(pairs, cache, caplog):
    first = train(dataset(), "smoke", pairs)
    shutil.rmtree(cache)
    cache.write_text("a file where the folder should be")
    assert train(dataset(), "smoke", pairs).fingerprint == first.fingerprint
    assert "DISCREPANCY_CACHE may name a folder" in caplog.text


def test_truncated_and_foreign_models_are_refused(pairs):
    model = train(dataset(), "smoke", pairs).model
    for cut in range(0, len(model) - 1, 97):
        with pytest.raises(DataError, match="vocabulary is truncated"):
            Vocabulary(model[:cut])
    with pytest.raises(DataError, match="not a SentencePiece model"):
        Vocabulary(b"not a model at all")


def test_whole_words_are_one_token_each():
    vocabulary = train(dataset("word", 64), "smoke", WORDS)
    assert len(vocabulary) <= 4 + 6
    assert [len(row) for row in vocabulary.encode(WORDS.source)] == [2, 3]
    assert vocabulary.decode(vocabulary.encode(WORDS.source)) == WORDS.source
    assert vocabulary.encode(["balu unknown"])[0][1:] == [UNK]


def test_a_large_corpus_is_thinned_evenly(monkeypatch):
    monkeypatch.setattr(subword, "TRAINING_PAIRS", 2)
    corpus = SimpleNamespace(source=list("abcd"), target=list("ABCD"))
    assert list(subword._spaced(corpus)) == ["a", "A", "c", "C"]


def test_a_vocabulary_too_small_for_the_text_is_refused(pairs):
    with pytest.raises(ConfigError, match="vocabulary smoke of trial: no vocabulary of 100"):
        train(dataset(size=100), "smoke", pairs)


def test_the_text_hash_tells_the_lists_apart():
    assert text_hash(["a"], ["b"]) != text_hash(["b"], ["a"])
    assert text_hash(["a", "b"], []) != text_hash(["a"], ["b"])
    assert text_hash(["a", "b"]) != text_hash(["a b"])
    assert text_hash(["a"] * 100_001) != text_hash(["a"] * 100_000)
