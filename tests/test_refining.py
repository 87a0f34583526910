"""Outputs after each refinement step and under other settings are those of decoding."""

import numpy as np
import pytest
import torch

from lib.config import load_config
from lib.decoding import Options
from lib.decoding.refinement import trace
from lib.evaluation.refining import outputs_by_setting, refined_sentences, some_lines
from lib.evaluation.scoring import TrainedRun
from lib.models import build
from lib.task import Task
from lib.training.validation import translate

LINES = 24


@pytest.fixture(scope="module")
def runs():
    """Untrained models of the toy corpus, precise to fp32."""
    torch.manual_seed(0)
    found = {}
    for model in ("tr_s", "ga_b", "fl_s"):
        config = load_config(model, precision="fp32")
        task = Task(config)
        found[model] = TrainedRun(config, build(config.architecture, len(task.vocabulary)).eval(),
                                  task, 0, 0.0)
        with torch.no_grad():
            for parameter in found[model].model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return found


@pytest.fixture(scope="module")
def refined(runs):
    return {model: refined_sentences(runs[model], 3, samples=2, sentences=LINES,
                                                      progress=False) for model in ("ga_b", "fl_s")}


def test_lines_are_spread_over_the_test_set():
    assert some_lines(1000, 5).tolist() == [0, 249, 499, 749, 999]
    for count in (0, 7, 9):
        assert some_lines(7, count).tolist() == list(range(7))


def test_hypotheses_are_those_of_decoding(runs, refined):
    run, frame = runs["ga_b"], refined["ga_b"]
    data = run.task.test.take(some_lines(1000, LINES))
    for k in range(4):
        expected = translate(run.model, data, run.task.vocabulary, [f"k{k}"],
                             batch_tokens=512)[f"k{k}"]
        assert frame.loc[frame["k"] == k, "hypothesis"].tolist() == expected


def test_bounds_and_flags_are_those_of_the_trace(runs, refined):
    run, frame = runs["fl_s"], refined["fl_s"]
    task, line = run.task, 999
    source = torch.tensor([[*task.vocabulary.encode([task.sources("test")[line]])[0], 2]])
    alone, rows = trace(run.model, source, None, 3), frame[frame["line"] == line]
    np.testing.assert_allclose(rows["log_p_y"] + rows["log_p_z"], alone.bound[:, 0], rtol=1e-4)
    assert rows["changed"].tolist() == alone.changed[:, 0].tolist()
    assert rows["lowered"].tolist() == alone.lowered[:, 0].tolist()


def test_settings_are_those_of_decoding_on_the_same_lines(runs):
    settings = ["k1", "k1-lengths2-teacher", "sample", "k0-samples2-chrf"]
    table = outputs_by_setting(runs["ga_b"], settings, teacher=runs["tr_s"], sentences=12,
                               progress=False)
    run, lines = runs["ga_b"], some_lines(1000, 12)
    found = translate(run.model, run.task.test.take(lines), run.task.vocabulary, settings,
                      Options(teacher=runs["tr_s"].model))
    assert table["line"].tolist() == lines.tolist()
    assert {name: table[name].tolist() for name in settings} == found
