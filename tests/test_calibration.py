"""Notebook 12's tables: checkpoints and pairs as trained and at their temperatures."""

import json

import pandas as pd
import pytest
from made_up import made_up_references, made_up_run

from analysis import calibration, systems, within_training
from lib.runs import CALIBRATED, RunFolder

REFERENCES = made_up_references(80)


def sure(run: RunFolder, *, trained: float, tempered: float, by: str = "bleu") -> None:
    """Give a checkpoint of a run `trained` nats a token and, at its temperature, `tempered`."""
    table = pd.read_csv(run.sentences)
    content = json.loads(run.calibration.read_text()) if run.calibration.exists() else {}
    metrics = json.loads(run.metrics.read_text()) | {
        "step": 20, "dev_bleu": 1.0, "best_ll": {"step": 10, "bleu": {}}}
    run.metrics.write_text(json.dumps(metrics))
    content |= {"samples": 1, by: {"step": 20 if by == "bleu" else 10, "dev_bleu": 1.0,
                                   "temperature": 1.5}}
    run.calibration.write_text(json.dumps(content))
    for path, nats in ((run.sentences if by == "bleu" else run.sentences_ll, trained),
                       (run.path / CALIBRATED[by], tempered)):
        table.assign(log_prob=-nats * table["n_tokens"]).to_csv(path, index=False)


@pytest.fixture
def frame(isolated):
    """Two Transformers, the better translations having the worse LL but at its temperature; and a
    third run that has no temperature.
    """
    good, bad, _ = (made_up_run(model, wrong, 2.0, references=REFERENCES)
                    for model, wrong in (("tr_b", 0.1), ("tr_s", 0.5), ("tr_l", 0.3)))
    sure(good, trained=3.0, tempered=1.0)
    sure(bad, trained=2.0, tempered=1.5)
    return systems.collect()


def test_only_what_has_a_temperature_is_compared_and_in_both_states_alike(frame):
    found = calibration.calibrated_runs(frame)
    assert found["model"].tolist() == ["tr_b", "tr_s"]
    assert calibration.calibrated_runs(frame, "ll").empty
    [row] = calibration.orders(found, REFERENCES).to_dict("records")
    assert row["pairs"] == 1
    assert row["disagree, as trained"] == row["agree, at its temperature"] == 1
    assert row["agree, as trained"] == row["disagree, at its temperature"] == 0


def test_a_temperature_of_other_weights_is_no_temperature(frame):
    run = frame["run"][0]
    metrics = json.loads(run.metrics.read_text()) | {"dev_bleu": 2.0}  # trained anew since
    run.metrics.write_text(json.dumps(metrics))
    assert run.read_calibration() == {}
    assert calibration.calibrated_runs(frame)["model"].tolist() == ["tr_s"]


def test_a_row_a_checkpoint_by_hand(frame):
    run = frame["run"][0]
    run.sentences_ll.write_bytes(run.sentences.read_bytes())
    sure(run, trained=1.25, tempered=1.125, by="ll")
    table = calibration.checkpoints(calibration.calibrated_runs(frame), REFERENCES)
    assert table[["model", "by"]].to_numpy().tolist() == [
        ["tr_b", "bleu"], ["tr_b", "ll"], ["tr_s", "bleu"]]
    assert table["ll"].tolist() == pytest.approx([-3.0, -1.25, -2.0])
    assert table["ll_calibrated"].tolist() == pytest.approx([-1.0, -1.125, -1.5])
    assert table["bleu"].tolist() == table["bleu_calibrated"].tolist()
    shown = calibration.compact(table)
    assert shown["checkpoint"][1] == "best dev LL, step 10"
    both = pd.concat([table, table.iloc[2:].assign(train_data="distilled", ll=-4.0)])
    axes, _ = calibration.checkpoints_figure(both).axes
    assert [text.get_text() for text in axes.texts] == ["Tr-B", "Tr-S", "Tr-S"]  # hollow, too


def test_the_verdict_counts_both_states(frame):
    run = frame["run"][0]
    table = pd.read_csv(run.sentences)
    sure(run, trained=1.0, tempered=1.5, by="ll")  # the better LL as trained, the worse at T
    for path in (run.sentences_ll, run.path / CALIBRATED["ll"]):
        worse = table["hypothesis"].str.split().str[2:].str.join(" ")  # the worse translations
        pd.read_csv(path).assign(hypothesis=worse).to_csv(path, index=False)
    runs = calibration.calibrated_runs(frame)
    both = calibration.calibrated_runs(runs, "ll")
    trained, tempered = (within_training.two_checkpoints(both, REFERENCES, calibrated=state)
                         for state in (False, True))
    assert trained["order"].tolist() == ["disagree"] and tempered["order"].tolist() == ["agree"]
    words = calibration.what_is_left(calibration.orders(runs, REFERENCES), trained, tempered)
    assert "agree in 0 and disagree in 1 as trained, agree in 1 and disagree in 0 at" in words
    assert "pairs of systems LL and BLEU disagree in 1 as trained, 0 at its temperature" in words


def test_without_any_temperature_there_is_nothing_to_count(isolated):
    made_up_run("tr_s", 0.3, 2.0, references=REFERENCES)
    runs = calibration.calibrated_runs(systems.collect())
    assert runs.empty
    counted = calibration.orders(runs, REFERENCES)
    trained = within_training.two_checkpoints(calibration.calibrated_runs(runs, "ll"), REFERENCES)
    assert "Of 0 pairs" in calibration.what_is_left(counted, trained, trained)
