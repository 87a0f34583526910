"""Timing: what is counted and compared is right; no time itself is tested."""

import numpy as np
import pandas as pd
import papermill
import pytest
import torch
from made_times import times
from made_up import committed, shipped
from tiny import AUTOREGRESSIVE, FLOW, GAUSSIAN, model_of, ragged, tokenised

from benchmarks import ctranslate2, decoding, given_length
from lib.config import load_config
from lib.decoding import hypotheses
from lib.decoding.frozen import freeze
from lib.errors import ConfigError
from lib.evaluation import speed
from lib.paths import NOTEBOOKS, ROOT

VOCABULARY = 9


@pytest.fixture
def works():
    data = tokenised(ragged(12, VOCABULARY))
    return speed.work(data, [[0], [1], [2, 3, 4], [5, 6, 7]])


def test_work_has_the_longest_target_with_its_end():
    data = tokenised([([3, 4], [5]), ([3], [4, 5, 6])])
    (given,) = speed.work(data, [[0, 1]])
    assert given.length == 4
    assert given.source.tolist() == [[3, 4, 2], [3, 2, 0]]
    assert given.mask.tolist() == [[True, True, True], [True, True, False]]


@pytest.mark.parametrize("setting", ["greedy", "beam3"])
def test_search_takes_as_many_steps_as_the_reference(setting, works):
    model = given_length.never_ending(model_of(AUTOREGRESSIVE, VOCABULARY))
    system = given_length.controlled("tr_s", model, setting, "fp32")
    for given in works:
        assert {len(words) for words in system.translate(given)} == {given.length - 1}


