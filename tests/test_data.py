"""The tables and figures of the corpora, on the toy task."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis import data
from lib.config import load_config
from lib.task import Task


@pytest.fixture(scope="module")
def task():
    return Task(load_config("tr_s"))


def test_corpus_sizes_add_up(task):
    sizes = data.corpus_sizes(task).set_index("split")
    assert sizes["pairs"].to_dict() == {"train": 20_000, "dev": 1_000, "test": 1_000}
    assert (sizes["left out"] == 0).all()
    words = sum(len(line.split()) for line in task.references("test"))
    assert sizes.loc["test", "target subwords"] == words
    assert data.length_counts(task)["pairs"].sum() == 20_000


def test_modes_hold_all_the_probability(task):
    toy, source = data.toy_task(task.config), task.sources("test")[0]
    table = data.mode_table(toy, source)
    assert table["p(mode)"].tolist() == list(toy.modes)
    assert table["most probable translation"][0] == toy.most_likely(source)
    assert table["translations"].sum() == len(list(toy.support(source)))
    assert table["p*(y|x)"].max() == pytest.approx(
        math.exp(toy.log_prob(source, toy.most_likely(source))))


def test_the_ceiling_is_that_of_the_distribution_itself(task):
    found = data.ceiling(task)
    assert found["truth"] == pytest.approx(
        data.exact_log_prob(task).sum() / (task.test.target_lengths + 1).sum())
    assert found["argmax of p*"] > found["samples of p*"] + 5
    assert found == data.ceiling(task)


def test_vocabulary_of_words_cuts_nothing(task):
    row = data.vocabulary_table(task).iloc[0]
    assert row["entries"] == len(task.vocabulary)
    assert row["subwords a target word"] == row["subwords a source word"] == 1.0


def test_batches_pad_latent_targets_with_eos(task):
    table = data.batch_summary(task).set_index("models")
    assert table.loc["latent", "target padding"] == 0.0  # a batch has one padded length
    assert table.loc["autoregressive", "target EOS padding"] == 0.0
    padded = 4 * np.ceil((task.train.target_lengths + 1) / 4)
    expected = 1 - (task.train.target_lengths + 1).sum() / padded.sum()
    assert table.loc["latent", "target EOS padding"] == pytest.approx(expected, abs=0.03)


def test_corpus_overview_counts_every_pair():
    source, target = np.arange(1, 101), np.arange(1, 101)[::-1].copy()
    figure = data.corpus_overview(source, target)
    assert "28.0% of pairs within 64" in figure.axes[0].get_legend().get_title().get_text()
    # |101 - 2 i| <= 30 for i = 36 .. 65
    assert figure.axes[1].get_title(loc="left").startswith("30.0% within ±30")


def test_a_word_under_the_diagonal_became_surer():
    words = pd.DataFrame({"raw": [1.0, 0.5], "distilled": [0.2, 0.6]})
    axes, = data.entropy_by_word(words).axes
    np.testing.assert_allclose(axes.collections[0].get_offsets(), words.to_numpy())
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.get_xlabel() == "H(y|x) of a source word, raw text (nats)"
