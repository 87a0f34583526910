"""The values to choose from, and what was chosen."""

import shutil

import pytest

from lib.config import MODELS, SCALES, load_config
from lib.errors import ConfigError
from lib.paths import PARAMS
from lib.training import choice
from lib.training.history import write_rows


@pytest.fixture
def params(tmp_path, monkeypatch):
    """A copy of the files that a test may spoil."""
    shutil.copytree(PARAMS / "search", tmp_path / "params" / "search")
    monkeypatch.setattr(choice, "PARAMS", tmp_path / "params")
    return tmp_path / "params" / "search"


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_offers_the_same_values_to_every_model(scale):
    offered = [choice.trials(load_config(model, "toy", scale)) for model in MODELS]
    assert len({tuple(some) for some in offered}) == 1 and len(offered[0]) >= 4
    assert all("warmup_steps=" in name and "dropout=" in name for name in offered[0])


def test_trials_come_in_the_order_of_the_file_and_are_changed_as_it_says(params):
    (params / "smoke.yaml").write_text(
        "values:\n  warmup_steps: [3, 4]\n  dropout: [0.1, 0.2]\ntrial: {steps: 7}\n")
    found = choice.trials(load_config("tr_s", seed=2))
    assert list(found) == ["warmup_steps=3,dropout=0.1", "warmup_steps=3,dropout=0.2",
                           "warmup_steps=4,dropout=0.1", "warmup_steps=4,dropout=0.2"]
    last = found["warmup_steps=4,dropout=0.2"]
    assert (last.training.warmup_steps, last.training.dropout, last.training.steps, last.seed) == (
        4, 0.2, 7, 2)


@pytest.mark.parametrize(("text", "message"), [
    ("values: {warmup_step: [3]}", "did you mean warmup_steps"),
    ("values: {dropout: [2.0]}", "lies outside"), ("values: {dropout: 0.1}", "a list of values"),
    ("", "keys and values"), ("dropout: [0.1]", "a list of values"),
    ("values: {d_model: [3]}", "unknown"),
    ("values: {dropout: [0.1]}\ntrial: {d_model: 3}", "unknown"),
])
def test_a_mistake_in_the_file_is_named(params, text, message):
    (params / "smoke.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        choice.trials(load_config("tr_s"))


def test_a_missing_file_is_named_but_needs_no_choice(params):
    (params / "smoke.yaml").unlink()
    with pytest.raises(ConfigError, match=r"params/search/smoke\.yaml"):
        choice.trials(load_config("tr_s"))
    assert choice.choice(load_config("tr_s")) == {}


def test_the_best_trial_at_the_last_kl_weight_is_chosen_between_equals_by_likelihood(isolated):
    config = load_config("ga_b")
    names = list(choice.trials(config))
    assert choice.choice(config) == {}
    for name, bleu, ll in zip(names, (3.0, 5.0, 5.0, 4.0), (-1.0, -3.0, -2.0, -1.0), strict=True):
        assert choice.choice(config) == {}  # not until all are there
        last = choice.trials(config)[name].training.steps
        rows = [{"step": 1, "dev_bleu": 90.0, "dev_ll": 0.0, "kl_weight": 0.5},
                {"step": 2, "dev_bleu": bleu, "dev_ll": ll, "kl_weight": 1.0},
                {"step": last, "dev_bleu": bleu - 1, "dev_ll": 0.0, "kl_weight": 1.0}]
        write_rows(choice.trial_folder(config, name).history, rows[:2])
        assert choice.choice(config) == {}  # nor until each has ended
        write_rows(choice.trial_folder(config, name).history, rows)
    assert choice.choice(config) == {
        "chosen": names[2], "trials": dict(zip(names, (3.0, 5.0, 5.0, 4.0), strict=True))}
    assert choice.choice(load_config("ga_b", seed=2)) == {}  # whose trials are others
