"""Which runs a grid has and what they wait for; no line is run here."""

import json
import shlex

import pytest
import yaml

from lib.config import MODELS, load_config
from lib.errors import ConfigError
from lib.paths import ROOT, outputs_root
from lib.runs import RunFolder
from workflow.grid.workflow import Grid, shown

SMALL = ("tr_s", "ga_b", "fl_s")  # the smallest model of each family


def test_the_grid_of_the_paper_is_every_model_on_raw_and_distilled_text():
    runs = Grid().runs
    assert len(runs) == len(set(runs)) == 2 * len(MODELS)
    assert {run.model for run in runs} == set(MODELS)
    assert {run.train_data for run in runs} == {"raw", "distilled"}
    assert {run.seed for run in runs} == {1}


def test_only_seeded_models_take_every_seed():
    runs = Grid.of({"seeds": "1 2 3", "seeded": list(SMALL)}).runs
    assert len(runs) == 2 * (len(MODELS) + 2 * len(SMALL))
    assert {run.model for run in runs if run.seed > 1} == set(SMALL)


def test_further_seeds_may_be_of_one_kind_of_data():
    grid = Grid(models=("tr_s", "tr_b"), seeds=(1, 2), seeded=("tr_s",), seeded_data=("raw",))
    assert [(r.model, r.train_data, r.seed) for r in grid.runs] == [
        ("tr_s", "raw", 1), ("tr_s", "raw", 2), ("tr_s", "distilled", 1), ("tr_b", "raw", 1),
        ("tr_b", "distilled", 1)]


def test_students_alone_learn_from_distilled_text():
    grid = Grid.of({"models": "tr_s ga_b na_b", "students": "tr_s ga_b"})
    assert [run.model for run in grid.runs if run.train_data == "raw"] == ["tr_s", "ga_b", "na_b"]
    assert [run.model for run in grid.runs if run.train_data == "distilled"] == ["tr_s", "ga_b"]
    assert "08_speed_distilled" in grid.studies()
    assert "08_speed_distilled" not in Grid(models=("tr_s", "ga_b"), students=("ga_b",)).studies()


def test_settings_come_as_snakemake_gives_them():
    grid = Grid.of({"models": "tr_s ga_b", "seeds": 2, "train_data": "raw", "scale": "mini",
                    "overrides": {"samples": 3}})
    assert grid.runs == [RunFolder("toy", "mini", model, "raw", 2) for model in ("tr_s", "ga_b")]
    assert grid.config(grid.runs[1]).evaluation.samples == 3
    assert grid.options == "-y '{overrides: {samples: 3}}'"


OVERRIDES = {"steps": 20, "learning_rate": 1e-5, "refinements": [0, 4], "prior_keeps_pace": True,
             "start_from": "", "headline": "k4", "average": 0.0}


@pytest.mark.parametrize("given", [
    OVERRIDES, json.dumps(OVERRIDES),
    "{steps: 20, learning_rate: 1.0e-5, refinements: [0, 4], prior_keeps_pace: true, "
    "start_from: '', headline: k4, average: 0.0}",
    {"steps": "20", "learning_rate": "1e-05", "refinements": ["0", "4"],  # by Snakemake's --config
     "prior_keeps_pace": "true", "start_from": "", "headline": "k4", "average": "0.0"},
])
def test_overrides_reach_the_notebooks_in_their_types(given):
    grid = Grid.of({"models": "ga_b", "overrides": given})
    flag, text = shlex.split(grid.options)
    assert flag == "-y" and yaml.safe_load(text) == {"overrides": OVERRIDES}
    assert repr(grid.overrides) == repr(OVERRIDES)  # 0.0 is no False


def test_overrides_survive_the_shell():
    quoted = Grid(overrides={"start_from": "it's $HOME"}).options
    assert yaml.safe_load(shlex.split(quoted)[1])["overrides"]["start_from"] == "it's $HOME"


def test_many_processes_share_the_trainings_alone():
    grid = Grid.of({"scale": "paper", "processes": 4, "overrides": {"samples": 3}})
    assert grid.train_options == "-y '{overrides: {samples: 3}}' -p processes 4"
    assert grid.options == "-y '{overrides: {samples: 3}}'"
    assert Grid().train_options == ""
    assert grid.settings(grid.runs[0], "training") == Grid(scale="paper").settings(
        grid.runs[0], "training"), "the same losses, so the same run"


