"""Log-likelihood against BLEU of all models: the figures that answer the repository's question."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Num
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox, BboxBase

from analysis.kinds import KINDS
from analysis.resampling import Resamples
from analysis.significance import ORDERS
from analysis.style import FAINT, INK, family_keys, finish, size_keys, style
from analysis.systems import average_seeds
from lib.config import model_name
from lib.likelihood.accounting import accounting_named

__all__ = ["ORDER_COLOURS", "answer", "ll_against_bleu", "name_points", "of_corpora"]

ORDER_COLOURS = {"agree": "#4d4d4d", "undecided": "#dedede", "disagree": "#E69F00"}
"""One colour for each way in which BLEU and likelihood can order a pair of models."""


def ll_against_bleu(frame: pd.DataFrame, accounting: str, *, resamples: Resamples | None = None,
                    decoding: str = "") -> Figure:
    """Log-likelihood against BLEU of every model of one data set.

    frame: rows of `systems.collect`. resamples: of the same rows, for the bars of BLEU. A marker is
    a mean over seeds, the seeds themselves are dots; filled markers are models trained on raw,
    hollow ones on distilled text, an arrow leads from one to the other; bars are a standard error
    over test sentences. decoding: whose BLEU it is, where it isn't each run's own.
    """
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    shown = _points(axes, frame, accounting, resamples)
    if decoding:
        axes.set_ylabel(f"BLEU of {decoding}, better →")
    figure.legend(handles=_legend(shown), loc="outside right upper", frameon=False, fontsize=9,
                  handletextpad=0.4)
    name_points(figure, [(axes, shown, accounting, "bleu")])
    return figure


def answer(frame: pd.DataFrame, drawn: Mapping[str, Resamples], summary: pd.DataFrame,
           ceiling: Mapping[str, float] | None = None) -> Figure:
    """Under each accounting of `drawn`: every model as in `ll_against_bleu`, and below it how many
    pairs of models BLEU and likelihood order alike, a bar a kind of pair.

    frame: of `systems.collect`. drawn: resamples of its rows. summary: of
    `significance.concordance`. ceiling: of `analysis.data.ceiling`, drawn as lines.
    """
    kinds = list(filter(set(summary["kind"]).__contains__, KINDS))
    tall, low = 3.6, 0.55 + 0.22 * max(1, len(kinds))
    figure = Figure(figsize=(4.3 * len(drawn) + 1.5, tall + low), layout="constrained")
    panels = figure.subplots(2, len(drawn), squeeze=False, height_ratios=(tall, low))
    points = []
    for place, (accounting, resamples) in enumerate(drawn.items()):
        top, bottom = panels[:, place]
        shown = _points(top, frame, accounting, resamples)
        points.append((top, shown, accounting, "bleu"))
        _ceiling(top, ceiling or {}, accounting)
        _orders(bottom, summary[summary["accounting"] == accounting], kinds, names=place == 0)
        quantity = accounting_named(accounting)
        top.set_title(f"“{accounting}”: {quantity.label}", fontsize=9.5, color=INK, loc="left")
        top.set_xlabel(f"LL ({quantity.unit}), "
                       + ("better →" if quantity.sign > 0 else "← better"))
        top.set_ylabel("" if place else top.get_ylabel())
    keys = [*_legend(shown), Line2D([], [], ls="", label="LL and BLEU"),
            *(Patch(color=ORDER_COLOURS[order], label=order) for order in ORDERS)]
    figure.legend(handles=keys, loc="outside right upper", frameon=False, fontsize=9,
                  handletextpad=0.4)
    name_points(figure, points)
    return figure


def of_corpora(frames: Mapping[str, pd.DataFrame],
               ceilings: Sequence[Mapping[str, float] | None]) -> Figure:
    """Strict log-likelihood against BLEU as in `ll_against_bleu`, a panel a corpus: title -> rows
    of `systems.collect`, and what `analysis.data.ceiling` says of each.
    """
    figure = Figure(figsize=(3.7 * len(frames) + 1.7, 4.2), layout="constrained")
    panels, points = figure.subplots(1, len(frames), squeeze=False)[0], []
    for place, (axes, (title, frame), top) in enumerate(zip(panels, frames.items(), ceilings,
                                                            strict=True)):
        shown = _points(axes, frame, "strict", None)
        points.append((axes, shown, "strict", "bleu"))
        _ceiling(axes, top or {}, "strict")
        axes.set_title(title, fontsize=9.5, color=INK, loc="left")
        axes.set_xlabel("LL, strict (nats per token), better →")
        axes.set_ylabel("" if place else axes.get_ylabel())
    figure.legend(handles=_legend(pd.concat([shown for _, shown, *_ in points])), fontsize=9,
                  loc="outside right upper", frameon=False, handletextpad=0.4)
    name_points(figure, points)
    return figure


# ---- parts ----

def _points(axes: Axes, frame: pd.DataFrame, accounting: str, resamples: Resamples | None,
            ) -> pd.DataFrame:
    """Draw a marker a system, its seeds, and the arrows; returns the systems drawn."""
    quantity = accounting_named(accounting)
    systems, averaged = average_seeds(frame.reset_index(drop=True),
                                      {} if resamples is None else {accounting: resamples})
    systems = systems.assign(bleu_error=0.0 if resamples is None else
                             averaged[accounting].bleu_resampled.std(axis=0, ddof=1))
    shown = systems[systems[accounting].notna()]
    for system in shown.to_dict("records"):
        colour, marker = style(system["model"])
        fill = "white" if system["train_data"] == "distilled" else colour
        axes.errorbar(system[accounting], system["bleu"], xerr=system[f"{accounting}_error"],
                      yerr=system["bleu_error"] or None, fmt=marker, color=colour, mfc=fill,
                      mew=1.5, ms=8, elinewidth=1, zorder=3)
        if system["seeds"] > 1:
            seeds = frame[(frame[["model", "train_data"]] == [system["model"],
                                                              system["train_data"]]).all(axis=1)]
            axes.scatter(seeds[accounting], seeds["bleu"], s=9, color=colour, alpha=0.6, zorder=2)
    for model, group in shown.groupby("model", sort=False):
        ends = group.set_index("train_data")[[accounting, "bleu"]]
        if {"raw", "distilled"} <= set(ends.index):
            axes.annotate("", ends.loc["distilled"], ends.loc["raw"], zorder=1, arrowprops={
                "arrowstyle": "-|>", "color": style(model)[0], "alpha": 0.55, "lw": 1.2,
                "shrinkA": 6, "shrinkB": 6})
    x_label = f"{quantity.label}, “{accounting}” ({quantity.unit})"
    finish(axes, f"{x_label}, better →" if quantity.sign > 0 else f"← better, {x_label}",
           "BLEU (0 to 100), better →")
    axes.margins(x=0.14, y=0.12)
    return shown


def _ceiling(axes: Axes, ceiling: Mapping[str, float], accounting: str) -> None:
    """Lines of what the truth itself scores: BLEU, and LL where it is strict."""
    for name, value in ceiling.items():
        if name == "truth":
            if accounting == "strict":
                axes.axvline(value, color=INK, lw=1, ls=":", zorder=1)
                axes.text(value, 1.0, "truth", transform=axes.get_xaxis_transform(), fontsize=8,
                          color=INK, ha="right", va="top", rotation=90)
        else:
            axes.axhline(value, color=INK, lw=1, ls=":", zorder=1)
            axes.text(0.0, value, f" {name}", transform=axes.get_yaxis_transform(), fontsize=8,
                      color=INK, va="bottom")


def _orders(axes: Axes, summary: pd.DataFrame, kinds: Sequence[str], *, names: bool) -> None:
    """Bars of the shares of pairs that agree, are undecided, disagree; their counts inside."""
    found = summary.groupby("kind")[list(ORDERS)].sum()
    for row, kind in enumerate(kinds):
        left = 0.0
        for order in ORDERS if kind in found.index else ():
            count = int(found.loc[kind, order])
            share = count / found.loc[kind].sum()
            axes.barh(row, share, left=left, height=0.8, color=ORDER_COLOURS[order])
            if count:
                axes.text(left + share / 2, row, f"{count}", ha="center", va="center",
                          fontsize=7.5, color="white" if order == "agree" else INK)
            left += share
    axes.set_yticks(range(len(kinds)), kinds if names else [""] * len(kinds), fontsize=8)
    axes.set(ylim=(max(1, len(kinds)) - 0.4, -0.6), xlim=(0, 1))
    axes.set_xlabel("share of pairs of models (counts inside)", fontsize=9, color=INK)
    axes.tick_params(labelsize=8, length=0)
    axes.spines[:].set_color(FAINT)


def _legend(shown: pd.DataFrame) -> list[Line2D]:
    """Keys for the families, sizes and training sets that the figure holds."""
    keys = [*family_keys(shown["model"]), *size_keys(shown["model"])]
    if "distilled" in set(shown["train_data"]):
        keys += [Line2D([], [], color="#888888", marker="o", mfc=fill, mew=1.5, ls="", ms=8,
                        label=f"trained on {data} text")
                 for data, fill in (("raw", "#888888"), ("distilled", "white"))]
    if (shown["seeds"] > 1).any():
        keys += [Line2D([], [], color="#888888", marker=".", ls="", ms=5, label="one seed")]
    return keys


def name_points(figure: Figure, drawn: Sequence[tuple[Axes, pd.DataFrame, str, str]]) -> None:
    """Each model's name once a panel: beside its raw marker, or the only one that it has.

    drawn: axes, what they show (a row a marker, raw first), and its columns on x and y.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")          # names are placed where the axes now lie
    for axes, shown, *columns in drawn:
        named = shown.drop_duplicates("model")         # raw comes first
        x, y = (shown[name].to_numpy(np.float64) for name in columns)
        _label_points(axes, x, y, dict(zip(shown.index.get_indexer(named.index).tolist(),
                                           named["model"], strict=True)))


