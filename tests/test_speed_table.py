"""Table 4 and the latency figure: ratios, slopes and sentences by hand."""

import numpy as np
import pytest
from made_times import times

from analysis import speed_table
from lib.errors import ConfigError
from lib.evaluation import speed


def test_table_4_compares_at_batch_size_1():
    rows = [("tr_b", "beam4", "auto", 1, 0, 0, 9, 1.0), ("tr_b", "beam4", "auto", 32, 1, 0, 9, 8.0),
            ("ga_b", "k1", "auto", 1, 0, 0, 9, 0.1), ("ga_b", "k1", "auto", 32, 1, 0, 9, 1.0),
            ("ctranslate2", "beam4", "float32", 1, 0, 0, 9, 0.5),
            ("ctranslate2", "beam4", "float32", 32, 1, 0, 9, 4.0)]
    table = speed_table.table4(speed.speeds(times(*rows))).set_index("system")
    assert table.loc["ga_b", "vs Tr-B beam4"] == pytest.approx(10)
    assert table.loc["ga_b", "vs CTranslate2"] == pytest.approx(5)
    assert table.loc["ga_b", "paper"] == 8.0
    assert table.loc["tr_b", "vs CTranslate2"] == pytest.approx(0.5)
    assert table.loc["ctranslate2", "sentences/s, batch 32"] == pytest.approx(8)
    assert np.isnan(table.loc["ctranslate2", "paper"])


def test_table_4_needs_its_baseline():
    with pytest.raises(ConfigError, match="compares with tr_b beam4 at batch size 1"):
        speed_table.table4(speed.speeds(times(("ga_b", "k1", "auto", 1, 0, 0, 9, 0.1))))


def test_sentences_say_what_the_tables_hold(monkeypatch, isolated):
    rows = [(name, setting, "auto", 1, w, 0, 4 + w, 0.1 * (1 + (w if setting == "beam4" else 0)))
            for name, setting in (("tr_s", "beam4"), ("ga_b", "k1")) for w in range(2)]
    assert speed_table.bench_table() is None
    frame = speed.speeds(times(*rows))
    (isolated / "outputs" / "bench").mkdir()
    frame.to_csv(isolated / "outputs" / "bench" / "decoding.csv", index=False)
    assert speed_table.table4_sentence(speed_table.bench_table()) == (
        "One sentence at a time, against Tr-S beam4: Ga-B k1 is 1.5 times as fast (the paper: "
        "8.0).")
    told = speed_table.latency_sentence(speed.latencies(times(*rows)))
    assert told.startswith("From 4 to 5 subwords") and "Tr-S beam4 +67%, Ga-B k1 +0%" in told


def test_other_systems_are_compared_through_the_yardstick_that_both_were_timed_by(isolated):
    """FlowSeq at 9.8 where CTranslate2 makes 48.6; ours at 10 where it makes 20."""
    frame = speed.speeds(times(("fl_s", "k0", "auto", 1, 0, 0, 9, 0.1),
                               ("fl_s", "k0", "int8", 1, 0, 0, 9, 0.001),
                               ("ctranslate2", "beam4", "float32", 1, 0, 0, 9, 0.05)))
    table = speed_table.other_systems(frame).set_index("other system")
    assert list(table.index) == ["FlowSeq argmax"]  # what wasn't timed isn't compared
    row = table.loc["FlowSeq argmax"]
    assert row["theirs / CTranslate2"] == pytest.approx(9.8 / 48.6)
    assert row["ours / CTranslate2"] == pytest.approx(0.5)
    assert row["times as fast"] == pytest.approx(0.5 * 48.6 / 9.8) and row["goal"] == 4
    assert np.isnan(row["by matrix rate"])  # of this machine nothing is known yet
    (isolated / "outputs" / "bench").mkdir()
    (isolated / "outputs" / "bench" / "likelihood.csv").write_text(
        "threads,matrix_flops_per_cpu_second\n1,195e9\n2,1e9\n")
    again = speed_table.other_systems(frame).iloc[0]
    assert again["by matrix rate"] == pytest.approx(2 * 10 / 9.8)  # half of its 390
    assert speed_table.other_systems(frame[frame["system"] == "fl_s"]) is None  # no yardstick
    assert speed_table.other_systems() is None  # nothing was timed


def test_slopes_are_least_squares_of_cpu_time():
    frame = times(*(("a", "k0", "auto", 1, w, 0, 4 + 4 * w, 0.01 + 0.02 * w) for w in range(3)))
    latency = speed.latencies(frame)
    slope = speed_table.latency_slopes(latency).iloc[0]
    assert slope["milliseconds a subword"] == pytest.approx(2.5)  # CPU time is half of it here
    assert slope["growth"] == pytest.approx(2.5 * 8 / 15)
    figure = speed_table.latency_figure({"one": latency, "two": latency})
    assert [axes.get_title() for axes in figure.axes] == ["one", "two"]
    (line,) = figure.axes[1].lines
    assert line.get_ydata().tolist() == pytest.approx([10, 30, 50])
