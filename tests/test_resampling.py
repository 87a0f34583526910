"""Resampled test sets: coverage, pairing and speed."""

import time

import numpy as np
import pytest
from made_up import made_up_references, made_up_run, noisy_lines, scored_sentences

from analysis import resampling, systems
from lib.errors import DataError


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    rng, covered, lines = np.random.default_rng(0), 0, 60
    for trial in range(200):
        frame = scored_sentences(["a"] * lines, rng.normal(-3.0, 1.0, lines))
        drawn = resampling.bootstrap([frame], ["a"] * lines, "per_sentence", resamples=200,
                                     seed=trial)["per_sentence"].likelihood_resampled[:, 0]
        covered += np.quantile(drawn, 0.025) <= -3.0 <= np.quantile(drawn, 0.975)
    assert 0.88 <= covered / 200 <= 0.99     # 95% less the small-sample loss, +- 3 errors


def test_eight_models_on_a_thousand_sentences_take_seconds():
    hypotheses, references = noisy_lines(1000, 0.3, seed=4)
    frames = [scored_sentences(hypotheses, np.full(1000, -float(i + 1))) for i in range(8)]
    began = time.process_time()
    drawn = resampling.bootstrap(frames, references, "strict", resamples=1000)["strict"]
    assert time.process_time() - began < 10
    assert drawn.bleu_resampled.shape == drawn.likelihood_resampled.shape == (1000, 8)
    # equal hypotheses have equal BLEU in every resample: the resampling is paired
    assert np.ptp(drawn.bleu_resampled, axis=1).max() < 1e-9
    assert drawn.bleu_resampled.mean() == pytest.approx(drawn.bleu[0], abs=0.5)


def test_runs_of_other_test_sets_are_refused():
    with pytest.raises(DataError, match="runs of one test set only"):
        resampling.bootstrap([scored_sentences(["a"], [-1.0])], ["a", "b"], "strict")


def test_resampled_runs_read_their_sentences(isolated):
    references = made_up_references(40)
    for model in ("tr_s", "ga_b"):
        made_up_run(model, 0.2, 1.0, references=references, mbr_wrong=0.9)
    frame = systems.collect()
    both = resampling.resample_runs(frame, references, "strict", "per_sentence", resamples=50)
    assert list(both) == ["strict", "per_sentence"]
    np.testing.assert_array_equal(both["per_sentence"].bleu_resampled,
                                  both["strict"].bleu_resampled)
    alone = resampling.resample_runs(frame, references, "per_sentence", resamples=50)
    np.testing.assert_array_equal(both["per_sentence"].likelihood_resampled,
                                  alone["per_sentence"].likelihood_resampled)
    np.testing.assert_allclose(both["strict"].bleu, frame["bleu"])
    mbr = resampling.resample_runs(frame, references, "strict", resamples=50,
                                   hypotheses="hypothesis_mbr")
    np.testing.assert_allclose(mbr["strict"].bleu, frame["bleu_mbr"])


def test_what_one_model_finds_impossible_costs_the_others_nothing():
    frames = [scored_sentences(["a", "b"], [-1.0, last]) for last in (-2.0, -np.inf, -4.0)]
    drawn = resampling.bootstrap(frames, ["a", "b"], "per_sentence", resamples=20)["per_sentence"]
    np.testing.assert_array_equal(drawn.likelihood, [-1.5, np.nan, -2.5])
    mean = drawn.averaged(np.array([0, 1, 0]))
    np.testing.assert_array_equal(mean.likelihood, [-2.0, np.nan])
    assert np.isfinite(mean.likelihood_resampled[:, 0]).all()
    assert np.isnan(mean.likelihood_resampled[:, 1]).all()
