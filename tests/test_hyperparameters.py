"""Trials of warm-up and dropout: real trainings, kept apart, resumed, recorded."""

import json

import pytest

from lib.config import load_config
from lib.runs import run_folder
from lib.training import Trainer, hyperparameters, search_space

TINY = {"steps": 4, "validate_every": 2, "dev_sentences": 10}


@pytest.fixture
def few(isolated, monkeypatch):
    """Two trials, on a run of four steps."""
    trials = [{"warmup_steps": 1, "dropout": 0.0}, {"warmup_steps": 4, "dropout": 0.1}]
    monkeypatch.setattr(hyperparameters, "combinations", lambda config: trials)
    return load_config("tr_s", **TINY), trials


def test_all_trials_are_recorded_and_the_best_is_chosen(few):
    config, settings = few
    record = hyperparameters.choose(config, progress=False)
    assert [trial["settings"] for trial in record["trials"]] == settings
    assert all(trial["step"] == 4 for trial in record["trials"])
    best = max(record["trials"], key=lambda trial: trial["dev_bleu"])
    assert record["chosen"] == best["settings"]
    assert search_space.read_record(config) == record
    run = run_folder(config)
    assert not run.history.exists() and not run.last.exists()
    histories = sorted((run.checkpoints / "search").glob("*/history.csv"))
    assert [path.parent.name for path in histories] == [
        "warmup_steps=1,dropout=0.0", "warmup_steps=4,dropout=0.1"]
    tried = json.loads(histories[1].with_name("config.json").read_text())["training"]
    assert (tried["warmup_steps"], tried["dropout"], tried["steps"]) == (4, 0.1, 4)


def test_a_second_search_trains_nothing_and_says_the_same(few, monkeypatch):
    config, _ = few
    record = hyperparameters.choose(config, progress=False)
    monkeypatch.setattr(Trainer, "train_step", None)
    assert hyperparameters.choose(config, progress=False) == record


def test_a_run_records_how_its_settings_were_chosen(few):
    config, _ = few
    record = hyperparameters.choose(config, progress=False)
    Trainer(config, progress=False).run()
    assert json.loads(run_folder(config).config.read_text())["search"] == record


def test_a_wrong_name_is_one_line():
    with pytest.raises(SystemExit, match="did you mean ga_b"):
        hyperparameters.main(["--model", "gab"])
