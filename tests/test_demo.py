"""The plan of the demo and what it tells; the notebooks themselves are run elsewhere."""

import pytest

from lib import demo
from lib.config import MODELS, load_config
from lib.paths import RunFolder
from lib.workflow import Event, order_problem


@pytest.fixture(autouse=True)
def empty_place(isolated):
    return isolated


def test_plan_trains_and_evaluates_every_model_and_makes_the_rest():
    steps = {step.name: step for step in demo.plan()}
    expected = {f"{model} {kind}" for model in MODELS for kind in ("train", "eval")}
    assert set(steps) == expected | {"01_data", "04_latent_space", "05_correlation", "sizes"}
    assert order_problem(list(steps.values())) == ""
    for model in MODELS:
        parent = load_config(model).training.start_from
        assert steps[f"{model} train"].needs == ((f"{parent} train",) if parent else ())
        assert steps[f"{model} eval"].needs == (f"{model} train",)
        folder = RunFolder("toy", "smoke", model).path
        assert steps[f"{model} eval"].stamp == folder / "03_eval.ipynb"
        assert {"-p", "model", model} <= set(steps[f"{model} train"].command)


def test_nothing_is_done_at_first():
    assert not any(step.done() for step in demo.plan())


def test_evaluation_is_done_when_newer_than_the_checkpoint():
    step = next(s for s in demo.plan() if s.name == "tr_s eval")
    for path in (*step.inputs, *step.makes, step.stamp):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert step.done()
    step.inputs[0].unlink()
    assert not step.done()


def test_fresh_forgets_runs_and_stamps(monkeypatch, capsys):
    folder = RunFolder("toy", "smoke", "tr_s")
    folder.checkpoints.mkdir(parents=True)
    folder.last.touch()
    monkeypatch.setattr(demo, "run_steps", lambda steps, slots, *show: [])
    assert demo.main(["--jobs", "1"]) == 0
    assert folder.last.exists()
    assert demo.main(["--jobs", "1", "--fresh"]) == 0
    assert not folder.path.exists()
    assert "README.md" in capsys.readouterr().out


def test_every_outcome_is_shown(monkeypatch, capsys):
    def run_steps(steps, slots, on_event, on_tick):
        first, second, third, fourth, *_ = steps
        on_event(Event(first, "started"))
        on_tick()
        events = [Event(first, "done", 12.0), Event(second, "failed", 3.0, "ValueError: no"),
                  Event(third, "skipped", reason=second.name), Event(fourth, "kept")]
        for event in events:
            on_event(event)
        on_tick()
        return events

    monkeypatch.setattr(demo, "run_steps", run_steps)
    assert demo.main(["--jobs", "1"]) == 1
    shown = capsys.readouterr().out
    names = [step.name for step in demo.plan()]
    assert f"[ 1/20] {names[0]:<16} 12 s" in shown
    assert "FAILED: ValueError: no" in shown and ".log" in shown
    assert f"left out: it needs {names[1]}" in shown
    assert "was done already" in shown and "Failed after" in shown


def test_interruption_says_how_to_go_on(monkeypatch, capsys):
    def run_steps(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run_steps", run_steps)
    assert demo.main(["--jobs", "1"]) == 130
    assert "goes on" in capsys.readouterr().out


def test_progress_of_a_training_comes_from_its_own_history():
    history = RunFolder("toy", "smoke", "tr_s").history
    steps = load_config("tr_s").training.steps
    assert demo._doing("tr_s train", 0.0) == f"tr_s training 0/{steps}"
    history.parent.mkdir(parents=True)
    history.write_text("step,seconds\n100,1.5\n200,3.0\n")
    assert demo._doing("tr_s train", 0.0) == f"tr_s training 200/{steps}"
    assert demo._doing("tr_s train", history.stat().st_mtime + 60) == f"tr_s training 0/{steps}"
    assert demo._doing("tr_s eval", 0.0) == "tr_s evaluating"
    assert demo._doing("01_data", 0.0) == "01_data"
