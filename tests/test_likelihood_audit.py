"""The audit's table, ranking and figure, from made-up runs whose numbers are worked by hand."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from made_up import committed, made_up_run
from test_notebooks import execute, printed

from analysis import likelihood_audit as module
from analysis.likelihood_audit import (
    AuditedRun,
    audit_table,
    audited_runs,
    certainty_table,
    likelihood_audit,
    ranking,
)
from analysis.style import COLOURS, GREY
from lib.errors import DataError
from lib.runs import RunFolder


def sentences(log_prob, released=math.nan, padded=(4, 8), log_p_length=-0.5, elbo=math.nan):
    frame = pd.DataFrame({
        "n_tokens": [4, 6], "n_tokens_padded": padded, "n_chars": [20, 30],
        "log_prob": log_prob, "log_p_length": log_p_length, "elbo": elbo,
        "released_estimate": released, "effective_sample_size": math.nan})
    return frame if math.isnan(elbo) else frame.assign(iw_bound_1=elbo, iw_bound_10=elbo + 1)


def audit_of(ais, gaps, lines=(1, 0)):
    return pd.DataFrame({"line": lines, "ais": ais, "simulated_lower": -9.0,
                         "simulated_upper": -9.0 + np.array(gaps)})


RUNS = [
    AuditedRun("fl_s", "flow", sentences([-7.0, -11.0], -1.0, elbo=-13.0),
               audit_of([-10.0, -6.5], [0.3, 0.2])),
    AuditedRun("tr_s", "autoregressive", sentences([-4.0, -8.0], padded=(4, 6), log_p_length=0.0)),
    AuditedRun("ga_b", "gaussian", sentences([-9.0, -13.0], -1.4, elbo=-15.0)),
]
TRUTH = np.array([-3.0, -6.0])


def table():
    return audit_table(RUNS, TRUTH)


def test_table_hand_worked():
    found = table().set_index("model")
    assert list(found.index) == ["tr_s", "ga_b", "fl_s"], "the paper's order"
    assert found["truth"].tolist() == [-0.9] * 3
    assert found.loc["tr_s", ["bound", "best", "paper"]].tolist() == [-1.2] * 3
    assert found.loc["tr_s", "paper_mean"] == pytest.approx((-1 - 8 / 6) / 2)
    assert found.loc["tr_s", "released"] == found.loc["tr_s", "paper_mean"]
    assert found.loc["tr_s", "kl"] == pytest.approx((1 + 2) / 2)
    assert math.isnan(found.loc["tr_s", "elbo"])
    flow = found.loc["fl_s"]
    assert flow["bound"] == pytest.approx(-19 / 10)
    assert flow["elbo"] == flow["iw_bound_1"] == pytest.approx(-27 / 10)
    # line 1: -10 instead of -11; line 0: -6.5 instead of -7
    assert flow["annealing_adds"] == pytest.approx(1.5 / 10)
    assert flow["best"] == pytest.approx(-1.75)
    assert flow["gap"] == pytest.approx(0.5 / 10)
    assert flow["paper"] == pytest.approx(-18 / 12)
    assert flow["paper_mean"] == pytest.approx((-7 / 4 - 11 / 8) / 2)
    assert flow["released"] == -1.0
    assert flow["kl"] == pytest.approx((4.5 + 5.5) / 2 - 0.15 * 5)
    assert (flow["audited"], found.loc["ga_b", "audited"]) == (2, 0)
    assert found.loc["ga_b", "best"] == found.loc["ga_b", "bound"]


def test_error_of_a_ratio_is_that_of_the_delta_method():
    flow = table().set_index("model").loc["fl_s"]
    residuals = np.array([-7.5, -11.5]) + 1.9 * np.array([4, 6])
    assert flow["bound_error"] == pytest.approx(math.sqrt(2 * np.square(residuals).sum()) / 10)
    assert flow["best_error"] == pytest.approx(
        math.hypot(flow["bound_error"], flow["annealing_adds_error"]))


def test_without_truth_there_is_no_divergence():
    found = audit_table(RUNS)
    assert found["truth"].isna().all()
    assert "kl" not in found
    with pytest.raises(DataError, match="log p\\* of 3 sentences"):
        audit_table(RUNS, np.zeros(3))


def test_certainty_has_a_row_an_audited_run():
    frame = RUNS[0].audit.assign(
        n_tokens_padded=4, iw_bound_10=-10.0, released_estimate=-1.0, simulated_iw_bound=-9.5,
        simulated_released_estimate=-2.0)
    runs = [AuditedRun("fl_s", "flow", RUNS[0].sentences, frame), *RUNS[1:]]
    found = certainty_table(runs)
    assert found["model"].tolist() == ["fl_s"]
    row = found.iloc[0]
    assert row["ais_minus_iw"] == pytest.approx((0.0 + 3.5) / 2)
    assert row["gap"] == pytest.approx(0.25)
    assert (row["sentences"], row["released_above_upper"]) == (2, 2)
    assert certainty_table(RUNS[1:]).empty


def test_verdict_names_what_changes():
    found = table().assign(best_error=0.01, paper_error=0.01, released_error=0.01)
    text = ranking(found)
    assert "strictly, the families rank autoregressive > flow > Gaussian (" in text
    assert "the paper's accounting keeps it" in text
    assert "the released estimate says flow > autoregressive > Gaussian" in text
    assert ranking(found[found["model"] == "tr_s"]) == "One family alone has no rank."
    close = ranking(found.assign(best_error=10.0))
    assert "the families rank autoregressive ≈ flow ≈ Gaussian (best" in close


def test_figure_has_a_row_a_model_and_ranks_as_the_sentence_does():
    found = table()
    figure = likelihood_audit(found)
    [axes], [legend] = figure.axes, figure.legends
    keys = {text.get_text(): handle for text, handle in zip(
        legend.get_texts(), legend.legend_handles, strict=True)}
    assert keys["strict LL ± two standard errors"].get_markerfacecolor() == GREY
    assert keys["released estimate"].get_markerfacecolor() == "white"
    assert keys["LL, counted as the released code counts"].get_marker() == "|"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Tr-S", "Ga-B", "Fl-S"]
    first, second = axes.get_title(loc="left").split("\n")
    assert first.removeprefix("filled, strict: ") in ranking(found)
    assert second.removeprefix("hollow, released estimate: ") in ranking(found)
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert {line.get_color() for line in hollow} == {COLOURS[name] for name in (
        "autoregressive", "gaussian", "flow")}
    assert axes.get_xlim()[1] > -0.9 > max(line.get_xdata()[0] for line in hollow)
    assert axes.yaxis_inverted()
    [bar] = [patch for patch in axes.patches if patch.get_y() == 1.75]  # Fl-S, the third row
    assert (bar.get_x(), bar.get_x() + bar.get_width()) == pytest.approx((-2.7, -1.75 + 0.05))


def scored_run(model, log_prob):
    """A run of two sentences, scored with 7 samples after step 3."""
    run = made_up_run(model, 0.0, 1.0, references=["nan", ""])
    sentences([log_prob, 2 * log_prob]).assign(hypothesis=["nan", ""]).to_csv(
        run.sentences, index=False)
    metrics = json.loads(run.metrics.read_text())
    metrics["log_likelihood"]["strict"]["samples"] = 7
    run.metrics.write_text(json.dumps(metrics | {"step": 3, "dev_bleu": 1.0}))
    return run


def test_runs_are_found_with_their_audits(isolated):
    for model, log_prob in (("fl_s", -7.0), ("tr_s", -4.0)):
        scored_run(model, log_prob)
    runs = audited_runs("toy", "smoke")
    assert [(run.model, run.family, run.audit is None) for run in runs] == [
        ("tr_s", "autoregressive", True), ("fl_s", "flow", True)]
    assert runs[1].sentences["log_prob"].tolist() == [-7.0, -14.0]
    assert runs[1].samples == 7
    audit_of([-6.0, -12.0], [0.1, 0.1]).to_csv(
        RunFolder("toy", "smoke", "fl_s").path / "audit.csv", index=False)
    annealing = {"temperatures": 30, "chains": 16, "leapfrog_steps": 2, "target_acceptance": 0.8,
                 "tuning_chains": 4}
    (RunFolder("toy", "smoke", "fl_s").path / "audit.json").write_text(json.dumps({
        "settings": {"sentences": 2, "samples": 100, "seed": 0, "precision": "fp32",
                     "annealing": annealing}, "step": 3, "dev_bleu": 1.0}))
    assert audited_runs("toy", "smoke")[1].audit["ais"].tolist() == [-6.0, -12.0]


def test_no_run_at_all_names_the_commands(isolated):
    with pytest.raises(DataError, match="no evaluated run of toy/smoke.*02_train"):
        audited_runs("toy", "smoke")


def test_notebook_audits_what_has_no_audit(isolated):
    """The shipped Tr-S and Ga-B without any audit: 06 computes one, and shows and writes it."""
    for model in ("tr_s", "ga_b"):
        committed(model, "audit.*", "*.ipynb")
    book = execute(isolated, "06_likelihood_audit", sentences=3, samples=4, temperatures=2,
                   chains=2)
    audit = pd.read_csv(RunFolder("toy", "smoke", "ga_b").path / "audit.csv")
    assert audit["line"].tolist() == [0, 1, 2]
    name = "likelihood_audit_toy_smoke"
    table = pd.read_csv(isolated / "outputs" / "tables" / f"{name}.csv")
    assert table["model"].tolist() == ["tr_s", "ga_b"]
    assert table["audited"].tolist() == [0, 3]
    assert (isolated / "outputs" / "figures" / f"{name}.png").exists()
    said = printed(book)
    assert "Counted strictly, the families rank autoregressive > Gaussian" in said
    assert "multi30k" not in said


# ---- bounds against K ----

SENTENCES = pd.DataFrame({
    "n_tokens": [4, 6], "n_tokens_padded": [4, 8], "n_chars": [20, 30], "log_prob": [-7.0, -11.0],
    "log_p_length": -0.5, "elbo": -13.0, "iw_bound_1": -13.0, "iw_bound_10": [-9.0, -12.0],
    "released_estimate": -1.0, "effective_sample_size": 3.0})
AUDIT = pd.DataFrame({"line": [0, 1], "ais": [-6.0, -10.0], "simulated_lower": -9.0,
                      "simulated_upper": -8.9})


def test_bounds_at_every_number_of_samples():
    points = module.bound_points([
        AuditedRun("tr_s", "autoregressive", SENTENCES[["n_tokens", "n_tokens_padded", "n_chars",
                                                        "log_prob", "log_p_length"]].assign(
            released_estimate=math.nan, elbo=math.nan)),
        AuditedRun("ga_b", "gaussian", SENTENCES, AUDIT, samples=100),
        AuditedRun("fl_s", "flow", SENTENCES, None, samples=50)])
    found = points.set_index(["model", "samples"])
    assert list(found.index) == [("ga_b", 1), ("ga_b", 10), ("ga_b", 100), ("fl_s", 1),
                                 ("fl_s", 10), ("fl_s", 50)]  # a Transformer's needs no bound
    assert found["log_likelihood"].tolist() == pytest.approx([-2.7, -2.2, -1.9] * 2)
    assert found.loc[("ga_b", 100), "annealing"] == pytest.approx(-1.7)
    assert np.isnan(found.loc[("fl_s", 50), "annealing"])
    assert found.loc[("ga_b", 100), "annealing_error"] > 0
    found.loc["fl_s", ["annealing", "annealing_error"]] = -1.71, 0.02
    figure = module.bound_against_samples(found.reset_index())
    [axes], [legend] = figure.axes, figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "Ga-B", "Fl-S", "annealed ± two\nstandard errors"]
    assert axes.get_xscale() == "log"
    (first, *_), (second, *_) = axes.containers  # near in likelihood, and yet apart
    assert 100 < first.get_xdata()[0] < 0.8 * second.get_xdata()[0]
    assert (first.get_marker(), second.get_marker()) == ("s", "o")
    (low, high), = (bar.get_segments()[0][:, 1] for bar in axes.containers[1][2])
    assert (low, high) == pytest.approx((-1.75, -1.67))
