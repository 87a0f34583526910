"""BLEU by decoding setting: means over seeds, paired differences, older runs without counts."""

import math

import numpy as np
import pytest
from made_up import made_up_references, made_up_run

from analysis.settings import difference, scores
from lib.bleu import resample_weights, resampled_bleu


@pytest.fixture
def runs(isolated):
    return [made_up_run(model, wrong, 2.0, seed=seed, k0_wrong=0.5) for model, wrong, seed in (
        ("ga_b", 0.2, 1), ("ga_b", 0.22, 2), ("fl_b", 0.4, 1), ("tr_s", 0.1, 1))]


def test_scores_are_means_over_seeds_of_latent_models(runs):
    table = scores("toy", "smoke", "k1").set_index("model")
    assert list(table.index) == ["ga_b", "fl_b"]
    own = [run.read_metrics().bleu["k1"].score for run in runs[:2]]
    assert table.loc["ga_b", "value"] == pytest.approx(np.mean(own))
    assert table.loc["ga_b", "training"].variance == pytest.approx(np.var(own, ddof=1))
    assert table.loc["ga_b", "lines"] == len(made_up_references())
    gains = scores("toy", "smoke", "k1", "k0").set_index("model")["value"]
    before = [run.read_metrics().bleu["k0"].score for run in runs[:2]]
    assert gains["ga_b"] == pytest.approx(np.mean(own) - np.mean(before))
    assert scores("toy", "smoke", "k9").empty


def test_differences_are_paired(runs):
    table = scores("toy", "smoke", "k1")
    weights, lines = resample_weights(200), made_up_references()
    drawn = [resampled_bleu(run.read_sentences()["hypothesis"].tolist(), lines, weights)[1]
             for run in runs[:3]]
    flow = difference(table[table["model"] == "fl_b"])
    assert flow.high > np.quantile(drawn[2], 0.975)  # Ga-B's seeds say how training varies
    both = difference(*(table[table["model"] == model] for model in ("ga_b", "fl_b")))
    gap = (drawn[0] + drawn[1]) / 2 - drawn[2]
    assert both.value == pytest.approx(table["value"].iloc[0] - table["value"].iloc[1])
    assert both.low < np.quantile(gap, 0.025) and "other families" in both.over


def test_runs_without_counts_have_their_own_intervals_or_none(runs):
    runs[2].bleu_counts.unlink()
    table = scores("toy", "smoke", "k1")
    found = difference(table[table["model"] == "fl_b"])
    assert math.isnan(found.low) and not found.needs  # no interval in metrics.json either
