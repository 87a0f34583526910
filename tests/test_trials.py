"""Trainings with settings of their own: where they lie, and what they start from."""

import pytest
from made_up import made_up_run

from lib.config import load_config
from lib.paths import outputs_root
from lib.runs import run_folder
from lib.training import record, train
from workflow import trials


def test_a_training_that_starts_from_another_finds_its_weights(isolated, monkeypatch):
    start = run_folder(load_config("tr_s", "toy", "smoke", 2))
    train(load_config("tr_s", "toy", "smoke", 2, steps=2, validate_every=1, warmup_steps=1,
                      dev_sentences=4), progress=False)
    small = {"steps": 2, "validate_every": 1, "kl_start": 0, "kl_ramp": 1, "dev_sentences": 4}
    trial = trials.Trial("ga_b", "toy", "smoke", 2, small)
    made = trial.file("metrics.json").parent
    brought = trial.outputs / start.path.relative_to(outputs_root()) / "checkpoints"
    trials.train_all([trial], 1)
    assert (brought / "best.pt").exists() and not (brought / "last.pt").exists()
    assert (made / "history.csv").exists() and not (made / "metrics.json").exists()
    assert trial.file("metrics.json").parent == made and not run_folder(trial.config).path.exists()


def test_a_copy_that_was_interrupted_is_made_again(isolated, monkeypatch):
    start = run_folder(load_config("tr_s", "toy", "smoke"))
    start.checkpoints.mkdir(parents=True)
    start.best.write_bytes(b"weights")
    trial = trials.Trial("ga_b", "toy", "smoke", settings={"steps": 2})
    brought = trial.outputs / start.path.relative_to(outputs_root())

    def interrupted(_, there, **rest):
        there.mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("workflow.trials.shutil.copytree", interrupted)
        trial.bring_start()
    assert not brought.exists()
    trial.bring_start()
    assert (brought / "checkpoints" / "best.pt").read_bytes() == b"weights"
    assert {path.name for path in trial.outputs.iterdir()} == {"runs"}


def test_what_params_holds_already_is_no_trial():
    rate = load_config("ga_b", "toy", "smoke").training.learning_rate
    assert trials.Trial("ga_b", "toy", "smoke", settings={"learning_rate": rate}).in_params
    assert not trials.Trial("ga_b", "toy", "smoke", settings={"learning_rate": rate / 2}).in_params


def test_a_run_of_outputs_made_otherwise_is_made_as_a_trial(isolated):
    trial = trials.Trial("ga_b", "toy", "smoke", scored=True)
    run = made_up_run("ga_b", 0.3, 2.0)
    record.write(run, load_config("ga_b", steps=7), {})
    assert trial.outputs != outputs_root() and trial.job is not None
    record.write(run, trial.config, {})
    assert trial.outputs == outputs_root() and trial.job is None
    assert trials.Trial("ga_b", "toy", "smoke").job is not None  # 6 validations, and no end


def test_runs_of_every_seed_are_there_in_order(isolated):
    for seed in (10, 2, "2_backup"):
        file = trials.Trial("ga_b", "toy", "smoke", 1, {"steps": 2}).file("history.csv")
        file = file.parent.with_name(f"s{seed}") / file.name
        file.parent.mkdir(parents=True)
        file.touch()
    files = trials.Trial("ga_b", "toy", "smoke", settings={"steps": 2}).files("history.csv")
    assert [file.parent.name for file in files] == ["s2", "s10"]
    assert trials.Trial("ga_b", "toy", "smoke", settings={"steps": 3}).files("history.csv") == []
