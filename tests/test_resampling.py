"""BLEU and likelihood from per-sentence counts equal the whole-corpus computations."""

import random
import time

import numpy as np
import pandas as pd
import pytest
from sacrebleu.metrics import BLEU

from lib.correlation import resampling
from lib.errors import ConfigError, DataError

WORDS = ["a", "the", "dog", "cat", "sees", "runs", ",", ".", "red", "Blue", "house's", "3.5", "&",
         "--", '"x"', "über"]


def made_up(lines, noise, seed):
    rng = random.Random(seed)
    references = [" ".join(rng.choices(WORDS, k=rng.randint(1, 14))) for _ in range(lines)]
    hypotheses = [" ".join(rng.choice(WORDS) if rng.random() < noise else word
                           for word in line.split() if rng.random() > 0.1) for line in references]
    return hypotheses, references


@pytest.mark.parametrize("noise", [0.0, 0.3, 0.95, 1.0])
@pytest.mark.parametrize("lowercase", [False, True])
def test_bleu_equals_sacrebleu(noise, lowercase):
    hypotheses, references = made_up(200, noise, seed=1)
    counts = resampling.bleu_statistics(hypotheses, references, lowercase=lowercase)
    theirs = BLEU(lowercase=lowercase).corpus_score(hypotheses, [references])
    summed = counts.sum(axis=0)
    assert [theirs.sys_len, theirs.ref_len, *theirs.counts, *theirs.totals] == summed.tolist()
    assert resampling.bleu_from_counts(summed) == pytest.approx(theirs.score, abs=1e-10)


@pytest.mark.parametrize(("hypothesis", "reference"), [
    ("", "a b"), ("a", "a"), ("a b c d", "e f g h"), ("a b x y", "a b c d"), ("a b c", "a b c"),
    ("a b c d e", "a b c d e"), ("a x b y c z", "a b c"),
])
def test_bleu_equals_sacrebleu_on_degenerate_corpora(hypothesis, reference):
    counts = resampling.bleu_statistics([hypothesis], [reference]).sum(axis=0)
    theirs = BLEU().corpus_score([hypothesis], [[reference]]).score
    assert resampling.bleu_from_counts(counts) == pytest.approx(theirs, abs=1e-10)


def test_resampled_bleu_equals_sacrebleu_on_the_drawn_lines():
    hypotheses, references = made_up(30, 0.3, seed=2)
    weights = resampling.resample_weights(30, 5, seed=3)
    counts = resampling.bleu_statistics(hypotheses, references)
    for row, ours in zip(weights, resampling.bleu_from_counts(weights @ counts), strict=True):
        drawn = np.repeat(np.arange(30), row.astype(int))
        theirs = BLEU().corpus_score([hypotheses[i] for i in drawn],
                                     [[references[i] for i in drawn]])
        assert ours == pytest.approx(theirs.score, abs=1e-10)


def sentences(hypotheses, log_prob, latent=False):
    lines = len(hypotheses)
    return pd.DataFrame({
        "hypothesis": hypotheses, "n_tokens": np.arange(1, lines + 1),
        "n_tokens_padded": 4 * np.ceil(np.arange(1, lines + 1) / 4).astype(int),
        "n_chars": 10, "log_prob": log_prob, "log_p_length": -0.5 if latent else 0.0,
        "elbo": np.nan, "released_estimate": -1.5 if latent else np.nan,
        "effective_sample_size": np.nan,
    })


@pytest.mark.parametrize(("accounting", "expected"), [
    ("paper", -10 / 12),
    ("strict", -12 / 10), ("per_sentence", -12 / 4), ("bits_per_char", 12 / np.log(2) / 40),
    ("released", -1.5),
])
def test_accountings_by_hand(accounting, expected):
    frame = sentences(["x"] * 4, -np.arange(1.0, 5.0), latent=True)
    if accounting == "paper":
        frame["n_tokens_padded"] = 3        # 12 padded tokens in all
    numerator, denominator = resampling.likelihood_terms(frame, accounting)
    assert numerator.sum() / denominator.sum() == pytest.approx(expected)


