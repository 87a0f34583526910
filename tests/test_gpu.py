"""The command for a card at hand for minutes, without one: plans, the clock, the archive."""

import json
import tarfile
import time

import pytest
import torch
from made_up import made_up_run

from lib.errors import ConfigError
from lib.runs import RunFolder
from lib.training import checkpoints
from workflow import gpu
from workflow.gpu import Job, Plan

PLANS = sorted(path.stem for path in gpu.PLANS.glob("*.yaml"))


def job(name, code="pass", after=(), seconds=0.0):
    return Job(name, ("-c", code), after, seconds)


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
        return {each.name: each.after for each in gpu.left(Plan.read("rehearsal").jobs)}

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
    other["training"]["steps"] += 1
    teacher.config.write_text(json.dumps(other))  # of another recipe: not this plan's
    assert "tr_s raw s1" in left()


def test_a_training_that_was_cut_off_is_not_done(isolated):
    run = made_up_run("tr_s", 0.3, 2.0)
    [grid, *_] = Plan.read("rehearsal").grids
    run.config.write_text(json.dumps(grid.config(run).as_dict()))
    assert gpu._done(run, grid.config(run))
    metrics = json.loads(run.metrics.read_text())
    run.metrics.write_text(json.dumps(metrics | {"training": {"step": 20, "ended_by": ""}}))
    assert not gpu._done(run, grid.config(run))


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
    monkeypatch.setattr(gpu, "PLANS", tmp_path)
    with pytest.raises(ConfigError, match=message):
        _ = Plan.read("mine").jobs


@pytest.mark.parametrize(("words", "message"), [
    (["--plan", "multi30k_mni"], "unknown plan 'multi30k_mni': did you mean multi30k_mini?"),
    (["--plan", "rehearsal", "--cpu", "--minutes", "0.3"], "too short for one run of this plan"),
    (["--plan", "rehearsal", "--cpu", "--side-by-side", "0"], "--side-by-side must be 1 or more")])
def test_a_wrong_call_ends_before_anything_starts(words, message, isolated, capsys):
    assert gpu.main(words) == 2
    assert message in capsys.readouterr().err
    assert not list((isolated / "outputs").iterdir())


