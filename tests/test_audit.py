"""The audit on tiny models against importance sampling, and its files on the shipped run."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from closed_form import ParityModel
from made_up import committed
from tiny import FLOW, GAUSSIAN, batch_of, model_of, ragged

from lib.config import load_config
from lib.errors import ConfigError, DataError
from lib.evaluation.audit import (
    AuditSettings,
    annealing_path,
    audit,
    complete,
    read_audit,
    simulate,
    summarise,
)
from lib.likelihood import effective_sample_size, iw_bound
from lib.likelihood.annealing import (
    Annealing,
    forward_annealing,
    reverse_annealing,
    tune_step_sizes,
)
from lib.runs import RunFolder
from lib.task import Task

SMALL = AuditSettings(sentences=6, samples=20, annealing=Annealing(3, 2, 1))
KINDS = {"gaussian": GAUSSIAN, "flow": FLOW}


def frozen(kind):
    model = model_of(KINDS[kind], 11, spread=0.02)
    if kind == "flow":  # without it, the couplings' scales pile up
        model.initialise(batch_of(ragged(30, 11), multiple=4), "prior")
    return model.requires_grad_(False)


def path_of(model, batch):
    return annealing_path(model, model.encode(batch.source, batch.source_mask), batch)


# On tiny models ------------------------------------------------------------------------------

@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", KINDS)
def test_log_ratio_is_the_log_weight_of_the_model(kind):
    model, batch = frozen(kind), batch_of(ragged(3, 11), multiple=4)
    terms = model.log_prob_terms(batch, 5, torch.Generator().manual_seed(1))
    memory = model.encode(batch.source, batch.source_mask)
    q = model.posterior(memory, batch.target, batch.target_mask)
    generator = torch.Generator().manual_seed(1)
    z = torch.stack([q.rsample(1, generator) for _ in range(5)], 1).flatten(0, 1)
    path = path_of(model, batch)
    found = path.log_ratio(path.q.to_noise(z)).view(3, 5).T
    torch.testing.assert_close(found, terms.log_p_y + terms.log_p_z - terms.log_q_z)


@pytest.mark.usefixtures("float64")
def test_annealing_agrees_with_very_many_importance_samples():
    model, batch = frozen("gaussian"), batch_of(ragged(3, 11), multiple=4)
    terms = model.log_prob_terms(batch, 3000, torch.Generator().manual_seed(1), 300)
    parts = terms.log_p_y, terms.log_p_z, terms.log_q_z
    assert (effective_sample_size(*parts) > 100).all()
    path, settings = path_of(model, batch), Annealing(30, 16, 2)
    found = forward_annealing(path, settings, tune_step_sizes(path, settings, [1, 2, 3]),
                              [1, 2, 3])
    error = (found.standard_error.square() + 0.1**2).sqrt()
    assert ((found.log_bound - iw_bound(*parts)).abs() < 4 * error).all()
    assert float(error.max()) < 0.3


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", KINDS)
def test_simulated_data_give_bounds_in_the_right_order(kind):
    model, batch = frozen(kind), batch_of(ragged(16, 11), multiple=4)
    seeds, gaps = list(range(16)), []
    own, z = simulate(model, batch, seeds)
    path = path_of(model, own)
    for temperatures in (2, 12):
        settings = Annealing(temperatures, 4, 2)
        step_size = tune_step_sizes(path, settings, seeds)
        lower = forward_annealing(path, settings, step_size, seeds).log_bound
        upper = reverse_annealing(path, settings, step_size, seeds, z).log_bound
        gap = upper - lower
        assert float(gap.min()) > -6  # below with probability at most 2 exp(-3), far less here
        gaps.append(float(gap.mean()))
        assert gaps[-1] > -4 * float(gap.std()) / math.sqrt(len(gap))
    assert gaps[1] < 0.7 * gaps[0]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", KINDS)
def test_simulated_sentences_depend_on_their_seed_alone(kind):
    model, pairs = frozen(kind), ragged(4, 11)
    batch = batch_of(pairs, multiple=4)
    own, z = simulate(model, batch, [5, 6, 7, 8])
    assert torch.equal(own.target_mask, batch.target_mask)
    assert (own.target[~batch.target_mask] == 0).all()
    for row, pair in enumerate(pairs):
        single = batch_of([pair], multiple=4)
        alone, z_alone = simulate(model, single, [5 + row])
        length = single.target.shape[1]
        assert torch.equal(alone.target[0], own.target[row, :length])
        torch.testing.assert_close(z_alone[0], z[row, :length])
        assert (z[row, length:] == 0).all()


@pytest.mark.usefixtures("float64")
def test_simulated_targets_follow_the_decoder():
    """Frequencies of the first subword against its probabilities, averaged over the same z."""
    model, batch = frozen("gaussian"), batch_of([([3, 4], [5, 6])] * 500, multiple=4)
    own, z = simulate(model, batch, list(range(500)))
    memory = model.encode(batch.source[:1], None)
    states = model.decode(z, memory, None).states[:, 0]
    expected = (states @ model.embedding.weight.T).softmax(-1).mean(0)
    found = torch.bincount(own.target[:, 0], minlength=11) / 500
    error = (expected * (1 - expected) / 500).sqrt()
    assert ((found - expected).abs() < 4.5 * error + 1e-9).all()


@pytest.mark.usefixtures("float64")
def test_annealing_finds_a_marginal_that_is_known():
    """On references within 0.02 nats; on its own sentences between the two bounds."""
    model, batch = ParityModel(12), batch_of(ragged(12, 12), multiple=4)
    seeds, settings = list(range(12)), Annealing(60, 200, 2)

    def bounds(of, z=None):
        path = path_of(model, of)
        steps = tune_step_sizes(path, settings, seeds)
        lower = forward_annealing(path, settings, steps, seeds)
        upper = None if z is None else reverse_annealing(path, settings, steps, seeds, z)
        return lower, upper

    truth = model.exact(batch.target, batch.target_mask)
    found = bounds(batch)[0]
    assert float((found.log_bound - truth).mean().abs()) < 0.02
    assert ((found.log_bound - truth).abs() < 4.5 * found.standard_error).all()
    own, z = simulate(model, batch, seeds)
    lower, upper = bounds(own, z)
    truth = model.exact(own.target, own.target_mask)
    below, above = (truth - lower.log_bound).mean(), (upper.log_bound - truth).mean()
    assert -0.02 < float(below) < 0.05 and -0.02 < float(above) < 0.05


# On the shipped run --------------------------------------------------------------------------

@pytest.fixture
def shipped(isolated):
    """A copy of the shipped Ga-B in outputs of the test's own; returns its configuration."""
    committed("ga_b", "audit.*")
    return load_config("ga_b")


