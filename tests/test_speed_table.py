"""Table 4, the latency figure and the sizes: ratios and slopes by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from made_times import times

from analysis import published, speed_table
from lib.config import MODELS, load_config
from lib.errors import ConfigError
from lib.evaluation import speed
from lib.models import build, count_parameters


def test_table_4_compares_at_batch_size_1():
    rows = [("tr_b", "beam4", "auto", 1, 0, 0, 9, 1.0), ("tr_b", "beam4", "auto", 32, 1, 0, 9, 8.0),
            ("tr_b", "beam4", "auto", 1, 0, 1, 9, 0.8), ("ga_b", "k1", "auto", 1, 0, 1, 9, 0.125),
            ("ga_b", "k1", "auto", 1, 0, 0, 9, 0.1), ("ga_b", "k1", "auto", 32, 1, 0, 9, 1.0),
            ("ctranslate2", "beam4", "float32", 1, 0, 0, 9, 0.5),
            ("ctranslate2", "beam4", "float32", 32, 1, 0, 9, 4.0)]
    table = speed_table.table4(speed.speeds(times(*rows))).set_index("system")
    # medians of two rounds: 1.125 sentences a second against 9
    assert table.loc["ga_b", "vs Tr-B beam4"] == pytest.approx(8.0)
    assert table.loc["ga_b", "vs Tr-B beam4_low"] == pytest.approx(8 / 1.25)
    assert table.loc["ga_b", "vs Tr-B beam4_high"] == pytest.approx(10)
    assert table.loc["tr_b", ["vs Tr-B beam4_low", "vs Tr-B beam4_high"]].tolist() == [1, 1]
    assert table.loc["ga_b", "vs CTranslate2"] == pytest.approx(4.5)
    assert table.loc["ctranslate2", "sentences/s, batch 32"] == pytest.approx(8)
    assert table.loc["ga_b", "paper"] == pytest.approx(20.52 / 2.58)
    assert np.isnan(table.loc["ctranslate2", "paper"])


@pytest.mark.parametrize(("setting", "ratio"), [("k0", 5.82 / 2.58), ("k1", 5.6 / 2.58)])
def test_the_papers_ratio_stands_beside_its_own_setting(setting, ratio):
    assert speed_table.published_ratio("fl_b", setting) == pytest.approx(ratio)
    assert math.isnan(speed_table.published_ratio("fl_s", setting))


def test_table_4_needs_its_baseline():
    with pytest.raises(ConfigError, match="compares with tr_b beam4 at batch size 1"):
        speed_table.table4(speed.speeds(times(("ga_b", "k1", "auto", 1, 0, 0, 9, 0.1))))


def test_slopes_are_least_squares_of_cpu_time():
    frame = times(*(("ga_b", "k0", "auto", 1, w, 0, 4 + 4 * w, 0.01 + 0.02 * w) for w in range(3)))
    slope = speed_table.latency_slopes(speed.latencies(frame)).iloc[0]
    assert slope["milliseconds a subword"] == pytest.approx(2.5)  # CPU time is half of it here
    assert slope["growth"] == pytest.approx(2.5 * 8 / 15)


def test_the_latency_figure_has_one_line_a_family_as_the_paper_decodes():
    frame = times(*((system, setting, "auto", 1, w, 0, 4 + 4 * w, 0.01 + 0.02 * w)
                    for system, setting in (("tr_b", "greedy"), ("tr_b", "beam4"),
                                            ("tr_l", "beam4"), ("ga_b", "k0"), ("ga_b", "k1"))
                    for w in range(3)))
    axes, = speed_table.latency_figure(speed.latencies(frame)).axes
    assert [line.get_label() for line in axes.lines] == ["Tr-B beam4", "Ga-B k1"]
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([10, 30, 50])


@pytest.fixture(scope="module")
def sizes():
    return speed_table.model_sizes()


def test_every_model_has_a_row_for_each_corpus(sizes):
    assert list(sizes) == ["model", "corpus", "scale", "parameters", "published"]
    for _, group in sizes.groupby(["corpus", "scale"]):
        assert group["model"].tolist() == list(MODELS)
    assert set(sizes["scale"]) == {"paper", "mini", "smoke"}


def test_wmt_sizes_lie_within_a_tenth_of_the_published_ones(sizes):
    rows = sizes[sizes["published"].notna() & (sizes["model"] != "fl_l")]
    assert set(rows["model"]) == {"tr_s", "tr_b", "tr_l", "ga_b", "ga_l", "fl_b"}
    assert set(rows["corpus"]) == {"wmt"}
    assert ((rows["parameters"] / rows["published"] - 1).abs() < 0.1).all()
    assert "fl_s" not in published.parameters()


@pytest.mark.parametrize("model", ["tr_s", "ga_b", "fl_s"])
def test_counting_without_memory_is_counting(model):
    built = build(load_config(model).architecture, 90)
    assert speed_table.parameters(model, "toy", "smoke", 90) == count_parameters(built)


def test_main_writes_whole_numbers_and_gaps(isolated, monkeypatch, sizes):
    monkeypatch.setattr(speed_table, "model_sizes", lambda: sizes)
    path = speed_table.main()
    assert path == isolated / "outputs/tables/model_sizes.csv"
    again = pd.read_csv(path)
    assert again["parameters"].tolist() == sizes["parameters"].tolist()
    assert "17000000\n" in path.read_text() and ".0" not in path.read_text()