def test_released_of_an_exact_model_is_its_log_probability_per_padded_token():
    frame = sentences(["x"] * 4, -np.arange(1.0, 5.0))
    numerator, denominator = resampling.likelihood_terms(frame, "released")
    assert numerator.sum() / denominator.sum() == pytest.approx(-(1 + 2 + 3 + 4) / 4 / 4)


def test_weights_are_paired_and_seeded():
    weights = resampling.resample_weights(7, 20, seed=5)
    assert (weights.sum(axis=1) == 7).all()
    assert (weights == resampling.resample_weights(7, 20, seed=5)).all()
    assert (weights != resampling.resample_weights(7, 20, seed=6)).any()


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    rng, covered, lines = np.random.default_rng(0), 0, 60
    for trial in range(200):
        frame = sentences(["a"] * lines, rng.normal(-3.0, 1.0, lines))
        drawn = resampling.bootstrap([frame], ["a"] * lines, "per_sentence", resamples=200,
                                     seed=trial).interval()
        covered += drawn["likelihood_low"][0] <= -3.0 <= drawn["likelihood_high"][0]
    assert 0.88 <= covered / 200 <= 0.99     # 95% less the small-sample loss, +- 3 errors


def test_eight_models_on_a_thousand_sentences_take_seconds():
    hypotheses, references = made_up(1000, 0.3, seed=4)
    frames = [sentences(hypotheses, np.full(1000, -float(i + 1))) for i in range(8)]
    began = time.process_time()
    drawn = resampling.bootstrap(frames, references, "strict", resamples=1000)
    assert time.process_time() - began < 10
    assert drawn.bleu_resampled.shape == drawn.likelihood_resampled.shape == (1000, 8)
    # equal hypotheses have equal BLEU in every resample: the resampling is paired
    assert np.ptp(drawn.bleu_resampled, axis=1).max() < 1e-9
    assert drawn.bleu_resampled.mean() == pytest.approx(drawn.bleu[0], abs=0.5)


def test_bad_input_has_one_clear_message():
    with pytest.raises(DataError, match="2 hypotheses but 1 references"):
        resampling.bleu_statistics(["a", "b"], ["a"])
    with pytest.raises(DataError, match="test set is empty"):
        resampling.bleu_statistics([], [])
    with pytest.raises(ConfigError, match="choose one of paper, strict"):
        resampling.accounting_named("nats")
    with pytest.raises(DataError, match="runs of one test set only"):
        resampling.bootstrap([sentences(["a"], [-1.0])], ["a", "b"], "strict")


def test_slack_is_what_the_last_tenfold_of_samples_raised_a_bound_by():
    """Two sentences of 4 and 6 tokens, bounds -10 and -20 that were -11 and -22.5 before."""
    frame = pd.DataFrame({
        "log_prob": [-10.0, -20.0], "log_p_length": [-1.0, -1.0], "n_tokens": [4, 6],
        "n_tokens_padded": [4, 8], "n_chars": [10, 18], "released_estimate": [-1.0, -1.0],
        "iw_bound_1": [-30.0, -40.0], "iw_bound_10": [-14.0, -25.0],
        "iw_bound_100": [-11.0, -22.5]})
    found = {name: resampling.bound_slack(frame, name) for name in resampling.ACCOUNTINGS}
    assert found == pytest.approx({"paper": 3.5 / 12, "strict": 3.5 / 10, "per_sentence": 3.5 / 2,
                                   "bits_per_char": 3.5 / np.log(2) / 28, "released": 0.0})
    fifty = frame.rename(columns={"iw_bound_100": "iw_bound_5"})  # 5 is a tenth of 50
    assert resampling.bound_slack(fifty, "per_sentence") == pytest.approx(3.5 / 2)
    exact = frame.drop(columns=[c for c in frame if c.startswith("iw_bound")])
    assert resampling.bound_slack(exact, "strict") == 0.0
