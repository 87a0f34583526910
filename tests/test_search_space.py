"""The values to choose from, and the record of a choice."""

import shutil

import pytest

from lib.config import MODELS, SCALES, load_config
from lib.errors import ConfigError
from lib.paths import PARAMS
from lib.training import search_space


@pytest.fixture
def params(tmp_path, monkeypatch):
    """A copy of the files that a test may spoil."""
    shutil.copytree(PARAMS / "search", tmp_path / "params" / "search")
    monkeypatch.setattr(search_space, "PARAMS", tmp_path / "params")
    return tmp_path / "params" / "search"


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_offers_warm_up_and_dropout_to_every_model(scale):
    for model in MODELS:
        config = load_config(model, "toy", scale)
        trials = search_space.combinations(config)
        assert len(trials) == len({tuple(trial.items()) for trial in trials}) >= 4
        assert all(list(trial) == ["warmup_steps", "dropout"] for trial in trials)


def test_combinations_come_in_the_order_of_the_file(params):
    (params / "smoke.yaml").write_text("warmup_steps: [3, 4]\ndropout: [0.1, 0.2]\n")
    assert search_space.combinations(load_config("tr_s")) == [
        {"warmup_steps": 3, "dropout": 0.1}, {"warmup_steps": 3, "dropout": 0.2},
        {"warmup_steps": 4, "dropout": 0.1}, {"warmup_steps": 4, "dropout": 0.2}]


@pytest.mark.parametrize(("text", "message"), [
    ("warmup_step: [3]", "did you mean warmup_steps"), ("dropout: [2.0]", "lies outside"),
    ("dropout: 0.1", "a list of values"), ("", "a list of values"), ("d_model: [3]", "unknown"),
])
def test_a_mistake_in_the_file_is_named(params, text, message):
    (params / "smoke.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        search_space.combinations(load_config("tr_s"))


def test_a_missing_file_is_named(params):
    (params / "smoke.yaml").unlink()
    with pytest.raises(ConfigError, match=r"params/search/smoke\.yaml"):
        search_space.combinations(load_config("tr_s"))


def test_the_best_trial_is_chosen_the_first_of_equals(isolated):
    config = load_config("ga_b")
    assert search_space.read_record(config) == {}
    trials = [{"settings": {"dropout": d}, "dev_bleu": bleu, "step": 1, "seconds": 1.0}
              for d, bleu in ((0.1, 3.0), (0.2, 5.0), (0.3, 5.0))]
    assert search_space.write_record(config, trials)["chosen"] == {"dropout": 0.2}
    assert search_space.read_record(config) == {"chosen": {"dropout": 0.2}, "trials": trials}


def test_a_damaged_record_is_refused(isolated):
    config = load_config("ga_b")
    search_space.write_record(config, [{"settings": {}, "dev_bleu": 0.0}])
    search_space.record_path(config).write_text("{")
    with pytest.raises(ConfigError, match="search again"):
        search_space.read_record(config)