@pytest.mark.parametrize("architecture", [GAUSSIAN, FLOW], ids=["gaussian", "flow"])
def test_refinement_takes_every_step_at_the_padded_length(architecture, works, monkeypatch):
    model = model_of(architecture, VOCABULARY)
    shapes = []
    decode = type(model).decode
    monkeypatch.setattr(type(model), "decode",
                        lambda self, z, *a: shapes.append(z.shape[1]) or decode(self, z, *a))
    system = given_length.controlled("ga_b", model, "k3", "fp32")
    for given in works:
        shapes.clear()
        system.translate(given)
        assert shapes == [-(-given.length // 4) * 4] * 4


def test_outputs_that_settle_are_not_timed(works, monkeypatch):
    monkeypatch.setattr(given_length, "refine", lambda model, source, mask, steps, lengths: (
        model.decode(torch.zeros(len(source), int(lengths[0]), 32), model.encode(source, mask),
                     None), {steps[0]: []})[1])
    with pytest.raises(ConfigError, match="k4: refinement ended after 0 steps"):
        given_length.controlled("ga_b", model_of(GAUSSIAN, VOCABULARY), "k4").translate(works[2])


@pytest.mark.parametrize("setting", ["sample", "k4-lengths3-bound", "mbr4-chrf"])
def test_other_settings_have_no_given_length(setting):
    family = GAUSSIAN if setting.startswith("k") else AUTOREGRESSIVE
    with pytest.raises(ConfigError, match="can't be timed at a given length"):
        given_length.controlled("x", model_of(family, VOCABULARY), setting)


def test_free_systems_say_what_search_finds(works):
    model = model_of(GAUSSIAN, VOCABULARY)
    system = speed.free("ga_b", model, "k1", "fp32")
    expected = hypotheses(freeze(model, "fp32"), works[2].source, works[2].mask, ["k1"])["k1"]
    assert system.translate(works[2]) == expected


def test_measuring_is_interleaved_and_complete(works):
    order = []

    def system(name):
        return speed.System(name, "greedy", "auto", 7,
                            lambda given: order.append(name) or [[5] * 3] * len(given.source))

    frame = speed.measure([system("a"), system("b")], works, rounds=2, progress=False)
    warm = len(order) - len(frame)
    assert order[warm:] == ["a", "b"] * (2 * len(works))
    assert len(frame) == 2 * 2 * len(works)
    assert set(frame["target_length"]) == {4.0}
    assert frame["batch"].tolist()[:8] == [1, 1, 1, 1, 3, 3, 3, 3]


def test_speed_is_sentences_over_seconds_by_hand():
    seconds = [[1.0, 3.0], [1.0, 1.0], [4.0, 4.0]]  # [round][work]
    frame = times(*(("a", "greedy", "auto", 2, w, r, 5, seconds[r][w])
                    for r in range(3) for w in range(2)))
    row = speed.speeds(frame).iloc[0]
    assert (row["sentences_per_second"], row["low"], row["high"]) == (1.0, 0.5, 2.0)
    assert row["sentences_per_cpu_second"] == 2.0
    assert row["rounds"] == 3


def test_latency_is_of_single_sentences():
    frame = times(*(("a", "k0", "auto", 1, w, r, 4 + 4 * w, 0.01 + 0.02 * w + 0.5 * (r == 2))
                    for w in range(3) for r in range(3)),
                  ("a", "k0", "auto", 32, 9, 0, 99, 50.0))
    latency = speed.latencies(frame)
    assert latency["target_length"].tolist() == [4, 8, 12]
    assert latency["milliseconds"].tolist() == pytest.approx([10, 30, 50])


def test_trained_runs_are_timed_on_their_test_set(monkeypatch):
    monkeypatch.setenv("DISCREPANCY_OUTPUTS", str(ROOT / "outputs"))
    shipped("ga_b")
    found = speed.time_runs([load_config("ga_b")], 3, 8, 1, progress=False)
    assert found["setting"].tolist() == ["k0", "k1", "k4"] * 4
    assert found["batch"].tolist() == [1] * 9 + [8] * 3
    with pytest.raises(ConfigError, match="sentences = 0"):
        speed.time_runs([], 0)


def test_the_notebook_runs_with_other_models(tmp_path, monkeypatch):
    monkeypatch.setenv("DISCREPANCY_OUTPUTS", str(tmp_path))
    for model in ("tr_s", "fl_s"):
        committed(model)
    papermill.execute_notebook(
        NOTEBOOKS / "08_speed.ipynb", tmp_path / "08.ipynb", cwd=tmp_path, progress_bar=False,
        parameters={"models": ["tr_s", "fl_s"], "baseline": "tr_s", "sentences": 2, "rounds": 1})
    table = pd.read_csv(tmp_path / "tables/table4_toy_smoke_tr_s_fl_s_n2x1.csv")
    assert table["system"].tolist() == ["tr_s"] * 2 + ["fl_s"] * 3
    assert len(pd.read_csv(tmp_path / "figures/latency_toy_smoke_tr_s_fl_s_n2x1.csv")) == 10


def test_the_benchmark_times_everything(monkeypatch):
    """At smoke sizes, one sentence and one pair: every system translates."""
    monkeypatch.setattr(decoding, "load_config",
                        lambda name, *_: load_config(name, "toy", "smoke"))
    rates, latency = decoding.run(1, 1, 2, 1)
    wanted = {(name, setting, weights) for name, settings in decoding.SETTINGS.items()
              for setting in settings for weights in ("auto", "int8")}
    if ctranslate2.is_installed():
        wanted |= {("ctranslate2", "beam4", weights) for weights in ("float32", "int8")}
    assert set(zip(rates["system"], rates["setting"], rates["weights"], strict=True)) == wanted
    assert set(rates["batch"]) == {1, 2} and (rates["sentences_per_second"] > 0).all()
    assert len(latency) == len(wanted)


def test_what_fewer_bits_cost_is_in_bleu(monkeypatch):
    monkeypatch.setenv("DISCREPANCY_OUTPUTS", str(ROOT / "outputs"))
    for model in ("tr_s", "ga_b"):
        shipped(model)
    monkeypatch.setattr(decoding, "TRAINED", (("toy", "smoke"), ("multi30k_de_en", "smoke")))
    table = decoding.cost(("tr_s", "ga_b"), lines=40)
    assert table["weights"].tolist() == ["fp32", "bf16", "int8"] * 5
    assert set(table["dataset"]) == {"toy"}  # the other run isn't trained
    assert table["setting"].tolist() == [setting for setting in (
        "greedy", "beam4", "k0", "k1", "k4") for _ in range(3)]
    assert set(table["lines"]) == {40}
    assert (table["bleu"] > 5).all() and table["bleu"][0] - table["bleu"][2] < 10


def test_batches_of_the_benchmark_have_one_target_length():
    data = decoding.corpus()
    groups = decoding.groups(data, 20, 4, 32)
    assert [len(group) for group in groups] == [1] * 20 + [32] * 4
    assert all(len(set(data.target_lengths[group])) == 1 for group in groups)
    alone = np.concatenate(groups[:20])
    assert abs(data.target_lengths[alone].mean() - data.target_lengths.mean()) < 0.5
