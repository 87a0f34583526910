"""How every figure looks: one colour a family, one marker a size, the points beside each picture.

Figures are `matplotlib.figure.Figure`s that no window or notebook holds on to; `save` writes them.
Axis labels say quantity (unit) and which way is better.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lib.config import BEST_PATH, FAMILIES, family_of
from lib.paths import outputs_root, writable

__all__ = ["COLOURS", "FAINT", "INK", "family_keys", "family_name", "finish", "in_order",
           "label_ends", "line", "save", "size_keys", "style"]

COLOURS = dict(zip(FAMILIES.values(), (
    "#0072B2", "#D55E00", "#009E73", "#7B3294", "#A6761D", "#E7298A", "#444444"), strict=True))
"""One colour a family, told apart by the colour-blind as well (the first: Okabe and Ito)."""

MARKERS = {"s": "o", "b": "s", "l": "^", "d": "D"}
"""One marker a size: the last letter of a model's name (D: a deep encoder)."""

LINES = {"s": "-", "b": "--", "l": ":", "d": "-."}
INK, FAINT = "#333333", "#dddddd"
DPI = 150


def style(model: str) -> tuple[str, str]:
    """Colour and marker of a model by its name, the same in every figure."""
    other = model.startswith(BEST_PATH)  # of two models of one family and size
    return COLOURS[family_of(model)], "v" if other else MARKERS[model[-1]]


def line(model: str) -> dict:
    """How the line of a model is drawn: its colour and marker, and a dash for its size."""
    colour, marker = style(model)
    return {"color": colour, "marker": marker, "markersize": 4, "linestyle": LINES[model[-1]],
            "linewidth": 1.5}


def family_name(family: str) -> str:
    """A family's name as readers know it: "Gaussian", "DAG"."""
    return {"gaussian": "Gaussian", "dag": "DAG", "ctc": "CTC"}.get(family, family)


def in_order(families: Iterable[str]) -> list[str]:
    """Each family once, in the order of every table and figure."""
    found = set(families)
    return [family for family in COLOURS if family in found]


def family_keys(models: Iterable[str]) -> list[Line2D]:
    """Keys of a legend: the families of these models."""
    return [Line2D([], [], color=COLOURS[family], marker="o", ls="", ms=8,
                   label=family_name(family)) for family in in_order(map(family_of, models))]


def size_keys(models: Iterable[str]) -> list[Line2D]:
    """Keys of a legend: the sizes of these models."""
    sizes = {model[-1] for model in models}
    return [Line2D([], [], color="#888888", marker=marker, ls="", ms=8,
                   label=f"size {size.upper()}")
            for size, marker in MARKERS.items() if size in sizes]


def save(figure: Figure, name: str, points: pd.DataFrame) -> tuple[Path, Path]:
    """Write `outputs/figures/<name>.png` and, beside it, the plotted `points` as `<name>.csv`.

    The same figure and points give the same bytes: no date or version goes into the files.
    """
    folder = writable(outputs_root() / "figures")
    picture, table = folder / f"{name}.png", folder / f"{name}.csv"
    figure.savefig(picture, dpi=DPI, metadata={"Software": None})
    points.to_csv(table, index=False, float_format="%.6g", lineterminator="\n")
    return picture, table


def finish(axes: Axes, x_label: str, y_label: str) -> None:
    """Labels, grid and ticks as every figure here has them."""
    axes.set_xlabel(x_label, color=INK, fontsize=9)
    axes.set_ylabel(y_label, color=INK, fontsize=9)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(6))


def label_ends(axes: Axes, ends: Sequence[tuple[str, str, float]]) -> None:
    """Names right of their lines' ends, pushed apart where they would overlap.

    ends: (name, colour, y in data units) a line; without a name or a finite y none is drawn.
    """
    ends = sorted((end for end in ends if end[0] and np.isfinite(end[2])), key=lambda end: end[2])
    if not ends:
        return
    low, high = axes.get_ylim()
    height = np.array([(end[2] - low) / (high - low) for end in ends])
    for _ in range(200):                 # neighbours push one another apart
        push = np.clip(0.07 - np.diff(height), 0.0, None) / 2
        height[:-1] -= push
        height[1:] += push
    for (name, colour, _), place in zip(ends, height, strict=True):
        axes.annotate(name, (1.0, place), xycoords="axes fraction", xytext=(3, 0),
                      textcoords="offset points", color=colour, fontsize=9, va="center")
