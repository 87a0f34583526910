"""Trainings with settings of their own: the grid of the recipe, and the ablations."""

import json
from pathlib import Path

import pandas as pd
import pytest

from analysis.tables import interval
from lib.config import load_config
from lib.paths import outputs_root, write_json
from lib.runs import run_folder
from lib.training import train
from workflow import ablations, recipe, trials
from workflow.gpu import Job

# The recipe -----------------------------------------------------------------------------------

TINY = "{learning_rate: [0.001, 0.002], steps: [4], validate_every: [2], warmup_steps: [2]}"


def test_every_combination_is_there_once():
    assert recipe.combinations({"a": [1, 2], "b": [3, 4]}) == [
        {"a": 1, "b": 3}, {"a": 1, "b": 4}, {"a": 2, "b": 3}, {"a": 2, "b": 4}]


@pytest.fixture
def at_once(monkeypatch):
    """Jobs run in this process, one after the other; their names, in order."""
    ran = []

    def work_off(jobs: list[Job], *_):
        for job in jobs:
            with monkeypatch.context() as apart:
                apart.setenv("DISCREPANCY_OUTPUTS", str(outputs_root()))
                assert job.words[:2] == ("-m", "workflow.trials")
                trials.main(list(job.words[2:]))
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
    run.path.mkdir(parents=True)
    pd.DataFrame({"step": [1, 2], "dev_bleu": [3.0, 2.0], "dev_ll": [-2.0, -1.0]}).to_csv(
        run.history, index=False)
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


@pytest.mark.parametrize(("words", "needs"), [
    (["--scale", "mini", "--models", "ga_b"], "models that start from another one"),
    (["--grid", "{learning_rat: [0.001]}"], "did you mean learning_rate")])
def test_a_wrong_call_is_one_line(words, needs):
    with pytest.raises(SystemExit, match=needs):
        recipe.main(words)


# Ablations ------------------------------------------------------------------------------------

def metrics_of(folder, k0, k4, ll):
    """A metrics.json with what the table of ablations shows."""
    path = folder / "metrics.json"
    bleu = {k: {"score": score, "signature": "s"} for k, score in zip(
        ("k0", "k1", "k4"), (k0, (k0 + k4) / 2, k4), strict=True)}
    write_json(path, {
        "model": "ga_b", "family": "gaussian", "dataset": "toy", "scale": "smoke",
        "train_data": "raw", "seed": 1, "parameters": 1, "bleu": bleu, "headline": "k1",
        "log_likelihood": {"strict": {"mean": ll, "standard_error": 0.1}}, "step": 7,
        "test_set": {"name": "toy", "lines": 1}, "diagnostics": {"kl": -ll}})


def test_ablations_are_shown_beside_the_runs_of_params(isolated, monkeypatch):
    for seed, k4 in enumerate((12.0, 14.0), 1):
        run = run_folder(load_config("ga_b", "toy", "smoke", seed))
        metrics_of(run.path, 9.0 + seed / 2, k4, -0.8 - 0.1 * seed)
    made = []

    def work_off(jobs: list[Job], *_):
        for job in jobs:
            given = dict(zip(job.words[2::2], job.words[3::2], strict=False))
            outputs, seed = Path(given["--outputs"]), int(given["--seed"])
            assert "--score" in job.words
            made.append(json.loads(given["--settings"]))
            metrics_of(outputs / f"runs/toy/smoke/ga_b/raw/s{seed}", 9.0 + seed / 2, 14.0 + seed,
                       -0.1 * seed)
        return type("Work", (), {"failed": {}})

    monkeypatch.setattr(trials, "work_off", work_off)
    ablations.main(["--scale", "smoke", "--models", "ga_b", "--seeds", "1", "2"])
    assert made == [*ablations.RELEASED.values()] * 2
    table = pd.read_csv(outputs_root() / "tables" / "ablations_toy_smoke.csv")
    assert table["BLEU k4"].tolist() == [12.0, 14.0] + [15.0, 16.0] * 3
    assert table["gain of k4"].tolist() == [2.5, 4.0] + [5.5, 6.0] * 3
    shown = ablations.compact(table).set_index("training")
    assert shown["seeds"].tolist() == [2] * 4
    assert shown.loc["params/", ["BLEU k4", "LL"]].tolist() == ["13.0", "−0.95"]
    # Welch by hand: 2.5 over seeds, standard errors 1 and 0.5, t(1.47) = 6.19
    [more] = set(shown["BLEU k4"]) - {"13.0"}
    assert more == f"15.5 ({interval(2.5, -4.42, 9.42, plus=True)})"


def test_a_single_seed_has_no_interval():
    rows = [{"model": "ga_b", "training": name, "seed": 1,
             **dict.fromkeys(ablations.COLUMNS, value)}
            for name, value in (("params/", 1.0), ("another", 1.5))]
    shown = ablations.compact(pd.DataFrame(rows))
    assert shown["BLEU k0"].tolist() == ["1.0", "1.5 (+0.5)"]


def test_a_training_that_starts_from_another_finds_its_weights(isolated, monkeypatch):
    start = run_folder(load_config("tr_s", "toy", "smoke"))
    train(load_config("tr_s", "toy", "smoke", steps=2, validate_every=1, warmup_steps=1,
                      dev_sentences=4), progress=False)
    small = {"steps": 2, "validate_every": 1, "kl_start": 0, "kl_ramp": 1, "dev_sentences": 4}
    trial = trials.Trial("ga_b", "toy", "smoke", settings=small)
    made = trial.file("metrics.json").parent
    brought = trial.outputs / start.path.relative_to(outputs_root()) / "checkpoints"
    with monkeypatch.context() as apart:
        apart.setenv("DISCREPANCY_OUTPUTS", str(outputs_root()))
        trials.main(list(trial.job.words[2:]))
    assert (brought / "best.pt").exists() and not (brought / "last.pt").exists()
    assert (made / "history.csv").exists() and not (made / "metrics.json").exists()
    assert trial.file("metrics.json").parent == made and not run_folder(trial.config).path.exists()


def test_what_params_holds_already_is_no_trial():
    rate = load_config("ga_b", "toy", "smoke").training.learning_rate
    assert trials.Trial("ga_b", "toy", "smoke", settings={"learning_rate": rate}).in_params
    assert not trials.Trial("ga_b", "toy", "smoke", settings={"learning_rate": rate / 2}).in_params
