"""How every figure looks: one colour a family, one marker a size, the points beside each picture.

Figures are `matplotlib.figure.Figure`s that no window or notebook holds on to; `save` writes them.
Axis labels say quantity (unit) and which way is better.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from scipy.optimize import isotonic_regression

from lib.config import BEST_PATH, FAMILIES, family_of
from lib.paths import outputs_root, writable

__all__ = ["ARROW", "COLOURS", "FAINT", "GREY", "INK", "LABELS", "PALE", "family_keys",
           "family_name", "finish", "key", "label_ends", "line", "panels", "save", "size_keys",
           "style", "text_keys"]

COLOURS = dict(zip(FAMILIES.values(), (
    "#0072B2", "#D55E00", "#009E73", "#7B3294", "#A6761D", "#E7298A", "#444444"), strict=True))
"""One colour a family, told apart by the colour-blind as well (the first: Okabe and Ito)."""

MARKERS = {"s": "o", "b": "s", "l": "^", "d": "D"}
"""One marker a size: the last letter of a model's name (D: a deep encoder)."""
OTHER = "P"  # of a size of one's own
MEANINGS = {"o": "size S", "s": "size B", "^": "size L", "D": "deep encoder", "v": "best path",
            OTHER: "another size"}

LINES = {"s": "-", "b": "--", "l": ":", "d": "-."}
INK, GREY, FAINT = "#333333", "#888888", "#dddddd"
PALE = {"alpha": 0.3, "zorder": 1}
"""What is behind the lines that are read."""
LABELS = {"dev_ll": "dev LL, strict (nats per token), better →",
          "dev_bleu": "dev BLEU (search of training), better →"}
"""What an axis of a training's numbers says, by the column of history.csv."""
ARROW = {"arrowstyle": "-|>", "lw": 1.3, "shrinkA": 6, "shrinkB": 6}
DPI = 150
NAME = 0.06  # of an axes' height that a name takes

matplotlib.rcParams.update({
    "figure.constrained_layout.use": True, "figure.labelsize": 9,
    "axes.titlelocation": "left", "axes.titlesize": 9.5, "axes.titlecolor": INK,
    "axes.labelsize": 9, "axes.labelcolor": INK, "axes.axisbelow": True,
    "xtick.labelsize": 9, "ytick.labelsize": 9, "grid.color": FAINT, "grid.linewidth": 0.6,
    "legend.frameon": False, "legend.fontsize": 9, "legend.handletextpad": 0.4})


def style(model: str) -> tuple[str, str]:
    """Colour and marker of a model by its name, the same in every figure."""
    other = model.startswith(BEST_PATH)  # of two models of one family and size
    return COLOURS[family_of(model)], "v" if other else MARKERS.get(model[-1], OTHER)


def line(model: str) -> dict:
    """How the line of a model is drawn: its colour and marker, and a dash for its size."""
    colour, marker = style(model)
    return {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.5,
            "linestyle": LINES.get(model[-1], "-")}


def family_name(family: str) -> str:
    """A family's name as readers know it: "Gaussian", "DAG"."""
    return {"gaussian": "Gaussian", "dag": "DAG", "ctc": "CTC"}.get(family, family)


# ---- keys of legends ----

def key(label: str, colour: str = GREY, marker: str = "o", **look) -> Line2D:
    """A key of a legend: a marker, or with `ls` a line."""
    return Line2D([], [], color=colour, marker=marker, label=label, **{"ls": "", "ms": 8} | look)


def family_keys(models: Iterable[str]) -> list[Line2D]:
    """The families of these models, in the order of every table and figure."""
    families = set(map(family_of, models))
    return [key(family_name(family), colour) for family, colour in COLOURS.items()
            if family in families]


def size_keys(models: Iterable[str]) -> list[Line2D]:
    """What the markers of these models mean."""
    markers = {style(model)[1] for model in models}
    return [key(meaning, marker=marker) for marker, meaning in MEANINGS.items()
            if marker in markers]


def text_keys(texts: Iterable[str], *, lines: bool = False) -> list[Line2D | Patch]:
    """The training texts, where some are distilled: filled for raw and hollow for distilled, which
    no size's marker is; or with `lines` solid and dashed.
    """
    return [key(f"trained on {text} text", marker="", ls=dash) if lines else
            Patch(facecolor=fill, edgecolor=GREY, lw=1.5, label=f"trained on {text} text")
            for text, fill, dash in (("raw", GREY, "-"), ("distilled", "white", "--"))
            ] if "distilled" in set(texts) else []


# ---- axes and files ----

def panels(count: int) -> tuple[Figure, list[Axes], dict]:
    """A figure of so many panels, at most three a row, and where its legend has room: in the last
    row, or on the right where that is full.
    """
    columns = min(3, max(1, count))
    rows = -(-count // columns) or 1
    full = rows * columns <= count
    figure = Figure(figsize=(4.0 * columns + 1.7 * full, 3.9 * rows))
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for cell in cells[count:]:
        cell.set_visible(False)
    return figure, list(cells[:count]), {"loc": "outside right upper"} if full else {
        "loc": "upper right", "bbox_to_anchor": (1.0, 0.95 / rows), "ncols": 2}


def finish(axes: Axes, x_label: str, y_label: str) -> None:
    """Labels, grid and ticks as every figure here has them."""
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True)
    axes.xaxis.set_major_locator(MaxNLocator(6))


def label_ends(axes: Axes, ends: Sequence[tuple[str, str, float, float]]) -> None:
    """Names right of the axes, as near to the height of their lines' ends as they go without an
    overlap, each with a thin line to its end.

    ends: (name, colour, x and y in data units) a line; without a finite y none is drawn.
    """
    ends = sorted((end for end in ends if np.isfinite(end[3])), key=lambda end: end[3])
    low, high = axes.get_ylim()
    room = NAME * np.arange(len(ends))  # least squares, each at least NAME above the one before
    height = np.array([(end[3] - low) / (high - low) for end in ends])
    if len(ends):
        height = np.clip(isotonic_regression(height - room).x + room, room, 1 - room[::-1])
    for (name, colour, *end), place in zip(ends, height, strict=True):
        axes.annotate(name, end, (1.04, place), textcoords="axes fraction", color=colour,
                      fontsize=9, va="center", arrowprops={
                          "arrowstyle": "-", "lw": 0.6, "color": colour, "alpha": 0.6,
                          "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 2})


def save(figure: Figure, name: str, points: pd.DataFrame) -> tuple[Path, Path]:
    """Write `outputs/figures/<name>.png` and, beside it, the plotted `points` as `<name>.csv`.

    The same figure and points give the same bytes: no date or version goes into the files.
    """
    folder = writable(outputs_root() / "figures")
    picture, table = folder / f"{name}.png", folder / f"{name}.csv"
    figure.savefig(picture, dpi=DPI, metadata={"Software": None})
    points.to_csv(table, index=False, float_format="%.6g", lineterminator="\n")
    return picture, table
