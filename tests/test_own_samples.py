"""Draws of a run: their bounds hold the truth, and what is on disk is of today's weights."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from all_orders import exact_log_prob
from made_up import committed
from tiny import (
    AUTOREGRESSIVE,
    CTC,
    DAG,
    GAUSSIAN,
    INDEPENDENT,
    MASKED,
    Numbers,
    batch_of,
    model_of,
    near_lengths,
    tokenised,
)

from lib.config import load_config
from lib.errors import ConfigError, DataError
from lib.evaluation import own_samples as module
from lib.evaluation.own_samples import (
    SampleSettings,
    available,
    cross_scores,
    draw_samples,
    one_each,
    own_samples,
    read_samples,
)
from lib.evaluation.scoring import TrainedRun
from lib.likelihood import iw_bound
from lib.runs import RunFolder
from lib.subword import EOS, PAD
from lib.task import Task

SOURCES = [[3, 4], [5], [4, 4, 3]]
SETTINGS = SampleSettings(sentences=3, samples=200, importance=4)


def run_of(architecture, spread=0.3):
    """A tiny model of six subwords on three sources, its lengths short."""
    config = load_config("tr_s", precision="fp32")
    model = model_of(architecture, 6, spread).requires_grad_(False)
    if hasattr(model, "length_predictor"):
        near_lengths(model, range(-1, 2))
    task = Task(config)
    vars(task).update({"test": tokenised([(ids, [3]) for ids in SOURCES]), "vocabulary": Numbers()})
    return TrainedRun(config, model, task, 0, 0.0)


def pairs_of(frame):
    """The (source, string) of each row."""
    return [(SOURCES[line], [int(word) for word in text.split()])
            for line, text in zip(frame["line"], frame["text"], strict=True)]


@pytest.mark.parametrize("architecture", [AUTOREGRESSIVE, INDEPENDENT, DAG, CTC],
                         ids=lambda a: a.family)
def test_exact_likelihoods_are_those_of_the_strings(architecture):
    run = run_of(architecture)
    frame = draw_samples(run, SETTINGS, False)
    draws = [sorted(int(n) for of in part["draws"] for n in of.split())
             for _, part in frame.groupby("line")]
    assert draws == [list(range(200))] * 3
    terms = run.model.log_prob_terms(batch_of(pairs_of(frame), run.model.multiple), 1, None, 1)
    expected = (terms.log_p_y[0] + terms.log_p_length).double().numpy()
    np.testing.assert_allclose(frame["lower"], expected, atol=1e-4)
    pd.testing.assert_series_equal(frame["lower"], frame["upper"], check_names=False)
    if architecture is AUTOREGRESSIVE:
        return  # its draws pass over PAD and BOS and are cut short, which matters untrained
    common = frame[frame["proper"] >= 20]
    share = common["proper"] / 200
    error = (share * (1 - share) / 200)**0.5
    assert (abs(share - np.exp(common["lower"])) < 4 * error + 1e-3).all()


def test_an_order_s_bounds_hold_the_exact_likelihood():
    run = run_of(MASKED)
    frame = draw_samples(run, SETTINGS, False)
    batch = batch_of(pairs_of(frame), 4)
    memory = run.model.encode(batch.source, batch.source_mask)
    length = torch.full((len(frame),), 0) if batch.target_mask is None else None
    lengths = batch.target_mask.sum(1) if length is None else length + batch.target.shape[1]
    exact = (exact_log_prob(run.model, batch)
             + run.model.length_predictor.log_prob(memory, lengths)).numpy()
    weight = frame["proper"] / frame["proper"].sum()
    below, above = weight @ (exact - frame["lower"]), weight @ (frame["upper"] - exact)
    assert 0 < below < 0.2 and 0 < above < 0.2
    assert (frame["proper"] == frame["draws"].str.split().str.len()).all()


def test_a_latent_model_s_bounds_hold_very_many_samples():
    run = run_of(GAUSSIAN, 0.05)
    frame = draw_samples(run, replace(SETTINGS, samples=500), False)
    known = frame[frame["upper"].notna()]
    assert 0 < known["proper"].sum() < 1500, "some draws are padded further than their string"
    batch = batch_of(pairs_of(known), 4)
    terms = run.model.log_prob_terms(batch, 3000, torch.Generator().manual_seed(1))
    near = (iw_bound(*(t.double() for t in (terms.log_p_y, terms.log_p_z, terms.log_q_z)))
            + terms.log_p_length.double()).numpy()
    weight = known["proper"] / known["proper"].sum()
    assert weight @ known["lower"] < weight @ near < weight @ known["upper"]
    assert weight @ (known["upper"] - known["lower"]) < 3


def test_what_is_proper_by_hand():
    y = torch.tensor([[3, 4, EOS, EOS, EOS, EOS, EOS, EOS],   # two words in four positions
                      [3, 4, EOS, EOS, EOS, EOS, EOS, EOS],   # the same in eight
                      [3, EOS, 4, EOS, EOS, EOS, EOS, EOS],   # a word after the end
                      [3, 4, 3, 4, 3, EOS, EOS, EOS]])
    real = torch.arange(8) < torch.tensor([4, 8, 4, 8])[:, None]
    strings, weights, proper = module._strings(y, real, 4, torch.arange(4.0))
    assert strings == [[3, 4], [3, 4], [3], [3, 4, 3, 4, 3]]
    assert proper.tolist() == [True, False, False, True]
    assert weights.tolist() == [0, 1, 2, 3] and PAD not in strings[0]


def test_a_draw_is_found_by_its_number():
    frame = pd.DataFrame({"line": [7, 7, 2], "text": ["a", "b", "c"],
                          "draws": ["0 2 10", "1", "0 1 2"]})
    assert one_each(frame)["text"].tolist() == ["c", "a"]
    assert one_each(frame, 1)["text"].tolist() == ["c", "b"]
    assert one_each(frame, 10)["text"].tolist() == ["a"]


@pytest.mark.parametrize("values", [{"sentences": 0}, {"samples": 0}, {"importance": 0},
                                    {"seed": -1}])
def test_settings_out_of_range(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        SampleSettings(**values)


def test_more_sentences_than_there_are():
    with pytest.raises(ConfigError, match="test set has 5"):
        SampleSettings(sentences=6).lines(5)


# ---- on disk, of the shipped run ----

SMALL = SampleSettings(sentences=5, samples=3, importance=2)


@pytest.fixture
def shipped(isolated):
    """The committed Tr-S and Tr-B without their samples; their configurations."""
    for model in ("tr_s", "tr_b"):
        committed(model, "*samples*")
    return [load_config("tr_s"), load_config("tr_b")]


def test_samples_are_drawn_once(shipped, monkeypatch):
    config = shipped[0]
    assert read_samples(config, SMALL) is None
    first = own_samples(config, SMALL, False)
    folder = RunFolder("toy", "smoke", "tr_s")
    monkeypatch.setattr(module, "load_run", None)  # from here on there is nothing to compute
    again = own_samples(config, SampleSettings(5, 2, 1), False)
    pd.testing.assert_frame_equal(first, again, rtol=1e-5)
    assert read_samples(config, SampleSettings(6, 3, 2)) is None  # it has fewer sentences
    assert available([load_config("ga_b"), config], SMALL) == [config]
    folder.best.unlink()
    assert available([config], SMALL) == [config]
    metrics = json.loads(folder.metrics.read_text())
    folder.metrics.write_text(json.dumps(metrics | {"step": metrics["step"] + 1}))
    assert read_samples(config, SMALL) is None  # of other weights
    assert available([config], SMALL) == []
    (folder.path / "samples.json").write_text("{")
    with pytest.raises(DataError, match="remove samples.csv"):
        read_samples(config, SMALL)


def test_scores_under_other_runs_are_computed_once(shipped, monkeypatch):
    one, other = shipped
    samples = {config.model: own_samples(config, SMALL, False) for config in shipped}
    table = cross_scores(one, samples, 2, False).set_index("model")
    own = one_each(samples["tr_s"])
    assert table.loc["tr_s", "log_likelihood"] == pytest.approx(
        own["lower"].sum() / own["n_tokens"].sum(), abs=1e-4)
    assert table.loc["tr_b", "sentences"] == 5 and (table["impossible"] == 0).all()
    assert not math.isclose(*cross_scores(other, samples, 2, False)["log_likelihood"])
    monkeypatch.setattr(module, "load_run", None)
    pd.testing.assert_frame_equal(cross_scores(one, samples, 2, False).set_index("model"), table)
    with pytest.raises(TypeError):  # other strings are scored anew
        cross_scores(one, {"tr_b": samples["tr_b"].assign(text="x")}, 2, False)
