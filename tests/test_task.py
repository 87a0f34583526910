"""A task ready for a model: splits, vocabulary, and which of them the length filter touches."""

import gzip
import json
from dataclasses import replace
from itertools import pairwise

import pytest

from lib.config import load_config
from lib.corpora import Pairs
from lib.errors import DataError
from lib.runs import run_folder
from lib.subword import text_hash
from lib.task import Task, distilled_folder
from lib.training import Trainer

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


# ---- sentences beyond the positions of a model ----

@pytest.fixture
def own(isolated):
    """Settings of a run on files of the user's own, and their folder."""
    folder = isolated / "data/own"
    folder.mkdir()
    for split in ("train", "dev", "test"):
        for language in ("qaa", "qab"):
            (folder / f"{split}.{language}").write_text("ba ko\nti mu\nshi do\n")
    config = load_config("tr_s")
    return replace(config, dataset=replace(config.dataset, corpus="files", folder="own",
                                           options={})), folder


@pytest.mark.parametrize("split", ["dev", "test"])
@pytest.mark.parametrize("language", ["qaa", "qab"])
def test_a_sentence_beyond_the_positions_is_named_with_file_and_line(own, split, language):
    config, folder = own
    path = folder / f"{split}.{language}"
    path.write_text("ba ko\n" + "ti " * 1023 + "\n" + "mu " * 1024 + "\n")
    with pytest.raises(DataError) as caught:
        getattr(Task(config), split)
    assert str(caught.value) == (
        f"{path}, line 3 has 1024 subwords, models take 1023 at most: shorten it, or remove that "
        "line from both languages' files")


@pytest.mark.parametrize("split", ["dev", "test"])
def test_training_refuses_it_before_it_starts(own, split):
    config, folder = own
    (folder / f"{split}.qab").write_text("ba ko\nti mu\n" + "mu " * 1500 + "\n")
    with pytest.raises(DataError, match=rf"{split}.qab, line 3 has 1500 subwords"):
        Trainer(config, progress=False)
    assert not run_folder(config).path.exists()


@pytest.mark.parametrize("harm", ["missing", "not aligned"])
def test_a_test_set_that_cannot_be_read_is_left_to_evaluation(own, harm):
    config, folder = own
    if harm == "missing":
        (folder / "test.qab").unlink()
    else:
        (folder / "test.qab").write_text("ba ko\n")
    assert Trainer(config, progress=False).step == 0
    with pytest.raises(DataError, match="test.qab"):
        _ = Task(config).test


def test_training_pairs_beyond_the_positions_are_filtered_or_named(own):
    config, folder = own
    (folder / "train.qab").write_text("ba ko\nti mu\n" + "mu " * 1500 + "\n")
    assert len(Task(config).train) == 2
    config = replace(config, dataset=replace(config.dataset, max_tokens=2000))
    with pytest.raises(DataError, match=r"train.qab, line 3 has 1500 .* \(or lower max_tokens\)"):
        _ = Task(config).train


# ---- distilled training data ----

def write_distilled(config, targets: list[str], raw: tuple[list[str], list[str]]) -> None:
    """A distilled set as lib.distillation leaves it, with these targets."""
    folder = distilled_folder(config)
    folder.path.mkdir(parents=True)
    text = "\n".join([*targets, ""]).encode()
    folder.text(config.dataset.target).write_bytes(gzip.compress(text))
    folder.config.write_text(json.dumps(
        {"training_text": text_hash(*raw), "distilled_text": text_hash(targets)}))


@pytest.fixture
def distilled(config):
    """A run on distilled data, whose set is there, and what the set says."""
    task = Task(config)
    targets = [" ".join(line.split()[::-1]) for line in task.references("train")]
    targets[3] = targets[7] = ""
    config = replace(config, train_data="distilled")
    write_distilled(config, targets, (task.sources("train"), task.references("train")))
    return config, targets


def texts(task, data) -> list[tuple[str, str]]:
    """The pairs of a tokenised split as text."""
    sides = [[ids[a:b].tolist() for a, b in pairwise(offsets)]
             for ids, offsets in ((data.source_ids, data.source_offsets),
                                  (data.target_ids, data.target_offsets))]
    return list(zip(*map(task.vocabulary.decode, sides), strict=True))


def test_a_distilled_run_trains_on_the_teachers_text(distilled):
    config, targets = distilled
    task = Task(config)
    pairs = [(s, t) for s, t in zip(task.sources("train"), targets, strict=True) if t]
    assert len(task.train) == 398 and texts(task, task.train) == pairs
    assert task.train.lines.tolist() == [i for i in range(400) if i not in (3, 7)]


def test_all_else_stays_that_of_the_raw_run(distilled, config):
    """Vocabulary, validation, test, and the references of every split are the original ones."""
    ours, raw = Task(distilled[0]), Task(config)
    assert ours.vocabulary.fingerprint == raw.vocabulary.fingerprint
    for split in ("dev", "test"):
        assert texts(ours, getattr(ours, split)) == texts(raw, getattr(raw, split))
        assert texts(ours, getattr(ours, split)) == list(zip(
            raw.sources(split), raw.references(split), strict=True))
    assert ours.references("train") == raw.references("train")


def test_the_length_filter_looks_at_the_distilled_target(distilled):
    config, targets = distilled
    config = replace(config, dataset=replace(config.dataset, max_tokens=4))
    task = Task(config)
    expected = [i for i, (s, t) in enumerate(zip(task.sources("train"), targets, strict=True))
                if t and max(len(s.split()), len(t.split())) <= 4]
    assert task.train.lines.tolist() == expected


def test_a_missing_distilled_set_is_refused_with_the_command_that_makes_it(config):
    with pytest.raises(DataError) as caught:
        _ = Task(replace(config, train_data="distilled")).train
    assert ("make it with `python -m lib.distillation --dataset toy --scale smoke --teacher tr_s "
            "--seed 1`") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("harm", "message"), [
    (lambda folder: folder.text("qab").unlink(), "there is no distilled training set"),
    (lambda folder: folder.text("qab").write_bytes(gzip.compress(b"a b\n" * 400)),
     "isn't the text that config.json beside it describes"),
    (lambda folder: folder.config.write_text("{}"), "config.json is damaged"),
    (lambda folder: folder.config.write_text("{"), "config.json is damaged"),
    (lambda folder: folder.config.unlink(), "there is no distilled training set"),
])
def test_a_damaged_distilled_set_is_refused(distilled, harm, message):
    harm(distilled_folder(distilled[0]))
    with pytest.raises(DataError, match=message) as caught:
        _ = Task(distilled[0]).train
    assert "make it with `python -m lib.distillation" in str(caught.value)


def test_a_translation_of_another_training_set_is_refused(distilled):
    config = distilled[0]
    other = replace(config, dataset=replace(
        config.dataset, options={**config.dataset.options, "seed": 2}))
    with pytest.raises(DataError, match="of another training set than today's"):
        _ = Task(other).train


def test_students_of_all_seeds_share_one_teacher(config):
    config = replace(config, train_data="distilled")
    assert distilled_folder(replace(config, seed=3)) == distilled_folder(config)
    assert distilled_folder(config).path.parts[-4:] == ("distilled", "toy", "smoke", "tr_s_s1")
