"""Distillation: the text is the beam search's, however it was interrupted."""

import gzip
import json
import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch
from made_up import committed
from test_notebooks import execute, printed

from lib import distillation, subword
from lib.batching import collate
from lib.bleu import bleu
from lib.config import load_config
from lib.decoding.search import beam_search
from lib.distillation import distil, distilled_set, distilled_texts, main
from lib.distillation.alignment import complexity
from lib.errors import CheckpointError, ConfigError, DataError
from lib.evaluation.scoring import load_run
from lib.models import build
from lib.runs import run_folder
from lib.synthetic import ToyTask
from lib.task import Task
from lib.training import checkpoints, validation

pytestmark = pytest.mark.usefixtures("isolated")

TRAIN = 24


WEIGHTS: dict[int, dict] = {}  # by seed: a teacher is trained once for all tests


def write_teacher(config, seed: int = 0) -> None:
    """The checkpoint of a teacher that has learned, in a second, about where a sentence ends."""
    task = Task(config)
    if seed not in WEIGHTS:
        torch.manual_seed(seed)
        model = build(config.architecture, len(task.vocabulary))
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        batch = collate(task.train, np.arange(len(task.train)), 1)
        for _ in range(40):
            terms = model.loss_terms(batch, config.training, 1.0)
            optimiser.zero_grad()
            (terms["loss"] / terms["tokens"]).backward()
            optimiser.step()
        WEIGHTS[seed] = model.state_dict()
    checkpoints.save(run_folder(config).best, {
        "config": config.as_dict(), "vocabulary": task.vocabulary.fingerprint, "step": 7,
        "dev_bleu": 1.5, "weights": WEIGHTS[seed]})


@pytest.fixture
def config(monkeypatch):
    """A small teacher on a small corpus in shards of 4; `max_tokens` leaves some pairs out."""
    monkeypatch.setattr(distillation, "SHARD_LINES", 4)
    monkeypatch.setattr(distillation, "BATCH_TOKENS", 24)
    config = load_config("tr_s", d_model=16, d_filter=32, encoder_layers=1,
                         decoder_layers=1, precision="fp32")
    options = {**config.dataset.options, "train_pairs": TRAIN, "dev_pairs": 5, "test_pairs": 5}
    config = replace(config, dataset=replace(config.dataset, options=options, max_tokens=6))
    write_teacher(config)
    return config


def text_of(config, lines: int = 0) -> list[str]:
    data = gzip.decompress(distilled_set(config, lines).text("qab").read_bytes())
    return data.decode().removesuffix("\n").split("\n")


def files_of(config) -> dict[str, bytes]:
    """The set's own files, without what tells how fast it went."""
    folder = distilled_set(config)
    metrics = json.loads(folder.metrics.read_text())
    for name in ("seconds", "sentences_per_second"):
        del metrics[name]
    return {"text": folder.text("qab").read_bytes(), "config": folder.config.read_bytes(),
            "metrics": json.dumps(metrics).encode()}


def test_every_line_is_the_beam_search_of_its_source(config):
    """Decoded one by one here, in batches by length there; long pairs stay empty."""
    distil(config, progress=False)
    run = load_run(config)
    train, found = run.task.train, text_of(config)
    assert len(found) == TRAIN and 12 < len(train) < TRAIN
    for row, line in enumerate(train.lines.tolist()):
        ids = train.source_ids[train.source_offsets[row]:train.source_offsets[row + 1]]
        source = torch.tensor([[*ids.tolist(), subword.EOS]])
        best = beam_search(run.model, source, None, 4, 0.6)[0]
        assert found[line] == run.task.vocabulary.decode(best)[0]
    left_out = set(range(TRAIN)) - set(train.lines.tolist())
    assert left_out and not any(found[line] for line in left_out)


def test_a_student_trains_on_it(config):
    distil(config, progress=False)
    task, found = Task(replace(config, train_data="distilled")), text_of(config)
    kept = [i for i in range(TRAIN) if found[i] and len(found[i].split()) <= 6]
    assert task.train.lines.tolist() == kept


