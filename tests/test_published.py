"""The paper's numbers: what is transcribed is right, and what isn't is NaN and says so."""

import math

import pytest

from analysis import published

TABLES = [published.table1, published.table2, published.table3, published.table4]


@pytest.mark.parametrize("table", TABLES)
def test_every_cell_names_its_source(table):
    frame = table()
    assert list(frame.columns) == published.COLUMNS
    assert set(frame["source"]) <= set(published.SOURCES)
    assert (frame["value"].isna() == (frame["source"] == "missing")).all()
    assert not frame.drop(columns=["value", "source"]).duplicated().any()


def test_tables_have_the_papers_shape():
    assert len(published.table1()) == 5 * 7 * 2 * 2
    assert len(published.table2()) == 5 * 7
    assert set(published.table3()["setting"]) == {"k0", "k1", "k2", "k4", "k8"}


@pytest.mark.parametrize(("model", "millions"), [
    ("tr_s", 17), ("tr_b", 60), ("tr_l", 208), ("ga_b", 75), ("ga_l", 95), ("fl_b", 75),
    ("fl_l", 258),
])
def test_parameters(model, millions):
    table = published.table4()
    assert published.value(table, model=model, metric="parameters") == millions * 1e6


def test_sizes_grow_within_a_family():
    sizes = published.PARAMETERS
    assert sizes["tr_s"] < sizes["tr_b"] < sizes["tr_l"]
    assert sizes["ga_b"] < sizes["ga_l"]
    assert sizes["fl_b"] < sizes["fl_l"]


def test_speed_ratios():
    table = published.table4()
    ratio = {m: published.value(table, model=m, metric="speed_ratio")
             for m in ("tr_b", "ga_b", "fl_b")}
    assert ratio == {"tr_b": 1.0, "ga_b": 8.0, "fl_b": 2.2}


def test_log_likelihoods_are_negative_and_bleu_is_a_score_where_transcribed():
    known = published.table1().dropna(subset="value")
    assert (known.loc[known["metric"] == "log_likelihood", "value"] < 0).all()
    assert known.loc[known["metric"] == "bleu", "value"].between(0, 100).all()
    assert published.table2()["value"].dropna().between(-1, 1).all()


def test_value_of_an_unknown_cell_is_nan_and_an_ambiguous_one_is_refused():
    assert math.isnan(published.value(published.table1(), model="tr_s", dataset="toy"))
    assert published.column("toy") is None
    assert published.column("wmt14_en_de") == "WMT'14 En-De"
    with pytest.raises(ValueError, match="rows match"):
        published.value(published.table1(), model="tr_s")


def test_findings_are_numbered_and_sourced():
    assert [finding.number for finding in published.FINDINGS] == [1, 2, 3, 4, 5]
    assert all(finding.source in published.SOURCES for finding in published.FINDINGS)
