"""Log-likelihood against BLEU: every run marked, every model named, pairs counted."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Annotation, Text

from analysis import scatter, significance, style
from analysis.resampling import Resamples
from lib.config import family_of
from lib.errors import ConfigError

POINTS = {"tr_s": (30, -2.0), "tr_b": (33, -1.8), "tr_l": (33.5, -1.78), "ga_b": (26, -2.4),
          "ga_l": (26.3, -2.38), "fl_s": (20, -1.7), "fl_b": (22, -1.55), "fl_l": (22.3, -1.56)}


def frame(models=tuple(POINTS), data=("raw", "distilled")):
    return pd.DataFrame([{
        "dataset": "toy", "scale": "smoke", "model": model, "family": family_of(model),
        "train_data": kind, "seed": 1, "bleu": POINTS[model][0] + 2.0 * (kind != "raw"),
        "lines": 1000, "strict": POINTS[model][1] - 0.4 * (kind != "raw"), "strict_error": 0.02,
        "bits_per_char": -POINTS[model][1], "bits_per_char_error": 0.01,
    } for kind in data for model in models])


def labels(axes):
    return [child for child in axes.get_children()
            if isinstance(child, Annotation) and child.get_text()]


def arrows(axes):
    return [child for child in axes.get_children()
            if isinstance(child, Annotation) and child.arrow_patch and not child.get_text()]


def test_every_run_is_marked_and_every_model_named():
    figure = scatter.ll_against_bleu(frame(), "strict")
    axes = figure.axes[0]
    assert len(axes.containers) == 16
    names = labels(axes)
    assert sorted(name.get_text() for name in names)[:3] == ["Fl-B", "Fl-L", "Fl-S"]
    assert len(names) == 8                                     # once a model, not once a run
    figure.draw_without_rendering()
    hollow = [bar for bar in axes.containers if bar[0].get_markerfacecolor() == "white"]
    assert len(hollow) == 8
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "autoregressive", "Gaussian", "flow", "size S", "size B", "size L", "trained on raw text",
        "trained on distilled text"]


@pytest.mark.parametrize("closer", [1.0, 20.0])
def test_a_name_hides_no_other_and_no_marker_however_near_the_models_are(closer):
    runs = frame()
    for column, middle in (("strict", -2.0), ("bleu", 27.0)):
        runs[column] = middle + (runs[column] - middle) / closer
    runs = pd.concat([runs, runs.head(1).assign(model="na_b", strict=-5.0, bleu=20.0)])
    figure = scatter.ll_against_bleu(runs, "strict")
    axes = figure.axes[0]
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(name) for name in labels(axes)]
    assert len(boxes) == 9
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    marked = [axes.transData.transform(bar[0].get_xydata()[0]) for bar in axes.containers]
    assert not any(box.x0 - 3 < x < box.x1 + 3 and box.y0 - 3 < y < box.y1 + 3
                   for box in boxes for x, y in marked)
    frame_of = axes.get_window_extent()
    assert all(frame_of.contains(*end) for box in boxes for end in (box.min, box.max))


def test_axes_say_quantity_unit_and_the_better_direction():
    axes = scatter.ll_against_bleu(frame(), "strict").axes[0]
    assert axes.get_xlabel() == "LL, strict (nats per token), better →"
    assert axes.get_title(loc="left") == "“strict”: log-likelihood of the string"
    assert axes.get_ylabel() == "BLEU (0 to 100), better →"
    bits = scatter.ll_against_bleu(frame(), "bits_per_char").axes[0]
    assert bits.get_xlabel().endswith("← better")


def test_few_or_no_runs_still_make_a_figure():
    assert len(scatter.ll_against_bleu(frame(["tr_s", "ga_b"], ["raw"]), "strict").axes) == 1
    assert scatter.ll_against_bleu(frame().iloc[:0], "strict").axes
    with pytest.raises(ConfigError, match="unknown accounting"):
        scatter.ll_against_bleu(frame(), "nats")


def test_an_arrow_leads_from_raw_to_distilled():
    axes = scatter.ll_against_bleu(frame(["tr_s", "ga_b"]), "strict").axes[0]
    drawn = {arrow.arrow_patch.get_edgecolor()[:3]: arrow for arrow in arrows(axes)}
    assert len(drawn) == 2
    ends = sorted((tuple(arrow.xyann), tuple(arrow.xy)) for arrow in drawn.values())
    np.testing.assert_allclose(ends[0], [(-2.4, 26), (-2.8, 28)])
    assert not arrows(scatter.ll_against_bleu(frame(data=("raw",)), "strict").axes[0])


def test_seeds_are_dots_around_their_mean():
    runs = frame(["tr_s"], ["raw"])
    runs = pd.concat([runs, runs.assign(seed=2, bleu=34.0, strict=-2.2)])
    axes = scatter.ll_against_bleu(runs, "strict").axes[0]
    assert len(axes.containers) == 1
    mean = axes.containers[0][0]
    assert (mean.get_xdata()[0], mean.get_ydata()[0]) == (pytest.approx(-2.1), 32.0)
    dots = [c.get_offsets() for c in axes.collections if len(c.get_offsets()) == 2]
    np.testing.assert_allclose(dots[0], [(-2.0, 30), (-2.2, 34)])


def test_the_answer_counts_pairs_below_each_scatter(isolated):
    runs = frame(["tr_s", "tr_b", "ga_b", "fl_s"], ["raw"])
    models = {"Tr-S", "Tr-B", "Ga-B", "Fl-S"}
    noise = np.random.default_rng(0).normal(0, 1e-3, (50, 4))
    drawn = {"strict": Resamples(runs["strict"].to_numpy(), runs["bleu"].to_numpy(),
                                 runs["strict"].to_numpy() + noise,
                                 runs["bleu"].to_numpy() + noise)}
    drawn["bits_per_char"] = drawn["strict"]
    pairs = significance.pairs(runs, drawn)
    summary = significance.concordance(pairs)
    figure = scatter.answer(runs, drawn, summary)
    assert len(figure.axes) == 4
    assert figure.axes[0].get_xlabel() == "LL, strict (nats per token), better →"
    assert figure.axes[0].get_title(loc="left") == "“strict”: log-likelihood of the string"
    assert figure.axes[1].get_xlabel().endswith("← better")
    bars = figure.axes[2]
    assert [tick.get_text() for tick in bars.get_yticklabels()] == [
        "autoregressive, latent", "Gaussian, flow", "within families"]
    # Tr-S and Tr-B agree. Both beat Ga-B and Fl-S in BLEU, 33 and 30 to 26 and 20, but Fl-S (-1.7)
    # has the best likelihood of all: it disagrees with three
    assert [[text.get_text() for text in container] for container in (
        bars.texts[:3], bars.texts[3:6], bars.texts[6:])] == [["2", "", "1"], [""] * 3,
                                                              ["2", "1", ""]]
    lines = scatter.answer(runs, drawn, summary, {"truth": -1.5, "argmax of p*": 34.0}).axes
    assert [text.get_text().strip() for axes in lines[:2] for text in axes.texts
            if text.get_text() not in models] == ["truth", "argmax\nof p*", "argmax\nof p*"]
    saved = style.save(figure, "answer", summary)[0].read_bytes()
    again = scatter.answer(runs, drawn, summary)
    assert style.save(again, "answer", summary)[0].read_bytes() == saved


def test_every_corpus_has_a_panel_with_its_own_ceiling():
    frames = {"one, mini": frame(["tr_s", "ga_b"], ["raw", "distilled"]),
              "toy, small": frame(["tr_s", "fl_s", "tr_b"], ["raw"])}
    figure = scatter.of_corpora(frames, [None, {"truth": -1.5, "argmax of p*": 34.0}])
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        *frames, "toy, small: within 0.5 nats a token of the truth"]
    names = [{text.get_text().strip() for text in axes.texts} - {""} for axes in figure.axes]
    truth = {"truth", "argmax\nof p*"}
    assert names == [{"Tr-S", "Ga-B"}, {"Tr-S", "Fl-S", "Tr-B"} | truth, {"Fl-S", "Tr-B"} | truth]
    assert [len(axes.containers) for axes in figure.axes] == [4, 3, 2]  # Tr-S is 0.5 below
    [legend] = figure.legends
    keys = {text.get_text(): handle for text, handle in zip(
        legend.get_texts(), legend.legend_handles, strict=True)}
    assert {"autoregressive", "Gaussian", "flow", "trained on distilled text"} <= set(keys)
    assert type(keys["size S"]) is not type(keys["trained on raw text"])  # look unlike each other


def test_latent_models_that_lie_upon_one_another_have_a_panel_of_their_own():
    several = frame(["tr_s", "ga_b", "fl_s", "fl_b"], ["raw", "distilled"])
    figure = scatter.of_corpora({"one, mini": several}, [None])
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "one, mini", "one, mini: latent models, raw text"]
    assert {text.get_text().strip() for text in figure.axes[1].texts} - {""} == {
        "Ga-B", "Fl-S", "Fl-B"}
    assert [len(axes.containers) for axes in figure.axes] == [8, 3]


def test_the_answer_of_one_model_is_a_figure_without_pairs():
    runs = frame(["ga_b"], ["raw"])
    values = np.full((10, 1), 1.0)
    drawn = {"strict": Resamples(values[0], values[0], values, values)}
    pairs = significance.pairs(runs, drawn)
    summary = significance.concordance(pairs)
    assert len(pairs) == len(summary) == 0
    assert len(scatter.answer(runs, drawn, summary).axes) == 2


def test_another_decoding_names_its_axis():
    runs = frame(data=("raw",))
    figure = scatter.ll_against_bleu(runs.assign(bleu=runs["bleu"] - 5), "strict",
                                     decoding="minimum Bayes risk")
    assert figure.axes[0].get_ylabel() == "BLEU of minimum Bayes risk, better →"
    assert len(labels(figure.axes[0])) == len(POINTS)
