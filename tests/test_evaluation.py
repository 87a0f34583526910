"""Evaluation: accountings by hand, likelihood tables, and a whole run's files."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from lib import checkpoints
from lib.config import load_config
from lib.errors import CheckpointError
from lib.evaluation import (
    TrainedRun,
    accountings,
    decoding_settings,
    evaluate,
    likelihoods,
    load_run,
)
from lib.task import Task
from lib.training import Trainer, run_folder
from tests.tiny import AUTOREGRESSIVE, FLOW, GAUSSIAN, model_of, ragged, tokenised

VOCABULARY = 11
TINY = {"steps": 2, "validate_every": 1, "dev_sentences": 8, "start_from": "", "kl_start": 0,
        "kl_ramp": 0, "samples": 5, "d_model": 16, "d_filter": 32}


def run_of(architecture, model: str, **overrides) -> TrainedRun:
    """A run whose model was never trained."""
    config = load_config(model, **overrides)
    return TrainedRun(config, model_of(architecture, VOCABULARY), Task(config), 0, 0.0)


def test_accountings_by_hand():
    sentences = pd.DataFrame({
        "n_tokens": [3, 5], "n_tokens_padded": [4, 8], "n_chars": [10, 30],
        "log_prob": [-6.0, -12.0], "log_p_length": [-1.0, -3.0],
        "released_estimate": [-1.0, -2.0]})
    found = accountings(sentences, 7)
    means = {name: entry["mean"] for name, entry in found.items()}
    assert means == pytest.approx({
        "paper": -18 / 12, "strict": -22 / 8, "per_sentence": -11.0,
        "bits_per_char": 22 / 40 / math.log(2), "released": -1.5})
    assert {entry["samples"] for entry in found.values()} == {7}
    # per sentence: values -7 and -15 differ by 8, so s = 8 / sqrt(2) and s / sqrt(n) = 4
    assert found["per_sentence"]["standard_error"] == pytest.approx(4.0)
    # strict: residuals -7 + 2.75 * 3 = 1.25 and -15 + 2.75 * 5 = -1.25
    assert found["strict"]["standard_error"] == pytest.approx(math.sqrt(2 * 2 * 1.25**2) / 8)


def test_the_standard_error_of_a_ratio_is_that_of_repeated_test_sets():
    rng = np.random.default_rng(0)

    def sentences(count):
        tokens = rng.integers(2, 30, count)
        return pd.DataFrame({
            "n_tokens": tokens, "n_tokens_padded": tokens, "n_chars": tokens * 5,
            "log_prob": -tokens * rng.gamma(4, 0.5, count), "log_p_length": np.zeros(count),
            "released_estimate": np.full(count, np.nan)})

    repeated = np.std([accountings(sentences(400), 1)["strict"]["mean"] for _ in range(300)])
    claimed = accountings(sentences(400), 1)["strict"]["standard_error"]
    assert claimed == pytest.approx(repeated, rel=0.15)


@pytest.mark.parametrize(("architecture", "model"), [(GAUSSIAN, "ga_b"), (FLOW, "fl_s")])
def test_likelihoods_of_a_latent_model(architecture, model, isolated):
    run = run_of(architecture, model, precision="fp32", batch_tokens=128)
    data = tokenised(ragged(9, VOCABULARY))
    table = likelihoods(run, data, 120, progress=False)
    again = likelihoods(run, data, 120, progress=False)
    pd.testing.assert_frame_equal(table, again)
    assert (table["n_tokens"] == data.target_lengths + 1).all()
    assert (table["n_tokens_padded"] % 4 == 0).all()
    assert (table["n_tokens_padded"] >= table["n_tokens"]).all()
    assert table["effective_sample_size"].between(1, 120).all()
    assert table["largest_weight"].between(1 / 120, 1).all()
    assert table["log_p_length"].lt(0).all()
    # by Jensen's inequality the bound is above the mean of its own log weights
    assert (table["log_prob"] >= table["elbo"] - 1e-9).all()
    assert {"iw_bound_1", "iw_bound_10", "iw_bound_100"} <= set(table)
    assert not np.allclose(table["log_prob"], table["iw_bound_1"])


def test_likelihoods_of_a_transformer_are_exact_and_ordered(isolated):
    run = run_of(AUTOREGRESSIVE, "tr_s", precision="fp32")
    pairs = ragged(9, VOCABULARY)
    whole = likelihoods(run, tokenised(pairs), 50, progress=False)
    alone = [likelihoods(run, tokenised([pair]), 1, progress=False)["log_prob"][0]
             for pair in pairs]
    np.testing.assert_allclose(whole["log_prob"], alone, rtol=1e-5)
    assert (whole["log_p_length"] == 0).all()
    assert (whole["n_tokens_padded"] == whole["n_tokens"]).all()
    assert "elbo" not in whole


def test_an_interrupted_likelihood_pass_goes_on(isolated, monkeypatch):
    run = run_of(GAUSSIAN, "ga_b", precision="fp32", batch_tokens=64)
    data = tokenised(ragged(40, VOCABULARY))
    whole = likelihoods(run, data, 3, progress=False)
    monkeypatch.setattr("lib.evaluation.time.monotonic", iter(range(0, 10**6, 100)).__next__)
    real, calls = run.model.log_prob_terms, []

    def failing(batch, *rest):
        calls.append(len(batch))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(batch, *rest)

    monkeypatch.setattr(run.model, "log_prob_terms", failing)
    with pytest.raises(KeyboardInterrupt):
        likelihoods(run, data, 3, progress=False, resumable=True)
    partial = run_folder(run.config).checkpoints / "likelihood.pt"
    assert partial.exists()
    done = sum(calls[:2])
    calls.clear()
    calls.extend([0, 0, 0])
    resumed = likelihoods(run, data, 3, progress=False, resumable=True)
    assert sum(calls) == len(data) - done
    pd.testing.assert_frame_equal(resumed, whole)
    assert not partial.exists()


@pytest.mark.parametrize("model", ["tr_s", "ga_b", "fl_s"])
def test_a_whole_run(model, isolated):
    config = load_config(model, "toy", "smoke", **TINY)
    Trainer(config, progress=False).run()
    metrics = evaluate(config, progress=False)
    folder = run_folder(config)
    assert json.loads(folder.metrics.read_text()) == metrics
    assert list(metrics["bleu"]) == decoding_settings(config)
    assert all("version:" in entry["signature"] for entry in metrics["bleu"].values())
    assert metrics["test_set"] == {"name": "test", "lines": 1000}
    sentences = pd.read_csv(folder.sentences, keep_default_na=False)
    assert list(sentences)[:9] == [
        "hypothesis", "n_tokens", "n_tokens_padded", "n_chars", "log_prob", "log_p_length", "elbo",
        "released_estimate", "effective_sample_size"]
    assert len(sentences) == 1000
    per_sentence = (sentences["log_prob"] + sentences["log_p_length"]).mean()
    assert metrics["log_likelihood"]["per_sentence"]["mean"] == pytest.approx(per_sentence, 1e-4)
    if model == "tr_s":
        assert metrics["diagnostics"] == {}
        assert (sentences["elbo"] == "").all()
    else:
        assert {"kl", "reconstruction", "bleu_posterior"} <= set(metrics["diagnostics"])


def test_evaluating_a_run_that_was_not_trained_names_the_command(isolated):
    with pytest.raises(CheckpointError, match="02_train.ipynb OUT.ipynb -p model fl_b"):
        load_run(load_config("fl_b"))


def test_a_checkpoint_of_another_vocabulary_is_refused(isolated):
    config = load_config("tr_s", **TINY)
    Trainer(config, progress=False).run()
    path = run_folder(config).best
    content = torch.load(path, weights_only=True)
    checkpoints.save(path, {**content, "vocabulary": "0" * 64})
    with pytest.raises(CheckpointError, match="vocabulary"):
        load_run(replace(config, seed=config.seed))
