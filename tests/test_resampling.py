"""Resampled test sets: coverage, pairing and speed."""

import time

import numpy as np
import pytest
from made_up import noisy_lines, scored_sentences

from analysis import resampling
from lib.errors import DataError


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    rng, covered, lines = np.random.default_rng(0), 0, 60
    for trial in range(200):
        frame = scored_sentences(["a"] * lines, rng.normal(-3.0, 1.0, lines))
        drawn = resampling.bootstrap([frame], ["a"] * lines, "per_sentence", resamples=200,
                                     seed=trial).interval()
        covered += drawn["likelihood_low"][0] <= -3.0 <= drawn["likelihood_high"][0]
    assert 0.88 <= covered / 200 <= 0.99     # 95% less the small-sample loss, +- 3 errors


def test_eight_models_on_a_thousand_sentences_take_seconds():
    hypotheses, references = noisy_lines(1000, 0.3, seed=4)
    frames = [scored_sentences(hypotheses, np.full(1000, -float(i + 1))) for i in range(8)]
    began = time.process_time()
    drawn = resampling.bootstrap(frames, references, "strict", resamples=1000)
    assert time.process_time() - began < 10
    assert drawn.bleu_resampled.shape == drawn.likelihood_resampled.shape == (1000, 8)
    # equal hypotheses have equal BLEU in every resample: the resampling is paired
    assert np.ptp(drawn.bleu_resampled, axis=1).max() < 1e-9
    assert drawn.bleu_resampled.mean() == pytest.approx(drawn.bleu[0], abs=0.5)


def test_runs_of_other_test_sets_are_refused():
    with pytest.raises(DataError, match="runs of one test set only"):
        resampling.bootstrap([scored_sentences(["a"], [-1.0])], ["a", "b"], "strict")
