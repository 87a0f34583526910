"""Tables: ours beside the paper's, in its order, with the accounting named."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis import tables
from analysis.resampling import Resamples
from analysis.tables import NO_BREAK
from lib.errors import ConfigError


def frame(dataset="wmt14_en_de"):
    rows = [("fl_b", "flow", "raw", 1, 20.0, -1.5),
            ("tr_s", "autoregressive", "raw", 1, 30.0, -2.0),
            ("tr_s", "autoregressive", "raw", 2, 32.0, -2.2),
            ("tr_s", "autoregressive", "distilled", 1, 31.0, -2.5)]
    return pd.DataFrame([{
        "dataset": dataset, "scale": "mini", "model": model, "family": family, "train_data": data,
        "seed": seed, "parameters": 12_345, "setting": "beam4", "bleu": bleu, "chrf": 50.0,
        "bleu_paper": bleu - 1, "precision": "", "strict": ll, "strict_error": 0.01 * seed,
    } for model, family, data, seed, bleu, ll in rows])


def test_table1_has_a_row_a_seed_and_their_mean_in_the_papers_order():
    table = tables.table1(frame(), "strict")
    assert list(zip(table["model"], table["train_data"], table["seed"], strict=True)) == [
        ("tr_s", "raw", "1"), ("tr_s", "raw", "2"), ("tr_s", "raw", "mean"), ("fl_b", "raw", "1"),
        ("tr_s", "distilled", "1")]
    mean = table.iloc[2]
    assert (mean["bleu"], mean["seeds"], mean["accounting"]) == (31.0, 2, "strict")
    assert mean["log_likelihood"] == pytest.approx(-2.1)
    assert mean["log_likelihood_error"] == 0.02
    assert mean["bleu_sd"] == pytest.approx(2 ** 0.5)
    assert math.isnan(table.loc[0, "bleu_sd"])
    assert tables.systems(table)["seed"].tolist() == ["mean", "1", "1"]


def test_table1_shows_the_papers_number_where_there_is_one():
    table = tables.table1(frame(), "strict").set_index(["model", "train_data", "seed"])
    assert table.loc[("fl_b", "raw", "1"), "published_bleu"] == 18.57
    assert table.loc[("fl_b", "raw", "1"), "bleu_paper"] == 19.0
    assert "published_bleu" not in tables.table1(frame("toy"), "strict")
    beside = tables.side_by_side(table.reset_index()).set_index("model")
    assert beside.loc["Fl-B", "paper's LL, raw"] == -1.23
    assert beside.loc["Fl-B", "BLEU as the paper decodes, raw"] == 19.0


def test_table1_intervals_come_from_the_resamples_of_the_right_runs():
    drawn = np.tile([10.0, 20.0, 40.0, 50.0], (9, 1)) + np.linspace(-1, 1, 9)[:, None]
    resamples = Resamples(drawn[0], drawn[0], drawn, drawn)
    table = tables.table1(frame(), "strict", resamples=resamples)
    assert table.loc[0, "bleu_low"] == pytest.approx(19, abs=0.1)
    assert table.loc[2, "bleu_low"] == pytest.approx(29, abs=0.1)      # mean of runs 2 and 3
    assert table.loc[3, "bleu_high"] == pytest.approx(11, abs=0.1)


def test_raw_and_distilled_stand_side_by_side():
    beside = tables.side_by_side(tables.table1(frame("toy"), "strict"))
    assert list(beside) == ["model", "parameters", "BLEU, raw", "LL, raw", "BLEU, distilled",
                            "LL, distilled"]
    assert beside["model"].tolist() == ["Tr-S", "Fl-B"]
    assert beside.loc[0, "BLEU, raw"] == "31.0 (sd 1.4, 2 seeds)"
    assert beside.loc[0, "LL, raw"] == "−2.100 ± 0.020 (sd 0.141, 2 seeds)".replace(" ", NO_BREAK)
    assert beside.loc[0, "BLEU, distilled"] == "31.0"
    assert beside.loc[1, "BLEU, distilled"] == "–"


def test_unknown_accounting_is_refused():
    with pytest.raises(ConfigError, match="unknown accounting"):
        tables.table1(frame(), "nats")


def test_table2_has_the_published_correlation():
    checkpoints = pd.DataFrame([{"dataset": "wmt14_en_de", "scale": "mini", "model": "tr_b",
                                 "family": "autoregressive", "train_data": "distilled", "seed": 1,
                                 "n": 5, "pearson": 0.9}])
    table = tables.table2(checkpoints)
    assert table.loc[0, "published_pearson"] == -0.758
    assert table.loc[0, "accounting"] == "strict"


def test_checkpoints_are_shown_with_the_interval_in_the_cell():
    ends = {f"{name}{end}": value for name in ("pearson", "spearman", "kendall", "pearson_changes",
                                               "pearson_rising", "pearson_falling")
            for end, value in (("", 0.5), ("_low", -0.25), ("_high", 0.75))}
    rows = [{"dataset": "toy", "scale": "mini", "model": model, "family": "gaussian",
             "train_data": "raw", "seed": seed, "n": 6, **ends, "pearson_p": 0.01}
            for model, seed in (("tr_s", 1), ("tr_s", 2), ("ga_b", 1))]
    shown = tables.compact_table2(tables.table2(pd.DataFrame(rows)))
    assert list(shown) == ["model", "train_data", "seeds", "n", "pearson", "pearson_sd",
                           "pearson_changes", "pearson_rising", "pearson_falling"]
    assert shown["seeds"].tolist() == [2, 1]  # a row a system, the mean of several seeds
    assert shown["pearson"].tolist() == ["0.50", "0.50 [−0.25, 0.75]".replace(" ", NO_BREAK)]


def test_table2_averages_seeds_below_them():
    checkpoints = pd.DataFrame([{"dataset": "toy", "scale": "mini", "model": "tr_s",
                                 "family": "autoregressive", "train_data": "raw", "seed": seed,
                                 "n": 5, "pearson": r, "pearson_p": 0.1, "spearman": r,
                                 "kendall": r} for seed, r in ((1, 0.5), (2, 0.9))])
    table = tables.table2(checkpoints)
    assert table["seed"].tolist() == ["1", "2", "mean"]
    assert table["pearson"].tolist() == pytest.approx([0.5, 0.9, 0.7])
    assert table["pearson_sd"][2] == pytest.approx(0.4 / 2 ** 0.5)
    assert math.isnan(table["pearson_p"][2])
    assert tables.table2(checkpoints.iloc[:0]).empty


def test_empty_tables_have_their_columns():
    assert tables.table1(frame().iloc[:0], "strict").empty


def test_markdown_by_hand():
    text = tables.markdown(pd.DataFrame({
        "model": ["tr_s", "a|b"], "bleu_low": [1.234, math.nan], "parameters": [12345, 6],
        "p(x|y)": [-0.5, 1234.5], "p": [0.0123, 0.5], "known": [True, False]}), digits={"p": 3})
    assert text == ("| model | BLEU low | parameters | p(x\\|y) | p | known |\n"
                    "| --- | ---: | ---: | ---: | ---: | ---: |\n"
                    "| Tr-S | 1.23 | 12,345 | −0.50 | 0.012 | yes |\n"
                    "| a\\|b | – | 6 | 1,234.50 | 0.500 | no |\n")


def test_a_setting_is_no_mail_address():
    assert "| `k4-samples1@0.5` |" in tables.markdown(pd.DataFrame({"setting": [
        "k4-samples1@0.5"]}))


def test_headings_keep_the_names_of_data_sets():
    assert tables.markdown(pd.DataFrame({"multi30k_de_en mini, strict": ["x"]})).startswith(
        "| multi30k_de_en mini, strict |")


def test_an_interval_is_unbreakable():
    assert tables.interval(1.25, 0.5, 2.0, digits=2) == f"1.25{NO_BREAK}[0.50,{NO_BREAK}2.00]"
    assert tables.interval(-1.0, math.nan, math.nan) == "−1.0"
    assert tables.interval(1.0, -0.5, 2.5, plus=True) == f"+1.0{NO_BREAK}[−0.5,{NO_BREAK}+2.5]"
    drawn = tables.intervals(pd.DataFrame({"a": [1.0], "a_low": [0], "a_high": [2.0], "b": [3.0]}))
    assert drawn.to_dict("list") == {"a": [tables.interval(1.0, 0.0, 2.0)], "b": [3.0]}


def test_a_table_is_shown_in_one_way():
    shown = tables.show(pd.DataFrame({"a": [1234]}), notes="A note.").data
    assert shown == "| a |\n| ---: |\n| 1,234 |\n\nA note.\n"
    assert "nothing to show" in tables.show(pd.DataFrame()).data


def test_write_names_the_accounting_and_repeats_itself(isolated):
    table = tables.table1(frame("toy"), "strict")
    csv, text = tables.write(table, "table1", notes=["Seeds are averaged."])
    assert csv == isolated / "outputs" / "tables" / "table1.csv"
    written = text.read_text(encoding="utf-8")
    assert written.startswith("dataset: toy\n\nscale: mini\n\n")
    assert ("accounting: strict (log-likelihood of the string, nats per token; a lower bound: one "
            "padding and one segmentation of the string count)") in written
    assert "BLEU low" not in written                     # no intervals were computed
    assert written.endswith("\nSeeds are averaged.\n")
    assert len(pd.read_csv(csv)) == 5
    before = csv.read_bytes(), text.read_bytes()
    tables.write(table, "table1", notes=["Seeds are averaged."])
    assert before == (csv.read_bytes(), text.read_bytes())
