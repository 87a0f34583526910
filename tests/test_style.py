"""Figures hold what they should: unique colours, a line a model, the same bytes every time."""

import numpy as np
import pandas as pd
from matplotlib.text import Annotation

from analysis import style as plots

MODELS = ("tr_s", "tr_b", "tr_l", "ga_b", "ga_l", "fl_s", "fl_b", "fl_l")


def labels(axes):
    return [child for child in axes.get_children() if isinstance(child, Annotation)]


def test_colours_and_markers_are_unique():
    latent_colours, latent_markers = zip(*plots.LATENT_STYLES.values(), strict=True)
    colours = [*plots.FAMILY_COLOURS.values(), *latent_colours]
    assert len(set(colours)) == len(colours) == 6
    assert len(set(plots.SIZE_MARKERS.values())) == 3
    assert len(set(latent_markers)) == 3
    assert len({plots.style(model) for model in MODELS}) == 8
    assert plots.style("ga_b") == (plots.FAMILY_COLOURS["gaussian"], "s")


def history(end):
    steps = np.arange(100, 1100, 100)
    return pd.DataFrame({"step": steps, "train_loss": 3.0 - steps / 1000, "train_kl": 0.3,
                         "dev_kl": 0.4, "dev_ll": -3.0 + end * steps / 1000,
                         "dev_bleu": end * steps / 40})


def test_training_curves_have_a_line_a_model_and_its_name():
    several = plots.training_curves({"tr_s": history(1.0), "ga_b": history(0.9)})
    for axes in several.axes:
        assert len(axes.lines) == 2
        assert {name.get_text() for name in labels(axes)} == {"Tr-S", "Ga-B"}
        assert {line.get_color() for line in axes.lines} == {
            plots.FAMILY_COLOURS["autoregressive"], plots.FAMILY_COLOURS["gaussian"]}
    single = plots.training_curves(history(1.0))
    assert [text.get_text() for text in single.axes[2].get_legend().get_texts()] == [
        "loss, train", "kl, train", "kl, dev"]


def test_latent_space_uses_the_same_style_in_both_panels():
    rng = np.random.default_rng(0)
    samples = {kind: rng.normal(3 * i, 1.0, (20, 12)) for i, kind in enumerate(plots.LATENT_STYLES)}
    points = plots.latent_projection(samples, seed=1)
    assert points["kind"].value_counts().to_dict() == dict.fromkeys(plots.LATENT_STYLES, 20)
    pd.testing.assert_frame_equal(points, plots.latent_projection(samples, seed=1))
    figure = plots.latent_space({"Ga-B": points, "Fl-B": points})
    assert [axes.get_title() for axes in figure.axes] == ["Ga-B", "Fl-B"]
    left, right = ([tuple(cloud.get_facecolor()[0]) for cloud in axes.collections]
                   for axes in figure.axes)
    assert left == right
    assert len(left) == 3
    assert len(figure.legends[0].get_texts()) == 3


def test_corpus_overview_counts_every_pair():
    source, target = np.arange(1, 101), np.arange(1, 101)[::-1].copy()
    figure = plots.corpus_overview(source, target)
    assert "28.0% of pairs within 64" in figure.axes[0].get_legend().get_title().get_text()
    # |101 - 2 i| <= 30 for i = 36 .. 65
    assert figure.axes[1].texts[0].get_text().startswith("30.0% within ±30")


def test_saved_files_repeat_to_the_byte(isolated):
    runs = history(1.0)
    picture, table = plots.save(plots.training_curves(runs), "curves", runs)
    assert picture == isolated / "outputs" / "figures" / "curves.png"
    before = picture.read_bytes(), table.read_bytes()
    plots.save(plots.training_curves(runs), "curves", runs)
    assert before == (picture.read_bytes(), table.read_bytes())
    assert b"atplotlib" not in before[0]
    assert len(pd.read_csv(table)) == 10
