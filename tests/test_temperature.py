"""Temperatures: what they change in each family, how they are fitted, and what is kept of them."""

import json

import numpy as np
import pytest
import torch
from made_up import committed
from tiny import AUTOREGRESSIVE, DAG, FAMILIES, batch_of, model_of, ragged, sources_of

from lib.config import load_config
from lib.errors import DataError
from lib.evaluation import temperature as module
from lib.evaluation.scoring import load_run
from lib.runs import RunFolder
from lib.task import Task
from lib.training.validation import translate

VOCABULARY = 9


def log_prob(model, batch):
    """log p(y|x), or log p(y|z,x) of one draw, the same at any temperature."""
    return model.log_prob_terms(batch, 1, torch.Generator().manual_seed(0), 1).log_p_y[0]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda a: a.family)
def test_scaling_changes_the_likelihood_and_can_be_undone(family):
    model = model_of(family, VOCABULARY).double()
    batch = batch_of(ragged(3, VOCABULARY), model.multiple)
    before = log_prob(model, batch)
    model.scale_logits(2.0)
    assert not torch.allclose(log_prob(model, batch), before, rtol=1e-3)
    model.scale_logits(0.5)
    assert torch.allclose(log_prob(model, batch), before, rtol=1e-9)


def test_a_transformers_next_subword_is_a_softmax_of_scaled_logits():
    model = model_of(AUTOREGRESSIVE, VOCABULARY).double()
    memory = model.encode(*sources_of([[3, 4, 5]]))
    start = torch.tensor([1])
    with torch.no_grad():
        before = model.step(model.start(memory, 1, 4), start)
        model.scale_logits(1 / 3)
        after = model.step(model.start(memory, 1, 4), start)
    assert torch.allclose(after, (before / 3).log_softmax(-1), rtol=1e-9)


def test_a_graphs_transitions_stay():
    model = model_of(DAG, VOCABULARY).double()
    memory = model.encode(*sources_of([[3, 4, 5], [6]]))
    ids = torch.arange(VOCABULARY).expand(2, -1)
    before = model.graph(memory)
    model.scale_logits(2.0)
    after = model.graph(memory)
    assert torch.allclose(after.transitions, before.transitions, rtol=1e-9)
    possible = slice(before.emissions.first, None)
    tempered = (2 * before.emissions.log_prob(ids)[..., possible]).log_softmax(-1)
    assert torch.allclose(after.emissions.log_prob(ids)[..., possible], tempered, rtol=1e-9)


@pytest.mark.parametrize("model", ["tr_s", "ga_b"])
def test_the_fitted_temperature_undoes_another(model, monkeypatch):
    run = load_run(load_config(model, "toy", "smoke"))
    monkeypatch.setattr(Task, "dev", run.task.dev.take(np.arange(40)))
    temperature, before, after = module.fit_temperature(run, samples=2)
    assert after > before
    again, worse, same = module.fit_temperature(module.tempered(run, 0.5), samples=2)
    assert again == pytest.approx(temperature * 2, rel=0.05) and worse < after
    assert same == pytest.approx(after, abs=1e-3)


@pytest.mark.parametrize(("model", "setting"), [("na_b", "greedy"), ("ga_b", "k1")])
def test_parallel_search_does_not_see_the_temperature(model, setting):
    run = load_run(load_config(model, "toy", "smoke"))
    data = run.task.test.take(np.arange(100))
    warm, cold = (translate(of.model, data, run.task.vocabulary, [setting])
                  for of in (run, module.tempered(run, 2.0)))
    assert warm == cold


def test_a_run_is_scored_at_its_temperature_once(isolated, monkeypatch):
    """On the shipped weights: the better dev LL, likelihoods at the temperature."""
    run = committed("na_b", "calibrat*", "sentences_ll.csv")
    config = load_config("na_b", "toy", "smoke")
    module.complete([config, load_config("tr_s", "toy", "smoke")], progress=False)
    content = json.loads(run.calibration.read_text())
    assert content["samples"] == 1 and "ll" not in content
    found = content["bleu"]
    assert found["dev_ll_calibrated"] > found["dev_ll"]
    trained, calibrated = run.read_sentences(), run.read_sentences(calibrated=True)
    same = ["n_tokens", "n_tokens_padded", "n_chars"]
    assert calibrated[same].equals(trained[same])
    assert not np.allclose(calibrated["log_prob"], trained["log_prob"], rtol=1e-3)
    monkeypatch.setattr(module, "calibrate", lambda *_: pytest.fail("it is there already"))
    module.complete([config], progress=False)
    for stale in ({"ll": {"step": 3}}, {"sources": "others"}):  # of another checkpoint; other texts
        run.calibration.write_text(json.dumps(content | stale))
        assert run.read_calibration() == ({} if "sources" in stale else content)


def test_a_run_without_a_calibration_names_the_notebook(isolated):
    with pytest.raises(DataError, match="12_calibration"):
        RunFolder("toy", "smoke", "na_b").read_sentences(calibrated=True)
