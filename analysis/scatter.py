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

from analysis.correlation import models_table
from analysis.published import MODELS
from analysis.resampling import Resamples
from analysis.significance import ORDERS, average_seeds
from analysis.style import FAINT, FAMILY_COLOURS, INK, SIZE_MARKERS, finish, style
from lib.likelihood.accounting import accounting_named

__all__ = ["ORDER_COLOURS", "answer", "ll_against_bleu", "two_decoders"]

ORDER_COLOURS = {"agree": "#4d4d4d", "undecided": "#dedede", "disagree": "#E69F00"}
"""One colour for each way in which BLEU and likelihood can order a pair of models."""


def ll_against_bleu(frame: pd.DataFrame, accounting: str, *,
                    resamples: Resamples | None = None) -> Figure:
    """Log-likelihood against BLEU of every model of one data set, its correlations below.

    frame: rows of `correlation.collect`. resamples: of the same rows, from
    `correlation.resample_runs(frame, ...)`, for 95% intervals. A marker is a mean over seeds, the
    seeds themselves are dots; filled markers are models trained on raw, hollow ones on distilled
    text, an arrow leads from one to the other; bars are a standard error over test sentences.
    """
    caption = _caption(models_table(frame, accounting, resamples=resamples))
    below = 0.75 + 0.16 * caption.count("\n")             # inches: axis label and caption
    height = 3.7 + below
    figure = Figure(figsize=(7.2, height))
    axes = figure.add_axes((0.09, (below + 0.2) / height, 0.69, 3.3 / height))
    shown = _points(axes, frame, accounting, resamples)
    _name_points(figure, axes, shown, accounting)
    figure.legend(handles=_legend(shown), loc="upper left",
                  bbox_to_anchor=(0.785, 1 - 0.12 / height), frameon=False, fontsize=9,
                  handletextpad=0.4)
    figure.text(0.03, (below - 0.4) / height, caption, family="monospace", fontsize=7.6, va="top",
                color=INK, linespacing=1.35)
    return figure


def answer(frame: pd.DataFrame, drawn: Mapping[str, Resamples], summary: pd.DataFrame) -> Figure:
    """Under each accounting of `drawn`: every model as in `ll_against_bleu`, and below it how many
    pairs of models BLEU and likelihood order alike, within and across families.

    frame, drawn: from `correlation`. summary: of `significance.concordance`.
    """
    kinds = summary[["train_data", "scope"]].drop_duplicates()
    kinds = kinds[kinds["scope"].isin(["within", "across"])
                  & (kinds["train_data"] != "all")].to_numpy().tolist()
    tall, low = 3.6, 0.55 + 0.22 * max(1, len(kinds))
    figure = Figure(figsize=(4.3 * len(drawn) + 1.5, tall + low), layout="constrained")
    panels = figure.subplots(2, len(drawn), squeeze=False, height_ratios=(tall, low))
    drawn_points = []
    for place, (accounting, resamples) in enumerate(drawn.items()):
        top, bottom = panels[:, place]
        shown = _points(top, frame, accounting, resamples)
        drawn_points.append((top, shown, accounting))
        _orders(bottom, summary[summary["accounting"] == accounting], kinds, names=place == 0)
        quantity = accounting_named(accounting)
        top.set_xlabel(f"“{accounting}” LL ({quantity.unit}), "
                       + ("better →" if quantity.sign > 0 else "← better"))
        top.set_ylabel("" if place else top.get_ylabel())
    keys = [*_legend(shown), Line2D([], [], ls="", label=" "),
            *(Patch(color=ORDER_COLOURS[order], label=order) for order in ORDERS)]
    figure.legend(handles=keys, loc="outside right upper", frameon=False, fontsize=9,
                  handletextpad=0.4)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")          # names are placed where the axes now lie
    for axes, shown, accounting in drawn_points:
        _name_points(figure, axes, shown, accounting)
    return figure


