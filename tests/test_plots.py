"""Figures hold what they should: a marker a run, named beside it, unique colours, same bytes."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Annotation

from lib import plots
from lib.errors import ConfigError
from lib.resampling import Resamples

FAMILY = {"tr": "autoregressive", "ga": "gaussian", "fl": "flow"}
POINTS = {"tr_s": (30, -2.0), "tr_b": (33, -1.8), "tr_l": (33.5, -1.78), "ga_b": (26, -2.4),
          "ga_l": (26.3, -2.38), "fl_s": (20, -1.7), "fl_b": (22, -1.55), "fl_l": (22.3, -1.56)}


def frame(models=tuple(POINTS), data=("raw", "distilled")):
    return pd.DataFrame([{
        "dataset": "toy", "scale": "smoke", "model": model, "family": FAMILY[model[:2]],
        "train_data": kind, "seed": 1, "bleu": POINTS[model][0] + 2.0 * (kind != "raw"),
        "strict": POINTS[model][1] - 0.4 * (kind != "raw"), "strict_error": 0.02,
        "bits_per_char": -POINTS[model][1], "bits_per_char_error": 0.01,
    } for kind in data for model in models])


def labels(axes):
    return [child for child in axes.get_children() if isinstance(child, Annotation)]


def test_colours_and_markers_are_unique():
    latent_colours, latent_markers = zip(*plots.LATENT_STYLES.values(), strict=True)
    colours = [*plots.FAMILY_COLOURS.values(), *latent_colours]
    assert len(set(colours)) == len(colours) == 6
    assert len(set(plots.SIZE_MARKERS.values())) == 3
    assert len(set(latent_markers)) == 3
    assert len({plots.style(model) for model in POINTS}) == 8
    assert plots.style("ga_b") == (plots.FAMILY_COLOURS["gaussian"], "s")


def test_ll_against_bleu_marks_and_names_every_run_without_overlap():
    figure = plots.ll_against_bleu(frame(), "strict")
    axes = figure.axes[0]
    assert len(axes.containers) == 16
    names = labels(axes)
    assert sorted(name.get_text() for name in names)[:4] == ["Fl-B", "Fl-B", "Fl-L", "Fl-L"]
    figure.draw_without_rendering()
    boxes = [name.get_window_extent() for name in names]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    hollow = [bar for bar in axes.containers if bar[0].get_markerfacecolor() == "white"]
    assert len(hollow) == 8
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "autoregressive", "gaussian", "flow", "size S", "size B", "size L", "raw data",
        "distilled data"]


def test_ll_against_bleu_prints_n_interval_pearson_and_spearman():
    runs = frame(data=("raw",))
    noise = np.random.default_rng(0).normal(0, 0.05, (50, 8))
    drawn = Resamples(runs["strict"].to_numpy(), runs["bleu"].to_numpy(),
                      runs["strict"].to_numpy() + noise, runs["bleu"].to_numpy() + noise)
    figure = plots.ll_against_bleu(runs, "strict", resamples=drawn)
    text = figure.texts[0].get_text()
    across = next(line for line in text.splitlines() if line.startswith("raw, across families"))
    assert across.split()[3] == "8"
    assert across.count("[") == across.count("p = ") == 2
    assert "Pearson" in text and "Spearman" in text and "95%" in text
    assert "gaussian" not in text                              # two runs have no correlation


def test_axes_say_quantity_unit_and_the_better_direction():
    axes = plots.ll_against_bleu(frame(), "strict").axes[0]
    assert axes.get_xlabel() == ("log-likelihood of the string, “strict” (nats per token), "
                                 "better →")
    assert axes.get_ylabel() == "BLEU (0 to 100), better →"
    bits = plots.ll_against_bleu(frame(), "bits_per_char").axes[0]
    assert bits.get_xlabel().startswith("← better")


def test_few_or_no_runs_still_make_a_figure():
    two = plots.ll_against_bleu(frame(["tr_s", "ga_b"], ["raw"]), "strict")
    assert "fewer than three runs" in two.texts[0].get_text()
    assert plots.ll_against_bleu(frame().iloc[:0], "strict").axes
    with pytest.raises(ConfigError, match="unknown accounting"):
        plots.ll_against_bleu(frame(), "nats")


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
    runs = frame()
    picture, table = plots.save(plots.ll_against_bleu(runs, "strict"), "ll", runs)
    assert picture == isolated / "outputs" / "figures" / "ll.png"
    before = picture.read_bytes(), table.read_bytes()
    plots.save(plots.ll_against_bleu(runs, "strict"), "ll", runs)
    assert before == (picture.read_bytes(), table.read_bytes())
    assert b"atplotlib" not in before[0]
    assert len(pd.read_csv(table)) == 16
