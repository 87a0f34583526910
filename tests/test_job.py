"""One job in a process of its own."""

import json

import pytest

from lib.runs import RunFolder
from workflow import job

QUICK = '{"steps": 1000, "validate_every": 4, "samples": 2, "mbr_samples": 0}'


def test_a_run_that_lacks_time_stops_training_and_is_scored(isolated):
    words = ["--model", "tr_s", "--dataset", "toy", "--scale", "smoke", "--overrides", QUICK]
    assert job.main([*words, "--seconds", "0"]) == job.LATER
    metrics = RunFolder("toy", "smoke", "tr_s").read_metrics()
    assert (metrics.training["step"], metrics.training["ended_by"], metrics.step) == (4, "", 4)


def test_a_run_is_scored_again_by_other_settings_of_the_evaluation_alone(isolated, capsys):
    """Also where its config.json, or its metrics.json, was lost."""
    run, found = RunFolder("toy", "smoke", "tr_s"), []
    settings = {"steps": 2, "validate_every": 2, "dev_sentences": 8, "samples": 2, "mbr_samples": 0}
    for more, lost in (({"headline": "greedy"}, None), ({"headline": "greedy"}, None), ({}, None),
                       ({"length_penalty": 0.0}, None), ({"length_penalty": 0.0}, run.config),
                       ({"length_penalty": 0.0}, run.metrics)):
        if lost:
            lost.unlink()
        before = run.metrics.stat().st_mtime_ns if run.metrics.exists() else 0
        assert job.main(["--model", "tr_s", "--overrides", json.dumps(settings | more)]) == 0
        found.append((run.metrics.stat().st_mtime_ns != before, run.read_metrics().headline))
    assert found == [(True, "greedy"), (False, "greedy"), (True, "beam4"), (True, "beam4"),
                     (False, "beam4"), (True, "beam4")]
    assert not run.config.exists()


def test_a_run_may_be_trained_alone(isolated):
    words = ["--model", "tr_s", "--overrides", QUICK, "--seconds", "0", "--only-train"]
    assert job.main(words) == job.LATER
    run = RunFolder("toy", "smoke", "tr_s")
    assert run.best.exists() and not run.metrics.exists()


@pytest.mark.parametrize(("words", "message"), [
    (["--model", "tr_x"], "unknown model 'tr_x'"),
    (["--overrides", "step: 3"], "did you mean steps"),
    (["--overrides", "model: tr_b"], "model, which has an option of its own"),
    (["--model", "ga_b", "--scale", "mini"], "02_train.ipynb")])
def test_a_wrong_call_is_one_line(words, message, isolated, capsys):
    assert job.main(words) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
