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

from analysis.published import MODELS
from lib.paths import outputs_root, writable

__all__ = [
    "FAMILY_COLOURS", "LATENT_STYLES", "SIZE_MARKERS", "corpus_overview", "finish",
    "latent_projection", "latent_space", "save", "style", "training_curves",
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
    folder = writable(outputs_root() / "figures")
    picture, table = folder / f"{name}.png", folder / f"{name}.csv"
    figure.savefig(picture, dpi=DPI, metadata={"Software": None})
    points.to_csv(table, index=False, float_format="%.6g", lineterminator="\n")
    return picture, table


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
        finish(axes, "training step", label)
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
        finish(right, "training step", "← better, training loss (nats per token)")
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
    finish(left, "sentence length (subwords)", "sentences")
    left.legend(frameon=False, fontsize=9, title=f"{kept:.1%} of pairs within {max_tokens}",
                title_fontsize=9, loc="upper right", bbox_to_anchor=(0.92, 1.0))
    difference = target_lengths - source_lengths
    inside = np.mean(np.abs(difference) <= max_difference)
    right.hist(difference, bins=np.arange(-max_difference - 5.5, max_difference + 6.5),
               color="#0072B2", alpha=0.6)
    for end in (-max_difference, max_difference):
        right.axvline(end, color=INK, lw=1, ls="--")
    finish(right, "target minus source length (subwords)", "sentences")
    right.text(0.5, 1.02, f"{inside:.1%} within ±{max_difference}, the length predictor's range",
               transform=right.transAxes, ha="center", fontsize=9, color=INK)
    return figure


# ---------------------------------------------------------------- parts

def finish(axes: Axes, x_label: str, y_label: str) -> None:
    """Labels, grid and ticks as every figure here has them."""
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
    finish(axes, "training step", "← better, loss terms (nats per token)")
    if names:
        axes.legend(frameon=False, fontsize=8)


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
