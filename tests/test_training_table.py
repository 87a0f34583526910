"""What trainings cost: tokens times FLOPs a token, the start's included; what ended them."""

import json

import pandas as pd
import pytest
from made_up import made_up_run

from analysis import training_table as module
from lib.config import load_config
from lib.flops import tokens_a_step, training_flops
from lib.task import Task


@pytest.fixture(scope="module")
def task():
    return Task(load_config("tr_s"))


def trained(model, ended, tokens=None, **training):
    """A made-up run of six steps; ended: what metrics.json says, None for an older run."""
    run = made_up_run(model, 0.3, 2.0)
    history = run.read_history()
    if tokens:
        history["tokens"] = tokens * history["step"]
    history.assign(dev_bleu=[1.0, 2.0, 9.0, 4.0, 5.0, 6.0],
                   dev_ll=[-5.0, -4.0, -3.0, -2.5, -2.0, -2.2]).to_csv(run.history, index=False)
    run.config.write_text(json.dumps({"training": {"steps": 6} | training}))
    if ended is not None:
        metrics = json.loads(run.metrics.read_text())
        run.metrics.write_text(json.dumps(metrics | {"training": {"ended_by": ended}}))
    return run


def test_tokens_and_flops_add_up(isolated, task):
    start = trained("tr_s", "patience", tokens=100)
    run = trained("ga_b", "steps", tokens=200, start_from="tr_s")
    table = module.training_table([start, run], task).set_index("model")
    each = {model: training_flops(load_config(model), task.train, len(task.vocabulary))
            for model in ("tr_s", "ga_b")}
    assert table["tokens"].tolist() == [600, 1200]
    assert table.loc["tr_s", "teraflops_with_start"] == pytest.approx(600 * each["tr_s"] / 1e12)
    assert table.loc["ga_b", "teraflops"] == pytest.approx(1200 * each["ga_b"] / 1e12)
    assert table.loc["ga_b", "teraflops_with_start"] == pytest.approx(
        (1200 * each["ga_b"] + 600 * each["tr_s"]) / 1e12)
    assert table["ended"].tolist() == ["converged", "limit"]
    assert (table["best_bleu_step"] == 3).all() and (table["best_ll_step"] == 5).all()
    assert (table["dev_bleu_at_best_ll"] == 5.0).all()


def test_older_runs_are_estimated_and_a_missing_start_is_unknown(isolated, task):
    row = module.training_table([trained("ga_b", None, start_from="tr_s")], task).iloc[0]
    assert row["tokens"] == pytest.approx(6 * tokens_a_step(load_config("ga_b"), task.train))
    assert row["ended"] == "limit" and pd.isna(row["teraflops_with_start"])


def test_the_table_for_reading(isolated, task):
    shown = module.compact_training(module.training_table([trained("tr_s", "", tokens=10)], task))
    assert shown.loc[0, "best dev BLEU at"] == "3 (BLEU 9.0)"
    assert shown.loc[0, "best dev LL at"] == "5 (BLEU 5.0)" and shown.loc[0, "ended"] == "stopped"
