"""config.json: written by who trains, kept where nobody does."""

import json

import pytest

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
