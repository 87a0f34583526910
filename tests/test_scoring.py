"""Scoring a test set: accountings and convergence by hand, draws that no batch changes, memory."""

import copy
import json
import math
import weakref
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from closed_form import ParityModel
from tiny import AUTOREGRESSIVE, FLOW, GAUSSIAN, LATENT, batch_of, model_of, ragged, tokenised
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lib import runtime
from lib.batching import Batch, padded_length
from lib.config import load_config
from lib.evaluation.scoring import (
    TrainedRun,
    accountings,
    convergence,
    ladder,
    likelihood_batches,
    likelihoods,
)
from lib.likelihood import LogProbTerms
from lib.likelihood.accounting import ACCOUNTINGS, ratio_of_sums
from lib.runs import run_folder
from lib.task import Task

VOCABULARY = 11


def run_of(architecture, model: str, **overrides) -> TrainedRun:
    """A run whose model was never trained."""
    config = load_config(model, **overrides)
    return TrainedRun(config, model_of(architecture, VOCABULARY), Task(config), 0, 0.0)


def test_fewer_sentences_do_not_take_more_samples_at_once(isolated, monkeypatch):
    """Where a card's memory ran out; else no part of the sentences would need less of it."""
    run = run_of(GAUSSIAN, "ga_b", precision="fp32")
    tried = []

    def terms(batch, samples, generators, chunk):
        tried.append(batch.target.numel() * chunk)
        if tried[-1] > 2**13:
            raise torch.OutOfMemoryError("CUDA out of memory")
        zero = torch.zeros(samples, len(batch))
        return LogProbTerms(zero, zero, zero, zero[0])

    run.model.log_prob_terms = terms
    monkeypatch.setattr(type(run.model), "device", torch.device("cuda"))
    monkeypatch.setattr(torch, "Generator", lambda where: Mock())
    monkeypatch.setattr(Batch, "to", lambda self, where: self)
    monkeypatch.setattr(runtime, "device_positions", lambda *_: 2**14)
    table = likelihoods(run, tokenised(ragged(48, VOCABULARY, 14)), 4000, progress=False)
    assert len(table) == 48 and max(tried) > 2**13 >= min(tried)


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


def test_sentences_of_probability_0_have_no_mean_and_are_counted():
    table = pd.DataFrame({"log_prob": [-8.0, -math.inf, -4.0], "log_p_length": 0.0,
                          "n_tokens": [2, 9, 4], "n_tokens_padded": [2, 9, 4],
                          "n_chars": [3, 9, 5], "elbo": math.nan, "released_estimate": math.nan})
    found = accountings(table, 1)
    entry = {"mean": None, "standard_error": None, "impossible": 1, "samples": 1}
    assert found == dict.fromkeys(ACCOUNTINGS, entry)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert convergence(table, 1) == {
        "statement": "exact; 1 of 3 sentences have probability 0"}


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
    assert table["log_p_length"].lt(0).all()
    # by Jensen's inequality the bound is above the mean of its own log weights
    assert (table["log_prob"] >= table["elbo"] - 1e-9).all()
    assert {"iw_bound_1", "iw_bound_10", "iw_bound_100"} <= set(table)
    np.testing.assert_allclose(table["iw_bound_1"], table["elbo"])
    bounds = table[["iw_bound_1", "iw_bound_12", "log_prob"]].to_numpy()  # 12 divides 120
    assert (np.diff(bounds, axis=1) > 0).all()


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


def test_threads_side_by_side_change_no_digit_and_give_back_their_number(isolated, monkeypatch):
    run = run_of(FLOW, "fl_s", precision="fp32", batch_tokens=64)
    data = tokenised(ragged(40, VOCABULARY))
    threads = torch.get_num_threads()
    found = []
    for workers in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda workers=workers: workers)
        found.append(likelihoods(run, data, 3, progress=False))
    monkeypatch.undo()
    torch.set_num_threads(threads)
    pd.testing.assert_frame_equal(*found, check_exact=True)