def test_without_a_card_it_says_so(isolated, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--plan", "rehearsal"]) == 2
    assert "finds no CUDA GPU" in capsys.readouterr().err


def test_jobs_run_after_what_they_need_and_not_after_what_failed(isolated, capsys):
    jobs = [job("a"), job("b", "raise SystemExit('no such thing')"), job("c", after=("a",)),
            job("d", after=("b",)), job("e", after=("d",))]
    work = gpu.work_off(jobs, 2, time.monotonic() + 60)
    assert set(work.took) == {"a", "c"}
    assert work.failed == {"b": "no such thing", "d": "what it needs failed",
                           "e": "what it needs failed"}
    assert "b: failed" in capsys.readouterr().out


def test_what_would_not_end_in_time_is_not_begun(isolated, tmp_path):
    touched = tmp_path / "touched"
    jobs = [job("long", f"open({str(touched)!r}, 'w')", seconds=1000.0), job("short")]
    work = gpu.work_off(jobs, 2, time.monotonic() + 30)
    assert set(work.took) == {"short"} and [j.name for j in work.waiting] == ["long"]
    assert not touched.exists()


def test_nothing_builds_on_what_the_clock_cut_off(isolated, capsys):
    work = gpu.work_off([job("a", "raise SystemExit(75)"), job("b", after=("a",))], 2,
                        time.monotonic() + 60)
    assert work.cut_off == {"a"} and not work.took and not work.failed
    assert [left.name for left in work.waiting] == ["b"]
    assert "a: cut off" in capsys.readouterr().out


def test_the_pace_is_that_of_all_that_has_ended(isolated, tmp_path):
    work = gpu._Work([], 2, time.monotonic() + 100, tmp_path, 0.0)
    work.planned, work.took = {"a": 10.0, "b": 10.0}, {"a": 30.0, "b": 10.0, "unplanned": 9.0}
    assert work.fits(job("c", seconds=45.0)) and not work.fits(job("c", seconds=55.0))


def test_what_runs_over_is_stopped(isolated):
    work = gpu.work_off([job("slow", "import time; time.sleep(600)")], 1, time.monotonic() + 1)
    [(_, process, _)] = work.running.values()
    assert process.poll() is not None and not work.took


def test_a_run_that_lacks_time_stops_training_and_is_scored(isolated, capsys):
    words = ["one", "--model", "tr_s", "--dataset", "toy", "--scale", "smoke", "--overrides",
             '{"steps": 1000, "validate_every": 4, "samples": 2, "mbr_samples": 0}']
    assert gpu.main([*words, "--seconds", "0"]) == gpu.LATER
    metrics = RunFolder("toy", "smoke", "tr_s").read_metrics()
    assert (metrics.training["step"], metrics.training["ended_by"], metrics.step) == (4, "", 4)


def test_the_archive_holds_whole_runs_and_no_checkpoint(isolated, tmp_path):
    run = made_up_run("tr_s", 0.3, -2.0)
    run.checkpoints.mkdir()
    run.best.write_bytes(b"weights")
    (isolated / "outputs/runs/toy/smoke/ga_b/raw/s1").mkdir(parents=True)
    (isolated / "outputs/runs/toy/smoke/ga_b/raw/s1/history.csv").write_text("step")  # no metrics
    [path] = gpu.pack(tmp_path / "archive")
    with tarfile.open(path) as archive:
        names = archive.getnames()
    folder = "runs/toy/smoke/tr_s/raw/s1/"
    assert folder + "metrics.json" in names and folder + "sentences.csv" in names
    assert not any("ga_b" in name or name.endswith(".pt") for name in names)


def test_weights_travel_in_bf16_beside_the_distilled_text(isolated, tmp_path):
    run = made_up_run("tr_s", 0.3, -2.0)
    run.checkpoints.mkdir()
    weights = {"w": torch.linspace(-1, 1, 50), "count": torch.tensor(3)}
    checkpoints.save(run.best, {"step": 7, "weights": weights})
    text = isolated / "outputs/distilled/toy/smoke/tr_s_s1/train.en.gz"
    text.parent.mkdir(parents=True)
    text.write_bytes(b"lines")
    [path] = gpu.pack(tmp_path / "archive", ["tr_s", "ga_b"])
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path / "there", filter="data")
    assert (tmp_path / "there" / text.relative_to(isolated / "outputs")).read_bytes() == b"lines"
    there = checkpoints.load(tmp_path / "there" / run.best.relative_to(isolated / "outputs"), "")
    assert there["step"] == 7 and there["weights"]["w"].dtype == torch.bfloat16
    torch.testing.assert_close(there["weights"]["w"].float(), weights["w"], rtol=2**-8, atol=0)
    assert there["weights"]["count"] == 3


def test_archives_are_cut_between_runs(isolated, tmp_path):
    for seed in range(3):
        made_up_run("tr_s", 0.3, -2.0, seed=seed)
    paths = gpu.pack(tmp_path / "archive", largest=40_000)
    found = []
    for path in paths:
        with tarfile.open(path) as archive:
            found += archive.getnames()
    assert len(paths) > 1
    assert len(found) == len(set(found)) and sum("metrics.json" in name for name in found) == 3


def test_rehearsal_of_two_runs_and_a_second_call_that_does_nothing(isolated, monkeypatch, capsys):
    text = (gpu.PLANS / "rehearsal.yaml").read_text()
    (isolated / "plans").mkdir()
    (isolated / "plans/mine.yaml").write_text(text[:text.index("stages:")] +
                                              "stages: [{models: tr_s ga_b, train_data: raw}]\n")
    monkeypatch.setattr(gpu, "PLANS", isolated / "plans")
    words = ["--plan", "mine", "--cpu", "--parts", "runs", "--side-by-side", "2"]
    assert gpu.main([*words, "--archive", str(isolated / "archive")]) == 0
    folder = isolated / "outputs/runs/toy/smoke/ga_b/raw/s1"
    before = {name: (folder / name).read_bytes() for name in ("history.csv", "sentences.csv")}
    assert gpu.main(words) == 0
    assert before == {name: (folder / name).read_bytes() for name in before}
    assert "2 of 2 jobs ended well" in capsys.readouterr().out
    assert len(list((isolated / "archive").iterdir())) == 1
