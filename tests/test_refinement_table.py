"""Tables of refinement and of procedures: BLEU is sacreBLEU's, gains and bounds add up."""

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_run, noisy_lines

from analysis import refinement_table
from analysis.settings import difference, scores
from analysis.tables import interval
from lib.bleu import bleu

HYPOTHESES, REFERENCES = noisy_lines(30, 0.4, seed=1)
BETTER = [reference if place % 2 else line
          for place, (line, reference) in enumerate(zip(HYPOTHESES, REFERENCES, strict=True))]
LINES = np.arange(0, 30, 2)


@pytest.fixture
def refined():
    """Ga-B's outputs get better with a step, Fl-S's stay as they are; a third of the lines."""
    rng = np.random.default_rng(0)
    frames = {}
    for model, texts in (("ga_b", [HYPOTHESES, BETTER]), ("fl_s", [BETTER, BETTER])):
        frames[model] = pd.concat([pd.DataFrame({
            "line": LINES, "k": k, "hypothesis": [lines[line] for line in LINES],
            "log_p_y": rng.normal(-5, 1, len(LINES)), "log_p_z": -3.0,
            "elbo": rng.normal(-9 + k, 1, len(LINES)), "changed": rng.random(len(LINES)) < 0.5,
            "lowered": k > 0}) for k, lines in enumerate(texts)], ignore_index=True)
    return frames


def test_table3_counts_what_the_sentences_say(refined):
    table = refinement_table.table3(refined, REFERENCES, resamples=50)
    assert table[["model", "k"]].to_numpy().tolist() == [[m, k] for m in refined for k in range(2)]
    for row in table.itertuples():
        part = refined[row.model][refined[row.model]["k"] == row.k]
        some = [REFERENCES[line] for line in part["line"]]
        assert row.bleu == pytest.approx(bleu(part["hypothesis"].tolist(), some)[0].score)
        assert row.elbo == pytest.approx(part["elbo"].mean())
        assert row.bound == pytest.approx((part["log_p_y"] + part["log_p_z"]).mean())
        assert row.changed == part["changed"].mean() and row.lowered == part["lowered"].mean()
        assert row.sentences == len(LINES)
        start = table[(table["model"] == row.model) & (table["k"] == 0)].iloc[0]
        assert row.bleu_gain == pytest.approx(row.bleu - start["bleu"])
        assert row.elbo_gain_low <= row.elbo_gain <= row.elbo_gain_high
        if row.k == 0:
            assert row.bleu_gain_low == row.bleu_gain_high == row.lowered == 0.0


def test_the_papers_numbers_stand_beside_ours_where_the_corpus_is_the_papers(refined):
    table = refinement_table.table3(refined, REFERENCES, resamples=5)
    assert refinement_table.with_published(table, "toy") is table
    found = refinement_table.with_published(table, "iwslt16_de_en").set_index(["model", "k"])
    assert found.loc[("ga_b", 1), "published_bleu"] == 24.36
    assert found.loc[("ga_b", 1), "published_gain"] == pytest.approx(24.36 - 22.88)
    assert found.loc["fl_s", "published_bleu"].isna().all()


def test_the_figure_draws_the_table(refined):
    table = refinement_table.table3(refined, REFERENCES, resamples=20)
    left, right = refinement_table.refinement_figure(table).axes
    for axes, column in ((left, "bleu"), (right, "elbo_gain")):
        for line, model in zip(axes.get_lines(), refined, strict=True):
            points = table[table["model"] == model]
            assert line.get_xdata().tolist() == points["k"].tolist()
            assert line.get_ydata().tolist() == points[column].tolist()