def test_an_error_in_one_thread_ends_the_pass(isolated, monkeypatch):
    run = run_of(GAUSSIAN, "ga_b", precision="fp32", batch_tokens=64)
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(run.model, "log_prob_terms", lambda *rest: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        likelihoods(run, tokenised(ragged(40, VOCABULARY)), 3, progress=False)
    torch.set_num_threads(threads)


def test_one_sentence_has_no_standard_error():
    """Rather than one of 0.000."""
    assert math.isnan(ratio_of_sums(np.array([-6.0]), np.array([3.0]))[1])
    sentences = pd.DataFrame({
        "log_prob": [-6.0], "log_p_length": [-0.5], "n_tokens": [3], "n_tokens_padded": [4],
        "n_chars": [9], "released_estimate": [-1.0], "elbo": [-6.5], "iw_bound_1": [-6.2],
        "effective_sample_size": [2.0]})
    found = accountings(sentences, 10)
    assert found["paper"] == {"mean": -1.5, "standard_error": None, "samples": 10}
    converged = convergence(sentences, 10)
    assert "not yet converged" in converged["statement"]
    assert converged["statement"].endswith("by 0.0667 nats per token (n = 1)")
    json.dumps([found, converged], allow_nan=False)


@pytest.mark.parametrize("harm", [b"x", b"", b"PK"])
def test_a_damaged_record_of_the_pass_is_made_again(isolated, harm):
    """A mere cache: neither a training nor a deletion by hand is needed."""
    run = run_of(GAUSSIAN, "ga_b", precision="fp32")
    data = tokenised(ragged(6, VOCABULARY))
    whole = likelihoods(run, data, 3, progress=False, resumable=True)
    partial = run_folder(run.config).checkpoints / "likelihood.pt"
    partial.write_bytes(harm)
    pd.testing.assert_frame_equal(likelihoods(run, data, 3, progress=False, resumable=True), whole)
    assert len(torch.load(partial, weights_only=True)["rows"]) == 6


def test_a_record_that_cannot_be_kept_stops_no_pass(isolated, monkeypatch, caplog):
    run = run_of(GAUSSIAN, "ga_b", precision="fp32")
    data = tokenised(ragged(6, VOCABULARY))
    run_folder(run.config).checkpoints.parent.mkdir(parents=True)
    run_folder(run.config).checkpoints.write_text("a file where the folder should be")
    assert len(likelihoods(run, data, 3, progress=False, resumable=True)) == 6
    assert "can't write checkpoint" in caplog.text


def test_rows_of_another_precision_are_not_taken_over(isolated, monkeypatch):
    """A pass on a machine with bf16 doesn't go on, unasked, on one without."""
    run = run_of(GAUSSIAN, "ga_b", precision="auto")
    data = tokenised(ragged(6, VOCABULARY))
    scored = []
    monkeypatch.setattr(run.model, "log_prob_terms", lambda batch, *rest, real=(
        run.model.log_prob_terms): (scored.append(len(batch)), real(batch, *rest))[1])
    for fast in (False, False, True):
        monkeypatch.setattr("lib.runtime.has_fast_bf16", lambda *_, fast=fast: fast)
        likelihoods(run, data, 3, progress=False, resumable=True)
    assert sum(scored) == 12


def test_an_interrupted_likelihood_pass_goes_on(isolated, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    run = run_of(GAUSSIAN, "ga_b", precision="fp32", batch_tokens=64)
    data = tokenised(ragged(40, VOCABULARY))
    whole = likelihoods(run, data, 3, progress=False)
    monkeypatch.setattr("lib.evaluation.scoring.time.monotonic",
                        iter(range(0, 10**6, 100)).__next__)
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
    before = torch.load(partial, weights_only=True)["seconds"]
    done = sum(calls[:2])
    calls.clear()
    calls.extend([0, 0, 0])
    resumed = likelihoods(run, data, 3, progress=False, resumable=True)
    assert sum(calls) == len(data) - done
    pd.testing.assert_frame_equal(resumed, whole)
    assert resumed.attrs["seconds"] > before > 0
    again = likelihoods(run, data, 3, progress=False, resumable=True)
    assert sum(calls) == len(data) - done  # kept: a second evaluation scores nothing again
    pd.testing.assert_frame_equal(again, whole)
    assert again.attrs["seconds"] == resumed.attrs["seconds"]
    with torch.no_grad():
        next(run.model.parameters()).add_(1e-3)
    likelihoods(run, data, 3, progress=False, resumable=True)
    assert sum(calls) == 2 * len(data) - done  # other weights, other numbers


def test_both_checkpoints_of_a_run_keep_their_own_record(isolated, monkeypatch):
    best = run_of(GAUSSIAN, "ga_b", precision="fp32")
    runs, scored = [best, replace(best, by="ll", step=7)], []
    data = tokenised(ragged(6, VOCABULARY))
    monkeypatch.setattr(best.model, "log_prob_terms", lambda batch, *rest, real=(
        best.model.log_prob_terms): (scored.append(len(batch)), real(batch, *rest))[1])
    for run in runs * 2:
        likelihoods(run, data, 3, progress=False, resumable=True)
    assert sum(scored) == 2 * len(data)


# Against an integral that is known ------------------------------------------------------------

def test_the_pass_finds_a_marginal_that_is_known(isolated):
    """Everything from batching to sentences.csv's columns, on a model with a closed form."""
    config = load_config("ga_b", precision="fp32", batch_tokens=512)
    run = TrainedRun(config, ParityModel(12).eval(), Task(config), 0, 0.0)
    pairs = ragged(40, 12)
    table = likelihoods(run, tokenised(pairs), 2000, progress=False)
    batch = batch_of(pairs, multiple=4)
    truth = run.model.exact(batch.target, batch.target_mask).numpy()
    error = np.sqrt(1 / table["effective_sample_size"])  # of one bound, in nats, to first order
    assert error.max() < 0.1
    off = table["log_prob"] - truth
    assert (abs(off) < 5 * error).all()
    assert abs(off.mean()) < 4 * np.sqrt((error**2).mean() / len(off))
    # the ladder climbs, and never above the truth beyond its own noise
    ladder_of = table[["elbo", "iw_bound_10", "iw_bound_100", "iw_bound_200", "log_prob"]]
    means = ladder_of.sub(truth, axis=0).mean()
    assert means.is_monotonic_increasing and means["elbo"] < -0.3
    assert means["log_prob"] < 4 * error.mean() / np.sqrt(len(off))
    # the released estimate is far above it, for every sentence
    assert (table["released_estimate"] > truth / table["n_tokens_padded"] + 0.05).all()


# What a sentence's numbers depend on ----------------------------------------------------------

@pytest.mark.parametrize(("architecture", "model"), [(GAUSSIAN, "ga_b"), (FLOW, "fl_s")])
def test_however_the_set_is_cut_a_sentence_keeps_its_numbers(architecture, model, isolated):
    run = run_of(architecture, model, precision="fp32", batch_tokens=4096)
    data = tokenised(ragged(24, VOCABULARY, 14))
    whole = likelihoods(run, data, 20, progress=False)
    small = TrainedRun(load_config(model, precision="fp32", batch_tokens=1), run.model, run.task,
                       0, 0.0)
    shards = [np.arange(start, 24, 3) for start in range(3)]
    parts = [likelihoods(small, data.take(rows), 20, progress=False).set_index(rows)
             for rows in shards]
    pd.testing.assert_frame_equal(pd.concat(parts).sort_index(), whole, rtol=1e-4, atol=1e-4)
    other = likelihoods(run, data, 20, seed=1, progress=False)
    assert (abs(other["elbo"] - whole["elbo"]) > 1e-3).all()  # other draws show


@pytest.mark.gpu
@pytest.mark.parametrize(("architecture", "model"), [(GAUSSIAN, "ga_b"), (FLOW, "fl_s")])
def test_on_a_gpu_too_a_sentence_keeps_its_numbers(architecture, model, isolated):
    """Whole, in thirds, and fewer samples as the first of more: draws come in blocks."""
    on_cpu = run_of(architecture, model, precision="fp32")
    run = replace(on_cpu, model=copy.deepcopy(on_cpu.model).to("cuda"))
    data = tokenised(ragged(24, VOCABULARY, 14))
    whole = likelihoods(run, data, 40, progress=False)
    shards = [np.arange(start, 24, 3) for start in range(3)]
    parts = [likelihoods(run, data.take(rows), 40, progress=False).set_index(rows)
             for rows in shards]
    pd.testing.assert_frame_equal(pd.concat(parts).sort_index(), whole, rtol=1e-3, atol=1e-3)
    other = likelihoods(on_cpu, data, 400, progress=False)
    spread = (whole["elbo"] - other["elbo"]).std()
    assert abs((whole["elbo"] - other["elbo"]).mean()) < 5 * spread / 24**0.5


@pytest.mark.parametrize(("architecture", "model"), [(GAUSSIAN, "ga_b"), (FLOW, "fl_s")])
def test_chunks_of_samples_change_no_digit(architecture, model, isolated, monkeypatch):
    run = run_of(architecture, model, precision="fp32")
    data = tokenised(ragged(9, VOCABULARY))
    expected = likelihoods(run, data, 30, progress=False)
    for chunk in (1, 7, 30):
        monkeypatch.setattr("lib.evaluation.scoring.SAMPLES_AT_ONCE", chunk)
        found = likelihoods(run, data, 30, progress=False)
        pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-4)


def test_latent_batches_have_one_padded_length_and_hold_every_row_once():
    data = tokenised(ragged(200, VOCABULARY, 20))
    groups = likelihood_batches(data, 64, 4)
    assert sorted(np.concatenate(groups)) == list(range(200))
    lengths = padded_length(data.target_lengths, 4)
    assert all(len(set(lengths[group])) == 1 for group in groups)
    widths = np.maximum(lengths, data.source_lengths + 1)
    assert all(len(group) * widths[group].max() <= 64 for group in groups)
    assert len(groups) < 100
    assert likelihood_batches(data.take(np.arange(0)), 64, 4) == []


# Memory ---------------------------------------------------------------------------------------

class Allocations(TorchDispatchMode):
    """Counts the bytes of all storages that operations made and that are still alive."""

    def __init__(self):
        super().__init__()
        self.alive, self.peak, self.known = 0, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        before = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs))
                  if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                place, size = storage.data_ptr(), storage.nbytes()
                if size and place not in before and place not in self.known:
                    self.known.add(place)
                    self.alive += size
                    weakref.finalize(storage, self._freed, place, size)
        self.peak = max(self.peak, self.alive)
        return out

    def _freed(self, place: int, size: int) -> None:
        self.known.discard(place)
        self.alive -= size


