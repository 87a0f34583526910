"""Evaluation: a whole run's files, and what refuses to be evaluated."""

import json
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch
from sacrebleu.metrics import BLEU
from test_training import small

from lib import evaluation
from lib.bleu import bleu_from_counts
from lib.config import load_config
from lib.errors import CheckpointError, ConfigError
from lib.evaluation import decoding_settings, evaluate
from lib.evaluation.scoring import load_run
from lib.runs import run_folder
from lib.runtime import has_fast_bf16
from lib.subword import text_fingerprint
from lib.task import Task
from lib.training import Trainer, checkpoints
from lib.training.history import Validations
from lib.translate import Translator

TINY = {"steps": 2, "validate_every": 1, "dev_sentences": 8, "kl_start": 0, "kl_ramp": 0,
        "samples": 5, "precision": "auto"}


@pytest.mark.parametrize(("steps", "ended"), [(4, "steps"), (5, "")])
def test_what_ended_a_run_is_told_by_its_own_settings(isolated, steps, ended):
    config = load_config("tr_s", "toy", "smoke")  # more steps: overrides had changed them
    folder = run_folder(config)
    folder.path.mkdir(parents=True)
    folder.config.write_text(json.dumps({"training": {"steps": steps, "patience": 0}}))
    pd.DataFrame({"step": [2, 4], "dev_bleu": [1.0, 2.0], "dev_ll": [-3.0, -2.0],
                  "kl_weight": 1.0}).to_csv(folder.history, index=False)
    assert evaluation._training(config) == {"step": 4, "ended_by": ended}


@pytest.mark.parametrize("model", ["tr_s", "ga_b", "fl_s"])
def test_a_whole_run(model, isolated, monkeypatch):
    monkeypatch.setattr(evaluation, "TIMED", 8)
    config = small(model, **TINY)
    Trainer(config, progress=False).run()
    metrics = evaluate(config, progress=False)
    folder = run_folder(config)
    assert json.loads(folder.metrics.read_text()) == metrics
    assert list(metrics["bleu"]) == decoding_settings(config)
    assert all("version:" in entry["signature"] for entry in metrics["bleu"].values())
    task = Task(config)
    assert metrics["test_set"] == {
        "name": "test", "lines": 20, "references": text_fingerprint(task.references("test")),
        "sources": text_fingerprint(task.sources("test"))}
    assert metrics["vocabulary"] == task.vocabulary.fingerprint
    training = metrics["training"]
    assert (training["step"], training["ended_by"]) == (2, "steps") and training["tokens"] > 100
    assert metrics["precision"] == ("bf16" if has_fast_bf16() else "fp32")
    again = folder.read_metrics()
    assert (again.vocabulary, again.precision) == (metrics["vocabulary"], metrics["precision"])
    assert asdict(again.test_set) == metrics["test_set"]
    sentences = pd.read_csv(folder.sentences, keep_default_na=False)
    assert list(sentences)[:9] == [
        "hypothesis", "n_tokens", "n_tokens_padded", "n_chars", "log_prob", "log_p_length", "elbo",
        "released_estimate", "effective_sample_size"]
    assert len(sentences) == 20
    mbr = sentences["hypothesis_mbr"].tolist()
    assert metrics["bleu"]["mbr16-chrf"]["score"] == pytest.approx(
        BLEU().corpus_score(mbr, [Task(config).references("test")]).score)
    counts = folder.read_bleu_counts()
    assert list(counts) == list(metrics["bleu"])
    for name, entry in metrics["bleu"].items():
        assert bleu_from_counts(counts[name].sum(0)) == pytest.approx(entry["score"], abs=1e-9)
    first, *others = metrics["bleu"].values()
    assert "gain" not in first
    for entry in others:
        assert entry["gain"] == entry["score"] - first["score"]
        assert entry["gain_low"] <= entry["gain"] <= entry["gain_high"]
        assert entry["score_low"] <= entry["score"] <= entry["score_high"]
    assert set(metrics["speed"]["sentences_per_second"]) == set(metrics["bleu"])
    assert metrics["speed"]["lines"] == 8
    assert metrics["speed"]["likelihood_seconds"] > 0
    per_sentence = (sentences["log_prob"] + sentences["log_p_length"]).mean()
    assert metrics["log_likelihood"]["per_sentence"]["mean"] == pytest.approx(per_sentence, 1e-4)
    if model == "tr_s":
        assert metrics["diagnostics"] == {}
        assert (sentences["elbo"] == "").all()
        assert metrics["convergence"] == {"statement": "exact"}
    else:
        assert {"kl", "reconstruction", "bleu_posterior"} <= set(metrics["diagnostics"])
        bounds = metrics["convergence"]["bounds"]
        assert [bound["samples"] for bound in bounds] == [1, 5]
        assert bounds[-1]["strict"]["mean"] == metrics["log_likelihood"]["strict"]["mean"]


def test_the_checkpoint_of_the_best_likelihood_is_scored_where_it_is_another(isolated):
    """Its weights are the other's, negated: another step, another score."""
    config = small("tr_s", **TINY, mbr_samples=0)
    Trainer(config, progress=False).run()
    folder = run_folder(config)
    content = checkpoints.load(folder.best, "")
    checkpoints.save(folder.best_ll, content)
    assert evaluate(config, progress=False)["best_ll"] == {"step": content["step"]}
    assert not folder.sentences_ll.exists()
    checkpoints.save(folder.best_ll, content | {"step": 99, "dev_bleu": 7.0, "weights": {
        name: -value for name, value in content["weights"].items()}})
    metrics = evaluate(config, progress=False)
    other, table = metrics["best_ll"], pd.read_csv(folder.sentences_ll)
    assert (other["step"], other["dev_bleu"], list(other["bleu"])) == (99, 7.0, ["beam4"])
    strict = table["log_prob"].sum() / table["n_tokens"].sum()
    assert other["log_likelihood"]["strict"]["mean"] == pytest.approx(strict, 1e-4)
    assert strict != pytest.approx(metrics["log_likelihood"]["strict"]["mean"], 1e-4)
    assert folder.read_metrics().best_ll == other


