"""The figures: one colour a family, one marker a size, and the points saved beside each picture.

Every function returns a `matplotlib.figure.Figure` that no window or notebook state holds on to;
`save` writes it. Axis labels say quantity (unit) and which way is better.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int, Num
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox, BboxBase

from lib.correlation import models_table
from lib.paths import outputs_root
from lib.published import MODELS
from lib.resampling import Resamples, accounting_named

__all__ = [
    "FAMILY_COLOURS", "LATENT_STYLES", "SIZE_MARKERS", "corpus_overview", "latent_projection",
    "latent_space", "ll_against_bleu", "save", "style", "training_curves",
]

FAMILY_COLOURS = {"autoregressive": "#0072B2", "gaussian": "#D55E00", "flow": "#009E73"}
"""One colour a family, from the palette of Okabe and Ito, told apart by the colour-blind."""

SIZE_MARKERS = {"s": "o", "b": "s", "l": "^"}
"""One marker a size: the last letter of a model's name."""

LATENT_STYLES = {
    "prior": ("#56B4E9", "o"),
    "approximate posterior": ("#CC79A7", "^"),
    "delta posterior": ("#222222", "x"),
}
"""Colour and marker of each distribution over z in the paper's Figure 1."""

FAMILIES = {"tr": "autoregressive", "ga": "gaussian", "fl": "flow"}
INK, FAINT = "#333333", "#dddddd"
DPI = 150


def style(model: str) -> tuple[str, str]:
    """Colour and marker of a model by its name, as in every figure."""
    family, _, size = model.partition("_")
    return FAMILY_COLOURS[FAMILIES[family]], SIZE_MARKERS[size]


def save(figure: Figure, name: str, points: pd.DataFrame) -> tuple[Path, Path]:
    """Write `outputs/figures/<name>.png` and, beside it, the plotted `points` as `<name>.csv`.

    The same figure and points give the same bytes: no date or version goes into the files.
    """
    folder = outputs_root() / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    picture, table = folder / f"{name}.png", folder / f"{name}.csv"
    figure.savefig(picture, dpi=DPI, metadata={"Software": None})
    points.to_csv(table, index=False, float_format="%.6g", lineterminator="\n")
    return picture, table


def ll_against_bleu(frame: pd.DataFrame, accounting: str, *,
                    resamples: Resamples | None = None) -> Figure:
    """Log-likelihood against BLEU of every run of one data set, its correlations below.

    frame: rows of `correlation.collect`. resamples: from `correlation.resample_runs(frame, ...)`,
    for 95% intervals. Filled markers are models trained on raw, hollow ones on distilled text;
    bars are a standard error of the likelihood over sentences.
    """
    quantity = accounting_named(accounting)
    frame = frame.reset_index(drop=True)
    shown = frame[frame[accounting].notna()]
    caption = _caption(models_table(frame, accounting, resamples=resamples))
    below = 0.75 + 0.16 * caption.count("\n")             # inches: axis label and caption
    height = 3.7 + below
    figure = Figure(figsize=(7.2, height))
    axes = figure.add_axes((0.09, (below + 0.2) / height, 0.69, 3.3 / height))
    columns = [shown[name] for name in ("model", "train_data", accounting, f"{accounting}_error",
                                        "bleu")]
    for model, train_data, likelihood, error, bleu in zip(*columns, strict=True):
        colour, marker = style(model)
        fill = "white" if train_data == "distilled" else colour
        axes.errorbar(likelihood, bleu, xerr=error, fmt=marker, color=colour, mfc=fill, mew=1.5,
                      ms=8, elinewidth=1, zorder=3)
    higher = quantity.sign > 0
    x_label = f"{quantity.label}, “{accounting}” ({quantity.unit})"
    _finish(axes, f"{x_label}, better →" if higher else f"← better, {x_label}",
            "BLEU (0 to 100), better →")
    axes.margins(x=0.14, y=0.12)
    _label_points(figure, axes, shown[accounting].to_numpy(), shown["bleu"].to_numpy(),
                  [MODELS[model] for model in shown["model"]],
                  [style(model)[0] for model in shown["model"]])
    figure.legend(handles=_legend(shown), loc="upper left",
                  bbox_to_anchor=(0.785, 1 - 0.12 / height), frameon=False, fontsize=9,
                  handletextpad=0.4)
    figure.text(0.03, (below - 0.4) / height, caption, family="monospace", fontsize=7.6, va="top",
                color=INK, linespacing=1.35)
    return figure


