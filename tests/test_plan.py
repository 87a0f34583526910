"""What a run will do, told before it starts."""

from lib.config import load_config
from lib.runs import run_folder
from lib.training import Trainer, plan
from lib.training.plan import training_plan


def test_plan_leaves_no_trace_in_the_run(isolated):
    config = load_config("tr_s", steps=50)
    plan = training_plan(config, steps=1)
    assert plan["steps"] == 50 and plan["steps done"] == 0
    assert 0 < plan["tokens a step"] <= config.training.batch_tokens
    assert plan["minutes left"] > 0
    assert not run_folder(config).last.exists()


def test_a_timed_step_waits_for_the_device(isolated, monkeypatch):
    """And each was taken before, so that none of them is a shape's first."""
    calls, step, settle = [], Trainer.train_step, Trainer.settle
    monkeypatch.setattr(plan, "takes_fixed_shapes", lambda *_: True)
    monkeypatch.setattr(Trainer, "train_step",
                        lambda self: (calls.append(self.place), step(self))[1])
    monkeypatch.setattr(Trainer, "settle", lambda self: (calls.append("wait"), settle(self))[1])
    training_plan(load_config("tr_s", steps=50), steps=2)
    assert calls == [0, 1, 2, "wait", 1, "wait", "wait", 2, "wait"]


def test_of_a_finished_run_no_speed_is_told(isolated):
    config = load_config("tr_s", steps=2, validate_every=2, dev_sentences=4, batch_tokens=200)
    Trainer(config, progress=False).run()
    assert training_plan(config)["steps done"] == 2
    assert "tokens a second" not in training_plan(config)
