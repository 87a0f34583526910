"""Bounds against K and divergences against steps, by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis import convergence
from analysis.audit_figure import AuditedRun
from analysis.reports import exact_log_prob
from lib.config import load_config
from lib.runs import run_folder
from lib.task import Task

SENTENCES = pd.DataFrame({
    "n_tokens": [4, 6], "n_tokens_padded": [4, 8], "n_chars": [20, 30], "log_prob": [-7.0, -11.0],
    "log_p_length": -0.5, "elbo": -13.0, "iw_bound_1": -13.0, "iw_bound_10": [-9.0, -12.0],
    "released_estimate": -1.0, "effective_sample_size": 3.0})
AUDIT = pd.DataFrame({"line": [0, 1], "ais": [-6.0, -10.0], "simulated_lower": -9.0,
                      "simulated_upper": -8.9})


def test_bounds_at_every_number_of_samples():
    points = convergence.bound_points({"toy": [
        AuditedRun("tr_s", "autoregressive", SENTENCES[["n_tokens", "n_tokens_padded", "n_chars",
                                                        "log_prob", "log_p_length"]].assign(
            released_estimate=math.nan, elbo=math.nan)),
        AuditedRun("ga_b", "gaussian", SENTENCES, AUDIT, samples=100),
        AuditedRun("fl_s", "flow", SENTENCES, None, samples=50)]})
    found = points.set_index(["model", "samples"])
    assert list(found.index) == [("ga_b", 1), ("ga_b", 10), ("ga_b", 100), ("fl_s", 1),
                                 ("fl_s", 10), ("fl_s", 50)]  # a Transformer's needs no bound
    assert found["log_likelihood"].tolist() == pytest.approx([-2.7, -2.2, -1.9] * 2)
    assert found.loc[("ga_b", 100), "annealing"] == pytest.approx(-1.7)
    assert np.isnan(found.loc[("fl_s", 50), "annealing"])
    (axes,) = convergence.bound_against_samples(points).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["Ga-B", "Fl-S"]
    assert axes.get_xscale() == "log"


def test_the_truth_is_no_nats_away_from_itself(isolated):
    """A run whose dev_ll is the truth's, then a nat a token worse."""
    task = Task(load_config("tr_s", dev_sentences=50))
    truth = exact_log_prob(task, "dev")[:50]
    tokens = task.dev.target_lengths[:50] + 1
    own = truth.sum() / tokens.sum()
    file = run_folder(task.config).history
    file.parent.mkdir(parents=True)
    pd.DataFrame({"step": [100, 200], "dev_ll": [own - 1.0, own]}).to_csv(file, index=False)
    points = convergence.divergence_points([task])
    assert points["kl"].tolist() == pytest.approx([tokens.mean(), 0.0], abs=1e-9)
    (axes,) = convergence.divergence_against_steps(points).axes
    assert "nats per sentence" in axes.get_ylabel()


def test_an_unknown_truth_gives_no_points(isolated):
    assert convergence.divergence_points([]).empty
