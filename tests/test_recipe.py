"""The grid of training settings: every combination, its table, and what it refuses."""

import pandas as pd
import pytest

from lib.config import load_config
from lib.paths import outputs_root
from lib.runs import run_folder
from lib.training import record
from workflow import job as process
from workflow import recipe, trials

TINY = "{learning_rate: [0.001, 0.002], steps: [4], validate_every: [2], warmup_steps: [2]}"


def test_every_combination_is_there_once():
    assert recipe.combinations({"a": [1, 2], "b": [3, 4]}) == [
        {"a": 1, "b": 3}, {"a": 1, "b": 4}, {"a": 2, "b": 3}, {"a": 2, "b": 4}]


@pytest.fixture
def at_once(monkeypatch):
    """Jobs run in this process, one after the other; their names, in order."""
    ran = []

    def work_off(jobs: list[process.Job], *_):
        for job in jobs:
            with monkeypatch.context() as apart:
                apart.setenv("DISCREPANCY_OUTPUTS", str(job.outputs))
                assert job.words[:2] == ("-m", "workflow.job")
                assert process.main(list(job.words[2:])) == 0
            ran.append(job.name)
        return type("Work", (), {"failed": {}})

    monkeypatch.setattr(trials, "work_off", work_off)
    return ran


def test_a_table_of_best_validations(isolated, at_once):
    words = ["--scale", "smoke", "--models", "tr_s", "--grid", TINY]
    recipe.main(words)
    assert len(at_once) == 2 and not (outputs_root() / "runs").exists()
    table = pd.read_csv(outputs_root() / "tables" / "recipe_toy_smoke.csv")
    assert table["learning_rate"].tolist() == [0.001, 0.002]
    assert (table["dev_ll"] <= table["best_dev_ll"]).all() and table["dev_ll"].nunique() == 2
    assert not table["in_params"].any()


def test_a_run_that_is_there_isnt_trained_again(isolated, at_once):
    config = load_config("tr_s", "toy", "smoke")
    rate, run = config.training.learning_rate, run_folder(config)
    record.write(run, config, {})
    pd.DataFrame({"step": [1, config.training.steps], "dev_bleu": [3.0, 2.0],
                  "dev_ll": [-2.0, -1.0], "kl_weight": 1.0}).to_csv(run.history, index=False)
    recipe.main(["--scale", "smoke", "--models", "tr_s", "--grid", f"{{learning_rate: [{rate}]}}"])
    assert not at_once
    row = pd.read_csv(outputs_root() / "tables" / "recipe_toy_smoke.csv").iloc[0]
    assert row[["dev_bleu", "step", "dev_ll", "best_dev_ll", "in_params"]].tolist() == [
        3.0, 1, -2.0, -1.0, True]


def test_for_reading_the_best_is_compared_with_params():
    table = pd.DataFrame({"model": ["tr_s"] * 2 + ["ga_b"] * 2, "learning_rate": [1e-3, 2e-3] * 2,
                          "dev_bleu": [20.0, 21.5, 19.0, 18.0], "dev_ll": [-1.0, -1.2] * 2,
                          "in_params": [True, False] * 2})
    shown = recipe.compact(table, {"learning_rate": [1e-3, 2e-3]})
    assert shown.to_dict("records") == [
        {"model": "tr_s", "learning rate 0.001": "20.0, −1.00",
         "learning rate 0.002": "21.5, −1.20", "BLEU of the best above params/": "1.5"},
        {"model": "ga_b", "learning rate 0.001": "19.0, −1.00",
         "learning rate 0.002": "18.0, −1.20", "BLEU of the best above params/": "0.0"}]


def test_settings_that_are_words_are_shown_as_they_are():
    table = pd.DataFrame({"model": "tr_s", "precision": ["fp32", "bf16"], "dev_bleu": [20.0, 21.0],
                          "dev_ll": -1.0, "in_params": [True, False]})
    assert {"precision fp32", "precision bf16"} <= set(recipe.compact(table, {"precision": ()}))


@pytest.mark.parametrize(("words", "needs"), [
    (["--scale", "mini", "--models", "ga_b"], "models that start from another one"),
    (["--grid", "{learning_rat: [0.001]}"], "did you mean learning_rate"),
    (["--grid", "{seed: [1, 2]}"], "overrides name seed, which has an option of its own"),
    (["--grid", "{learning_rate: 0.001}"], "grid: learning_rate = 0.001: a list of values is"),
    (["--grid", "{learning_rate: []}"], r"grid: learning_rate = \[\]: a list of values is"),
    (["--scale", "smoke", "--models", "tr_s", "--side-by-side", "0"],
     "--side-by-side = 0 must be 1 or more")])
def test_a_wrong_call_is_one_line(words, needs, isolated):
    with pytest.raises(SystemExit, match=needs):
        recipe.main(words)
