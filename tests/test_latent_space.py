"""Figure 1: one mark a point, the paper's colours, distances in the units of z."""

import numpy as np
import pandas as pd

from analysis import latent_space
from lib.evaluation.latents import KINDS

LATENTS = {"prior": np.array([[0.0, 0.0], [0.0, 2.0]]),
           "approximate posterior": np.array([[3.0, 1.0], [3.0, 1.0]]),
           "delta posterior": np.array([[3.0, 5.0], [3.0, 5.0]])}


def cloud():
    """20 samples of each kind, of the delta posterior 15 on one point."""
    rng = np.random.default_rng(0)
    samples = {kind: rng.normal(3 * i, 1.0, (20, 12)) for i, kind in enumerate(KINDS)}
    samples["delta posterior"][5:] = samples["delta posterior"][0]
    return samples


def test_samples_on_one_point_are_one_mark():
    points = latent_space.latent_projection(cloud(), seed=1)
    assert points.groupby("kind")["count"].sum().to_dict() == dict.fromkeys(KINDS, 20)
    delta = points[points["kind"] == "delta posterior"]["count"]
    assert sorted(delta) == [1, 1, 1, 1, 16]
    pd.testing.assert_frame_equal(points, latent_space.latent_projection(cloud(), seed=1))


def test_the_figure_has_the_papers_marks_and_areas_that_grow_with_the_number():
    points = latent_space.latent_projection(cloud())
    figure = latent_space.latent_space({"Ga-B": points, "Fl-B": points})
    upper, lower = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Ga-B", "Fl-B"]
    assert upper.get_position().y0 > lower.get_position().y0
    looks = {kind: (colour, marker) for kind, (colour, marker) in latent_space.LOOKS.items()}
    assert [marker for _, marker in looks.values()] == ["+", "o", "x"]  # green, blue, red
    areas = upper.collections[2].get_sizes()
    assert areas.max() == 16 * areas.min()
    assert len(figure.legends[0].get_texts()) == 3


def test_spread_is_in_the_units_of_z():
    table = latent_space.spread_table({"ga_b": LATENTS}).set_index("kind")
    assert table["spread"].tolist() == [1.0, 0.0, 0.0]
    assert table["from the posterior"].tolist() == [3.0, 0.0, 4.0]
    assert table["distinct"].tolist() == [2, 1, 1]
