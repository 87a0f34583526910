"""What models' samples look like, where no truth is known: scored by one another, and as text (11).

A model whose samples the other models find improbable writes what they wouldn't; one that finds its
own samples far more probable than the others do is sure of what it writes.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure

from analysis.style import style
from analysis.tables import signed
from lib.bleu import bleu
from lib.config import model_name
from lib.evaluation.own_samples import one_each

__all__ = ["REFERENCES", "matrix", "matrix_figure", "reading", "statistics"]

REFERENCES = "references"
DARK = 0.78  # of a row's range: a cell above it has white figures


def statistics(samples: Mapping[str, pd.DataFrame], references: Sequence[str],
               tokenizer: str = "13a") -> pd.DataFrame:
    """A row a model, and one of the references: what its first draws are as text.

    `sample_bleu`: of the first draw of each sentence against its reference. `self_bleu`: of the
    first against the second draw (Zhu et al. 2018, with one other draw as the reference).
    `repetition`: share of words that equal the word before. `length_ratio`: words over words of the
    references. `type_token`: different words over words, which falls with the number of words.
    """
    rows = []
    for model, frame in samples.items():
        first, again = one_each(frame), one_each(frame, 1)["text"].tolist()
        lines, texts = [references[line] for line in first["line"]], first["text"].tolist()
        rows.append({"model": model, "sentences": len(texts),
                     "sample_bleu": bleu(texts, lines, tokenizer)[0].score,
                     "self_bleu": bleu(texts, again, tokenizer)[0].score
                     if len(again) == len(texts) else np.nan, **_words(texts, lines)})
    if rows:
        rows.append({"model": REFERENCES, "sentences": len(lines), "sample_bleu": np.nan,
                     "self_bleu": np.nan, **_words(lines, lines)})
    return pd.DataFrame(rows)


def _words(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Repetition, length ratio and type-token ratio of some lines."""
    words = [text.split() for text in texts]
    count = sum(map(len, words))
    repeated = sum(a == b for row in words for a, b in pairwise(row))
    return {"repetition": repeated / max(1, count),
            "length_ratio": count / max(1, sum(len(line.split()) for line in references)),
            "type_token": len({word for row in words for word in row}) / max(1, count)}


def matrix(scores: pd.DataFrame) -> pd.DataFrame:
    """Scorer (rows) by model whose samples are scored (columns): nats per token.

    scores: rows of `own_samples.cross_scores`, of all scorers.
    """
    table = scores.pivot_table("log_likelihood", "scorer", "model", dropna=False)
    return table.reindex(index=scores["scorer"].unique(), columns=scores["model"].unique())


def reading(table: pd.DataFrame) -> str:
    """What the matrix says, in two sentences. table: of `matrix`."""
    both = [name for name in table.index if name in table.columns]
    if len(both) < 3:
        return f"{len(both)} models are too few to compare."
    square = table.loc[both, both].to_numpy(np.float64, copy=True)
    own = np.diag(square).copy()
    np.fill_diagonal(square, np.nan)
    others = np.nanmean(square, 0)  # by the other scorers, each model's; NaN: all impossible
    best, worst, sure = np.nanargmax(others), np.nanargmin(others), np.nanargmax(own - others)
    return (f"The other models find samples of {model_name(both[best])} the most probable "
            f"({signed(others[best], 2)} nats per token on average) and those of "
            f"{model_name(both[worst])} the least ({signed(others[worst], 2)}). "
            f"{model_name(both[sure])} overrates its own samples most: it gives them "
            f"{signed(own[sure], 2)}, the others {signed(others[sure], 2)}.")


def matrix_figure(table: pd.DataFrame) -> Figure:
    """The matrix as a heat map; the scale is each scorer's own row, from its worst to its best."""
    low, high = table.min(axis=1), table.max(axis=1)
    shade = table.sub(low, axis=0).div((high - low).replace(0.0, 1.0), axis=0)
    figure = Figure(figsize=(1.7 + 0.62 * table.shape[1], 1.5 + 0.52 * len(table)))
    axes = figure.subplots()
    seaborn.heatmap(shade, cmap="Greys", vmin=-0.05, vmax=1.3, cbar=False, ax=axes, fmt="",
                    annot=table.map(lambda value: signed(value, 2)),
                    annot_kws={"fontsize": 8})
    known = table.notna()
    own = np.equal.outer(table.index, table.columns)[known]
    for text, bold, dark in zip(axes.texts, own, (shade > DARK).to_numpy()[known], strict=True):
        text.set(fontweight="bold" if bold else "normal", color="white" if dark else "black")
    axes.set_xticks(axes.get_xticks(), map(model_name, table.columns), rotation=45, ha="right",
                    rotation_mode="anchor")
    axes.set_yticks(axes.get_yticks(), map(model_name, table.index), rotation=0)
    for label, name in zip([*axes.get_xticklabels(), *axes.get_yticklabels()],
                           [*table.columns, *table.index], strict=True):
        label.set_color(style(name)[0])
    axes.set(title="strict LL of samples, nats per token", xlabel="whose samples",
             ylabel="under which model (dark: highest; bold: own)")
    axes.tick_params(length=0)
    return figure
