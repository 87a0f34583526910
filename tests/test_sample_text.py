"""Samples as text and under other models, by hand."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from analysis import sample_text


def samples(first, second):
    return pd.DataFrame([{"line": line, "text": text, "draws": str(draw)}
                         for draw, texts in enumerate((first, second))
                         for line, text in enumerate(texts)])


REFERENCES = ["a b c d", "e f g h i"]
SAMPLES = {"tr_s": samples(["a b c d", "e f g h i"], ["a b c d", "e f g h i"]),
           "na_b": samples(["a a a b b b b", "e"], ["x y z w v", "u"])}


def test_statistics_by_hand():
    table = sample_text.statistics(SAMPLES, REFERENCES).set_index("model")
    assert list(table.index) == ["tr_s", "na_b", "references"]
    assert table.loc["tr_s", ["sample_bleu", "self_bleu"]].tolist() == pytest.approx([100, 100])
    assert table.loc["na_b", "self_bleu"] < 5
    assert table.loc["na_b", "repetition"] == pytest.approx(5 / 8)
    assert table.loc["na_b", "length_ratio"] == pytest.approx(8 / 9)
    assert table.loc["na_b", "type_token"] == pytest.approx(3 / 8)
    assert table.loc["references", ["repetition", "length_ratio", "type_token"]].tolist() == [
        0, 1, 1]
    assert np.isnan(table.loc["references", "sample_bleu"])


def test_one_draw_has_no_self_bleu():
    one = {"tr_s": SAMPLES["tr_s"][SAMPLES["tr_s"]["draws"] == "0"]}
    assert np.isnan(sample_text.statistics(one, REFERENCES).loc[0, "self_bleu"])


def scores(values, models=("tr_s", "ga_b", "na_b")):
    return pd.DataFrame([{"scorer": scorer, "model": model, "log_likelihood": values[i][j]}
                         for i, scorer in enumerate(models) for j, model in enumerate(models)])


VALUES = [[-1.0, -2.0, -5.0], [-1.5, -1.0, -4.0], [-2.0, -2.5, -0.5]]


def test_the_matrix_is_read_by_hand():
    table = sample_text.matrix(scores(VALUES))
    assert table.loc["na_b", "tr_s"] == -2.0 and table.loc["tr_s", "na_b"] == -5.0
    told = sample_text.reading(table)
    assert "samples of Tr-S the most probable (−1.75 nats" in told
    assert "those of Na-B the least (−4.50)" in told
    assert "Na-B overrates its own samples most: it gives them −0.50, the others −4.50" in told
    assert "2 models are too few" in sample_text.reading(table.iloc[:2, :2])


def test_the_heat_map_shows_every_number():
    values = [[-1.0, -1.8, -5.0], [-2.0, -1.0, -6.0], [-1.9, -2.5, -0.5]]
    figure = sample_text.matrix_figure(sample_text.matrix(scores(values)))
    shown = list(figure.axes[0].texts)
    assert len(shown) == 9
    assert {text.get_text() for text in shown if text.get_fontweight() == "bold"} == {
        "−1.00", "−0.50"}
    cells = figure.axes[0].collections[0].get_facecolors()
    assert len({text.get_color() for text in shown}) == 2
    for text, cell in zip(shown, cells, strict=True):  # 4.5: what WCAG asks of small text
        light, dark = sorted((luminance(cell), luminance(text.get_color())), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5, text.get_text()


def luminance(colour):
    """WCAG's relative luminance."""
    parts = np.array(to_rgb(colour))
    linear = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]
