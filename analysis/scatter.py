"""Log-likelihood against BLEU of all models: the figures that answer the repository's question."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy.ndimage import maximum_filter

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
from lib.config import LATENT, model_name
from lib.likelihood.accounting import accounting_named

__all__ = ["answer", "draw_systems", "ll_against_bleu", "name_points", "of_corpora"]

NEAR = 0.5  # nats a token: systems as near to the truth have a panel of their own
GRID = 0xc0  # a pixel that is darker is no grid
MARGIN, REACH = 2, 90  # pixels: free around a name; how far it may be from its marker
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
    of `systems.collect`, and what `analysis.data.ceiling` says of each. Systems that lie upon one
    another have another panel: those near the truth, where it is known, and several latent models.
    """
    corpora = []
    for (title, frame), ceiling in zip(frames.items(), ceilings, strict=True):
        corpora.append((title, frame, ceiling))
        latent = frame[frame["family"].isin(LATENT) & (frame["train_data"] == "raw")]
        if ceiling:
            mean = frame.groupby(["model", "train_data"])["strict"].transform("mean")
            corpora.append((f"{title}: within {NEAR} nats a token of the truth",
                            frame[mean > ceiling["truth"] - NEAR],
                            {name: ceiling[name] for name in ("truth", "argmax of p*")}))
        elif latent["model"].nunique() > 2:
            corpora.append((f"{title}: latent models, raw text", latent, None))
    figure, cells, place = panels(len(corpora))
    points = []
    for axes, (title, frame, ceiling) in zip(cells, corpora, strict=True):
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
    name = {"fontsize": 8, "color": INK, "xytext": (3, 0), "textcoords": "offset points"}
    for what, value in ceiling.items():
        if what != "truth":
            axes.axhline(value, **look)
            axes.annotate(what.replace(" of ", "\nof "), (1.0, value), **name,
                          va="center", xycoords=axes.get_yaxis_transform())
        elif accounting == "strict":
            axes.axvline(value, **look)
            axes.annotate(what, (value, 0.02), **name, va="bottom", rotation=90,
                          xycoords=axes.get_xaxis_transform())


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
    keys += text_keys(shown["train_data"])
    if (shown["seeds"] > 1).any():
        keys.append(key("one seed", marker=".", ms=5))
    figure.legend(handles=[*keys, *more], loc=loc, **place)


# ---- names beside points ----

def name_points(figure: Figure, drawn: Sequence[tuple[Axes, pd.DataFrame, str, str]],
                once: Sequence[str] = ("model",)) -> None:
    """Each model's name once a panel, beside its first marker, at the place near it that hides the
    least of what is drawn, other names included; from afar a line leads to the marker.

    drawn: axes, what they show (a row a marker, raw first), and its columns on x and y. once: the
    columns that tell which markers have a name of their own.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_layout_engine("none")          # names are placed where the axes now lie
    darkest = np.asarray(canvas.buffer_rgba())[::-1, :, :3].min(axis=2)
    busy = maximum_filter((darkest < GRID).astype(np.float64), 2 * MARGIN + 1)
    for axes, shown, *columns in drawn:
        named = shown.drop_duplicates(list(once))
        for model, *point in named[["model", *columns]].itertuples(index=False):
            if np.isfinite(point).all():
                _name_point(axes, model, point, busy)


def _name_point(axes: Axes, model: str, point: Sequence[float], busy: np.ndarray) -> None:
    """Write the name where it costs least, and mark its pixels and those of its line as `busy`."""
    look = {"text": model_name(model), "xy": point, "textcoords": "offset points", "fontsize": 9,
            "ha": "center", "va": "center", "color": style(model)[0]}
    probe = axes.annotate(**look, xytext=(0, 0))
    half = np.ceil(probe.get_window_extent().size / 2)
    probe.remove()
    marker, frame = axes.transData.transform(point), axes.get_window_extent()
    steps = np.arange(REACH, -REACH - 1, -2)
    offsets = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    centres = np.clip(np.round(marker + offsets), np.ceil(frame.min + half),
                      np.floor(frame.max - half))
    (left, low), (right, high) = ((centres + side * half).astype(int).T for side in (-1, 1))
    total = np.pad(busy.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    hidden = total[high, right] - total[high, left] - total[low, right] + total[low, left]
    away = np.hypot(*np.maximum(np.abs(centres - marker) - half, 0).T)
    x, y = np.linspace(marker, centres, 25).astype(int).transpose(2, 0, 1)
    crossed = busy[y, x].mean(axis=0) * away  # by a line from the marker
    # pixels: of a name over others, of its line over others (another marker would take the name)
    best = np.argmin(2 * hidden + 5 * crossed + away / 4)
    leader = {"arrowprops": {"arrowstyle": "-", "lw": 0.7, "color": look["color"], "shrinkA": 0,
                             "shrinkB": 4}} if away[best] > REACH / 5 else {}
    axes.annotate(**look, **leader, xytext=(centres[best] - marker) * 72 / axes.figure.dpi)
    busy[low[best] - 4:high[best] + 4, left[best] - 4:right[best] + 4] = 4
    if leader:
        x, y = np.linspace(marker, centres[best], 2 * REACH).astype(int).T
        busy[y, x] = 4