def files(config):
    folder = RunFolder("toy", "smoke", config.model).path
    return folder / "audit.csv", folder / "audit.json"


def test_audit_writes_a_row_a_sentence(shipped):
    frame = audit(shipped, SMALL, progress=False)
    assert frame["line"].tolist() == list(range(6))
    assert {"iw_bound_1", "iw_bound_10", "iw_bound_20", "ais", "ais_error", "simulated_lower",
            "simulated_upper", "released_estimate"} <= set(frame)
    assert np.isfinite(frame.to_numpy()).all()
    assert (frame["n_tokens_padded"] % 4 == 0).all()
    told = json.loads(files(shipped)[1].read_text())
    assert told["lines"] == 6
    assert told["settings"]["annealing"]["temperatures"] == 3
    assert told["summary"]["ais"] == pytest.approx(frame["ais"].mean())
    # beside the bound of the evaluation, on the same sentences with the same model
    sentences = pd.read_csv(RunFolder("toy", "smoke", "ga_b").sentences, nrows=6)
    assert (frame["n_tokens"] == sentences["n_tokens"]).all()
    assert abs((frame["ais"] - sentences["log_prob"]).mean()) < 1.5
    assert (frame["log_p_length"] - sentences["log_p_length"]).abs().max() < 0.01


def test_audit_goes_on_where_it_stopped_and_gives_the_same(shipped, monkeypatch):
    monkeypatch.setattr("lib.evaluation.audit.POSITIONS_AT_ONCE", 16 * 2)
    whole = audit(shipped, SMALL, progress=False)
    table, told = files(shipped)
    text = table.read_text()
    table.write_text("".join(text.splitlines(keepends=True)[:3]))  # two sentences are left
    resumed = audit(shipped, SMALL, progress=False)
    pd.testing.assert_frame_equal(resumed, whole, rtol=1e-7)
    assert table.read_text() == text
    before = told.stat().st_mtime_ns
    audit(shipped, SMALL, progress=False)
    assert told.stat().st_mtime_ns == before, "a finished audit isn't computed again"
    other = audit(shipped, replace(SMALL, seed=3), progress=False)
    assert not np.allclose(other["ais"], whole["ais"])