def interrupted_after(shards: int, monkeypatch):
    """Make the next distillation die once so many shards are written."""
    write, count = distillation.write_bytes, iter(range(shards))

    def dying(path, data):
        if next(count, None) is None:
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(distillation, "write_bytes", dying)


@pytest.mark.parametrize("shards", [0, 1, 3])
def test_going_on_gives_the_files_of_an_uninterrupted_run(config, monkeypatch, shards):
    distil(config, progress=False)
    whole = files_of(config)
    shutil.rmtree(distilled_set(config).path)
    with monkeypatch.context() as patch:
        interrupted_after(shards, patch)
        with pytest.raises(KeyboardInterrupt):
            distil(config, progress=False)
    before = {path: path.read_bytes() for path in distilled_set(config).path.rglob("*.json.gz")}
    assert len(before) == shards
    distil(config, progress=False)
    assert files_of(config) == whole
    assert all(path.read_bytes() == data for path, data in before.items())  # not decoded again


def up_to_a_shard(config) -> None:
    """Distil in a process that goes no further than its first shard."""
    replace_file = os.replace

    def move(source, target):
        replace_file(source, target)
        if str(target).endswith(".json.gz"):
            time.sleep(600)

    os.replace = move
    distil(config, progress=False)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the killed process is a fork")
def test_going_on_after_kill_9(config):
    distil(config, progress=False)
    whole, folder = files_of(config), distilled_set(config)
    shutil.rmtree(folder.path)
    process = multiprocessing.get_context("fork").Process(target=up_to_a_shard, args=(config,))
    process.start()
    while not any(folder.path.rglob("*.json.gz")) and process.is_alive():
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list(folder.path.rglob("*.json.gz"))) == 1 and not folder.config.exists()
    distil(config, progress=False)
    assert files_of(config) == whole


