"""Runs as rows, their seeds averaged, and the families ranked in one way."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_run

from analysis import systems
from analysis.resampling import Resamples
from analysis.training_variance import Source, Spread
from lib.errors import DataError


def frame(rows):
    """(model, train_data, seed, BLEU, strict LL) a run."""
    return pd.DataFrame([{
        "dataset": "toy", "scale": "smoke", "model": model, "train_data": data, "seed": seed,
        "bleu": bleu, "strict": ll, "strict_error": 0.01 * seed,
    } for model, data, seed, bleu, ll in rows])


def test_collect_reads_the_headline_and_every_accounting(isolated):
    run = made_up_run("ga_b", 0.2, 1.5, k0_wrong=0.4, mbr_wrong=0.3)
    values = json.loads(run.metrics.read_text())
    values["bleu"]["k1"] = values["bleu"]["k0"]
    paper = values["log_likelihood"].pop("paper")  # which is then computed from sentences.csv
    run.metrics.write_text(json.dumps(values))
    made_up_run("tr_s", 0.1, 1.0)
    rows = systems.collect().set_index("model")
    assert rows.loc["ga_b", "bleu"] == values["bleu"]["k4"]["score"]
    assert rows.loc["ga_b", "bleu_paper"] == values["bleu"]["k0"]["score"]
    assert rows.loc["tr_s", "bleu_paper"] == rows.loc["tr_s", "bleu"]
    assert rows.loc["ga_b", "paper"] == pytest.approx(paper["mean"])
    assert rows.loc["ga_b", "paper_error"] == pytest.approx(paper["standard_error"])
    assert rows.loc["ga_b", "strict"] == values["log_likelihood"]["strict"]["mean"]
    assert rows.loc["tr_s", "setting"] == "beam4" and rows.loc["ga_b", "run"] == run
    assert math.isnan(rows.loc["tr_s", "bleu_mbr"])
    assert systems.collect([]).empty


def test_no_run_at_all_names_the_command(isolated):
    with pytest.raises(DataError, match=r"toy/smoke .*`papermill notebooks/02_train.*03_eval"):
        systems.collected("toy", "smoke")


def test_a_training_that_was_cut_off_is_not_compared(isolated):
    runs = [made_up_run(model, 0.2, 1.5) for model in ("tr_s", "ga_b", "fl_s")]
    for run, ended in zip(runs, ("patience", "steps", ""), strict=True):
        values = json.loads(run.metrics.read_text())
        run.metrics.write_text(json.dumps(values | {"training": {"ended_by": ended}}))
    assert systems.collected("toy", "smoke")["model"].tolist() == ["ga_b", "tr_s"]
    for run in runs[:2]:
        run.metrics.unlink()
    with pytest.raises(DataError, match=r"trained to its end: `papermill .* -p model fl_s"):
        systems.collected("toy", "smoke")


def test_seeds_are_averaged():
    runs = frame([("ga_b", "raw", 1, 28.0, -2.5), ("tr_s", "raw", 1, 30.0, -2.0),
                  ("tr_s", "raw", 2, 34.0, -2.2), ("ga_b", "distilled", 1, 1.0, -3.0)])
    values = runs["bleu"].to_numpy()
    drawn = {"strict": Resamples(values, values, values[None], values[None])}
    found, averaged = systems.average_seeds(runs, drawn)
    assert found[["model", "train_data"]].to_numpy().tolist() == [
        ["tr_s", "raw"], ["ga_b", "raw"], ["ga_b", "distilled"]]
    assert found["seeds"].tolist() == [2, 1, 1]
    assert found.loc[0, "bleu"] == averaged["strict"].bleu[0] == 32.0
    assert found.loc[0, "bleu_training"] == Spread((Source(0, 8.0, 1),), 2)
    borrowed = Spread((Source(0, 8.0, 1),), 1, borrowed=True)
    assert found.loc[1, "bleu_training"] == borrowed  # nobody knows better
    assert found.loc[2, "bleu_training"] == borrowed  # nor on distilled text
    assert found.loc[0, "strict_error"] == 0.02
    assert systems.average_seeds(found, averaged)[0] is found


@pytest.mark.parametrize(("best", "words"), [
    ((-1.0, -2.0, -1.5), "autoregressive > flow > Gaussian"),
    ((-1.0, -1.5, -1.52), "autoregressive > Gaussian ≈ flow"),
    ((-1.5, -1.5, -1.5), "autoregressive ≈ Gaussian ≈ flow"),
])
def test_families_are_ranked_by_their_best_model(best, words):
    table = pd.DataFrame({
        "family": ["autoregressive", "gaussian", "flow", "flow"], "ll": [*best, -9.0],
        "error": [0.1, 0.1, 0.1, 0.1]})
    assert systems.rank_families(table, "ll", "error") == words


def test_unknown_models_come_last():
    order = systems.model_order(pd.Series(["other", "fl_l", "tr_s"]))
    assert np.argsort(order).tolist() == [2, 1, 0]
    two = systems.average_seeds(frame([(model, "raw", 1, 9.0, -2.0) for model in ("ga_x", "na_x")]))
    assert two[0]["model"].tolist() == ["ga_x", "na_x"] and set(two[0]["seeds"]) == {1}
