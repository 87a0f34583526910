"""Batches: every row once, within the budget, padded as the models expect."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lib import batching
from lib.batching import (
    Tokenised,
    collate,
    evaluation_batches,
    padded_length,
    tokenise,
    training_batches,
)
from lib.errors import ConfigError, DataError
from lib.subword import EOS, PAD


class Digits:
    """A vocabulary whose words are numbers; counts how often it is asked."""

    fingerprint = "f" * 64

    def __init__(self):
        self.calls = 0

    def encode(self, lines):
        self.calls += 1
        return [[int(word) for word in line.split()] for line in lines]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DISCREPANCY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def small():
    return SimpleNamespace(source=["11 12", "13", "14 15 16 17"],
                           target=["21 22 23", "24 25 26 27", "28"])


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(0)
    source, target = rng.integers(1, 30, 2_000), rng.integers(1, 30, 2_000)
    return Tokenised(
        rng.integers(4, 99, source.sum()).astype(np.int32), np.append(0, np.cumsum(source)),
        rng.integers(4, 99, target.sum()).astype(np.int32), np.append(0, np.cumsum(target)),
        np.arange(2_000),
    )


def test_padded_length_by_hand():
    assert [padded_length(n, 1) for n in (0, 3, 4)] == [1, 4, 5]
    assert [padded_length(n, 4) for n in (0, 3, 4, 7, 8)] == [4, 4, 8, 8, 12]


def test_collate_by_hand_for_autoregressive_models(small):
    batch = collate(tokenise(small, Digits()), np.array([2, 0]), 1)
    assert batch.source.tolist() == [[14, 15, 16, 17, EOS], [11, 12, EOS, PAD, PAD]]
    assert batch.source_mask.tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    assert batch.target.tolist() == [[28, EOS, PAD, PAD], [21, 22, 23, EOS]]
    assert batch.target_mask.tolist() == [[True, True, False, False], [True] * 4]
    assert batch.target_tokens.tolist() == [2, 4]
    assert batch.index.tolist() == [2, 0]
    assert len(batch) == 2
    assert {t.dtype for t in (batch.source, batch.target, batch.target_tokens, batch.index)} == {
        torch.int64}


def test_collate_by_hand_for_latent_models(small):
    batch = collate(tokenise(small, Digits()), np.array([0, 1, 2]), 4)
    assert batch.target.tolist() == [[21, 22, 23, EOS, PAD, PAD, PAD, PAD],
                                     [24, 25, 26, 27, EOS, EOS, EOS, EOS],
                                     [28, EOS, EOS, EOS, PAD, PAD, PAD, PAD]]
    assert batch.target_mask.sum(1).tolist() == [4, 8, 4]
    assert batch.target_tokens.tolist() == [4, 5, 2]
    whole = collate(tokenise(small, Digits()), np.array([0, 2]), 4)
    assert whole.target_mask is None
    assert whole.source_mask is not None


def test_batch_moves_to_a_device(small):
    batch = collate(tokenise(small, Digits()), np.array([0, 2]), 4).to("meta")
    assert batch.source.device.type == batch.index.device.type == "meta"
    assert batch.target_mask is None


def test_a_corpus_is_told_from_any_other_by_its_fingerprint(small):
    data = tokenise(small, Digits())
    assert data.fingerprint == tokenise(small, Digits()).fingerprint
    others = [data.take(np.arange(len(data))[::-1]), data.take(np.arange(len(data) - 1)),
              replace(data, lines=data.lines + 1), replace(data, target_ids=data.target_ids + 1)]
    assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 5


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("tokens", [40, 256, 100_000])
def test_training_batches_hold_every_row_once_within_the_budget(corpus, tokens, multiple):
    groups = training_batches(corpus, tokens, multiple, seed=1, epoch=0)
    assert sorted(np.concatenate(groups)) == list(range(len(corpus)))
    for group in groups:
        batch = collate(corpus, group, multiple)
        assert len(batch) * max(batch.source.shape[1], batch.target.shape[1]) <= tokens
        if multiple > 1:
            assert batch.target_mask is None
            assert batch.target.shape[1] % multiple == 0


def test_training_batches_depend_on_seed_and_epoch_only(corpus):
    def groups(seed, epoch):
        return [group.tolist() for group in training_batches(corpus, 256, 4, seed, epoch)]

    assert groups(1, 0) == groups(1, 0)
    assert groups(1, 0) != groups(1, 1)
    assert groups(1, 0) != groups(2, 0)
    assert {tuple(sorted(g)) for g in groups(1, 0)} != {tuple(sorted(g)) for g in groups(1, 1)}


@pytest.mark.parametrize("multiple", [1, 4])
def test_little_of_a_training_batch_is_padding(corpus, multiple):
    # Lengths of the two sides are independent here, the worst case: at multiple 1 the shorter side
    # can't follow, so only the wider side is asked to be full.
    full = positions = 0
    for group in training_batches(corpus, 512, multiple, seed=1, epoch=0):
        batch = collate(corpus, group, multiple)
        widest = max(batch.source, batch.target, key=lambda ids: ids.shape[1])
        full += (widest != PAD).sum()
        positions += widest.numel()
    assert full / positions > 0.75


def test_a_pair_wider_than_the_budget_is_refused_in_training_only(corpus):
    with pytest.raises(ConfigError, match=r"batch of 20 positions .* raise batch_tokens or"):
        training_batches(corpus, 20, 1, seed=1, epoch=0)
    groups = evaluation_batches(corpus, 20, 1)
    assert sorted(np.concatenate(groups)) == list(range(len(corpus)))
    assert len(groups[0]) == 1


def test_evaluation_batches_have_no_more_rows_than_they_may(corpus):
    groups = evaluation_batches(corpus, 300, 1, sequences=7)
    assert sorted(np.concatenate(groups)) == list(range(len(corpus)))
    assert max(map(len, groups)) == 7 < max(map(len, evaluation_batches(corpus, 300, 1)))


@pytest.mark.parametrize("multiple", [1, 4])
def test_evaluation_batches_hold_every_row_once_by_falling_length(corpus, multiple):
    groups = evaluation_batches(corpus, 300, multiple)
    assert sorted(np.concatenate(groups)) == list(range(len(corpus)))
    widths = []
    for group in groups:
        batch = collate(corpus, group, multiple)
        widths.append(max(batch.source.shape[1], batch.target.shape[1]))
        assert len(batch) * widths[-1] <= 300
    assert widths == sorted(widths, reverse=True)


def test_the_filter_keeps_line_numbers(small):
    data = tokenise(small, Digits(), max_tokens=3)
    assert data.lines.tolist() == [0]
    small.target[0], small.target[1] = small.target[1], small.target[0]
    data = tokenise(small, Digits(), max_tokens=3)
    assert data.lines.tolist() == [1]
    batch = collate(data, np.array([0]), 1)
    assert batch.source.tolist() == [[13, EOS]]
    assert batch.target.tolist() == [[21, 22, 23, EOS]]
    assert batch.index.tolist() == [1]


def test_take_reorders_rows(small):
    data = tokenise(small, Digits()).take(np.array([2, 0]))
    assert data.source_ids.tolist() == [14, 15, 16, 17, 11, 12]
    assert data.target_offsets.tolist() == [0, 1, 4]
    assert data.source_lengths.tolist() == [4, 2]


def test_the_cache_is_used_and_follows_text_and_vocabulary(small, cache):
    vocabulary = Digits()
    first = tokenise(small, vocabulary, key="toy")
    assert vocabulary.calls == 2
    second = tokenise(small, vocabulary, key="toy")
    assert vocabulary.calls == 2
    assert all(np.array_equal(a, b) for a, b in
               zip(vars(first).values(), vars(second).values(), strict=True))
    small.target[0] += " 29"
    assert tokenise(small, vocabulary, key="toy").target_ids[3] == 29
    vocabulary.fingerprint = "e" * 64
    tokenise(small, vocabulary, key="toy")
    assert vocabulary.calls == 6
    assert len(list((cache / "tokenised").glob("toy-*.npz"))) == 3
    assert not list((cache / "tokenised").glob("*.tmp"))


def test_a_damaged_cache_file_is_made_again(small, cache):
    vocabulary = Digits()
    expected = tokenise(small, vocabulary)
    path, = (cache / "tokenised").iterdir()
    path.write_bytes(path.read_bytes()[:200])
    assert tokenise(small, vocabulary).source_ids.tolist() == expected.source_ids.tolist()
    assert vocabulary.calls == 4
    path.write_bytes(b"")
    assert len(tokenise(small, vocabulary)) == 3


def test_long_corpora_are_encoded_in_chunks(small, monkeypatch):
    expected = tokenise(small, Digits(), key="whole")
    monkeypatch.setattr(batching, "CHUNK", 2)
    data = batching._flatten(small.target, Digits())
    assert data[0].tolist() == expected.target_ids.tolist()
    assert data[1].tolist() == expected.target_offsets.tolist()


def test_a_cache_folder_that_refuses_writing_costs_a_warning(small, cache, caplog):
    cache.write_text("a file where the folder should be")
    assert len(tokenise(small, Digits())) == 3
    assert "DISCREPANCY_CACHE may name a folder" in caplog.text


def test_a_bound_that_leaves_no_pair_is_refused(small):
    with pytest.raises(DataError, match="none of the 3 pairs of toy-train .* raise max_tokens"):
        tokenise(small, Digits(), key="toy-train", max_tokens=1)


def test_rows_by_length_lie_at_evenly_spaced_places(small):
    data = tokenise(small, Digits())
    assert data.by_length(3).tolist() == np.argsort(data.target_lengths, kind="stable").tolist()
    assert data.target_lengths[data.by_length(1)] == np.median(data.target_lengths)
    assert len(data.by_length(0)) == 0
