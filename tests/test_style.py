"""How figures look: unique colours, names as readers know them, the same bytes every time."""

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from analysis import style
from lib.config import FAMILIES, MODELS


def test_every_family_has_a_colour_and_every_model_a_look_of_its_own():
    assert list(style.COLOURS) == list(FAMILIES.values())
    assert len(set(style.COLOURS.values())) == len(FAMILIES)
    assert len({style.style(model) for model in MODELS}) == len(MODELS)
    assert style.style("ga_b") == (style.COLOURS["gaussian"], "s")
    assert style.line("fl_l")["linestyle"] == ":"


def test_a_model_of_a_size_of_ones_own_is_drawn_and_in_the_legend():
    colour, marker = style.style("na_x")
    assert colour == style.COLOURS["independent"] and marker not in style.MARKERS.values()
    assert style.line("na_x")["marker"] == marker
    assert [key.get_label() for key in style.size_keys(["na_x", "na_b"])] == [
        "size B", "another size"]


def test_families_come_in_one_order_under_one_name():
    assert [key.get_label() for key in style.family_keys(["md_b", "ga_b", "da_b", "ga_l"])] == [
        "Gaussian", "DAG", "masked"]
    assert [key.get_label() for key in style.size_keys(["tr_b", "fl_s"])] == ["size S", "size B"]


def test_names_at_the_ends_of_lines_are_pushed_apart():
    axes = Figure().subplots()
    axes.set_ylim(0, 1)
    style.label_ends(axes, [("one", "red", 0.3, 0.5), ("two", "blue", 0.9, 0.5),
                            ("none", "red", 0.9, float("nan"))])
    shown = [child for child in axes.get_children() if isinstance(child, Annotation)]
    names = {child.get_text(): child.xyann[1] for child in shown}
    assert {child.get_text(): tuple(child.xy) for child in shown if child.arrow_patch} == {
        "one": (0.3, 0.5), "two": (0.9, 0.5)}  # where a line leads from each name
    assert sorted(names.values()) == pytest.approx([0.5 - style.NAME / 2, 0.5 + style.NAME / 2])


def test_names_stay_beside_the_axes():
    axes = Figure().subplots()
    axes.set_ylim(0, 1)
    style.label_ends(axes, [(str(number), "red", 0.0, 1.0) for number in range(4)])
    places = [child.xyann[1] for child in axes.get_children() if isinstance(child, Annotation)]
    assert places == pytest.approx([1 - 3 * style.NAME, 1 - 2 * style.NAME, 1 - style.NAME, 1.0])


def test_saved_files_repeat_to_the_byte(isolated):
    def draw():
        figure = Figure()
        figure.subplots().plot([1, 2], [3, 4])
        return figure

    points = pd.DataFrame({"x": [1, 2], "y": [3, 4]})
    picture, table = style.save(draw(), "lines", points)
    assert picture == isolated / "outputs" / "figures" / "lines.png"
    before = picture.read_bytes(), table.read_bytes()
    style.save(draw(), "lines", points)
    assert before == (picture.read_bytes(), table.read_bytes())
    assert b"atplotlib" not in before[0]
    assert len(pd.read_csv(table)) == 2


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (3, (1, 3)), (4, (2, 3)), (6, (2, 3))])
def test_panels_stand_in_rows_with_the_legend_where_there_is_room(count, shape):
    figure, cells, place = style.panels(count)
    assert len(cells) == count == sum(axes.get_visible() for axes in figure.axes)
    assert cells[0].get_gridspec().get_geometry() == shape
    legend = figure.legend(handles=[style.key("one")], **place)
    figure.draw_without_rendering()
    assert not any(legend.get_window_extent().overlaps(axes.get_tightbbox()) for axes in cells)
