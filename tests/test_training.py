"""Training: resumed anywhere it is the run that was never interrupted; bad states are refused."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from lib import training
from lib.config import Config, load_config
from lib.errors import CheckpointError, ConfigError, TrainingError
from lib.objectives import kl_weight, learning_rate
from lib.paths import ROOT
from lib.runs import run_folder
from lib.training import Trainer, checkpoints, train
from lib.training.history import Validations
from lib.training.validation import dev_scores

pytestmark = pytest.mark.usefixtures("isolated")

STEPS, EVERY = 12, 3
SMALL = {"d_model": 16, "d_filter": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1}
LATENT = {"d_latent": 32, "posterior_layers": 1, "dev_samples": 2, "start_from": ""}
QUICK = {"steps": STEPS, "batch_tokens": 256, "validate_every": EVERY, "dev_sentences": 12,
         "dropout": 0.1, "average": 0.9, "warmup_steps": 5, "learning_rate": 0.004,
         "label_smoothing": 0.1, "precision": "fp32", "patience": 0, "accumulate": 1}
ANNEALED = {"kl_start": 4, "kl_ramp": 4}


def small(model: str, **changes) -> Config:
    """A run of seconds on 80 toy pairs: some five steps an epoch."""
    overrides = {**SMALL, **QUICK}
    if model[:2] in ("ga", "fl"):
        overrides |= {**LATENT, **ANNEALED}
    elif not model.startswith("tr"):
        overrides |= {"decoder_d_filter": 32, "label_smoothing": 0.0, "start_from": ""}
    if model.startswith("dp"):
        overrides |= ANNEALED
    if model.startswith("fl"):
        overrides |= {"flow_d_filter": 32, "flow_heads": 2}
    config = load_config(model, **{**overrides, **changes})
    options = {**config.dataset.options, "train_pairs": 80, "dev_pairs": 20, "test_pairs": 20}
    return replace(config, dataset=replace(config.dataset, options=options))


class Interrupted(Exception):
    pass


class Recorder(Trainer):
    """Keeps the loss terms of every step, by step; stops at the end of step `until`."""

    until = None

    def __init__(self, config: Config, log: dict):
        self.log = log
        super().__init__(config, progress=False)

    def train_step(self):
        terms = super().train_step()
        self.log[self.step] = {name: float(value) for name, value in terms.items()}
        if self.step == self.until:
            raise Interrupted
        return terms


def run(config: Config, log: dict, until: int | None = None, on_validation=None) -> Recorder:
    trainer = Recorder(config, log)
    trainer.until = until
    trainer.run(on_validation)
    return trainer


def elsewhere(monkeypatch, isolated, name: str) -> None:
    monkeypatch.setenv("DISCREPANCY_OUTPUTS", str(isolated / name))


def without_time(history: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def assert_same_run(one: Trainer, other: Trainer) -> None:
    assert without_time(one.history) == without_time(other.history)
    assert one.folder.validations.read_bytes() == other.folder.validations.read_bytes()
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    for name, value in one.average.values.items():
        assert torch.equal(value, other.average.values[name]), name
    best, same = (checkpoints.load(t.folder.best, "") for t in (one, other))
    assert (best["step"], best["dev_bleu"]) == (same["step"], same["dev_bleu"])
    assert all(torch.equal(v, same["weights"][k]) for k, v in best["weights"].items())


# Resuming ------------------------------------------------------------------------------------

@pytest.mark.parametrize("model", ["tr_s", "ga_b", "fl_s", "na_b", "da_b", "ct_b", "md_b"])
def test_resumed_is_uninterrupted_whatever_the_step(model, monkeypatch, isolated):
    """One run stopped after step 1, then 2, then 3, ...: each start goes on from the last
    checkpoint, across epochs and across the start of the KL and the initialisation of the prior.
    """
    config, expected, log = small(model), {}, {}
    whole = run(config, expected)
    assert list(expected) == list(range(1, STEPS + 1))
    assert whole.epoch >= 2, "the run should cross epochs"
    elsewhere(monkeypatch, isolated, "other")
    for until in range(1, STEPS + 1):
        log.clear()
        with pytest.raises(Interrupted):
            run(config, log, until)
        first = max(0, until - 2) // EVERY * EVERY + 1  # step 3 ends before its validation
        assert log == {step: expected[step] for step in range(first, until + 1)}
    assert_same_run(whole, run(config, log))


def test_many_interruptions_in_one_run(monkeypatch, isolated):
    """A stop in every stretch, in turn after a step and in the callback of a validation."""
    config, expected, log = small("ga_b", precision="auto"), {}, {}
    whole = run(config, expected)
    elsewhere(monkeypatch, isolated, "other")

    def stop(row):
        raise Interrupted

    for until in (2, 5, 8, 11):
        with pytest.raises(Interrupted):
            run(config, log, until)
        with pytest.raises(Interrupted):
            run(config, log, on_validation=stop)
    assert_same_run(whole, run(config, log))
    assert log == expected


PLACES = {"step": (torch.nn.utils, "clip_grad_norm_", 8), "save": (Trainer, "save", 3),
          "last step": (torch.nn.utils, "clip_grad_norm_", 12),
          "validation": (training, "dev_scores", 3), "history": (Trainer, "_write_history", 3)}


def interrupt(monkeypatch, place: str) -> None:
    """Ctrl-C inside one of `PLACES`: at a call of a function, counted from 1."""
    owner, name, when = PLACES[place]
    real, calls = getattr(owner, name), []

    def interrupting(*arguments, **named):
        calls.append(1)
        if len(calls) == when:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, interrupting)


@pytest.mark.parametrize(("place", "second"), [
    *((place, "new") for place in ("step", "validation", "save", "history")),
    *((place, "same") for place in ("step", "last step", "validation"))])
def test_interrupted_inside_a_step_or_a_validation(place, second, monkeypatch, isolated):
    """Ctrl-C can come anywhere: between the best checkpoint and the last one, too. A new trainer,
    or the same one, goes on from the last checkpoint and loses nothing.
    """
    config, expected, log = small("ga_b"), {}, {}
    whole = run(config, expected)
    elsewhere(monkeypatch, isolated, "other")
    interrupt(monkeypatch, place)
    trainer = Recorder(config, log)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    if second == "new":
        trainer = Recorder(config, log)
    trainer.run()
    assert_same_run(whole, trainer)
    assert log == expected


def test_the_same_trainer_leaves_weights_that_are_no_numbers(monkeypatch, isolated):
    config, expected, log = small("tr_s"), {}, {}
    whole = run(config, expected)
    elsewhere(monkeypatch, isolated, "other")
    trainer = Recorder(config, log)
    trainer.until = 4
    with pytest.raises(Interrupted):
        trainer.run()
    trainer.until = None
    trainer._broken = False  # as if between two steps
    torch.nn.init.constant_(trainer.model.embedding.weight, float("nan"))
    with pytest.raises(TrainingError, match="step 5: loss term nll is nan"):
        trainer.run()
    trainer.run()
    assert_same_run(whole, trainer)


def test_the_same_trainer_without_a_checkpoint_is_refused():
    trainer = Recorder(small("tr_s"), {})
    trainer.until = 2
    with pytest.raises(Interrupted):
        trainer.run()
    with pytest.raises(TrainingError, match="step 2 was interrupted before the first checkpoint"):
        trainer.run()


CHILD = """
import json, os, signal, sys
from dataclasses import replace
from lib import training
from lib.training import checkpoints
from lib.config import load_config
overrides, options, when = json.loads(sys.argv[1])
config = load_config("ga_b", **overrides)
config = replace(config, dataset=replace(config.dataset, options=options))
calls = []
def fsync(number, real=os.fsync):  # last.pt is the second file of a validation with a best one
    calls.append(number)
    if len(calls) == when:
        os.kill(os.getpid(), signal.SIGKILL)
    real(number)
