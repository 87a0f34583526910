"""The benchmarks measure what they say; no timing is tested."""

import re
import time

import numpy as np
import pandas as pd
import pytest
import torch
from made_times import times

from benchmarks import gpu_decoding, gpu_training, likelihood, page, training
from benchmarks.machine import describe, matrix_rate
from lib import runtime
from lib.evaluation import speed


def test_the_random_corpus_has_the_quantiles_it_was_given():
    data = training.corpus(20_000)
    for lengths, wanted in zip((data.source_lengths, data.target_lengths), training.QUANTILES,
                               strict=True):
        at = np.linspace(0, 1, len(wanted))
        inner = slice(2, -2)  # clipping piles up the ends a little
        np.testing.assert_allclose(np.quantile(lengths, at)[inner], wanted[inner], atol=1)
    assert data.source_ids.max() < training.VOCABULARY


@pytest.mark.parametrize("model", [training.PLAIN, "tr_s", "ga_b", "fl_s"])
def test_a_subject_counts_its_tokens_and_matrix_products(model):
    subject = training.Subject(model, "smoke", 128)
    subject.batches = subject.batches[:1]
    subject.count_flops()
    batch = subject.batches[0]
    vocabulary, d_model = subject.model.embedding.weight.shape
    rows = batch.target.numel()
    # the output layer alone takes three products of 2 * rows * vocabulary * d_model
    assert subject.flops > 3 * 2 * rows * vocabulary * d_model
    assert subject.step(batch) == int(batch.target_tokens.sum())


def test_the_machine_is_named_and_multiplies():
    assert re.match(r"(1 core|\d+ cores), ", describe()) or torch.cuda.is_available()
    for clock in (time.perf_counter, time.process_time):
        assert matrix_rate(runtime.device(), 0.01, clock) > 1e8


def test_the_likelihood_benchmark_times_the_pass_that_it_names(isolated):
    small = likelihood.Setting("fl_s", "smoke", 100, 4, 6)
    subject = likelihood.Subject(small)
    assert subject.data.target_lengths.min() < 12 < subject.data.target_lengths.max()
    table = subject.score()
    assert len(table) == 6 and table["effective_sample_size"].between(1, 4).all()
    subject.count_flops()
    vocabulary, d_model = subject.run.model.embedding.weight.shape
    padded = int(table["n_tokens_padded"].sum())
    # the output layer alone, for every sample of every padded position
    assert subject.flops > 2 * 4 * padded * vocabulary * d_model
    found = likelihood.speed((small,), 1)
    assert (found["flops_per_cpu_second"] > 0).all()  # in however many threads it is scored
    assert set(found["threads"]) <= {1, 2} or found["threads"].max() == torch.get_num_threads()
    micros = found["cpu_microseconds_per_token_and_sample"]
    np.testing.assert_allclose(found["sentences_per_cpu_second"],
                               6 / (1e-6 * micros * subject.tokens * 100))
    [row] = likelihood.whole(small).to_dict("records")
    assert (row["samples"], row["sentences"]) == (4, 6) and row["seconds"] > 0


@pytest.mark.parametrize(("name", "variant"), [
    ("tr_s", "eager"), ("tr_s", "plain"), ("tr_s", "plain-graphs"), ("fl_s", "eager"),
    ("fl_s", "graphs")])
def test_a_row_of_the_gpu_benchmark_times_the_steps_that_it_names(name, variant):
    subject = gpu_training.Subject(name, "smoke", variant, tokens=64)
    assert len(subject.groups) == gpu_training.GROUPS
    tokens = sum(int(batch.target_tokens.sum()) for batch in subject.batches(subject.groups[0]))
    assert tokens == subject.tokens(subject.groups[0])
    vocabulary, d_model = subject.model.embedding.weight.shape
    rows = sum(batch.target_mask.sum() if variant == "eager" and batch.target_mask is not None
               else batch.target.numel() for g in subject.groups for batch in subject.batches(g))
    assert subject.flops > 3 * 2 * int(rows) * vocabulary * d_model
    before = subject.model.embedding.weight.detach().clone()
    subject.step(subject.groups[0])
    assert not torch.equal(subject.model.embedding.weight, before)


def test_a_row_that_fails_is_kept_as_its_error(monkeypatch, isolated):
    def failing(*_, **__):
        raise RuntimeError("no such kernel\nand more")

    made = []
    with monkeypatch.context() as patch:
        patch.setattr(gpu_training, "Subject", failing)
        gpu_training.rows(["tr_s", "ga_b"], ["smoke"], ["plain", "eager"], np.inf, made.append)
    assert [(m["model"], m["variant"]) for m in made] == [
        (training.PLAIN, "plain"), ("tr_s", "eager"), ("ga_b", "eager")]
    assert {m["error"] for m in made} == {"RuntimeError: no such kernel"}
    assert gpu_training.rows(["tr_s"], ["smoke"], ["eager"], 0.0, made.append) == []
    gpu_training.keep("gpu_training", made, gpu_training.KEY)
    gpu_training.main(["--models", "tr_s", "--scales", "smoke", "--variants", "eager", "--seconds",
                       "0.01", "--tokens", "64"])
    table = pd.read_csv(isolated / "outputs" / "bench" / "gpu_training.csv")
    assert sorted(zip(table["model"], table["variant"], strict=True)) == [
        ("ga_b", "eager"), ("torch.nn.Transformer", "plain"), ("tr_s", "eager")]
    done = table.set_index("model").loc["tr_s"]
    assert pd.isna(done["error"]) and done["tokens_per_second"] > 0 and done["share"] > 0