def test_procedures_are_scored_on_the_same_sentences():
    outputs = {"ga_b": pd.DataFrame({"line": LINES, "k4": [HYPOTHESES[line] for line in LINES],
                                     "mbr16-chrf": [BETTER[line] for line in LINES]})}
    table = refinement_table.procedures_table(outputs, REFERENCES, resamples=30)
    first, second = table.to_dict("records")
    some = [REFERENCES[line] for line in LINES]
    assert second["bleu"] == pytest.approx(bleu(outputs["ga_b"]["mbr16-chrf"].tolist(),
                                                some)[0].score)
    assert (first["bleu_gain"], first["different"]) == (0.0, 0.0)
    assert second["different"] == np.mean([HYPOTHESES[line] != BETTER[line] for line in LINES])
    assert first["length_ratio"] == pytest.approx(
        sum(len(HYPOTHESES[line]) for line in LINES) / sum(map(len, some)))
    assert refinement_table.procedures_table({}, REFERENCES).empty


def test_tables_are_told_compactly():
    table = pd.DataFrame({
        "model": ["ga_b", "ga_b", "fl_s"], "setting": ["k4", "k4-lengths5-iw10", "k4"],
        "bleu": [10.0, 12.5, 9.0], "bleu_low": [9.0, 11.0, 8.0], "bleu_high": [11.0, 14.0, 10.0],
        "bleu_gain": [0.0, 2.5, 0.0], "bleu_gain_low": [0.0, -1.0, 0.0],
        "bleu_gain_high": [0.0, 4.0, 0.0]})
    shown = refinement_table.compact(table)
    assert shown["bleu"].tolist() == [interval(10.0, 9.0, 11.0), interval(12.5, 11.0, 14.0),
                                      interval(9.0, 8.0, 10.0)]
    assert shown["bleu_gain"].tolist() == ["", interval(2.5, -1.0, 4.0, plus=True), ""]
    assert shown.columns.tolist() == ["model", "setting", "bleu", "bleu_gain"]


def test_the_note_says_what_was_measured():
    assert refinement_table.measured_on("raw", 500, 1000) == (
        "Models trained on raw text; 500 of 1,000 test sentences, evenly spread.")
    whole = "Models trained on distilled text; the whole test set."
    assert {refinement_table.measured_on("distilled", n, 1000) for n in (0, 1000)} == {whole}


def test_every_run_stands_step_by_step_with_its_gain(isolated):
    for model, wrong, data, seed in (("fl_b", 0.4, "raw", 1), ("ga_b", 0.2, "distilled", 1),
                                     ("ga_b", 0.3, "raw", 1), ("ga_b", 0.32, "raw", 2),
                                     ("tr_s", 0.1, "raw", 1)):
        made_up_run(model, wrong, 2.0, seed=seed, train_data=data,
                    **({} if model == "tr_s" else {"k0_wrong": 0.5}))
    bare = made_up_run("fl_s", 0.3, 2.0).metrics
    bare.write_text(bare.read_text().replace('"k0"', '"k9"'))  # never scored without refinement
    table = refinement_table.by_steps("toy", "smoke")
    assert table.loc[table["k"] == 1, ["model", "train_data"]].to_numpy().tolist() == [
        ["ga_b", "raw"], ["ga_b", "distilled"], ["fl_b", "raw"]]
    gains = scores("toy", "smoke", "k1", "k0")
    own = difference(gains[(gains["model"] == "ga_b") & (gains["train_data"] == "raw")])
    row = table.query("model == 'ga_b' and train_data == 'raw' and k == 1").iloc[0]
    assert row[["bleu_gain", "bleu_gain_low", "bleu_gain_high"]].tolist() == [
        own.value, own.low, own.high]
    start = table.query("model == 'ga_b' and train_data == 'raw' and k == 0").iloc[0]
    assert row["bleu"] - start["bleu"] == pytest.approx(row["bleu_gain"])
    shown = refinement_table.compact_steps(table)
    assert list(shown) == ["corpus", "model", "trained on", "BLEU at k = 0", "gain at k = 1",
                           "gain at k = 4"]
    assert shown.loc[0, "gain at k = 1"] == interval(*own[:3], plus=True)
    [axes] = refinement_table.steps_figure(table).axes
    assert axes.get_title(loc="left") == "toy, smoke" and len(axes.lines) == 3
