"""Trials of rate, warm-up and dropout: real trainings, kept apart, resumed, recorded."""

import json

import pytest

from lib.config import load_config
from lib.runs import run_folder
from lib.training import Trainer, choice, trials

TINY = {"steps": 4, "validate_every": 2, "dev_sentences": 10}


@pytest.fixture
def few(isolated, monkeypatch):
    """Two trials, on a run of four steps."""
    values = {"one": {"warmup_steps": 1}, "two": {"warmup_steps": 4, "dropout": 0.1}}
    for module in (choice, trials):
        monkeypatch.setattr(module, "trials", lambda config: {
            name: load_config("tr_s", **TINY, **settings) for name, settings in values.items()})
    return load_config("tr_s", **TINY)


def test_each_trial_has_a_folder_of_its_own_and_the_run_records_the_choice(few):
    trials.main(["--model", "tr_s", "--trial", "2"])
    assert choice.choice(few) == {}
    trials.main(["--model", "tr_s"])
    made = choice.choice(few)
    assert set(made["trials"]) == {"one", "two"} and made["chosen"] in made["trials"]
    run = run_folder(few)
    assert not run.path.exists()
    tried = json.loads(choice.trial_folder(few, "two").config.read_text())["training"]
    assert (tried["warmup_steps"], tried["dropout"], tried["steps"]) == (4, 0.1, 4)
    Trainer(few, progress=False).run()
    assert json.loads(run.config.read_text())["search"] == made


def test_a_second_call_trains_nothing(few, monkeypatch):
    trials.main(["--model", "tr_s"])
    made = choice.choice(few)
    monkeypatch.setattr(Trainer, "train_step", None)
    trials.main(["--model", "tr_s"])
    assert choice.choice(few) == made


@pytest.mark.parametrize(("words", "message"), [
    (["--model", "gab"], "did you mean ga_b"), (["--trial", "9"], "there are trials 1 to 4"),
    (["--trial", "-1"], "there are trials 1 to 4")])
def test_a_wrong_call_is_one_line(words, message):
    with pytest.raises(SystemExit, match=message):
        trials.main(words)