def two_decoders(frame: pd.DataFrame, accounting: str, *, headline: Resamples | None = None,
                 mbr: Resamples | None = None) -> Figure:
    """Log-likelihood against BLEU twice, on one scale: of each run's own decoding, and of minimum
    Bayes risk, which draws from the model instead of searching it.

    frame: rows of `correlation.collect` that have a `bleu_mbr`.
    headline, mbr: resamples of the same rows, for the bars.
    """
    figure = Figure(figsize=(10.2, 3.9), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    kinds = (("each run's own decoding", frame, headline),
             ("minimum Bayes risk", frame.assign(bleu=frame["bleu_mbr"]), mbr))
    drawn = []
    for axes, (title, runs, resamples) in zip(panels, kinds, strict=True):
        drawn.append((axes, _points(axes, runs, accounting, resamples)))
        axes.set_title(title, fontsize=10, color=INK, loc="left")
    panels[1].set_ylabel("")
    figure.legend(handles=_legend(drawn[0][1]), loc="outside right upper", frameon=False,
                  fontsize=9, handletextpad=0.4)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")          # names are placed where the axes now lie
    for axes, shown in drawn:
        _name_points(figure, axes, shown, accounting)
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


def _orders(axes: Axes, summary: pd.DataFrame, kinds: Sequence[Sequence[str]], *, names: bool,
            ) -> None:
    """Bars of the shares of pairs that agree, are undecided, disagree; their counts inside."""
    found = summary.set_index(["train_data", "scope"])
    for row, (data, scope) in enumerate(kinds):
        if (data, scope) not in found.index:
            continue
        left, counts = 0.0, found.loc[(data, scope)]
        for order in ORDERS:
            share = counts[order] / counts["pairs"]
            axes.barh(row, share, left=left, height=0.8, color=ORDER_COLOURS[order])
            if counts[order]:
                axes.text(left + share / 2, row, f"{counts[order]}", ha="center", va="center",
                          fontsize=7.5, color="white" if order == "agree" else INK)
            left += share
    axes.set_yticks(range(len(kinds)), [f"{data}, {scope} families" for data, scope in kinds]
                    if names else [""] * len(kinds), fontsize=8)
    axes.set(ylim=(max(1, len(kinds)) - 0.4, -0.6), xlim=(0, 1))
    axes.set_xlabel("share of pairs of models (counts inside)", fontsize=9, color=INK)
    axes.tick_params(labelsize=8, length=0)
    axes.spines[:].set_color(FAINT)


def _name_points(figure: Figure, axes: Axes, shown: pd.DataFrame, accounting: str) -> None:
    """Each model's name once: beside its raw marker, or the only one that it has."""
    named = shown.drop_duplicates("model")         # raw comes first
    x, y = (shown[name].to_numpy(np.float64) for name in (accounting, "bleu"))
    _label_points(figure, axes, x, y,
                  dict(zip(shown.index.get_indexer(named.index).tolist(), named["model"],
                           strict=True)))


def _legend(shown: pd.DataFrame) -> list[Line2D]:
    """Keys for the families, sizes and training sets that the figure holds."""
    keys = [Line2D([], [], color=colour, marker="o", ls="", ms=8, label=family)
            for family, colour in FAMILY_COLOURS.items() if family in set(shown["family"])]
    sizes = {model[-1] for model in shown["model"]}
    keys += [Line2D([], [], color="#888888", marker=marker, ls="", ms=8,
                    label=f"size {size.upper()}")
             for size, marker in SIZE_MARKERS.items() if size in sizes]
    if "distilled" in set(shown["train_data"]):
        keys += [Line2D([], [], color="#888888", marker="o", mfc=fill, mew=1.5, ls="", ms=8,
                        label=f"{data} data")
                 for data, fill in (("raw", "#888888"), ("distilled", "white"))]
    if (shown["seeds"] > 1).any():
        keys += [Line2D([], [], color="#888888", marker=".", ls="", ms=5, label="one seed")]
    return keys


def _caption(table: pd.DataFrame) -> str:
    """The correlations as lines of text: scope, n, Pearson and Spearman with interval and p."""
    table = table[table["n"] > 2] if len(table) else table
    if table.empty:
        return "fewer than three models have this accounting: no correlation"
    names = {"all": "across families", "latent": "latent families"}
    lines = [f"{'':<27}n   {'Pearson':<35}Spearman"]
    for row in table.itertuples():
        scope = f"{row.train_data}, {names.get(row.scope, row.scope)}"
        parts = "".join(f"{_estimate(row, name):<35}" for name in ("pearson", "spearman"))
        lines.append(f"{scope:<27}{row.n:<4}{parts}".rstrip())
    resampled = table["pearson_low"].notna().any()
    lines.append("p by permutation of the models" + (
        "; brackets: 95% interval over resampled test sentences" if resampled else ""))
    return "\n".join(lines)


def _estimate(row: tuple, name: str) -> str:
    value, low = getattr(row, name), getattr(row, f"{name}_low")
    if np.isnan(value):
        return "–"
    interval = "" if np.isnan(low) else f" [{low:+.2f}, {getattr(row, f'{name}_high'):+.2f}]"
    text = f"{value:+.2f}{interval}  p = {getattr(row, f'{name}_p'):.3f}"
    return text.replace("-", "\N{MINUS SIGN}")


def _label_points(figure: Figure, axes: Axes, x: Num[np.ndarray, " n"], y: Num[np.ndarray, " n"],
                  models: Mapping[int, str]) -> None:
    """Name points (place -> model), each at that of 16 places that hides the least of points and
    names.
    """
    figure.draw_without_rendering()      # settles the axes' limits
    pixels = axes.transData.transform(np.column_stack([x, y])) if len(x) else np.empty((0, 2))
    taken = [Bbox.from_bounds(px - 8, py - 8, 16, 16) for px, py in pixels]
    frame = axes.get_window_extent()
    places = [(radius * np.cos(angle), radius * np.sin(angle)) for radius in (9, 18)
              for angle in np.pi / 4 * np.array([1, 7, 3, 5, 2, 6, 0, 4])]
    for point, model in models.items():
        best, least = None, np.inf
        for dx, dy in places:
            text = axes.annotate(MODELS[model], (x[point], y[point]), xytext=(dx, dy),
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
