"""Tables of refinement and of procedures: BLEU is sacreBLEU's, gains and bounds add up."""

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import published, refinement_table
from lib.bleu import bleu
from lib.config import load_config
from lib.decoding import Options
from lib.decoding.refinement import trace
from lib.errors import ConfigError
from lib.evaluation.scoring import TrainedRun
from lib.models import build
from lib.runs import RunFolder
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
    return {model: refinement_table.refined_sentences(runs[model], 3, samples=2, sentences=LINES,
                                                      progress=False) for model in ("ga_b", "fl_s")}


def test_lines_are_spread_over_the_test_set():
    assert refinement_table.some_lines(1000, 5).tolist() == [0, 249, 499, 749, 999]
    for count in (0, 7, 9):
        assert refinement_table.some_lines(7, count).tolist() == list(range(7))


def test_hypotheses_are_those_of_decoding(runs, refined):
    run, frame = runs["ga_b"], refined["ga_b"]
    data = run.task.test.take(refinement_table.some_lines(1000, LINES))
    for k in range(4):
        expected = translate(run.model, data, run.task.vocabulary, [f"k{k}"], batch_tokens=512)[
            f"k{k}"]
        assert frame.loc[frame["k"] == k, "hypothesis"].tolist() == expected


def test_bounds_and_flags_are_those_of_the_trace(runs, refined):
    run, frame = runs["fl_s"], refined["fl_s"]
    task, line = run.task, 999
    source = torch.tensor([[*task.vocabulary.encode([task.sources("test")[line]])[0], 2]])
    alone, rows = trace(run.model, source, None, 3), frame[frame["line"] == line]
    np.testing.assert_allclose(rows["log_p_y"] + rows["log_p_z"], alone.bound[:, 0], rtol=1e-4)
    assert rows["changed"].tolist() == alone.changed[:, 0].tolist()
    assert rows["lowered"].tolist() == alone.lowered[:, 0].tolist()


def test_table3_counts_what_the_sentences_say(runs, refined):
    references = runs["ga_b"].task.references("test")
    table = refinement_table.table3(refined, references, resamples=50)
    assert table[["model", "k"]].to_numpy().tolist() == [[m, k] for m in refined for k in range(4)]
    for row in table.itertuples():
        part = refined[row.model][refined[row.model]["k"] == row.k]
        some = [references[line] for line in part["line"]]
        assert row.bleu == pytest.approx(bleu(part["hypothesis"].tolist(), some)[0].score)
        assert row.elbo == pytest.approx(part["elbo"].mean())
        assert row.bound == pytest.approx((part["log_p_y"] + part["log_p_z"]).mean())
        assert row.changed == part["changed"].mean() and row.lowered == part["lowered"].mean()
        assert row.sentences == LINES
        start = table[(table["model"] == row.model) & (table["k"] == 0)].iloc[0]
        assert row.bleu_gain == pytest.approx(row.bleu - start["bleu"])
        assert row.elbo_gain_low <= row.elbo_gain <= row.elbo_gain_high
        if row.k == 0:
            assert row.bleu_gain_low == row.bleu_gain_high == row.lowered == 0.0
    assert not [name for name in table if name.startswith("published_")]  # nothing transcribed


def test_the_papers_numbers_stand_beside_ours(refined, runs, monkeypatch):
    monkeypatch.setitem(published._TABLE3, ("ga_b", 1), (20.5, -30.0))
    table = refinement_table.table3(refined, runs["ga_b"].task.references("test"), resamples=5)
    found = table.set_index(["model", "k"])[["published_bleu", "published_elbo"]]
    assert found.loc[("ga_b", 1)].tolist() == [20.5, -30.0]
    assert found.drop(("ga_b", 1)).isna().all(axis=None)


def test_the_figure_and_the_sentences_tell_the_table(refined, runs):
    table = refinement_table.table3(refined, runs["ga_b"].task.references("test"), resamples=20)
    left, right = refinement_table.refinement_figure(table).axes
    for axes, column in ((left, "bleu"), (right, "elbo_gain")):
        for line, model in zip(axes.get_lines(), refined, strict=True):
            points = table[table["model"] == model]
            assert line.get_xdata().tolist() == points["k"].tolist()
            assert line.get_ydata().tolist() == points[column].tolist()
    text = refinement_table.read_gains(table, 2)
    row = table[(table["model"] == "fl_s") & (table["k"] == 2)].iloc[0]
    assert f"Fl-S: 2 steps change BLEU by {row['bleu_gain']:+.1f}".replace("-", "−")[6:] in \
        text.replace("-", "−")


def test_procedures_are_scored_on_the_same_sentences(runs):
    settings = ["k1", "k1-lengths2-teacher", "sample", "k0-samples2-chrf"]
    table = refinement_table.procedures_table(runs["ga_b"], settings, teacher=runs["tr_s"],
                                              sentences=12, resamples=30, progress=False)
    assert table["setting"].tolist() == settings
    run, lines = runs["ga_b"], refinement_table.some_lines(1000, 12)
    found = translate(run.model, run.task.test.take(lines), run.task.vocabulary, settings,
                      Options(teacher=runs["tr_s"].model))
    references = [run.task.references("test")[line] for line in lines]
    for row in table.itertuples():
        assert row.bleu == pytest.approx(bleu(found[row.setting], references)[0].score)
        assert row.different == np.mean([a != b for a, b in zip(found[row.setting], found["k1"],
                                                                strict=True)])
    assert isinstance(table, pd.DataFrame) and table["bleu_gain"][0] == 0.0


def test_models_are_those_with_a_checkpoint(isolated):
    with pytest.raises(ConfigError, match="no latent model of toy/smoke .*02_train.*-p model ga_b"):
        refinement_table.latent_models("toy", "smoke")
    for model in ("tr_s", "fl_s", "ga_l"):
        path = RunFolder("toy", "smoke", model).best
        path.parent.mkdir(parents=True)
        path.touch()
    assert refinement_table.latent_models("toy", "smoke") == ["ga_l", "fl_s"]


def test_tables_are_told_compactly():
    table = pd.DataFrame({
        "model": ["ga_b", "ga_b", "fl_s"], "setting": ["k4", "k4-lengths5-iw10", "k4"],
        "bleu": [10.0, 12.5, 9.0], "bleu_low": [9.0, 11.0, 8.0], "bleu_high": [11.0, 14.0, 10.0],
        "bleu_gain": [0.0, 2.5, 0.0], "bleu_gain_low": [0.0, -1.0, 0.0],
        "bleu_gain_high": [0.0, 4.0, 0.0]})
    shown = refinement_table.compact(table)
    assert shown["model"].tolist() == ["Ga-B", "Ga-B", "Fl-S"]
    assert shown["bleu"].tolist() == ["10.0 [9.0, 11.0]", "12.5 [11.0, 14.0]", "9.0 [8.0, 10.0]"]
    assert shown["bleu_gain"].tolist() == ["", "+2.5 [\N{MINUS SIGN}1.0, +4.0]", ""]
    assert shown.columns.tolist() == ["model", "setting", "bleu", "bleu_gain"]
    text = refinement_table.read_best(table)
    assert "Ga-B translates best with k4-lengths5-iw10 (12.5 BLEU, +2.5 [" in text
    assert "] over k4); Fl-S translates best with k4 (9.0 BLEU)." in text