def test_the_gpu_benchmark_of_decoding_measures_every_part(isolated, monkeypatch):
    """At smoke sizes: a row each, its error where it fails, the paper's protocol beside."""
    monkeypatch.setattr(gpu_decoding, "SETTINGS", {"tr_b": ("beam4",), "ga_b": ("k1",)})
    monkeypatch.setattr(gpu_decoding.PlainGreedy, "__call__", lambda *given: 1 / 0)
    sizes = gpu_decoding.Sizes("smoke", 500, 1, (2,), 1, 4, 4, 2, (("fl_s", "smoke", 3),))
    told = []
    made = gpu_decoding.run(sizes, gpu_decoding.PARTS, np.inf, told.append)
    assert made == told
    bench = isolated / "outputs" / "bench"
    table = pd.read_csv(bench / "gpu_decoding.csv")
    assert not table.duplicated(gpu_decoding.KEY).any()
    ours = table[~table["system"].str.contains("torch|ctranslate2")]
    assert ours["error"].isna().all() and (ours["sentences_per_second"] > 0).all()
    assert set(zip(ours["way"], ours["batch"], strict=True)) == {
        ("graphs", 1), ("graphs", 2), ("eager", 1), ("eager", 2), ("bulk", 4), ("distillation", 4)}
    whole = ours.set_index(["system", "setting", "way"])
    np.testing.assert_allclose(whole.loc[("tr_s", "beam4", "distillation"), "training_set_s"],
                               61_000 / whole.loc[("tr_s", "beam4", "distillation"),
                                                  "sentences_per_second"], rtol=1e-2)
    errors = table.loc[table["system"].str.contains("torch"), "error"]
    assert (errors == "ZeroDivisionError: division by zero").all() and len(errors) == 2
    [scored] = pd.read_csv(bench / "gpu_likelihood.csv").to_dict("records")
    assert (scored["samples"], scored["sentences"]) == (2, 3) and scored["seconds"] > 0
    ratios = pd.read_csv(bench / "gpu_protocol.csv").set_index("setting")
    assert ratios.loc["beam4", "vs Tr-B beam4"] == 1.0
    assert gpu_decoding.run(sizes, ["bulk"], 0.0, told.append) == []


def test_other_systems_are_compared_through_the_yardstick_that_both_were_timed_by(isolated):
    """FlowSeq at 9.8 where CTranslate2 makes 48.6; ours at 10 where it makes 20."""
    frame = speed.speeds(times(("fl_s", "k0", "auto", 1, 0, 0, 9, 0.1),
                               ("fl_s", "k0", "int8", 1, 0, 0, 9, 0.001),
                               ("ctranslate2", "beam4", "float32", 1, 0, 0, 9, 0.05)))
    table = page.other_systems(frame).set_index("other system")
    assert list(table.index) == ["FlowSeq argmax"]  # what wasn't timed isn't compared
    row = table.loc["FlowSeq argmax"]
    assert row["theirs / CTranslate2"] == pytest.approx(9.8 / 48.6)
    assert row["ours / CTranslate2"] == pytest.approx(0.5)
    assert row["times as fast"] == pytest.approx(0.5 * 48.6 / 9.8) and row["goal"] == 4
    assert np.isnan(row["by matrix rate"])  # of this machine nothing is known yet
    (isolated / "outputs" / "bench").mkdir()
    (isolated / "outputs" / "bench" / "likelihood.csv").write_text(
        "threads,matrix_flops_per_cpu_second\n1,195e9\n2,1e9\n")
    again = page.other_systems(frame).iloc[0]
    assert again["by matrix rate"] == pytest.approx(2 * 10 / 9.8)  # half of its 390
    assert page.other_systems(frame[frame["system"] == "fl_s"]) is None  # no yardstick
    assert page.other_systems() is None  # nothing was timed


def test_the_page_says_what_was_not_measured(isolated):
    assert {block() for block in page.BLOCKS.values()} == {page.NOTHING}


def test_the_page_bears_a_batch_size_that_the_clock_cut_off():
    made = pd.DataFrame([{
        "device": "NVIDIA H100", "system": "tr_b", "setting": setting, "batch": batch,
        "way": "graphs", "sentences_per_second": rate} for setting, batch, rate in (
            ("beam4", 32, 1700.4), ("beam4", 512, 4400.0), ("greedy", 32, 2500.0))])
    table = page.in_batches(made)
    assert table.iloc[0, 2] == 1700 and table.iloc[0, 4] == 4400
    assert table.iloc[1, 2] == 2500 and pd.isna(table.iloc[1, 4])
