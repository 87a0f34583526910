"""Tables: ours beside the paper's, in its order, with the accounting named."""

import math

import numpy as np
import pandas as pd
import pytest

from lib import published, tables
from lib.errors import ConfigError
from lib.resampling import Resamples


def frame(dataset="wmt14_en_de"):
    rows = [("fl_b", "flow", "raw", 1, 20.0, -1.5),
            ("tr_s", "autoregressive", "raw", 1, 30.0, -2.0),
            ("tr_s", "autoregressive", "raw", 2, 32.0, -2.2),
            ("tr_s", "autoregressive", "distilled", 1, 31.0, -2.5)]
    return pd.DataFrame([{
        "dataset": dataset, "scale": "mini", "model": model, "family": family, "train_data": data,
        "seed": seed, "parameters": 12_345, "setting": "beam4", "bleu": bleu, "chrf": 50.0,
        "strict": ll, "strict_error": 0.01 * seed} for model, family, data, seed, bleu, ll in rows])


def test_table1_averages_seeds_in_the_papers_order():
    table = tables.table1(frame(), "strict")
    assert list(zip(table["model"], table["train_data"], strict=True)) == [
        ("tr_s", "raw"), ("fl_b", "raw"), ("tr_s", "distilled")]
    first = table.iloc[0]
    assert (first["bleu"], first["seeds"], first["accounting"]) == (31.0, 2, "strict")
    assert first["log_likelihood"] == pytest.approx(-2.1)
    assert first["log_likelihood_error"] == 0.02


def test_table1_shows_the_papers_number_where_there_is_one(monkeypatch):
    monkeypatch.setattr(published, "_TABLE1", {("wmt14_en_de", "fl_b", "raw"): (18.0, -1.0)})
    table = tables.table1(frame(), "strict").set_index(["model", "train_data"])
    assert table.loc[("fl_b", "raw"), "published_bleu"] == 18.0
    assert math.isnan(table.loc[("tr_s", "raw"), "published_bleu"])
    assert "published_bleu" not in tables.table1(frame("toy"), "strict")


def test_table1_intervals_come_from_the_resamples_of_the_right_runs():
    drawn = np.tile([10.0, 20.0, 40.0, 50.0], (9, 1)) + np.linspace(-1, 1, 9)[:, None]
    resamples = Resamples(drawn[0], drawn[0], drawn, drawn)
    table = tables.table1(frame(), "strict", resamples=resamples)
    assert table.loc[0, "bleu_low"] == pytest.approx(29, abs=0.1)      # mean of runs 2 and 3
    assert table.loc[1, "bleu_high"] == pytest.approx(11, abs=0.1)


def test_unknown_accounting_is_refused():
    with pytest.raises(ConfigError, match="unknown accounting"):
        tables.table1(frame(), "nats")


def test_table2_has_the_published_correlation(monkeypatch):
    checkpoints = pd.DataFrame([{"dataset": "wmt14_en_de", "scale": "mini", "model": "tr_s",
                                 "family": "autoregressive", "train_data": "raw", "seed": 1,
                                 "n": 5, "pearson": 0.9}])
    monkeypatch.setattr(published, "_TABLE2", {("wmt14_en_de", "tr_s"): 0.5})
    table = tables.table2(checkpoints)
    assert table.loc[0, "published_pearson"] == 0.5
    assert table.loc[0, "accounting"] == "strict"


def test_empty_tables_have_their_columns():
    assert tables.table1(frame().iloc[:0], "strict").empty


def test_markdown_by_hand():
    text = tables.markdown(pd.DataFrame({"model": ["a|b", "c"], "bleu_low": [1.234, math.nan],
                                         "parameters": [12345, 6], "x": [-0.5, 2.0]}))
    assert text == ("| model | BLEU low | parameters | x |\n"
                    "| --- | ---: | ---: | ---: |\n"
                    "| a\\|b | 1.23 | 12,345 | −0.50 |\n"
                    "| c | – | 6 | 2.00 |\n")


def test_write_names_the_accounting_and_repeats_itself(isolated):
    table = tables.table1(frame("toy"), "strict")
    csv, text = tables.write(table, "table1", notes=["Seeds are averaged."])
    assert csv == isolated / "outputs" / "tables" / "table1.csv"
    written = text.read_text(encoding="utf-8")
    assert written.startswith("dataset: toy\n\nscale: mini\n\n")
    assert "accounting: strict (log-likelihood of the string, nats per token)" in written
    assert "BLEU low" not in written                     # no intervals were computed
    assert written.endswith("\nSeeds are averaged.\n")
    assert len(pd.read_csv(csv)) == 3
    before = csv.read_bytes(), text.read_bytes()
    tables.write(table, "table1", notes=["Seeds are averaged."])
    assert before == (csv.read_bytes(), text.read_bytes())


def test_write_says_when_the_papers_numbers_are_not_transcribed(isolated):
    _, text = tables.write(tables.table1(frame(), "strict"), "table1")
    assert text.read_text(encoding="utf-8").endswith(f"\n{tables.NOT_TRANSCRIBED}\n")
