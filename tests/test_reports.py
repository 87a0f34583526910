"""The tables of the notebooks, on the toy task and on a corpus of one's own."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis import reports
from lib.config import load_config
from lib.errors import ConfigError, DataError
from lib.likelihood.accounting import ACCOUNTINGS
from lib.runs import Metrics
from lib.task import Task


@pytest.fixture(scope="module")
def task():
    return Task(load_config("tr_s"))


def sentences(task, log_prob, hypotheses=None):
    """A sentences.csv of the test set whose log-probabilities are given."""
    length = task.test.target_lengths + 1
    return pd.DataFrame({"hypothesis": hypotheses or task.references("test"), "n_tokens": length,
                         "log_prob": log_prob, "log_p_length": np.zeros(len(length))})


def test_corpus_sizes_add_up(task):
    sizes = reports.corpus_sizes(task).set_index("split")
    assert sizes["pairs"].to_dict() == {"train": 20_000, "dev": 1_000, "test": 1_000}
    assert (sizes["left out"] == 0).all()
    words = sum(len(line.split()) for line in task.references("test"))
    assert sizes.loc["test", "target subwords"] == words
    assert reports.length_counts(task)["pairs"].sum() == 20_000


def test_modes_hold_all_the_probability(task):
    toy, source = reports.toy_task(task.config), task.sources("test")[0]
    table = reports.mode_table(toy, source)
    assert table["p(mode)"].tolist() == list(toy.modes)
    assert table["most probable translation"][0] == toy.most_likely(source)
    assert table["translations"].sum() == len(list(toy.support(source)))
    assert table["p*(y|x)"].max() == pytest.approx(
        math.exp(toy.log_prob(source, toy.most_likely(source))))


def test_vocabulary_of_words_cuts_nothing(task):
    row = reports.vocabulary_table(task).iloc[0]
    assert row["entries"] == len(task.vocabulary)
    assert row["subwords a target word"] == row["subwords a source word"] == 1.0


def test_batches_pad_latent_targets_with_eos(task):
    table = reports.batch_summary(task).set_index("models")
    assert table.loc["latent", "target padding"] == 0.0  # a batch has one padded length
    assert table.loc["autoregressive", "target EOS padding"] == 0.0
    padded = 4 * np.ceil((task.train.target_lengths + 1) / 4)
    expected = 1 - (task.train.target_lengths + 1).sum() / padded.sum()
    assert table.loc["latent", "target EOS padding"] == pytest.approx(expected, abs=0.03)


def test_the_truth_has_no_divergence_from_itself(task):
    table = reports.divergence_table(task, sentences(task, reports.exact_log_prob(task)))
    means = table.set_index("quantity")["mean"]
    assert means["KL(p* || model)"] == 0.0
    cross, entropy = means["-LL of the model, strict"], means.iloc[0]
    error = table["standard error"].iloc[1]
    assert abs(cross - entropy) < 4 * error  # the references are samples of p*
    worse = reports.divergence_table(task, sentences(task, reports.exact_log_prob(task) - 2))
    assert worse["mean"].iloc[-1] == pytest.approx(2.0)


def test_a_real_corpus_has_no_truth_and_shows_no_text(task):
    dataset = replace(task.config.dataset, corpus="files", name="mine")
    other = Task(replace(task.config, dataset=dataset))
    frame = sentences(task, np.zeros(1000))
    assert reports.exact_log_prob(other) is None
    with pytest.raises(ConfigError, match="mine isn't known"):
        reports.divergence_table(other, frame)
    shown = reports.examples(other, frame)
    assert all(pd.api.types.is_numeric_dtype(shown[column]) for column in shown)


def test_examples_say_what_is_possible(task):
    references = task.references("test")
    shown = reports.examples(task, sentences(task, np.zeros(1000), [references[0], "no such words",
                                                                    *references[2:]]), 2)
    assert shown["possible"].tolist() == ["yes", "no"]
    assert shown["reference"].tolist() == references[:2]


def test_likelihood_by_length_averages_within_lengths(task):
    truth = reports.exact_log_prob(task)
    figure, points = reports.likelihood_by_length(task, sentences(task, truth - 1))
    assert points["sentences"].sum() == 1000
    assert np.allclose(points["exact"] - points["mean"], 1.0)
    assert figure.axes[0].get_ylabel().endswith("better →")


def test_tables_of_metrics_hold_what_metrics_hold():
    score = {"score": 20.0, "chrf": 40.0, "signature": "sig"}
    metrics = Metrics.of({
        "model": "ga_b", "family": "gaussian", "dataset": "toy", "scale": "smoke", "seed": 1,
        "train_data": "raw", "parameters": 1, "test_set": {"name": "test", "lines": 5},
        "bleu": {"k0": score, "k4": score}, "headline": "k4",
        "speed": {"sentences_per_second": {"k0": 9.0, "k4": 3.0}},
        "log_likelihood": {name: {"mean": -1.0, "standard_error": 0.1, "samples": 5}
                           for name in ACCOUNTINGS},
        "diagnostics": {"kl": 0.5, "reconstruction": -1.0}})
    bleu = reports.bleu_table(metrics)
    assert bleu["setting"].tolist() == ["k0", "k4 (headline)"]
    assert bleu["sentences a second"].tolist() == [9.0, 3.0]
    assert reports.likelihood_table(metrics)["accounting"].tolist() == list(ACCOUNTINGS)
    assert len(reports.diagnostics_table(metrics)) == 2
    assert reports.diagnostics_table(replace(metrics, diagnostics={})).empty


def test_plan_leaves_no_trace_in_the_run(isolated):
    config = load_config("tr_s", steps=50)
    plan = reports.training_plan(config, steps=1)
    assert plan["steps"] == 50 and plan["steps done"] == 0
    assert 0 < plan["tokens a step"] <= config.training.batch_tokens
    assert plan["minutes left"] > 0
    assert not reports.run_folder(config).last.exists()


def test_no_run_at_all_names_the_command(isolated):
    with pytest.raises(DataError, match=r"toy/smoke: `papermill notebooks/02_train"):
        reports.collect_runs(load_config("tr_s"))
