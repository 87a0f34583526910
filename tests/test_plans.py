"""Plans for a card: their runs in order, what is done already, and what is refused."""

import json

import pytest
from made_up import made_up_run

from lib.errors import ConfigError
from lib.runs import RunFolder
from workflow import plans
from workflow.plans import Plan

PLANS = sorted(path.stem for path in plans.PLANS.glob("*.yaml"))


@pytest.mark.parametrize("name", PLANS)
def test_every_plan_names_runs_that_exist_each_after_what_it_needs(name):
    jobs, before = Plan.read(name).jobs, set()
    for each in jobs:
        assert each.name not in before and set(each.after) <= before, each.name
        before.add(each.name)
        assert each.seconds > 0
    distilled = [each for each in jobs if " distilled " in each.name]
    assert all("translation" in each.after for each in distilled)
    assert "tr_s raw s1" in next(j for j in jobs if j.name == "translation").after


def test_what_is_done_is_left_out_unless_a_job_needs_what_did_not_travel(isolated):
    def left():
        return {each.name: each.after for each in plans.left(Plan.read("rehearsal").jobs)}

    everything = left()
    assert list(everything) == [each.name for each in Plan.read("rehearsal").jobs]
    for model in ("tr_s", "ga_b", "fl_s"):
        run, [grid, *_] = RunFolder("toy", "smoke", model), Plan.read("rehearsal").grids
        made_up_run(model, 0.3, 2.0)
        run.config.write_text(json.dumps(grid.config(run).as_dict()))
    # Tr-S's weights aren't there, and its translation is to be made
    assert list(left()) == ["tr_s raw s1", "translation", "tr_s distilled s1", "ga_b distilled s1"]
    teacher = RunFolder("toy", "smoke", "tr_s")
    teacher.checkpoints.mkdir()
    teacher.best.write_bytes(b"weights")
    assert left() == {"translation": (), "tr_s distilled s1": ("translation",),
                      "ga_b distilled s1": ("tr_s distilled s1", "translation")}
    other = json.loads(teacher.config.read_text())
    other["evaluation"]["length_penalty"] += 1
    teacher.config.write_text(json.dumps(other))
    assert "tr_s raw s1" in left()  # to be scored again, for its weights are there
    other["training"]["steps"] += 1
    teacher.config.write_text(json.dumps(other))  # of another recipe: not this plan's
    assert "tr_s raw s1" in left()


def test_a_latent_run_waits_for_the_one_that_it_starts_from():
    by_name = {each.name: each for each in Plan.read("rehearsal").jobs}
    assert by_name["ga_b distilled s1"].after == ("tr_s distilled s1", "translation")


@pytest.mark.parametrize(("text", "message"), [
    ("dataset: toy\nscale: smoke\nseconds: {}\nstages: [{models: tr_x}]", "unknown model 'tr_x'"),
    ("dataset: toy\nscale: smoke\nseconds: {}\nstages: []\nwhen: now", "unknown parameter 'when'"),
    ("dataset: toy\nscale: smoke\nseconds: {}\nstages: [{models: tr_s, steps: 3}]",
     "unknown parameter 'steps'")])
def test_a_plan_with_a_mistake_is_refused_in_one_line(text, message, tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.setattr(plans, "PLANS", tmp_path)
    with pytest.raises(ConfigError, match=message):
        _ = Plan.read("mine").jobs
