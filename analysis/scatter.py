"""Log-likelihood against BLEU of all models: the figures that answer the repository's question."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox, BboxBase

from analysis.kinds import KINDS
from analysis.resampling import Resamples
from analysis.style import (
    ARROW,
    FAINT,
    INK,
    family_keys,
    finish,
    key,
    panels,
    size_keys,
    style,
    text_keys,
)
from analysis.systems import average_seeds
from lib.config import model_name
from lib.likelihood.accounting import accounting_named

__all__ = ["answer", "draw_systems", "ll_against_bleu", "name_points", "of_corpora"]

ORDER_COLOURS = {"agree": "#4d4d4d", "undecided": "#dedede", "disagree": "#E69F00"}


def ll_against_bleu(frame: pd.DataFrame, accounting: str, *, resamples: Resamples | None = None,
                    decoding: str = "") -> Figure:
    """Log-likelihood against BLEU of every model of one data set, as `draw_systems` has it.

    frame: rows of `systems.collect`. resamples: of the same rows, for the bars of BLEU. decoding:
    whose BLEU it is, where it isn't each run's own.
    """
    figure = Figure(figsize=(6.4, 4))
    axes = figure.subplots()
    shown = draw_systems(axes, frame, accounting, resamples)
    if decoding:
        axes.set_ylabel(f"BLEU of {decoding}, better →")
    _legend(figure, shown)
    name_points(figure, [(axes, shown, accounting, "bleu")])
    return figure


def answer(frame: pd.DataFrame, drawn: Mapping[str, Resamples], summary: pd.DataFrame,
           ceiling: Mapping[str, float] | None = None) -> Figure:
    """Under each accounting of `drawn`: every model as in `ll_against_bleu`, and below it how many
    pairs of models BLEU and likelihood order alike, a bar a kind of pair.

    frame: of `systems.collect`. drawn: resamples of its rows. summary: of
    `significance.concordance`. ceiling: of `analysis.data.ceiling`.
    """
    kinds = [kind for kind in KINDS if kind in set(summary["kind"])]
    tall, low = 3.6, 0.55 + 0.22 * max(1, len(kinds))
    figure = Figure(figsize=(4.3 * len(drawn) + 1.5, tall + low))
    cells = figure.subplots(2, len(drawn), squeeze=False, height_ratios=(tall, low))
    points = []
    for (top, bottom), (accounting, resamples) in zip(cells.T, drawn.items(), strict=True):
        shown = draw_systems(top, frame, accounting, resamples, ceiling)
        points.append((top, shown, accounting, "bleu"))
        _orders(bottom, summary[summary["accounting"] == accounting], kinds)
    for top, bottom in cells.T[1:]:
        top.set_ylabel("")
        bottom.set_yticklabels([])
    _legend(figure, shown, [key("LL and BLEU", marker=""), *(
        Patch(color=colour, label=order) for order, colour in ORDER_COLOURS.items())])
    name_points(figure, points)
    return figure


def of_corpora(frames: Mapping[str, pd.DataFrame],
               ceilings: Sequence[Mapping[str, float] | None]) -> Figure:
    """Strict log-likelihood against BLEU as in `ll_against_bleu`, a panel a corpus: title -> rows
    of `systems.collect`, and what `analysis.data.ceiling` says of each.
    """
    figure, cells, place = panels(len(frames))
    points = []
    for axes, (title, frame), ceiling in zip(cells, frames.items(), ceilings, strict=True):
        points.append((axes, draw_systems(axes, frame, "strict", None, ceiling), "strict", "bleu"))
        axes.set_title(title)
    _legend(figure, pd.concat([shown for _, shown, *_ in points]), **place)
    name_points(figure, points)
    return figure


def draw_systems(axes: Axes, frame: pd.DataFrame, accounting: str,
                 resamples: Resamples | None = None,
                 ceiling: Mapping[str, float] | None = None) -> pd.DataFrame:
    """Draw every system and return their rows (`systems.average_seeds`), raw first.

    A marker is a mean over seeds, the seeds themselves are dots; filled markers are models trained
    on raw, hollow ones on distilled text, an arrow leads from one to the other; bars are a standard
    error over test sentences.
    """
    quantity = accounting_named(accounting)
    systems, averaged = average_seeds(frame.reset_index(drop=True),
                                      {} if resamples is None else {accounting: resamples})
    systems = systems.assign(bleu_error=systems.get("bleu_error", 0.0) if resamples is None else
                             averaged[accounting].bleu_resampled.std(axis=0, ddof=1))
    shown = systems[systems[accounting].notna()]
    for system in shown.to_dict("records"):
        colour, marker = style(system["model"])
        fill = "white" if system["train_data"] == "distilled" else colour
        axes.errorbar(system[accounting], system["bleu"], xerr=system[f"{accounting}_error"],
                      yerr=system["bleu_error"] or None, fmt=marker, color=colour, mfc=fill,
                      mew=1.5, ms=8, elinewidth=1, zorder=3)
        if system["seeds"] > 1:
            seeds = frame[(frame["model"] == system["model"])
                          & (frame["train_data"] == system["train_data"])]
            axes.scatter(seeds[accounting], seeds["bleu"], s=9, color=colour, alpha=0.6, zorder=2)
    for model, group in shown.groupby("model", sort=False):
        ends = group.set_index("train_data")[[accounting, "bleu"]]
        if {"raw", "distilled"} <= set(ends.index):
            axes.annotate("", ends.loc["distilled"], ends.loc["raw"], zorder=1,
                          arrowprops=ARROW | {"color": style(model)[0], "alpha": 0.55})
    better = "better →" if quantity.sign > 0 else "← better"
    finish(axes, f"LL, {accounting} ({quantity.unit}), {better}", "BLEU (0 to 100), better →")
    axes.set_title(f"“{accounting}”: {quantity.label}")
    axes.margins(x=0.14, y=0.12)
    _draw_ceiling(axes, ceiling or {}, accounting)
    return shown


def _draw_ceiling(axes: Axes, ceiling: Mapping[str, float], accounting: str) -> None:
    """Lines of what the truth itself scores: BLEU, and LL where it is strict."""
    look = {"color": INK, "lw": 1, "ls": ":", "zorder": 1}
    for name, value in ceiling.items():
        if name != "truth":
            axes.axhline(value, **look)
            axes.text(0.0, value, f" {name}", transform=axes.get_yaxis_transform(), fontsize=8,
                      color=INK, va="bottom")
        elif accounting == "strict":
            axes.axvline(value, **look)
            axes.text(value, 1.0, "truth", transform=axes.get_xaxis_transform(), fontsize=8,
                      color=INK, ha="right", va="top", rotation=90)


def _orders(axes: Axes, summary: pd.DataFrame, kinds: Sequence[str]) -> None:
    """Bars of the shares of pairs that agree, are undecided, disagree; their counts inside."""
    counts = summary.groupby("kind")[list(ORDER_COLOURS)].sum().reindex(kinds, fill_value=0)
    shares = counts.div(counts.sum(axis=1), axis=0).fillna(0.0)
    left = shares.cumsum(axis=1) - shares
    for order, colour in ORDER_COLOURS.items():
        bars = axes.barh(range(len(kinds)), shares[order], left=left[order], color=colour)
        axes.bar_label(bars, [count or "" for count in counts[order]], label_type="center",
                       fontsize=7.5, color="white" if order == "agree" else INK)
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set(ylim=(max(1, len(kinds)) - 0.4, -0.6), xlim=(0, 1),
             xlabel="share of pairs of models (counts inside)")
    axes.tick_params(labelsize=8, length=0)
    axes.spines[:].set_color(FAINT)


def _legend(figure: Figure, shown: pd.DataFrame, more: Iterable[Line2D | Patch] = (), *,
            loc: str = "outside right upper", **place) -> None:
    """Keys for the families, sizes and training texts that the figure holds."""
    keys = [*family_keys(shown["model"]), *size_keys(shown["model"])]
    keys += text_keys(shown["train_data"], ls="", mew=1.5)
    if (shown["seeds"] > 1).any():
        keys.append(key("one seed", marker=".", ms=5))
    figure.legend(handles=[*keys, *more], loc=loc, **place)


# ---- names beside points ----

def name_points(figure: Figure, drawn: Sequence[tuple[Axes, pd.DataFrame, str, str]]) -> None:
    """Each model's name once a panel, beside its first marker, at that of 16 places that hides the
    least of points, names, and lines from a model's first marker to its second.

    drawn: axes, what they show (a row a marker, raw first), and its columns on x and y.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")          # names are placed where the axes now lie
    for axes, shown, *columns in drawn:
        points = shown[columns].to_numpy(np.float64)
        taken = [Bbox.from_bounds(x - 8, y - 8, 16, 16)
                 for x, y in axes.transData.transform(points)]
        for rows in shown.groupby("model").indices.values():
            ends = axes.transData.transform(points[rows[[0, -1]]])
            taken += [Bbox.from_bounds(*place - 3, 6, 6) for place in np.linspace(*ends, 24)]
        for model, point in zip(shown["model"], points, strict=True):
            if model not in {text.get_gid() for text in axes.texts}:
                taken.append(_name_point(axes, model, point, taken))


def _name_point(axes: Axes, model: str, point: np.ndarray, taken: Sequence[BboxBase]) -> BboxBase:
    """Write the name beside the point where it costs least; returns the room that it takes."""
    frame = axes.get_window_extent()
    text = axes.annotate(model_name(model), point, xytext=(0, 0), textcoords="offset points",
                         fontsize=9, va="center", color=style(model)[0], gid=model)

    def put(place: tuple[float, float]) -> BboxBase:
        text.set_position(place)
        text.set_ha("left" if place[0] > 1 else "right" if place[0] < -1 else "center")
        return text.get_window_extent()

    def cost(place: tuple[float, float]) -> float:
        box = put(place)
        hidden = sum(_overlap(box, other) for other in taken)
        return round(hidden + box.width * box.height - _overlap(box, frame), 6)

    places = [(radius * np.cos(angle), radius * np.sin(angle)) for radius in (9, 18)
              for angle in np.pi / 4 * np.array([1, 7, 3, 5, 2, 6, 0, 4])]
    return put(min(places, key=cost))


def _overlap(one: BboxBase, other: BboxBase) -> float:
    common = Bbox.intersection(one, other)
    return 0.0 if common is None else common.width * common.height