@pytest.mark.parametrize(("model", "likelihood", "objective"), [
    ("tr_d", "exact", "likelihood"), ("na_b", "exact", "likelihood"), ("da_b", "exact", "marginal"),
    ("dp_b", "exact", "best_path"), ("ct_b", "exact", "marginal"), ("md_b", "bound", "ELBO")])
def test_a_whole_run_of_every_other_family(model, likelihood, objective, isolated):
    """Trained, evaluated, and translating, on 20 sentences."""
    changes = {"mbr_samples": 2, "samples": 3, "unmaskings": [1], "steps": 3}
    config = small(model, **changes)
    Trainer(config, progress=False).run()
    metrics = evaluate(config, progress=False)
    folder = run_folder(config)
    assert json.loads(folder.metrics.read_text()) == metrics
    assert metrics["objective"] == objective
    assert list(metrics["bleu"]) == decoding_settings(config)
    assert folder.read_metrics().objective == objective
    sentences = folder.read_sentences()
    assert len(sentences) == 20
    per_sentence = (sentences["log_prob"] + sentences["log_p_length"]).mean()
    found = metrics["log_likelihood"]["per_sentence"]
    assert found["mean"] == pytest.approx(per_sentence, 1e-4)
    assert found["samples"] == (3 if likelihood == "bound" else 1)
    assert metrics["convergence"]["statement"].startswith(
        "a lower bound from 3 importance samples" if likelihood == "bound" else "exact")
    if model == "md_b":
        policy = (sentences["policy_log_prob"] + sentences["log_p_length"]).sum()
        assert metrics["diagnostics"]["policy"] == pytest.approx(
            policy / sentences["n_tokens"].sum(), 1e-4)
        assert metrics["diagnostics"]["policy_error"] > 0
    else:
        assert metrics["diagnostics"] == {}
    described = json.loads(folder.config.read_text())
    assert described["impossible_pairs"] == 0
    assert len(Translator(config, weights="fp32")(["Nothing known.", "", "x"])) == 3


def test_another_familys_headline_is_refused(isolated):
    with pytest.raises(ConfigError, match="unknown headline 'beam4': known: greedy, mbr16-chrf"):
        evaluate(load_config("na_b", headline="beam4"))


def test_bleu_is_by_the_tokeniser_of_the_data_set(isolated):
    config = small("tr_s", **TINY, mbr_samples=0, headline="greedy")
    config = replace(config, dataset=replace(config.dataset, tokenizer="char"))
    trainer = Trainer(config, progress=False)
    trainer.run()
    metrics = evaluate(config, progress=False)
    lines = run_folder(config).read_sentences()["hypothesis"].tolist()
    theirs = BLEU(tokenize="char").corpus_score(lines, [Task(config).references("test")])
    assert metrics["bleu"]["greedy"]["score"] == pytest.approx(theirs.score)
    assert "tok:char" in metrics["bleu"]["greedy"]["signature"]
    kept = Validations.read(trainer.folder.validations)
    assert kept.resampled(np.ones((1, 8)))[1][0, -1] == pytest.approx(
        trainer.history[-1]["dev_bleu"])
    assert trainer.history[-1]["dev_bleu"] == pytest.approx(
        bleu_from_counts(trainer.sentences[-1]["counts"].sum(0).numpy()))


def test_evaluating_a_run_that_was_not_trained_names_the_command(isolated):
    with pytest.raises(CheckpointError, match="02_train.ipynb OUT.ipynb -p model fl_b"):
        load_run(load_config("fl_b"))


def test_a_checkpoint_of_another_vocabulary_is_refused(isolated):
    config = small("tr_s", **TINY)
    Trainer(config, progress=False).run()
    path = run_folder(config).best
    content = torch.load(path, weights_only=True)
    checkpoints.save(path, {**content, "vocabulary": "0" * 64})
    with pytest.raises(CheckpointError, match="vocabulary"):
        load_run(replace(config, seed=config.seed))


def test_weights_that_fit_another_model_are_not_scored_as_it(isolated):
    Trainer(small("tr_s", **TINY), progress=False).run()
    assert load_run(small("tr_s", **TINY, beam=2, headline="greedy")).step == 2
    with pytest.raises(CheckpointError, match=r"other settings of architecture\.heads: restore"):
        load_run(small("tr_s", **TINY, heads=4))


def test_fewer_samples_never_take_the_place_of_more(isolated):
    config = small("ga_b", **TINY)
    Trainer(config, progress=False).run()
    evaluate(config, progress=False)
    fewer = small("ga_b", **TINY | {"samples": 2})
    with pytest.raises(ConfigError, match="is of 5 samples a sentence, 2 are fewer: delete it"):
        evaluate(fewer, progress=False)
    run_folder(config).metrics.write_text("{}")  # damaged: nothing is known of it
    assert evaluate(fewer, progress=False)["log_likelihood"]["strict"]["samples"] == 2
