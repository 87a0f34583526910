"""Samples of z for one sentence: prior, approximate posterior, delta posterior (04, Figure 1)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Num
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.style import FAINT, INK
from lib.evaluation.latents import KINDS

__all__ = ["latent_projection", "latent_space", "spread_table"]

LOOKS = dict(zip(KINDS, (("#2CA02C", "+"), ("#1F77B4", "o"), ("#D62728", "x")), strict=True))
"""Colour and marker of each distribution, as in the paper: prior green plus, approximate posterior
blue circle, delta posterior red cross."""

SAME = 3  # decimals to which two samples agree that are one point
ALL_SAMPLES, SMALLEST = 2000.0, 8.0  # square points of all marks of a kind, of one at least


def latent_projection(samples: Mapping[str, Num[np.ndarray, "_n d"]], seed: int = 0,
                      ) -> pd.DataFrame:
    """All samples of one sentence in the plane: PCA to 50 dimensions, then t-SNE, fitted jointly.

    samples: {distribution: latents flattened to [n, d]}. Returns a row a distinct point, columns
    kind, x, y and count, the samples that fall on it. t-SNE keeps neighbourhoods, not distances:
    sizes of and gaps between clouds mean little.
    """
    # heavy imports, and no other figure needs them
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    points, counts, kinds = [], [], []
    for kind, sample in samples.items():
        _, first, count = np.unique(np.round(sample, SAME), axis=0, return_index=True,
                                    return_counts=True)
        points.append(np.asarray(sample, np.float64)[first])
        counts.append(count)
        kinds += [kind] * len(first)
    stacked = np.concatenate(points)
    reduced = PCA(min(50, *stacked.shape), random_state=seed).fit_transform(stacked)
    plane = TSNE(2, perplexity=min(30.0, (len(stacked) - 1) / 3), init="pca",
                 random_state=seed).fit_transform(reduced)
    return pd.DataFrame({"kind": kinds, "x": plane[:, 0], "y": plane[:, 1],
                         "count": np.concatenate(counts)})


def latent_space(points_by_model: Mapping[str, pd.DataFrame]) -> Figure:
    """The paper's Figure 1: samples of z for one sentence, a panel a model, one below the other.

    points_by_model: {title: `latent_projection`'s frame}. Samples that fall on one point are one
    mark whose area is their number.
    """
    rows = len(points_by_model)
    figure = Figure(figsize=(5.2, 0.6 + 3.6 * rows), layout="compressed")
    panels = figure.subplots(rows, 1, squeeze=False)[:, 0]
    for axes, (title, points) in zip(panels, points_by_model.items(), strict=True):
        for kind, (colour, marker) in LOOKS.items():
            cloud = points[points["kind"] == kind]
            hollow = {"edgecolors": colour, "facecolors": "none"} if marker == "o" else {
                "c": colour}
            area = (ALL_SAMPLES / cloud["count"].sum() * cloud["count"]).clip(lower=SMALLEST)
            axes.scatter(cloud["x"], cloud["y"], s=area, marker=marker, alpha=0.7, linewidths=0.9,
                         **hollow)
        axes.set_title(title, fontsize=11, color=INK, loc="left")
        axes.set(xticks=[], yticks=[], xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)")
        axes.spines[:].set_color(FAINT)
        axes.margins(0.08)
    handles = [Line2D([], [], color=colour, marker=marker, ls="", ms=7, mfc="none", label=kind)
               for kind, (colour, marker) in LOOKS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def spread_table(drawn: Mapping[str, Mapping[str, np.ndarray]]) -> pd.DataFrame:
    """What the picture can't show, in the units of z: one row a model and kind.

    spread: root mean squared distance of the samples from their own centre. from the posterior:
    distance of that centre from the approximate posterior's. distinct: different points among the
    samples. `drawn` is {model: `lib.evaluation.latents.sentence_samples`}.
    """
    rows = []
    for model, kinds in drawn.items():
        reference = kinds["approximate posterior"].mean(0)
        for kind, z in kinds.items():
            centre = z.mean(0)
            rows.append({"model": model, "kind": kind, "samples": len(z),
                         "distinct": len(np.unique(z.round(SAME), axis=0)),
                         "spread": float(np.sqrt(np.square(z - centre).sum(1).mean())),
                         "from the posterior": float(np.linalg.norm(centre - reference))})
    return pd.DataFrame(rows)
