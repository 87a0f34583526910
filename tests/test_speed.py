"""Timing: what is counted and compared is right; no time itself is tested."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import AUTOREGRESSIVE, FLOW, GAUSSIAN, model_of, ragged, tokenised

from benchmarks import ctranslate2, decoding
from lib import speed
from lib.decoding import hypotheses
from lib.errors import ConfigError
from lib.inference import freeze

VOCABULARY = 9


@pytest.fixture
def works():
    data = tokenised(ragged(12, VOCABULARY))
    return speed.work(data, [[0], [1], [2, 3, 4], [5, 6, 7]])


def times(*rows: tuple) -> pd.DataFrame:
    """Rows of (system, setting, weights, batch, work, round, target length, seconds)."""
    names = ["system", "setting", "weights", "batch", "work", "round", "target_length", "seconds"]
    frame = pd.DataFrame(rows, columns=names)
    return frame.assign(parameters=1000, cpu_seconds=frame["seconds"] / 2)


def test_work_has_the_longest_target_with_its_end():
    data = tokenised([([3, 4], [5]), ([3], [4, 5, 6])])
    (given,) = speed.work(data, [[0, 1]])
    assert given.length == 4
    assert given.source.tolist() == [[3, 4, 2], [3, 2, 0]]
    assert given.mask.tolist() == [[True, True, True], [True, True, False]]


@pytest.mark.parametrize("setting", ["greedy", "beam3"])
def test_search_takes_as_many_steps_as_the_reference(setting, works):
    model = speed.never_ending(model_of(AUTOREGRESSIVE, VOCABULARY))
    system = speed.controlled("tr_s", model, setting, "fp32")
    for given in works:
        assert {len(words) for words in system.translate(given)} == {given.length - 1}


@pytest.mark.parametrize("architecture", [GAUSSIAN, FLOW], ids=["gaussian", "flow"])
def test_refinement_takes_every_step_at_the_padded_length(architecture, works, monkeypatch):
    model = model_of(architecture, VOCABULARY)
    shapes = []
    decode = type(model).decode
    monkeypatch.setattr(type(model), "decode",
                        lambda self, z, *a: shapes.append(z.shape[1]) or decode(self, z, *a))
    system = speed.controlled("ga_b", model, "k3", "fp32")
    for given in works:
        shapes.clear()
        system.translate(given)
        assert shapes == [-(-given.length // 4) * 4] * 4


def test_outputs_that_settle_are_not_timed(works, monkeypatch):
    monkeypatch.setattr(speed, "refine", lambda model, source, mask, steps, lengths: (
        model.decode(torch.zeros(len(source), int(lengths[0]), 32), model.encode(source, mask),
                     None), {steps[0]: []})[1])
    with pytest.raises(ConfigError, match="k4: refinement ended after 0 steps"):
        speed.controlled("ga_b", model_of(GAUSSIAN, VOCABULARY), "k4").translate(works[2])


@pytest.mark.parametrize("setting", ["sample", "k4-lengths3-bound", "mbr4-chrf"])
def test_other_settings_have_no_given_length(setting):
    family = GAUSSIAN if setting.startswith("k") else AUTOREGRESSIVE
    with pytest.raises(ConfigError, match="can't be timed at a given length"):
        speed.controlled("x", model_of(family, VOCABULARY), setting)


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
    slope = speed.latency_slopes(latency).iloc[0]
    assert slope["milliseconds a subword"] == pytest.approx(2.5)  # CPU time is half of it here
    assert slope["growth"] == pytest.approx(2.5 * 8 / 15)
    assert len(speed.latency_figure(latency).axes[0].lines) == 1


def test_table_4_compares_at_batch_size_1():
    rows = [("tr_b", "beam4", "auto", 1, 0, 0, 9, 1.0), ("tr_b", "beam4", "auto", 32, 1, 0, 9, 8.0),
            ("ga_b", "k1", "auto", 1, 0, 0, 9, 0.1), ("ga_b", "k1", "auto", 32, 1, 0, 9, 1.0),
            ("ctranslate2", "beam4", "float32", 1, 0, 0, 9, 0.5),
            ("ctranslate2", "beam4", "float32", 32, 1, 0, 9, 4.0)]
    table = speed.table4(speed.speeds(times(*rows))).set_index("system")
    assert table.loc["ga_b", "vs Tr-B beam4"] == pytest.approx(10)
    assert table.loc["ga_b", "vs CTranslate2"] == pytest.approx(5)
    assert table.loc["ga_b", "paper"] == 8.0
    assert table.loc["tr_b", "vs CTranslate2"] == pytest.approx(0.5)
    assert table.loc["ctranslate2", "sentences/s, batch 32"] == pytest.approx(8)
    assert np.isnan(table.loc["ctranslate2", "paper"])


def test_table_4_needs_its_baseline():
    with pytest.raises(ConfigError, match="compares with tr_b beam4 at batch size 1"):
        speed.table4(speed.speeds(times(("ga_b", "k1", "auto", 1, 0, 0, 9, 0.1))))


def test_the_benchmark_times_everything(monkeypatch):
    """At smoke sizes, one sentence and one pair: every system translates."""
    monkeypatch.setattr(decoding, "load_config",
                        lambda name, *_: speed_config(name))
    rates, latency = decoding.run(1, 1, 2, 1)
    wanted = {(name, setting, weights) for name, settings in decoding.SETTINGS.items()
              for setting in settings for weights in ("auto", "int8")}
    if ctranslate2.is_installed():
        wanted |= {("ctranslate2", "beam4", weights) for weights in ("float32", "int8")}
    assert set(zip(rates["system"], rates["setting"], rates["weights"], strict=True)) == wanted
    assert set(rates["batch"]) == {1, 2} and (rates["sentences_per_second"] > 0).all()
    assert len(latency) == len(wanted)


def speed_config(name: str):
    from lib.config import load_config
    return load_config(name, "toy", "smoke")


def test_batches_of_the_benchmark_have_one_target_length():
    data = decoding.corpus()
    groups = decoding.groups(data, 20, 4, 32)
    assert [len(group) for group in groups] == [1] * 20 + [32] * 4
    assert all(len(set(data.target_lengths[group])) == 1 for group in groups)
    alone = np.concatenate(groups[:20])
    assert abs(data.target_lengths[alone].mean() - data.target_lengths.mean()) < 0.5