def training_curves(histories: pd.DataFrame | Mapping[str, pd.DataFrame]) -> Figure:
    """Dev log-likelihood, dev BLEU and the training loss against steps, a line a model.

    histories: history.csv of one run, or {model: history.csv} of several. With a single history
    the third panel shows every loss term of training (dashed) and dev (solid) instead.
    """
    if isinstance(histories, pd.DataFrame):
        histories = {"": histories}
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, column, label in ((left, "dev_ll", "dev LL, strict (nats per token), better →"),
                                (middle, "dev_bleu", "dev BLEU (0 to 100), better →")):
        ends = []
        for model, history in histories.items():
            points = history.dropna(subset=column)
            ends.append(_curve(axes, model, points["step"], points[column]))
        _finish(axes, "training step", label)
        _label_ends(axes, ends)
    if len(histories) == 1:
        _loss_terms(right, next(iter(histories.values())))
    else:
        ends = []
        for model, history in histories.items():
            terms = [name for name in history if name.startswith("train_")]
            if terms:
                column = "train_loss" if "train_loss" in terms else terms[0]
                points = history.dropna(subset=column)
                ends.append(_curve(right, model, points["step"], points[column]))
        _finish(right, "training step", "← better, training loss (nats per token)")
        _label_ends(right, ends)
    return figure


def latent_projection(samples: Mapping[str, Num[np.ndarray, "_n d"]], seed: int = 0,
                      ) -> pd.DataFrame:
    """All samples of one sentence in the plane: PCA to 50 dimensions, then t-SNE, fitted jointly.

    samples: {distribution: latents flattened to [n, d]}. Returns columns kind, x, y, in the order
    given. t-SNE keeps neighbourhoods, not distances: sizes of and gaps between clouds mean little.
    """
    # heavy imports, and no other figure needs them
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    stacked = np.concatenate([np.asarray(sample, np.float64) for sample in samples.values()])
    dimensions = min(50, *stacked.shape)
    reduced = PCA(dimensions, random_state=seed).fit_transform(stacked)
    perplexity = min(30.0, (len(stacked) - 1) / 3)
    plane = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)
    kinds = [kind for kind, sample in samples.items() for _ in range(len(sample))]
    return pd.DataFrame({"kind": kinds, "x": plane[:, 0], "y": plane[:, 1]})


def latent_space(points_by_model: Mapping[str, pd.DataFrame]) -> Figure:
    """The paper's Figure 1: samples of z for one sentence, a panel a model, the same colours and
    markers in all; {title: `latent_projection`'s frame}.
    """
    figure = Figure(figsize=(3.9 * len(points_by_model), 4.5), layout="compressed")
    panels = figure.subplots(1, len(points_by_model), squeeze=False)[0]
    for axes, (title, points) in zip(panels, points_by_model.items(), strict=True):
        for kind, (colour, marker) in LATENT_STYLES.items():
            cloud = points[points["kind"] == kind]
            thin = {"linewidths": 0.8} if marker == "x" else {"edgecolors": "none"}
            axes.scatter(cloud["x"], cloud["y"], s=14, c=colour, marker=marker, alpha=0.65,
                         label=kind, **thin)
        axes.set_title(title, fontsize=11, color=INK)
        axes.set(xticks=[], yticks=[], xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)")
        axes.spines[:].set_color(FAINT)
        axes.set_box_aspect(1)
    handles = [Line2D([], [], color=colour, marker=marker, ls="", ms=7, label=kind)
               for kind, (colour, marker) in LATENT_STYLES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def corpus_overview(source_lengths: Int[np.ndarray, " pairs"],
                    target_lengths: Int[np.ndarray, " pairs"], *, max_tokens: int = 64,
                    max_difference: int = 30) -> Figure:
    """Lengths of a training set in subwords, and the differences that the length predictor meets.

    max_tokens: longer pairs are left out of training. max_difference: the predictor's range.
    """
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    edges = np.arange(0.5, max(source_lengths.max(), target_lengths.max(), max_tokens) + 1.5)
    for lengths, colour, label in ((source_lengths, "#777777", "source"),
                                   (target_lengths, "#0072B2", "target")):
        left.hist(lengths, bins=edges, histtype="stepfilled", color=colour, alpha=0.45,
                  label=f"{label}, mean {lengths.mean():.1f}")
    kept = np.mean((source_lengths <= max_tokens) & (target_lengths <= max_tokens))
    left.axvline(max_tokens, color=INK, lw=1, ls="--")
    left.set_xlim(0, max(max_tokens * 1.06, np.quantile(edges, 0.5)))
    _finish(left, "sentence length (subwords)", "sentences")
    left.legend(frameon=False, fontsize=9, title=f"{kept:.1%} of pairs within {max_tokens}",
                title_fontsize=9, loc="upper right", bbox_to_anchor=(0.92, 1.0))
    difference = target_lengths - source_lengths
    inside = np.mean(np.abs(difference) <= max_difference)
    right.hist(difference, bins=np.arange(-max_difference - 5.5, max_difference + 6.5),
               color="#0072B2", alpha=0.6)
    for end in (-max_difference, max_difference):
        right.axvline(end, color=INK, lw=1, ls="--")
    _finish(right, "target minus source length (subwords)", "sentences")
    right.text(0.5, 1.02, f"{inside:.1%} within ±{max_difference}, the length predictor's range",
               transform=right.transAxes, ha="center", fontsize=9, color=INK)
    return figure


# ---------------------------------------------------------------- parts

def _finish(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label, color=INK, fontsize=9)
    axes.set_ylabel(y_label, color=INK, fontsize=9)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(6))


