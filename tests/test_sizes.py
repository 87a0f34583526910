"""Parameters of every model beside the published ones."""

import math

import pandas as pd
import pytest

from analysis import published, sizes
from lib.config import MODELS, load_config
from lib.models import build, count_parameters


@pytest.fixture(scope="module")
def table():
    return sizes.model_sizes()


def test_every_model_has_a_row_for_each_corpus(table):
    assert list(table) == ["model", "corpus", "scale", "parameters", "published"]
    for _, group in table.groupby(["corpus", "scale"]):
        assert group["model"].tolist() == list(MODELS)
    assert set(table["scale"]) == {"paper", "mini", "smoke"}


def test_wmt_sizes_lie_within_a_tenth_of_the_published_ones(table):
    rows = table[table["published"].notna() & (table["model"] != "fl_l")]
    assert set(rows["model"]) == {"tr_s", "tr_b", "tr_l", "ga_b", "ga_l", "fl_b"}
    assert set(rows["corpus"]) == {"wmt"}
    assert ((rows["parameters"] / rows["published"] - 1).abs() < 0.1).all()
    assert math.isnan(published.PARAMETERS["fl_s"])


@pytest.mark.parametrize("model", ["tr_s", "ga_b", "fl_s"])
def test_counting_without_memory_is_counting(model):
    built = build(load_config(model).architecture, 90)
    assert sizes.parameters(model, "toy", "smoke", 90) == count_parameters(built)


def test_main_writes_whole_numbers_and_gaps(isolated, monkeypatch, table):
    monkeypatch.setattr(sizes, "model_sizes", lambda: table)
    path = sizes.main()
    assert path == isolated / "outputs/tables/model_sizes.csv"
    again = pd.read_csv(path)
    assert again["parameters"].tolist() == table["parameters"].tolist()
    assert "17000000\n" in path.read_text() and ".0" not in path.read_text()