def test_audits_are_read_if_they_suffice(shipped):
    assert read_audit(shipped) is None
    audit(shipped, SMALL, progress=False)
    frame, told = read_audit(shipped)
    assert len(frame) == told["lines"] == 6
    assert read_audit(shipped, replace(SMALL, samples=10)) is not None
    assert read_audit(shipped, replace(SMALL, sentences=7)) is None
    assert read_audit(shipped, replace(SMALL, annealing=Annealing(4, 2, 1))) is None
    table, report = files(shipped)
    metrics = RunFolder("toy", "smoke", "ga_b").metrics
    text = metrics.read_text()
    metrics.write_text(text.replace('"step": ', '"step": 9'))
    assert read_audit(shipped) is None, "of other weights than those that were evaluated"
    metrics.write_text(text.replace('"references": "', '"references": "0'))
    assert read_audit(shipped) is None, "of another test text than was scored"
    metrics.write_text(text)
    whole = table.read_text()
    table.write_text(whole[:whole.index("\n") + 1] + whole.split("\n")[1] + "\n")
    assert read_audit(shipped) is None, "unfinished"
    complete([shipped], replace(SMALL, sentences=2), progress=False)
    assert table.read_text() == whole, "it goes on with its own settings"
    report.write_text("{")
    with pytest.raises(DataError, match="remove audit.csv and audit.json there, and notebooks/06_"):
        read_audit(shipped)


@pytest.mark.parametrize("harm", ["", "line,n_tokens\n1,2,3\n4\n", "{"])
def test_a_damaged_audit_is_made_again(shipped, harm):
    audit(shipped, SMALL, progress=False)
    table, report = files(shipped)
    whole = pd.read_csv(table)
    (report if harm == "{" else table).write_text(harm)
    pd.testing.assert_frame_equal(audit(shipped, SMALL, progress=False), whole)


def test_an_audit_does_not_go_on_with_another_test_text(shipped, monkeypatch):
    audit(shipped, SMALL, progress=False)
    before = json.loads(files(shipped)[1].read_text())
    references = Task.references
    monkeypatch.setattr(Task, "references", lambda task, split: references(task, split)[::-1])
    audit(shipped, SMALL, progress=False)
    after = json.loads(files(shipped)[1].read_text())
    assert after["references"] != before["references"]
    assert after["sources"] == before["sources"]


def test_exact_likelihoods_need_no_audit(isolated):
    with pytest.raises(ConfigError, match="tr_s has no latent variables to anneal: audit a latent "
                                          "model, ga_b"):
        audit(load_config("tr_s"))


@pytest.mark.parametrize(("wrong", "message"), [
    ({"sentences": 0}, "sentences = 0"), ({"samples": 0}, "samples = 0"),
    ({"seed": -1}, "seed = -1"),
])
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        AuditSettings(**wrong)


def test_too_many_sentences_are_refused(shipped):
    with pytest.raises(ConfigError, match="has 1000: ask for fewer"):
        audit(shipped, replace(SMALL, sentences=1001))


def test_summary_hand_worked():
    frame = pd.DataFrame({
        "n_tokens_padded": [4, 8], "iw_bound_1": [-9.0, -9.0], "iw_bound_20": [-4.0, -8.0],
        "ais": [-3.0, -6.0], "released_estimate": [-0.5, -1.0], "simulated_lower": [-5.0, -9.0],
        "simulated_upper": [-4.0, -8.0], "simulated_iw_bound": [-6.0, -9.0],
        "simulated_released_estimate": [-0.5, -1.5]})
    found = summarise(frame)
    assert (found["sentences"], found["iw_bound"], found["ais"]) == (2, -6.0, -4.5)
    assert (found["ais_minus_iw"], found["ais_minus_iw_error"]) == (1.5, 0.5)
    assert (found["gap"], found["upper_minus_iw"]) == (1.0, 1.5)
    assert found["released_minus_ais"] == pytest.approx((0.25 - 0.25) / 2)
    assert found["released_minus_upper"] == pytest.approx((0.5 - 0.5) / 2)
    assert found["released_above_upper"] == 1


def test_what_has_no_audit_is_completed(shipped):
    exact = load_config("tr_s")
    complete([exact, load_config("fl_s"), shipped], SMALL, progress=False)  # Fl-S isn't evaluated
    table, _ = files(shipped)
    before = table.stat().st_mtime_ns
    assert read_audit(shipped, SMALL) is not None
    complete([shipped], SMALL, progress=False)
    assert table.stat().st_mtime_ns == before
