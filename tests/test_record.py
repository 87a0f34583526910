"""config.json: written by who trains, kept where nobody does."""

import json

import pandas as pd
import pytest
from made_up import made_up_run

from lib.config import load_config
from lib.errors import CheckpointError
from lib.paths import read_json
from lib.runs import run_folder
from lib.training import record

pytestmark = pytest.mark.usefixtures("isolated")


@pytest.mark.parametrize("content", [None, "", "{", "{\"model\": "])
def test_a_missing_or_damaged_record_is_none(content):
    folder = run_folder(load_config("tr_s"))
    if content is not None:
        folder.path.mkdir(parents=True)
        folder.config.write_text(content)
    assert read_json(folder.config) == {}


def test_other_settings_of_the_evaluation_leave_the_rest_as_it_was():
    folder = run_folder(load_config("tr_s"))
    record.write(folder, load_config("tr_s"), {"parameters": 5})
    before = read_json(folder.config)
    assert before["parameters"] == 5 and {"versions", "commit", "processes"} <= set(before)
    record.write_evaluation(folder, load_config("tr_s", steps=7, beam=9, headline="greedy"))
    after = read_json(folder.config)
    assert after.pop("evaluation")["beam"] == 9
    assert before.pop("evaluation")["beam"] == 4
    assert after == before
    text = folder.config.read_text()
    record.write_evaluation(folder, load_config("tr_s", steps=9, beam=9, headline="greedy"))
    assert folder.config.read_text() == text
    folder.config.unlink()
    record.write_evaluation(folder, load_config("tr_s", beam=9, headline="greedy"))
    assert not folder.config.exists()


def test_a_run_counts_where_its_settings_agree_and_its_training_ended():
    config, run = load_config("tr_s"), made_up_run("tr_s", 0.3, 2.0)
    other, steps = load_config("tr_s", dropout=0.5), config.training.steps
    history = pd.DataFrame({"step": [1, steps], "dev_bleu": 1.0, "dev_ll": [-2.0, -1.0],
                            "kl_weight": 1.0})
    history.to_csv(run.history, index=False)

    def counts(config):
        return record.trained_with(run, config), record.scored_with(run, config)

    assert counts(config) == (False, False)  # no config.json
    record.write(run, config, {})
    assert counts(config) == counts(load_config("tr_s", samples=7)) == (True, True)
    assert counts(other) == (False, False)
    history[:1].to_csv(run.history, index=False)
    metrics = json.loads(run.metrics.read_text())
    run.metrics.write_text(json.dumps(metrics | {"training": {"step": 1, "ended_by": ""}}))
    assert counts(config) == (False, False)


@pytest.mark.parametrize("damage", ["", "{", "{}", '{"bleu": null}'])
def test_a_run_with_damaged_metrics_is_to_be_scored(damage):
    run = made_up_run("tr_s", 0.3, 2.0)
    record.write(run, load_config("tr_s"), {})
    assert record.scored_with(run, load_config("tr_s"))
    run.metrics.write_text(damage)
    assert not record.scored_with(run, load_config("tr_s"))


@pytest.mark.parametrize(("left", "changes", "named"), [
    ([], {"steps": 7}, ""), (["best"], {}, ""), (["best"], {"beam": 9, "headline": "greedy"}, ""),
    (["best"], {"steps": 7}, "training.steps"), (["metrics"], {"d_filter": 8}, "d_filter"),
])
def test_a_run_with_other_settings_stays(left, changes, named):
    folder = run_folder(load_config("tr_s"))
    record.write(folder, load_config("tr_s"), {})
    folder.checkpoints.mkdir()
    for name in left:
        getattr(folder, name).write_text(json.dumps({}))
    if not named:
        record.check_free(folder, load_config("tr_s", **changes))
        return
    with pytest.raises(CheckpointError, match=rf"other settings of .*{named}.*DISCREPANCY_OUTPUTS"):
        record.check_free(folder, load_config("tr_s", **changes))
