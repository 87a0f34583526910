"""A run and what it reads: whatever changes after its start is named, and nothing else is."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from test_task import write_distilled
from test_training import run, small

from lib import corpora
from lib.errors import CheckpointError
from lib.paths import DistilledFolder
from lib.runs import run_folder
from lib.subword import text_hash
from lib.task import Task
from lib.training import Trainer, checkpoints
from lib.training.record import check_reads, fingerprints

pytestmark = pytest.mark.usefixtures("isolated")


@pytest.fixture
def own(isolated):
    """Settings of a run on files of the user's own, and the folder that they lie in."""
    folder = isolated / "data/own"
    folder.mkdir()
    toy = small("tr_s").dataset
    for split in corpora.SPLITS:
        pairs = corpora.read(toy, split)
        for language, lines in ((toy.source, pairs.source), (toy.target, pairs.target)):
            (folder / f"{split}.{language}").write_text("\n".join([*lines, ""]))

    def config(model: str = "tr_s", **changes):
        config = small(model, **changes)
        return replace(config, dataset=replace(config.dataset, corpus="files", folder="own",
                                               options={}))
    return config, folder


def lines_of(path, change) -> None:
    """Rewrite a file's lines."""
    path.write_text("\n".join([*change(path.read_text().removesuffix("\n").split("\n")), ""]))


def both(folder, split: str, change) -> None:
    for language in ("qaa", "qab"):
        lines_of(folder / f"{split}.{language}", change)


CHANGES = {
    "training text in another order": ("train", lambda lines: lines[::-1], "training text"),
    "a training pair moved": ("train", lambda lines: [*lines[1:], lines[0]], "training text"),
    "a dev set of the same size": ("dev", lambda lines: [*lines[1:], lines[0]], "dev text"),
    "a smaller dev set": ("dev", lambda lines: lines[:9], "dev text"),
}


@pytest.mark.parametrize("steps", [3, 6], ids=["finished", "to go on"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_text_is_refused_by_name(own, change, steps):
    """The words stay, so does the vocabulary: nothing else would tell."""
    config, folder = own
    run(config(steps=3), {})
    split, how, name = CHANGES[change]
    before = Task(config()).vocabulary.fingerprint
    both(folder, split, how)
    assert Task(config()).vocabulary.fingerprint == before
    with pytest.raises(CheckpointError) as caught:
        Trainer(config(steps=steps), progress=False)
    run_path = run_folder(config()).path
    assert str(caught.value).startswith(f"{run_path} was trained with another {name} (sha256 ")
    assert str(caught.value).endswith(f"or delete {run_path} to start again")


def test_targets_that_were_aligned_anew_are_refused(own):
    config, folder = own
    run(config(steps=3), {})
    lines_of(folder / "train.qab", lambda lines: [lines[1], lines[0], *lines[2:]])
    with pytest.raises(CheckpointError, match="another training text"):
        Trainer(config(steps=3), progress=False)


def test_dev_pairs_that_are_not_validated_on_may_change(own):
    config, folder = own
    run(config(steps=3), {})
    both(folder, "dev", lambda lines: lines[:13])  # of 20; 12 are used
    assert Trainer(config(steps=6), progress=False).step == 3


def test_what_was_restored_goes_on(own):
    config, folder = own
    run(config(steps=3), {})
    both(folder, "train", lambda lines: lines[::-1])
    with pytest.raises(CheckpointError):
        Trainer(config(steps=6), progress=False)
    both(folder, "train", lambda lines: lines[::-1])
    assert Trainer(config(steps=6), progress=False).step == 3


def test_a_parent_that_trained_on_is_refused(own):
    config = own[0]
    parent = run(config(steps=3), {})
    child = config("ga_b", steps=3, start_from="tr_s")
    run(child, {})
    assert Trainer(child, progress=False).finished
    parent.train_step()
    checkpoints.save(parent.folder.best, checkpoints.load(parent.folder.best, "") | {
        "weights": parent.average.weights()})
    with pytest.raises(CheckpointError, match="another set of weights to start from"):
        Trainer(child, progress=False)
    parent.folder.best.unlink()  # it is read no more
    assert Trainer(child, progress=False).finished


def test_a_distilled_set_made_anew_is_refused(own):
    config = replace(own[0](steps=3), train_data="distilled")
    task = Task(own[0]())
    raw = task.sources("train"), task.references("train")
    write_distilled(config, raw[1], raw)
    run(config, {})
    shutil.rmtree(DistilledFolder("toy", "smoke", "tr_s").path)
    write_distilled(config, raw[1][::-1], raw)
    with pytest.raises(CheckpointError, match="another distilled text"):
        Trainer(config, progress=False)


def test_a_run_of_before_the_record_is_accepted_and_gets_one(own):
    config = own[0]
    trainer = run(config(steps=3), {})
    assert set(trainer.reads) == {"training_text", "dev_text"}
    state = checkpoints.load(trainer.folder.last, "")
    assert state.pop("reads") == trainer.reads
    checkpoints.save(trainer.folder.last, state)
    again = run(config(steps=6), {})
    for content in (checkpoints.load(again.folder.last, ""),
                    checkpoints.load(again.folder.best, ""),
                    json.loads(again.folder.config.read_text())):
        assert content["reads"] == trainer.reads


def test_fingerprints_are_of_the_text_and_the_weights(own):
    task = Task(own[0]())
    found = fingerprints(task, 12, {"a": torch.ones(2)})
    assert found["training_text"] == text_hash(task.sources("train"), task.references("train"))
    assert found["dev_text"] == text_hash(task.sources("dev")[:12], task.references("dev")[:12])
    assert found["start_from"] != fingerprints(task, 12, {"a": torch.zeros(2)})["start_from"]
    assert "start_from" not in fingerprints(task, 12, None)


def test_only_what_was_recorded_and_is_still_there_is_compared(tmp_path):
    check_reads({"start_from": "a" * 64}, {"dev_text": "b" * 64}, tmp_path)
    with pytest.raises(CheckpointError, match=r"dev text \(sha256 aaaaaaaaaaaa then, bbbbbbbbbbbb"):
        check_reads({"dev_text": "a" * 64}, {"dev_text": "b" * 64}, tmp_path)
