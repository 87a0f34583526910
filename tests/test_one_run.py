"""One run's curves and its tables, on the toy task and on a corpus of one's own."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_run
from matplotlib.text import Annotation

from analysis import one_run
from analysis.data import exact_log_prob
from analysis.style import COLOURS
from lib.config import load_config
from lib.errors import ConfigError
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


def test_the_truth_has_no_divergence_from_itself(task):
    table = one_run.divergence_table(task, sentences(task, exact_log_prob(task)))
    means = table.set_index("quantity")["mean"]
    assert means["KL(p* || model)"] == 0.0
    cross, entropy = means["-LL of the model, strict"], means.iloc[0]
    error = table["standard error"].iloc[1]
    assert abs(cross - entropy) < 4 * error  # the references are samples of p*
    worse = one_run.divergence_table(task, sentences(task, exact_log_prob(task) - 2))
    assert worse["mean"].iloc[-1] == pytest.approx(2.0)


def test_a_real_corpus_has_no_truth_and_shows_no_text(task):
    dataset = replace(task.config.dataset, corpus="files", name="mine")
    other = Task(replace(task.config, dataset=dataset))
    frame = sentences(task, np.zeros(1000))
    assert exact_log_prob(other) is None
    with pytest.raises(ConfigError, match="mine isn't known"):
        one_run.divergence_table(other, frame)
    shown = one_run.examples(other, frame)
    assert all(pd.api.types.is_numeric_dtype(shown[column]) for column in shown)


def test_examples_say_what_is_possible(task):
    references = task.references("test")
    shown = one_run.examples(task, sentences(task, np.zeros(1000), [references[0], "no such words",
                                                                    *references[2:]]), 2)
    assert shown["possible"].tolist() == ["yes", "no"]
    assert shown["reference"].tolist() == references[:2]


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
    bleu = one_run.bleu_table(metrics)
    assert bleu["setting"].tolist() == ["k0", "k4 (headline)"]
    assert bleu["sentences a second"].tolist() == [9.0, 3.0]
    likelihood = one_run.likelihood_table(metrics)
    assert likelihood["accounting"].tolist() == list(ACCOUNTINGS)
    assert set(likelihood["samples K"]) == {"exact"}
    bound = replace(metrics, convergence={"bounds": [{}]})
    assert set(one_run.likelihood_table(bound)["samples K"]) == {"5"}
    assert len(one_run.diagnostics_table(metrics)) == 2
    assert one_run.diagnostics_table(replace(metrics, diagnostics={})).empty


def history(end):
    steps = np.arange(100, 1100, 100)
    return pd.DataFrame({"step": steps, "train_loss": 3.0 - steps / 1000, "train_kl": 0.3,
                         "dev_kl": 0.4, "dev_ll": -3.0 + end * steps / 1000,
                         "dev_bleu": end * steps / 40})


def test_training_curves_have_a_line_a_model_and_its_name():
    several = one_run.training_curves({"tr_s": history(1.0), "ga_b": history(0.9)}, -0.7)
    assert len(several.axes) == 2
    for axes, also in zip(several.axes, (["truth"], []), strict=True):
        ends = {child.get_text(): child.xy[1] for child in axes.get_children()
                if isinstance(child, Annotation)}
        assert sorted(ends) == ["Ga-B", "Tr-S", *also]
        for name, axis in zip(("Tr-S", "Ga-B"), axes.lines, strict=False):
            assert ends[name] == axis.get_ydata()[-1]
        assert [line.get_color() for line in axes.lines][:2] == [COLOURS["autoregressive"],
                                                             COLOURS["gaussian"]]
    assert several.axes[0].lines[2].get_ydata() == [-0.7, -0.7]
    low, high = several.axes[0].get_ylim()
    assert low < -0.7 < high  # above all others, and in sight
    single = one_run.training_curves({"ga_b": history(1.0)})
    assert [text.get_text() for text in single.axes[2].get_legend().get_texts()] == [
        "term", "loss", "kl", "split", "train", "dev"]
    first = one_run.training_curves({"ga_b": history(1.0).tail(1)})  # of one point no line is seen
    assert {line.get_marker() for line in first.axes[2].lines if len(line.get_xdata())} == {
        "o", "X"}


def test_likelihood_by_length_averages_within_lengths_a_panel_a_model(task, isolated):
    runs, truth = [], exact_log_prob(task)
    for model, data, worse in (("tr_s", "raw", 1.0), ("tr_s", "distilled", 2.0),
                               ("ga_b", "raw", 3.0)):
        run = made_up_run(model, 0.1, 1.0, data, references=task.references("test"))
        sentences(task, truth - worse).assign(elbo="").to_csv(run.sentences, index=False)
        runs.append(run)
    points = pd.concat([one_run.length_points(run, task) for run in runs])
    assert points.groupby(["model", "train_data"])["sentences"].sum().tolist() == [1000] * 3
    gaps = (points["exact"] - points["mean"]).groupby([points["model"], points["train_data"]])
    assert gaps.mean().round(4).tolist() == [3.0, 2.0, 1.0]  # Ga-B raw; Tr-S distilled, raw
    figure = one_run.likelihood_by_length(points)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Tr-S", "Ga-B"]
    assert len(figure.legends[0].get_texts()) == 3