def test_nothing_is_decoded_twice(config, monkeypatch):
    first = distil(config, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(distillation, "_decode", None)
        assert distil(config, progress=False) == first
    files, folder = files_of(config), distilled_set(config)
    for path in (*folder.shards.rglob("*.gz"), folder.text("qab")):
        path.unlink()  # as on a fresh clone, where the text isn't
    distil(config, progress=False)
    assert files_of(config) == files


def test_another_teacher_or_setting_makes_everything_again(config):
    distil(config, progress=False)
    before, folder = text_of(config), distilled_set(config)
    write_teacher(config, seed=1)
    distil(config, progress=False)
    assert text_of(config) != before
    assert len(list(folder.shards.iterdir())) == 1  # the first teacher's shards are gone
    after = json.loads(folder.config.read_text())
    greedy = replace(config, evaluation=replace(
        config.evaluation, beam=1, headline="greedy"))
    distil(greedy, progress=False)
    assert json.loads(folder.config.read_text())["fingerprint"] != after["fingerprint"]


def test_a_damaged_shard_is_made_again(config):
    distil(config, progress=False)
    whole = files_of(config)
    for shard in distilled_set(config).shards.rglob("*.json.gz"):
        shard.write_bytes(shard.read_bytes()[:20])
        distilled_set(config).metrics.unlink()
        assert distil(config, progress=False) is not None
        assert files_of(config) == whole


def test_empty_translations_are_counted_and_left_out_of_training(config, monkeypatch):
    search = validation.hypotheses

    def sometimes_empty(*arguments):
        return {k: [ids if len(ids) > 3 else [] for ids in rows]
                for k, rows in search(*arguments).items()}

    monkeypatch.setattr(validation, "hypotheses", sometimes_empty)
    metrics, found = distil(config, progress=False), text_of(config)
    lines = Task(config).train.lines
    assert metrics["empty"] == sum(not found[line] for line in lines)
    student = Task(replace(config, train_data="distilled")).train
    assert metrics["pairs"] == len(lines) > metrics["empty"] > 0
    assert all(found[line] for line in student.lines.tolist())


def test_the_scores_are_those_of_the_texts(config):
    metrics, found, task = distil(config, progress=False), text_of(config), Task(config)
    lines = task.train.lines.tolist()
    raw = [task.references("train")[line] for line in lines]
    ours = [found[line] for line in lines]
    assert metrics["bleu"]["score"] == pytest.approx(bleu(ours, raw)[0].score)
    assert metrics["identical"] == np.mean([a == b for a, b in zip(ours, raw, strict=True)])
    assert (metrics["too_long"], metrics["teacher_dev_bleu"]) == (TRAIN - len(lines), 1.5)
    kept = [row for row, line in enumerate(ours) if line]
    sources = [task.sources("train")[lines[row]] for row in kept]
    for name, side in (("raw", raw), ("distilled", ours)):
        expected = asdict(complexity(sources, [side[row] for row in kept]))
        assert metrics["complexity"][name] == pytest.approx(expected)
    toy = ToyTask.from_options(config.dataset.options)
    for name, side in (("raw", raw), ("distilled", ours)):
        shares, count = [0.0] * 4, len(kept)
        for source, row in zip(sources, kept, strict=True):
            log_joint = toy.log_joint(source, side[row])
            shares[3 if np.isinf(log_joint).all() else int(log_joint.argmax())] += 1 / count
        assert metrics["modes"][name] == pytest.approx(shares)
    assert metrics["modes"]["raw"][3] == 0


def test_the_texts_are_those_of_the_pairs_that_have_a_translation(config):
    with pytest.raises(DataError, match="make it with `python -m lib.distillation"):
        distilled_texts(config)
    distil(config, progress=False)
    found, task = text_of(config), Task(config)
    kept = [line for line in range(TRAIN) if found[line]]
    assert distilled_texts(config) == tuple([side[line] for line in kept] for side in (
        task.sources("train"), task.references("train"), found))


def test_a_teacher_that_says_nothing_is_refused(config, monkeypatch):
    monkeypatch.setattr(validation, "hypotheses", lambda model, source, mask, settings, penalty:
                        {setting: [[]] * len(source) for setting in settings})
    with pytest.raises(DataError, match="translates every source to nothing: train it for longer"):
        distil(config, progress=False)


def test_a_preview_touches_nothing_that_training_reads(config):
    metrics = distil(config, lines=10, progress=False)
    assert metrics["pairs"] == 10
    assert not distilled_set(config).config.exists()
    whole = distil(config, progress=False)
    assert whole["pairs"] > 10
    first = [line for line in text_of(config, 10) if line]
    assert first == [line for line in text_of(config) if line][:len(first)]


def test_mistakes_are_named(config):
    with pytest.raises(ConfigError, match="unknown teacher 'ga_b'"):
        distil(load_config("ga_b"))
    with pytest.raises(ConfigError, match="lines = -1: 0 or more"):
        distil(config, -1)
    with pytest.raises(CheckpointError, match="train it first with"):
        distil(replace(config, seed=2))


def test_the_notebook_previews_with_the_shipped_teacher(isolated):
    """What it says is what metrics.json says, and the picture's points lie beside it."""
    committed("tr_s")
    said = printed(execute(isolated, "09_distillation", lines=150))
    metrics = json.loads(distilled_set(load_config("tr_s"), 150).metrics.read_text())
    assert metrics["pairs"] == 150 and "This is a preview" in said
    assert f"differs from the reference in {1 - metrics['identical']:.0%} of the lines" in said
    raw, distilled = (metrics["modes"][text][0] for text in ("raw", "distilled"))
    assert f"| 1 | {raw:.3f} | {distilled:.3f} |" in said
    points = isolated / "outputs/figures/distillation_toy_smoke_tr_s_s1_first_150.csv"
    assert len(pd.read_csv(points)) == 16


def test_the_command(isolated):
    with pytest.raises(SystemExit, match="error: no checkpoint"):
        main(["--teacher", "tr_b"])