@pytest.mark.parametrize(("values", "message"), [
    ({"processes": 3}, "3 processes can't share a step of tr_s, which is 1 batch "),
    ({"processes": 3, "scale": "paper"}, r"8 batches .*override \{accumulate: 3\}"),
    ({"processes": 0}, "processes is 0"), ({"processes": "two"}, "processes = 'two' must be"),
    ({"models": "tr_s gab"}, "did you mean ga_b"), ({"model": "tr_s"}, "did you mean models"),
    ({"dataset": "tory"}, "did you mean toy"), ({"seeds": []}, "seeds is empty"),
    ({"overrides": {"step": 3}}, "did you mean steps"),
    ({"overrides": "{steps: 20"}, r"overrides '\{steps: 20' can't be read"),
    ({"overrides": "steps=20"}, r"must hold names and values, such as '\{steps"),
    ({"overrides": 3}, "overrides = 3 must be of type dict"),
    ({"overrides": {3: 4}}, "parameter '3'"),
    ({"overrides": {"steps": "many"}}, "steps = 'many' must be of type int"),
    ({"seeds": "one"}, "seeds = 'one' must be of type int"),
    ({"models": "tr_s ga_b", "students": "tr_b"}, "students: unknown model 'tr_b'"),
    ({"models": "tr_s", "seeded": "tr-s"}, "seeded: unknown model 'tr-s': did you mean tr_s"),
    ({"seeded_data": "rwa"}, "seeded_data: unknown training text 'rwa': did you mean raw"),
])
def test_what_cannot_be_run_is_refused_before_anything_starts(values, message):
    with pytest.raises(ConfigError, match=message):
        Grid.of(values)


def test_braces_in_a_folder_are_refused(monkeypatch):
    monkeypatch.setenv("DISCREPANCY_OUTPUTS", "/srv/{me}")
    with pytest.raises(ConfigError, match=r"/srv/\{me\}: Snakemake takes braces .* wildcards"):
        Grid.of({})


def test_a_run_waits_for_the_model_that_it_starts_from_and_for_its_text():
    grid = Grid()
    for run in grid.runs:
        parent = load_config(run.model).training.start_from
        start = RunFolder("toy", "smoke", parent, run.train_data, run.seed)
        text = [shown(outputs_root() / "distilled/toy/smoke/tr_s_s1/train.qab.gz")]
        assert grid.before_training(run) == [
            *(text if run.train_data == "distilled" else []),
            *([shown(start.checkpoints / "trained")] if parent else [])]
    assert grid.teacher_run == RunFolder("toy", "smoke", "tr_s", "raw", 1)


def test_settings_tell_apart_what_gives_another_result():
    run = RunFolder("toy", "smoke", "ga_b")
    plain, more = Grid(), Grid(overrides={"samples": 51})
    assert plain.settings(run, "training") == more.settings(run, "training")
    assert plain.settings(run, "evaluation") != more.settings(run, "evaluation")


def test_the_latent_space_is_drawn_where_both_models_are():
    assert Grid().studies()["04_latent_space"] == {}
    for grid in (Grid(models=("tr_s", "ga_b")), Grid(train_data=("distilled",))):
        assert "04_latent_space" not in grid.studies()


def test_a_study_is_given_the_runs_that_the_grid_has():
    whole, small = Grid().studies(), Grid(models=("tr_s", "ga_b", "fl_s")).studies()
    assert whole["07_refinement"] == {"teacher": "tr_s", "compared": ["tr_s", "ga_b", "fl_b"]}
    assert small["07_refinement"]["compared"] == ["tr_s", "ga_b", "fl_s"]
    assert whole["08_speed"] == {"baseline": "tr_b"}
    assert small["08_speed"]["baseline"] == "tr_s"
    assert set(Grid(models=("tr_s", "na_b")).studies()) == {
        "08_speed", "08_speed_distilled", "10_objective_or_factorisation", "11_two_sided"}
    assert "10_objective_or_factorisation" not in small
    assert whole["08_speed_distilled"]["train_data"] == "distilled"
    assert small["08_speed_distilled"]["baseline"] == "tr_s"
    assert Grid.notebook("08_speed_distilled") == "notebooks/08_speed.ipynb"
    assert set(Grid(train_data=("distilled",)).studies()) == {"08_speed_distilled"}
    assert Grid(models=("ga_b",), train_data=("distilled",)).studies() == {}


def test_paths_below_the_repository_are_named_from_its_root(isolated):
    assert shown(ROOT / "outputs" / "tables") == "outputs/tables"
    assert Grid().table("x.csv") == str(isolated / "outputs" / "tables" / "x.csv")
    folder = str(isolated / "outputs" / "runs" / "toy" / "smoke")
    assert Grid().file("x") == f"{folder}/{{model}}/{{train_data}}/s{{seed}}/x"
    assert Grid().file("x", RunFolder("toy", "smoke", "tr_s")) == f"{folder}/tr_s/raw/s1/x"