def _curve(axes: Axes, model: str, steps: pd.Series, values: pd.Series,
           ) -> tuple[str, str, float, float]:
    """Draw one line; returns its label, colour and end point for `_label_ends`."""
    colour, marker = style(model) if model else (INK, "o")
    axes.plot(steps, values, color=colour, marker=marker, ms=4.5, lw=1.5,
              markevery=max(1, len(steps) // 8))
    if not len(steps):
        return "", colour, np.nan, np.nan
    return MODELS.get(model, model), colour, float(steps.iloc[-1]), float(values.iloc[-1])


def _loss_terms(axes: Axes, history: pd.DataFrame) -> None:
    """Every term that has a train_ or dev_ column: one colour a term, train dashed, dev solid."""
    names = [column.partition("_")[2] for column in history
             if column.startswith(("train_", "dev_")) and column not in ("dev_ll", "dev_bleu")]
    palette = ["#333333", "#E69F00", "#56B4E9", "#CC79A7", "#F0E442", "#999999"]
    for term, colour in zip(dict.fromkeys(names), palette, strict=False):
        for split, line in (("train", "--"), ("dev", "-")):
            if f"{split}_{term}" in history:
                points = history.dropna(subset=f"{split}_{term}")
                axes.plot(points["step"], points[f"{split}_{term}"], line, color=colour, lw=1.5,
                          label=f"{term.replace('_', ' ')}, {split}")
    _finish(axes, "training step", "← better, loss terms (nats per token)")
    if names:
        axes.legend(frameon=False, fontsize=8)


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
    return keys


def _caption(table: pd.DataFrame) -> str:
    """The correlations as lines of text: scope, n, Pearson and Spearman with interval and p."""
    table = table[table["n"] > 2] if len(table) else table
    if table.empty:
        return "fewer than three runs have this accounting: no correlation"
    names = {"all": "across families", "latent": "latent families"}
    lines = [f"{'':<27}n   {'Pearson':<35}Spearman"]
    for row in table.itertuples():
        scope = f"{row.train_data}, {names.get(row.scope, row.scope)}"
        parts = "".join(f"{_estimate(row, name):<35}" for name in ("pearson", "spearman"))
        lines.append(f"{scope:<27}{row.n:<4}{parts}".rstrip())
    resampled = table["pearson_low"].notna().any()
    lines.append("p by permutation of the runs" + (
        "; brackets: 95% interval over resampled test sentences" if resampled else ""))
    return "\n".join(lines)


def _estimate(row: tuple, name: str) -> str:
    value, low = getattr(row, name), getattr(row, f"{name}_low")
    if np.isnan(value):
        return "–"
    interval = "" if np.isnan(low) else f" [{low:+.2f}, {getattr(row, f'{name}_high'):+.2f}]"
    text = f"{value:+.2f}{interval}  p = {getattr(row, f'{name}_p'):.3f}"
    return text.replace("-", "\N{MINUS SIGN}")


def _label_ends(axes: Axes, ends: Sequence[tuple[str, str, float, float]]) -> None:
    """Names right of their lines' ends, pushed apart where they would overlap.

    ends: (name, colour, x, y) a line, y in data units; without a name or a finite y none is drawn.
    """
    ends = sorted((end for end in ends if end[0] and np.isfinite(end[3])), key=lambda end: end[3])
    if not ends:
        return
    low, high = axes.get_ylim()
    height = np.array([(end[3] - low) / (high - low) for end in ends])
    for _ in range(200):                 # neighbours push one another apart
        push = np.clip(0.07 - np.diff(height), 0.0, None) / 2
        height[:-1] -= push
        height[1:] += push
    for (name, colour, _, _), place in zip(ends, height, strict=True):
        axes.annotate(name, (1.0, place), xycoords="axes fraction", xytext=(3, 0),
                      textcoords="offset points", color=colour, fontsize=9, va="center")


def _label_points(figure: Figure, axes: Axes, x: Num[np.ndarray, " n"],
                 y: Num[np.ndarray, " n"], labels: Sequence[str], colours: Sequence[str]) -> None:
    """Name each point beside it, at that of 16 places that hides the least of points and names."""
    figure.draw_without_rendering()      # settles the axes' limits
    pixels = axes.transData.transform(np.column_stack([x, y])) if len(x) else np.empty((0, 2))
    taken = [Bbox.from_bounds(px - 8, py - 8, 16, 16) for px, py in pixels]
    frame = axes.get_window_extent()
    places = [(radius * np.cos(angle), radius * np.sin(angle)) for radius in (9, 18)
              for angle in np.pi / 4 * np.array([1, 7, 3, 5, 2, 6, 0, 4])]
    for px, py, label, colour in zip(x, y, labels, colours, strict=True):
        best, least = None, np.inf
        for dx, dy in places:
            text = axes.annotate(label, (px, py), xytext=(dx, dy), textcoords="offset points",
                                 ha="left" if dx > 1 else "right" if dx < -1 else "center",
                                 va="center", color=colour, fontsize=9)
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
