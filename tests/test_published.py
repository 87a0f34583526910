"""The paper's numbers, and what its own tables show when counted."""

import math

import pytest

from analysis import published
from lib.config import datasets


def test_tables_hold_what_the_paper_prints():
    assert published.value(1, "bleu", dataset="wmt14_en_de", model="ga_b",
                           train_data="distilled") == 24.54
    assert published.value(2, "pearson", dataset="wmt14_en_de", model="tr_b",
                           train_data="distilled") == -0.758
    assert published.value(3, "elbo", dataset="iwslt16_de_en", model="fl_b",
                           refinement_steps=4) == -1.15
    assert published.value(4, "sentences_per_second", model="ga_l", setting="k8") == 4.91
    assert [len(published.table(number)) for number in (1, 2, 3, 4)] == [78, 6, 8, 19]
    assert set(published.table(1)["dataset"]) == {
        name for name in datasets() if published.column(name)}


def test_an_unknown_cell_is_nan_and_an_ambiguous_one_is_refused():
    assert math.isnan(published.value(1, "bleu", model="tr_s", dataset="toy"))
    assert published.column("toy") is None
    assert published.column("wmt14_en_de") == "WMT'14 En-De"
    with pytest.raises(ValueError, match="rows of Table 1 match"):
        published.value(1, "bleu", model="tr_s")


def test_parameters_are_those_of_table_4():
    assert published.parameters() == {
        "tr_s": 17e6, "tr_b": 60e6, "tr_l": 208e6, "ga_b": 75e6, "ga_l": 95e6, "fl_b": 75e6,
        "fl_l": 258e6}


def test_pairs_of_the_papers_own_models_are_counted():
    table = published.agreement().set_index(["corpus", "train_data", "kind"])
    counted = table[["agree", "pairs"]]
    assert counted.loc[("WMT'14 En-De", "raw", "autoregressive, latent")].tolist() == [5, 12]
    assert counted.loc[("WMT'14 De-En", "raw", "within families")].tolist() == [4, 5]
    assert counted.loc[("WMT'14 En-De", "raw", "Gaussian, flow")].tolist() == [4, 4]
    assert counted.loc[("WMT'14 En-De", "distilled", "Gaussian, flow")].tolist() == [0, 4]
    # Tr-S has one model of its family on IWSLT: Ga-B, Fl-S and Fl-B make six pairs with it
    assert counted.loc[("IWSLT'16 De-En", "raw", "all")].tolist() == [3, 6]
    row = table.loc[("WMT'14 En-De", "raw", "all")]
    assert (row["n"], round(row["spearman"], 3)) == (7, 0.357)


def test_findings_are_counted_in_the_papers_numbers():
    assert [finding.number for finding in published.FINDINGS] == [1, 2, 3, 4, 5]
    flow = published.counted(2).set_index(["corpus", "train_data"])
    best = flow.loc[("WMT'14 En-De", "raw")]
    assert best["LL: best flow - best other"] == pytest.approx(-1.23 - -1.35)
    assert best["BLEU: best flow - worst other family's best"] == pytest.approx(18.57 - 17.33)
    change = published.counted(3).set_index("corpus").loc["IWSLT'16 De-En"]
    assert change["of latent models' BLEU"] == pytest.approx((2.44 + 3.05 + 2.11) / 3)
    gain = published.counted(4).set_index("model")["gain"]
    assert gain.round(2).to_dict() == {"ga_b": 1.81, "fl_b": 0.35}
    speed = published.counted(5).set_index(["model", "setting"])["speed over Tr-B beam4"]
    assert speed["ga_b", "k1"] == pytest.approx(20.52 / 2.58)
    assert len(published.counted(1)) == 10