def peak_bytes(model, batch, samples: int, chunk: int) -> int:
    """The most bytes of tensors that computing the terms held at once, results apart."""
    with Allocations() as counted:
        terms = model.log_prob_terms(batch, samples, torch.Generator().manual_seed(0), chunk)
    # the three terms themselves: in parts, joined, and the last part on its way
    return counted.peak - 3 * sum(t.nbytes for t in (terms.log_p_y, terms.log_p_z, terms.log_q_z))


@LATENT
def test_memory_at_1000_samples_equals_that_at_50(architecture):
    model, batch = model_of(architecture, VOCABULARY), batch_of(ragged(3, VOCABULARY), 4)
    few, many = (peak_bytes(model, batch, samples, 16) for samples in (50, 1000))
    assert few > 10_000
    assert many <= 1.02 * few
    assert peak_bytes(model, batch, 50, 50) > 2 * few  # it is the chunk that memory depends on


# Convergence ----------------------------------------------------------------------------------

def bounds_of(*bounds) -> pd.DataFrame:
    """Two sentences of 2 and 4 tokens with these bounds per token at K = 1, 10, ...; both alike."""
    tokens = np.array([2.0, 4.0])
    columns = {f"iw_bound_{10**power}": bound * tokens for power, bound in enumerate(bounds[:-1])}
    return pd.DataFrame({
        "n_tokens": tokens, "n_tokens_padded": 2 * tokens, "n_chars": 5 * tokens,
        "log_prob": bounds[-1] * tokens + np.array([1.0, -1.0]), "log_p_length": [-0.3, -0.6],
        "elbo": bounds[0] * tokens, "effective_sample_size": [3.0, 5.0],
        **columns})