def _label_points(axes: Axes, x: Num[np.ndarray, " n"], y: Num[np.ndarray, " n"],
                  models: Mapping[int, str]) -> None:
    """Name points (place -> model), each at that of 16 places that hides the least of points and
    names.
    """
    pixels = axes.transData.transform(np.column_stack([x, y])) if len(x) else np.empty((0, 2))
    taken = [Bbox.from_bounds(px - 8, py - 8, 16, 16) for px, py in pixels]
    frame = axes.get_window_extent()
    places = [(radius * np.cos(angle), radius * np.sin(angle)) for radius in (9, 18)
              for angle in np.pi / 4 * np.array([1, 7, 3, 5, 2, 6, 0, 4])]
    for point, model in models.items():
        best, least = None, np.inf
        for dx, dy in places:
            text = axes.annotate(model_name(model), (x[point], y[point]), xytext=(dx, dy),
                                 textcoords="offset points", fontsize=9, va="center",
                                 ha="left" if dx > 1 else "right" if dx < -1 else "center",
                                 color=style(model)[0])
            box = text.get_window_extent()
            cost = sum(_overlap(box, other) for other in taken)
            cost += box.width * box.height - _overlap(box, frame)
            if cost < least - 1e-6:
                if best is not None:
                    best.remove()
                best, least, place = text, cost, box
            else:
                text.remove()
        taken.append(place)


def _overlap(one: BboxBase, other: BboxBase) -> float:
    common = Bbox.intersection(one, other)
    return 0.0 if common is None else common.width * common.height
