"""Scores on a split: numbers that are known beforehand, and hypotheses in corpus order."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import (
    AUTOREGRESSIVE,
    DAG,
    EVERY,
    GAUSSIAN,
    INDEPENDENT,
    MASKED,
    model_of,
    near_lengths,
)

from lib.batching import collate
from lib.config import load_config
from lib.decoding import hypotheses
from lib.errors import TrainingError
from lib.likelihood import iw_bound
from lib.task import Task
from lib.training import validation
from lib.training.validation import dev_scores, translate

PARTS = {"autoregressive": {"nll"}, "independent": {"nll", "length"},
         "dag": {"nll", "impossible"}, "ctc": {"nll", "impossible"}, "masked": {"nll", "length"}}

pytestmark = pytest.mark.usefixtures("float64", "isolated")


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def task():
    config = load_config("tr_s")
    options = {**config.dataset.options, "train_pairs": 80, "dev_pairs": 20, "test_pairs": 20}
    return Task(replace(config, dataset=replace(config.dataset, options=options)))


@pytest.fixture
def training():
    return load_config("ga_b", label_smoothing=0.0, dev_samples=3, batch_tokens=64).training


def test_draws_do_not_depend_on_the_memory_that_a_card_has_free(task, training, monkeypatch):
    model = model_of(GAUSSIAN, len(task.vocabulary))
    found = []
    for free in (2**5, 2**20):
        monkeypatch.setattr(validation, "device_positions", lambda *_, free=free: free)
        found.append(dev_scores(model, task.dev, task.vocabulary, task.references("dev"),
                                training)[0]["dev_ll"])
    assert found[0] == found[1]


def test_a_probability_that_is_no_number_is_an_error_not_an_impossible_sentence(
        task, training, monkeypatch):
    model = model_of(GAUSSIAN, len(task.vocabulary))
    monkeypatch.setattr(validation, "iw_bound", lambda *terms: torch.where(
        iw_bound(*terms) < 0, math.nan, 0.0))
    with pytest.raises(TrainingError, match="20 of 20 dev sentences have NaN"):
        dev_scores(model, task.dev, task.vocabulary, task.references("dev"), training)


def test_dev_ll_of_a_uniform_model(task, training):
    """log(1 / V) nats a token, its loss log V: whatever the sentences are."""
    model = model_of(AUTOREGRESSIVE, len(task.vocabulary))
    torch.nn.init.zeros_(model.embedding.weight)
    scores, _ = dev_scores(model, task.dev, task.vocabulary, task.references("dev"), training)
    expected = math.log(len(task.vocabulary))
    assert scores["dev_ll"] == pytest.approx(-expected, abs=1e-12)
    assert scores["dev_nll"] == scores["dev_loss"] == pytest.approx(expected, abs=1e-12)


@EVERY
def test_dev_scores_are_those_of_single_sentences(architecture, task, training):
    """dev_ll = sum of log p over sentences / tokens with one EOS, whatever the batches."""
    model = model_of(architecture, len(task.vocabulary), spread=0.05)
    scores, sentences = dev_scores(model, task.dev, task.vocabulary, task.references("dev"),
                                   training)
    tokens = int((task.dev.target_lengths + 1).sum())
    parts = PARTS.get(architecture.family, {"reconstruction", "kl", "length"})
    assert set(scores) == {"dev_loss", "dev_ll", "dev_bleu", *(f"dev_{name}" for name in parts)}
    if model.likelihood == "exact":
        terms = [model.log_prob_terms(collate(task.dev, np.array([i]), model.multiple))
                 for i in range(len(task.dev))]
        alone = [float(t.log_p_y + t.log_p_length) for t in terms]
        assert sentences["log_prob"].tolist() == pytest.approx(alone, abs=1e-10)
        assert scores["dev_ll"] == pytest.approx(sum(alone) / tokens, abs=1e-10)
        return
    # a bound from other draws of the same posterior is near; the length term is part of it
    generator = torch.Generator().manual_seed(5)
    total = 0.0
    for i in range(len(task.dev)):
        terms = model.log_prob_terms(collate(task.dev, np.array([i]), 4), 3, generator, 3)
        bound = iw_bound(terms.log_p_y, terms.log_p_z, terms.log_q_z)
        total += float(bound + terms.log_p_length)
    assert scores["dev_ll"] == pytest.approx(total / tokens, rel=0.05)


def test_a_sentence_of_probability_0_is_counted_and_left_out(task, training):
    """As many vertices as half of the targets fit in."""
    model = model_of(replace(DAG, upsampling=2), len(task.vocabulary), spread=0.05)
    long = task.dev.take(np.argsort(task.dev.target_lengths - 2 * task.dev.source_lengths))
    data = replace(long, source_ids=long.source_ids[::2], source_offsets=long.source_offsets // 2)
    references = task.references("dev")
    scores, sentences = dev_scores(model, data, task.vocabulary, references, training)
    never = (data.target_lengths > 2 * data.source_lengths).tolist()
    assert 0 < sum(never) < len(data)
    assert sentences["log_prob"].isinf().tolist() == never
    tokens = data.target_lengths + 1
    possible = ~np.array(never)
    assert scores["dev_impossible"] * tokens[possible].sum() == pytest.approx(sum(never))
    assert scores["dev_nll"] == pytest.approx(-scores["dev_ll"])
    assert scores["dev_ll"] == pytest.approx(
        float(sentences["log_prob"][possible].sum()) / tokens[possible].sum())


@EVERY
def test_scores_repeat_and_leave_the_random_state_alone(architecture, task, training):
    model = model_of(architecture, len(task.vocabulary), spread=0.05)
    arguments = model, task.dev, task.vocabulary, task.references("dev"), training
    before = torch.get_rng_state()
    first, sentences = dev_scores(*arguments)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    again, same = dev_scores(*arguments)
    assert again == first
    assert all(torch.equal(value, same[name]) for name, value in sentences.items())


@EVERY
def test_translations_come_in_corpus_order_whatever_the_batches(architecture, task):
    model = model_of(architecture, len(task.vocabulary))
    setting = model.dev_setting(load_config("ga_b").training)
    if architecture in (DAG, INDEPENDENT, MASKED):  # untrained, their searches find much the same
        setting = "sample"
    if architecture is MASKED:
        near_lengths(model)
    alone = []
    for row in range(len(task.dev)):
        batch = collate(task.dev, np.array([row]), model.multiple)
        found = hypotheses(model, batch.source, batch.source_mask, [setting])[setting]
        alone += task.vocabulary.decode(found)
    assert len(set(alone)) > 5, "the model should say more than one thing"
    for batch_tokens in (1, 40, 4096):
        lines = translate(model, task.dev, task.vocabulary, [setting],
                          batch_tokens=batch_tokens)
        assert lines == {setting: alone}, f"{batch_tokens} tokens a batch"


def test_translation_doesnt_look_at_the_targets(task):
    model = model_of(GAUSSIAN, len(task.vocabulary))
    blind = replace(task.dev, target_ids=np.full_like(task.dev.target_ids, 5))
    found = [translate(model, data, task.vocabulary, ["k0", "k2"], batch_tokens=64)
             for data in (task.dev, blind)]
    assert found[0] == found[1]