os.fsync = fsync
training.train(config, progress=False)
"""


def test_killed_while_it_writes_a_checkpoint(monkeypatch, isolated):
    """SIGKILL, half of the third `last.pt` written: the next start resumes from the second."""
    overrides = {**SMALL, **QUICK, **LATENT, **ANNEALED}
    config, expected, log = small("ga_b"), {}, {}
    whole = run(config, expected)
    elsewhere(monkeypatch, isolated, "other")
    arguments = json.dumps([overrides, config.dataset.options, 3])
    done = subprocess.run([sys.executable, "-c", CHILD, arguments], cwd=ROOT, timeout=300,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    folder = run_folder(config)
    assert sorted(p.suffix for p in folder.checkpoints.iterdir()) == ["", ".pt", ".tmp"]
    resumed = run(config, log)
    assert min(log) == 2 * EVERY + 1
    assert log == {step: terms for step, terms in expected.items() if step > 2 * EVERY}
    assert_same_run(whole, resumed)
    assert {p.name for p in folder.checkpoints.iterdir()} == {"last.pt", "best.pt", "best_ll.pt"}


def test_a_finished_run_is_left_as_it_is():
    config, log = small("tr_s", steps=3), {}
    run(config, log)
    before = run_folder(config).last.read_bytes()
    train(config, progress=False)
    assert run_folder(config).last.read_bytes() == before


def test_more_steps_go_on_from_the_last(monkeypatch, isolated):
    expected, log = {}, {}
    whole = run(small("tr_s"), expected)
    elsewhere(monkeypatch, isolated, "other")
    run(small("tr_s", steps=6), log)
    assert_same_run(whole, run(small("tr_s"), log))
    assert log == expected


def test_fewer_steps_than_were_made_are_refused():
    config = small("tr_s", steps=6)
    folder = run(config, {}).folder
    before = {path: path.read_bytes() for path in folder.path.rglob("*.*")}
    with pytest.raises(CheckpointError, match="has 6 steps already, and steps = 3 asks for fewer"):
        train(small("tr_s", steps=3), progress=False)
    assert before == {path: path.read_bytes() for path in folder.path.rglob("*.*")}


@pytest.mark.parametrize("kept", ["best", "metrics"])
def test_a_run_without_its_last_checkpoint_is_not_replaced_by_another(kept):
    """As the committed ones: a trial with fewer steps must not take their place."""
    config = small("tr_s", steps=6)
    folder = run(config, {}).folder
    folder.last.unlink()
    if kept == "metrics":
        folder.best.rename(folder.metrics)
    with pytest.raises(CheckpointError, match=r"other settings of training\.steps: restore them"):
        Trainer(small("tr_s", steps=3), progress=False)
    assert Trainer(small("tr_s", steps=6, samples=7), progress=False).step == 0


def test_other_settings_are_refused():
    run(small("tr_s", steps=3), {})
    with pytest.raises(CheckpointError, match=r"other settings of training\.learning_rate, training"
                                              r"\.dropout: restore them in params/ .*, or delete"):
        Trainer(small("tr_s", steps=3, dropout=0.2, learning_rate=0.1), progress=False)
    with pytest.raises(CheckpointError, match=r"architecture\.d_filter"):
        Trainer(small("tr_s", d_filter=48), progress=False)


def test_a_checkpoint_older_than_a_setting_is_at_its_default(monkeypatch, isolated):
    """Of before `accumulate` and `teacher`, and with the random state that was kept then."""
    config, expected, log = small("ga_b"), {}, {}
    whole = run(config, expected)
    elsewhere(monkeypatch, isolated, "other")
    with pytest.raises(Interrupted):
        run(config, log, 7)
    path = run_folder(config).last
    state = checkpoints.load(path, "")
    state["config"]["dataset"].pop("teacher", None)
    del state["config"]["training"]["accumulate"]
    checkpoints.save(path, state | {"random": torch.get_rng_state(), "random_gpu": None})
    assert_same_run(whole, run(config, log))
    state["config"]["training"]["accumulate"] = 2
    checkpoints.save(path, state)
    with pytest.raises(CheckpointError, match=r"other settings of training\.accumulate: restore"):
        Trainer(config, progress=False)


def test_a_finished_run_of_before_a_setting_keeps_its_config():
    config = small("tr_s", steps=3)
    run(config, {})
    path = run_folder(config).config
    described = json.loads(path.read_text())
    del described["training"]["patience"], described["evaluation"]["beam"]
    path.write_text(json.dumps(described))
    Trainer(config, progress=False)
    assert json.loads(path.read_text()) == described


def test_another_vocabulary_is_refused():
    config = small("tr_s", steps=3)
    run(config, {})
    options = {**config.dataset.options, "seed": 2}
    other = replace(config, dataset=replace(config.dataset, options=options))
    with pytest.raises(CheckpointError, match="was trained with vocabulary"):
        Trainer(other, progress=False)


def test_a_damaged_checkpoint_is_refused():
    config = small("tr_s", steps=3)
    run(config, {})
    path = run_folder(config).last
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated or not a checkpoint.*papermill notebooks"):
        Trainer(config, progress=False)


# One training at a time ----------------------------------------------------------------------

def test_a_run_that_is_being_trained_is_refused_and_goes_on_undisturbed(monkeypatch, isolated):
    config, expected, log = small("tr_s"), {}, {}
    whole = run(config, expected)
    elsewhere(monkeypatch, isolated, "other")
    refusals = []

    def second(row):
        if row["step"] == STEPS:  # a finished run, which nobody minds
            return
        before = {path.name: path.read_bytes() for path in run_folder(config).path.rglob("*.*")}
        with pytest.raises(TrainingError) as caught:
            train(config, progress=False)
        refusals.append(str(caught.value))
        assert before == {path.name: path.read_bytes()
                          for path in run_folder(config).path.rglob("*.*")}

    assert_same_run(whole, run(config, log, on_validation=second))
    assert log == expected
    assert len(refusals) == STEPS // EVERY - 1
    assert f"is being trained already, by process {os.getpid()} on" in refusals[0]


def test_who_waited_goes_on_from_where_the_other_ended(monkeypatch, isolated):
    """Both were made before either had trained: the second must not start at step 0 again."""
    config, expected = small("ga_b"), {}
    whole = run(config, expected)
    elsewhere(monkeypatch, isolated, "other")
    logs = {}, {}
    first, second = (Recorder(config, log) for log in logs)
    first.until = 7
    with pytest.raises(Interrupted):
        first.run()
    second.run()
    assert logs[1] == {step: terms for step, terms in expected.items() if step > 6}
    assert_same_run(whole, second)


def test_an_interrupted_training_lets_go():
    config = small("tr_s")
    with pytest.raises(Interrupted):
        run(config, {}, 4)
    assert not (run_folder(config).checkpoints / "lock").exists()


# The best checkpoint -------------------------------------------------------------------------

def scores_are(monkeypatch, values: list[tuple[float, float]]) -> None:
    """Dev BLEU and dev LL of one validation after the other; all else as it is."""
    found = iter(values)

    def scores(*arguments):
        bleu, ll = next(found)
        row, sentences = dev_scores(*arguments)
        return {**row, "dev_bleu": bleu, "dev_ll": ll}, sentences
    monkeypatch.setattr(training, "dev_scores", scores)


def test_the_best_by_bleu_and_the_best_by_likelihood_are_kept(monkeypatch):
    scores_are(monkeypatch, [(5.0, -9.0), (9.0, -4.0), (7.0, -3.0), (6.0, -5.0)])
    trainer = run(small("tr_s"), {})
    kept = [checkpoints.load(path, "") for path in (trainer.folder.best, trainer.folder.best_ll)]
    assert [(k["step"], k["dev_bleu"], k["dev_ll"]) for k in kept] == [
        (6, 9.0, -4.0), (9, 7.0, -3.0)]
    one, other = (k["weights"]["embedding.weight"] for k in kept)
    assert not torch.equal(one, other)


def test_patience_lasts_while_either_quantity_improves(monkeypatch):
    """BLEU is best at step 3 and likelihood at 9: two validations later training stops."""
    scores_are(monkeypatch, [(9.0, -9.0), (5.0, -8.0), (4.0, -7.0), (4.0, -7.0), (8.0, -7.5),
                             (8.0, -7.5)])
    trainer = run(small("tr_s", steps=30, patience=2), {})
    assert (trainer.step, trainer.best_row()["step"], trainer.best_row("ll")["step"]) == (15, 3, 9)


def test_more_steps_choose_at_the_last_kl_weight_anew(monkeypatch, isolated):
    """6 of 8 steps of the ramp, then on to 12: the best of a part of the KL weight is forgotten."""
    bleu = [(50.0, -1.0), (40.0, -1.0), (30.0, -1.0), (20.0, -1.0)]
    scores_are(monkeypatch, bleu)
    whole = run(small("ga_b"), {})
    assert whole.best_row()["step"] == 9
    elsewhere(monkeypatch, isolated, "other")
    scores_are(monkeypatch, bleu)
    short = run(small("ga_b", steps=6), {})
    assert short.best_row()["step"] == 6
    longer = Recorder(small("ga_b"), {})
    assert (longer.best_row(), longer.best_bleu) == ({}, -math.inf)
    longer.until = 8
    with pytest.raises(Interrupted):
        longer.run()
    assert not longer.folder.best.exists()
    assert_same_run(whole, run(small("ga_b"), {}))


@pytest.mark.parametrize("steps", [12, 15], ids=["finished", "to go on"])
def test_a_lost_best_checkpoint_is_made_again(monkeypatch, steps):
    scores_are(monkeypatch, [(1.0, -1.0), (9.0, -1.0), (5.0, -1.0), (4.0, -1.0), (3.0, -1.0)])
    config = small("tr_s", steps=12)
    best = run(config, {}).folder.best
    before = checkpoints.load(best, "")
    best.unlink()
    assert train(small("tr_s", steps=steps), progress=False).best == best
    again = checkpoints.load(best, "")
    assert again["step"] == before["step"] == 6
    assert all(torch.equal(v, again["weights"][k]) for k, v in before["weights"].items())


def test_a_lost_best_checkpoint_of_an_older_run(monkeypatch):
    """Its last.pt holds the weights of the last step alone."""
    scores_are(monkeypatch, [(1.0, -1.0), (9.0, -1.0)])
    config = small("tr_s", steps=6)
    folder = run(config, {}).folder
    before = checkpoints.load(folder.best, "")
    for scores, told in ((None, ""), ("dev_bleu", "weights of step 3 are nowhere else: delete")):
        folder.best.unlink()
        state = checkpoints.load(folder.last, "") | {"kept": {}}
        if scores:
            state["history"][0][scores] = 99.0
        checkpoints.save(folder.last, state)
        if told:
            with pytest.raises(CheckpointError, match=told):
                train(config, progress=False)
        else:
            train(config, progress=False)
            again = checkpoints.load(folder.best, "")
            assert again["step"] == 6
            assert all(torch.equal(v, again["weights"][k]) for k, v in before["weights"].items())


def test_a_history_that_lacks_its_last_row_is_written_again():
    """The process was killed after last.pt, before history.csv."""
    config = small("tr_s", steps=6)
    folder = run(config, {}).folder
    whole = folder.history.read_text()
    folder.history.write_text("".join(whole.splitlines(keepends=True)[:2]))
    train(config, progress=False)
    assert folder.history.read_text() == whole


# What a run leaves ---------------------------------------------------------------------------

TERMS = {"tr_s": {"loss", "nll"}, "ga_b": {"loss", "reconstruction", "kl", "length"},
         "fl_s": {"loss", "reconstruction", "kl", "length"}, "na_b": {"loss", "nll", "length"},
         "da_b": {"loss", "nll", "impossible"}, "dp_b": {"loss", "nll", "kl", "impossible"},
         "ct_b": {"loss", "nll", "impossible"}, "md_b": {"loss", "nll", "length"}}


@pytest.mark.parametrize("model", TERMS)
def test_files_of_a_run(model):
    config = small(model, steps=9)
    rows = []
    folder = train(config, progress=False, on_validation=rows.append)
    with open(folder.history, newline="", encoding="utf-8") as file:
        history = list(csv.DictReader(file))
    columns = {"step", "seconds", "tokens", "dev_ll", "dev_bleu", "learning_rate", "kl_weight"}
    columns |= {f"{split}_{term}" for split in ("train", "dev") for term in TERMS[model]}
    assert set(history[0]) == columns
    assert [int(row["step"]) for row in history] == [row["step"] for row in rows] == [3, 6, 9]
    for row in history:
        step = int(row["step"])
        t = config.training
        assert float(row["learning_rate"]) == learning_rate(step, t.learning_rate, 5)
        assert float(row["kl_weight"]) == kl_weight(step, t.kl_start, t.kl_ramp)
        assert float(row["dev_ll"]) < 0 <= float(row["dev_bleu"]) <= 100
    for name in ("seconds", "tokens"):
        grown = [float(row[name]) for row in history]
        assert grown == sorted(grown) and grown[0] > 0
    described = json.loads(folder.config.read_text(encoding="utf-8"))
    assert described["training"] == json.loads(json.dumps(asdict(config.training)))
    assert described["dataset"]["name"] == "toy"
    assert (described["seed"], described["model"], described["training_pairs"]) == (1, model, 80)
    assert {"parameters", "vocabulary", "device", "threads", "versions", "commit"} <= set(described)
    assert {p.name for p in folder.path.rglob("*") if p.is_file()} == {
        "config.json", "history.csv", "validations.npz", "last.pt", "best.pt", "best_ll.pt"}
    kept = Validations.read(folder.validations)
    assert kept.log_prob.shape == (3, len(kept.tokens)) == kept.counts.shape[:2]
    ll, bleu = kept.resampled(np.ones((1, len(kept.tokens))))  # each sentence once
    assert ll[0] == pytest.approx([row["dev_ll"] for row in rows], rel=1e-6)
    assert bleu[0] == pytest.approx([row["dev_bleu"] for row in rows], abs=1e-9)


def test_a_corpus_that_the_slots_are_too_few_for_is_refused():
    with pytest.raises(ConfigError, match=r"upsampling = 1: \d+ of 80 training pairs .* have no "
                                          r"path through their frames, .* raise upsampling"):
        Trainer(small("ct_b", upsampling=1), progress=False)


def test_train_terms_in_the_history_are_per_token():
    log = {}
    trainer = run(small("tr_s", steps=6), log)
    for row in trainer.history:
        window = [log[step] for step in range(row["step"] - EVERY + 1, row["step"] + 1)]
        tokens = sum(terms["tokens"] for terms in window)
        nll = sum(terms["nll"] for terms in window) / tokens
        assert row["train_nll"] == pytest.approx(nll, rel=1e-12)


def test_the_kl_in_the_history_is_of_the_steps_that_had_one():
    """The KL starts at step 5 of a window of 4 to 6: its mean is over steps 5 and 6."""
    log = {}
    trainer = run(small("ga_b", steps=6), log)
    had = [terms for step, terms in log.items() if step in (5, 6)]
    assert "kl" not in log[4] and "kl" not in trainer.history[0].get("train_kl", "")
    kl = sum(t["kl"] for t in had) / sum(t["tokens"] for t in had)
    assert trainer.history[1]["train_kl"] == pytest.approx(kl, rel=1e-12)


def test_best_is_chosen_at_full_kl_weight(monkeypatch):
    """Even where dev BLEU was higher before."""
    scores_are(monkeypatch, [(90.0, -1.0), (80.0, -1.0), (10.0, -1.0), (20.0, -1.0)])
    config = small("ga_b")  # full weight from step 8: validations at 9 and 12
    trainer = run(config, {})
    best = checkpoints.load(trainer.folder.best, "")
    assert (best["step"], best["dev_bleu"], trainer.best_bleu) == (12, 20.0, 20.0)
    assert set(best["weights"]) == set(trainer.model.state_dict())


@pytest.mark.parametrize("model", ["tr_s", "ga_b", "fl_s", "na_b", "dp_b", "ct_b", "md_b"])
def test_validation_disturbs_nothing(model):
    """Neither the random state nor the weights; and it gives the same scores twice."""
    trainer = Trainer(small(model), progress=False)
    for _ in range(6):
        trainer.train_step()
    sums, tokens = dict(trainer.sums), trainer.tokens
    random = torch.get_rng_state()
    weights = {n: v.clone() for n, v in trainer.model.state_dict().items()}
    first = trainer.validate()
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(v, weights[n]) for n, v in trainer.model.state_dict().items())
    torch.manual_seed(99)
    trainer.sums, trainer.tokens = sums, tokens
    assert trainer.validate() == first


# One step ------------------------------------------------------------------------------------

def test_averaged_weights_by_hand():
    """Decay min(0.5, step / (step + 10)): 1/11, 2/12, ... until it reaches 0.5 at step 10."""
    trainer = Trainer(small("tr_s", average=0.5), progress=False)
    mean = trainer.model.embedding.weight.detach().clone()
    for step in range(1, STEPS + 1):
        trainer.train_step()
        decay = min(0.5, step / (step + 10))
        mean = decay * mean + (1 - decay) * trainer.model.embedding.weight.detach()
        found = trainer.average.values["embedding.weight"]
        torch.testing.assert_close(found, mean, rtol=1e-5, atol=1e-7)
    assert torch.equal(trainer.average.weights()["embedding.weight"], found)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("model", ["tr_s", "ga_b"])
def test_accumulated_halves_are_one_batch(model, monkeypatch):
    """The same rows as one batch or two: one objective, normalised by all tokens."""
    rows = np.arange(12)
    gradients, terms = [], []
    for accumulate, groups in ((1, [rows]), (2, [rows[:5], rows[5:]])):
        config = small(model, accumulate=accumulate, dropout=0.0, clip_norm=1e9, kl_start=0,
                       kl_ramp=0)
        trainer = Trainer(config, progress=False)
        monkeypatch.setattr(trainer, "_next_rows", iter(groups).__next__)
        if model != "tr_s":  # no noise: the posterior's sample is its mean; no data-dependent start
            monkeypatch.setattr("lib.distributions.DiagonalGaussian.rsample",
                                lambda self, *_: self.loc)
            monkeypatch.setattr(trainer.model, "initialise", lambda batch, which: None)
        terms.append(trainer.train_step())
        gradients.append({n: p.grad for n, p in trainer.model.named_parameters()
                          if p.grad is not None})
    assert terms[0] == pytest.approx(terms[1], rel=1e-10)
    assert set(gradients[0]) == set(gradients[1])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-8, atol=1e-11)


def test_the_gradient_is_clipped_and_the_rate_is_scheduled():
    trainer = Trainer(small("tr_s", clip_norm=0.01), progress=False)
    for step in (1, 2, 3):
        trainer.train_step()
        norm = torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm()
        assert float(norm) == pytest.approx(0.01, rel=1e-3)
        rate = trainer.optimiser.param_groups[0]["lr"]
        assert rate == learning_rate(step, trainer.settings.learning_rate, 5)


def test_the_rate_starts_again_when_the_kl_enters():
    trainer = Trainer(small("ga_b", kl_start=2, warmup_steps=2, rate_restarts=True), progress=False)
    rates = []
    for _ in range(5):
        trainer.train_step()
        rates.append(trainer.optimiser.param_groups[0]["lr"] / trainer.settings.learning_rate)
    assert rates == pytest.approx([0.5, 1, 0.5, 1, math.sqrt(2 / 3)])


def test_the_prior_is_initialised_when_the_kl_starts(monkeypatch):
    """kl_start = 4: the posterior's head at step 1, the prior at step 5, from that step's batch."""
    trainer = Trainer(small("fl_s"), progress=False)
    seen = []
    real = trainer.model.initialise
    monkeypatch.setattr(trainer.model, "initialise",
                        lambda batch, which: (seen.append((trainer.step, which)),
                                              real(batch, which)))
    for _ in range(6):
        trainer.train_step()
    assert seen == [(1, "posterior"), (5, "prior")]


# A loss that isn't finite --------------------------------------------------------------------

def test_nan_names_step_term_and_checkpoint():
    trainer = Trainer(small("tr_s"), progress=False)
    for _ in range(EVERY):
        trainer.train_step()
    trainer.validate()
    torch.nn.init.constant_(trainer.model.embedding.weight, float("nan"))
    with pytest.raises(TrainingError) as caught:
        trainer.train_step()
    message = str(caught.value)
    assert message.startswith("step 4: loss term nll is nan; last good checkpoint: ")
    assert str(trainer.folder.last) in message and "params/smoke/tr_s.yaml" in message
    resumed = Trainer(small("tr_s"), progress=False)
    assert resumed.step == EVERY
    assert torch.isfinite(resumed.model.embedding.weight).all()
    assert f"Delete {trainer.folder.path} and start again with a lower learning_rate" in message
    shutil.rmtree(trainer.folder.path)
    assert Trainer(small("tr_s", learning_rate=1e-4), progress=False).step == 0


def test_nan_in_one_term_names_it():
    trainer = Trainer(small("ga_b"), progress=False)
    trainer.train_step()
    torch.nn.init.constant_(trainer.model.length_predictor.outer.bias, float("nan"))
    with pytest.raises(TrainingError, match=r"step 2: loss term length is nan; no checkpoint was"):
        trainer.train_step()


def test_an_infinite_gradient_stops(monkeypatch):
    trainer = Trainer(small("tr_s"), progress=False)
    trainer.model.embedding.weight.register_hook(lambda g: g * float("inf"))
    before = trainer.model.embedding.weight.detach().clone()
    with pytest.raises(TrainingError, match="step 1: the gradient's norm is (inf|nan)"):
        trainer.train_step()
    assert torch.equal(trainer.model.embedding.weight.detach(), before)


# Starting from another run, and the command --------------------------------------------------

def test_a_latent_model_starts_from_a_trained_transformer():
    with pytest.raises(CheckpointError, match=r"no checkpoint .*-p model tr_s -p dataset toy"):
        Trainer(small("ga_b", start_from="tr_s"), progress=False)
    folder = train(small("tr_s", steps=3), progress=False)
    weights = checkpoints.load(folder.best, "")["weights"]
    trainer = Trainer(small("ga_b", start_from="tr_s"), progress=False)
    assert torch.equal(trainer.model.embedding.weight, weights["embedding.weight"])
    assert torch.equal(trainer.average.values["embedding.weight"], weights["embedding.weight"])



def test_a_mistake_on_the_command_line_is_one_line(capsys):
    with pytest.raises(SystemExit, match=r"error: unknown model 'tr_x': did you mean"):
        training.main(["--model", "tr_x"])
