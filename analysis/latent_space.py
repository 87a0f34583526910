"""Samples of z for one sentence: prior, approximate posterior, delta posterior (04, Figure 1)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Num
from matplotlib.figure import Figure

from analysis.style import FAINT, key
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

    parts, points = [], []
    for kind, sample in samples.items():
        _, first, count = np.unique(np.round(sample, SAME), axis=0, return_index=True,
                                    return_counts=True)
        points.append(np.asarray(sample, np.float64)[first])
        parts.append(pd.DataFrame({"kind": kind, "count": count}))
    stacked, table = np.concatenate(points), pd.concat(parts, ignore_index=True)
    reduced = PCA(min(50, *stacked.shape), random_state=seed).fit_transform(stacked)
    table[["x", "y"]] = TSNE(2, perplexity=min(30.0, (len(stacked) - 1) / 3), init="pca",
                             random_state=seed).fit_transform(reduced)
    return table[["kind", "x", "y", "count"]]


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
            area = (ALL_SAMPLES / cloud["count"].sum() * cloud["count"]).clip(lower=SMALLEST)
            axes.scatter(cloud["x"], cloud["y"], s=area, marker=marker, alpha=0.7, linewidths=0.9,
                         edgecolors=colour if marker == "o" else None,
                         facecolors="none" if marker == "o" else colour)
        axes.set(title=title, xticks=[], yticks=[], xlabel="t-SNE 1 (no unit)",
                 ylabel="t-SNE 2 (no unit)")
        axes.spines[:].set_color(FAINT)
        axes.margins(0.08)
    figure.legend(handles=[key(kind, colour, marker, mfc="none")
                           for kind, (colour, marker) in LOOKS.items()],
                  loc="outside lower center", ncols=3)
    return figure


def spread_table(drawn: Mapping[str, Mapping[str, np.ndarray]]) -> pd.DataFrame:
    """What the picture can't show, in the units of z: one row a model and kind.

    drawn: {model: `lib.evaluation.latents.sentence_samples`}. spread: root mean squared distance of
    the samples from their centre. from the posterior: of that centre from the approximate
    posterior's.
    """
    return pd.DataFrame([{
        "model": model, "kind": kind, "samples": len(z),
        "distinct": len(np.unique(z.round(SAME), axis=0)),
        "spread": float(np.sqrt(z.var(0).sum())),
        "from the posterior": float(np.linalg.norm(
            z.mean(0) - kinds["approximate posterior"].mean(0)))}
        for model, kinds in drawn.items() for kind, z in kinds.items()])