def test_convergence_by_hand():
    found = convergence(bounds_of(-3.0, -2.5, -2.25, -2.2), 1000)
    assert [bound["samples"] for bound in found["bounds"]] == [1, 10, 100, 1000]
    strict = [bound["strict"]["mean"] for bound in found["bounds"]]
    assert strict == pytest.approx([-3.15, -2.65, -2.4, -2.35])
    paper = [bound["paper"]["mean"] for bound in found["bounds"]]
    assert paper == pytest.approx([-1.5, -1.25, -1.125, -1.1])
    assert "1,000 importance samples" in found["statement"]
    # 0.05 a token for both, but for +1 and -1 nats: residuals +1 and -1, so sqrt(2 * 2) / 6
    assert found["statement"].endswith("not yet converged: the last tenfold of K raised it by "
                                       "0.0500 nats per token (standard error 0.3333)")


@pytest.mark.parametrize(("rise", "spread", "rises"), [
    (0.009, 1.0, False), (0.011, 1.0, True),  # more than 0.01 nats a token and decade
    (0.004, 0.015, False), (0.006, 0.015, True),  # more than the standard error, here 0.005
])
def test_a_bound_that_still_rises_is_called_a_lower_bound(rise, spread, rises):
    sentences = bounds_of(-2.0, -2.0 + rise)
    sentences["log_prob"] += (spread - 1.0) * np.array([1.0, -1.0])
    found = convergence(sentences, 10)
    assert found["bounds"][-1]["strict"]["standard_error"] == pytest.approx(spread / 3)
    assert ("not yet converged" in found["statement"]) is rises


def test_a_rise_is_told_by_the_decade():
    sentences = bounds_of(-3.0, -2.0)  # log_prob with K = 5, before it only K = 1
    assert f"by {1 / math.log10(5):.4f} nats" in convergence(sentences, 5)["statement"]


def test_one_sample_says_that_it_is_the_elbo():
    assert convergence(bounds_of(-2.0), 1)["statement"].endswith("the ELBO")


@pytest.mark.parametrize(("samples", "expected"), [
    (1, []), (5, [1]), (10, [1]), (200, [1, 10, 20, 100]), (1000, [1, 10, 100]),
])
def test_ladder(samples, expected):
    assert ladder(samples) == expected
