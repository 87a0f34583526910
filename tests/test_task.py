"""A task ready for a model: splits, vocabulary, and which of them the length filter touches."""

from dataclasses import replace

import pytest

from lib.config import load_config
from lib.corpora import Pairs
from lib.errors import DataError
from lib.task import Task

pytestmark = pytest.mark.usefixtures("isolated")


@pytest.fixture
def config():
    config = load_config("tr_s")
    options = {**config.dataset.options, "train_pairs": 400, "dev_pairs": 20, "test_pairs": 30}
    return replace(config, dataset=replace(config.dataset, options=options))


def test_splits_have_their_sizes_and_texts(config):
    task = Task(config)
    assert [len(s) for s in (task.train, task.dev, task.test)] == [400, 20, 30]
    for split in ("train", "dev", "test"):
        data = getattr(task, split)
        sources = [data.source_ids[a:b].tolist() for a, b in
                   zip(data.source_offsets, data.source_offsets[1:], strict=False)]
        targets = [data.target_ids[a:b].tolist() for a, b in
                   zip(data.target_offsets, data.target_offsets[1:], strict=False)]
        assert task.vocabulary.decode(sources) == task.sources(split)
        assert task.vocabulary.decode(targets) == task.references(split)


def test_the_length_filter_touches_training_only(config):
    task = Task(replace(config, dataset=replace(config.dataset, max_tokens=4)))
    assert 0 < len(task.train) < 400
    assert max(task.train.source_lengths.max(), task.train.target_lengths.max()) == 4
    assert (len(task.dev), len(task.test)) == (20, 30)
    assert task.dev.target_lengths.max() > 4


def test_the_vocabulary_is_that_of_the_training_text(config):
    task = Task(config)
    words = {w for line in [*task.sources("train"), *task.references("train")]
             for w in line.split()}
    assert len(task.vocabulary) == len(words) + 4
    assert Task(config).vocabulary.fingerprint == task.vocabulary.fingerprint
    other = replace(config, dataset=replace(
        config.dataset, options={**config.dataset.options, "seed": 2}))
    assert Task(other).vocabulary.fingerprint != task.vocabulary.fingerprint


def test_nothing_is_read_before_it_is_asked_for(config, monkeypatch):
    asked = []

    def read(dataset, split):
        asked.append(split)
        return Pairs(["a b"], ["c d"])

    monkeypatch.setattr("lib.corpora.read", read)
    task = Task(config)
    assert asked == []
    assert task.references("dev") == ["c d"]
    assert asked == ["dev"]
    assert len(task.dev) == 1  # the vocabulary needs the training text
    assert asked == ["dev", "train"]


def test_distilled_training_data_is_refused_rather_than_taken_from_the_raw_text():
    with pytest.raises(DataError, match="train with train_data=raw"):
        _ = Task(load_config("ga_b", train_data="distilled")).train
