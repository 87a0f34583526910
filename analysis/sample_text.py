"""What models' samples look like, where no truth is known: scored by one another, and as text (11).

The samples are `lib.evaluation.own_samples`'. A model whose samples the other models find
improbable writes what they wouldn't; one that finds its own samples far more probable than the
others' is sure of what it writes.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.style import INK, style
from analysis.tables import signed
from lib.bleu import bleu
from lib.config import model_name
from lib.evaluation.own_samples import one_each

__all__ = ["REFERENCES", "drawing", "matrix", "reading", "statistics"]

REFERENCES = "references"


def statistics(samples: Mapping[str, pd.DataFrame], references: Sequence[str],
               tokenizer: str = "13a") -> pd.DataFrame:
    """A row a model, and one of the references: what its first draws are as text.

    `sample_bleu`: of the first draw of each sentence against its reference. `self_bleu`: of the
    first draw against the second, high where a model writes the same again (Zhu et al. 2018, with
    one other draw as the reference); NaN with one draw a sentence. `repetition`: share of words
    that equal the word before. `length_ratio`: words over words of the references. `type_token`:
    different words over words, which falls with the number of words and is to be compared between
    rows of one table alone.
    """
    rows = []
    for model, frame in samples.items():
        first, second = one_each(frame), one_each(frame, 1)
        lines = [references[line] for line in first["line"]]
        texts = first["text"].tolist()
        again = second["text"].tolist()
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
    order = list(dict.fromkeys(scores["model"]))
    table = scores.pivot_table("log_likelihood", "scorer", "model", dropna=False)
    return table.reindex(index=list(dict.fromkeys(scores["scorer"])), columns=order)


def reading(table: pd.DataFrame) -> str:
    """What the matrix says, in two sentences. table: of `matrix`."""
    both = [name for name in table.index if name in table.columns]
    if len(both) < 3:
        return f"{len(both)} models are too few to compare."
    square = table.loc[both, both].to_numpy(np.float64)
    own = np.diag(square)
    others = (np.nansum(square, 0) - own) / (len(both) - 1)  # by the other scorers, each model's
    best, worst = np.argmax(others), np.argmin(others)
    sure = np.argmax(own - others)
    return (f"The other models find samples of {model_name(both[best])} the most probable "
            f"({signed(others[best], 2)} nats per token on average) and those of "
            f"{model_name(both[worst])} the least ({signed(others[worst], 2)}). "
            f"{model_name(both[sure])} overrates its own samples most: it gives them "
            f"{signed(own[sure], 2)}, the others {signed(others[sure], 2)}.")


def drawing(table: pd.DataFrame) -> Figure:
    """The matrix as a heat map; the scale is each scorer's own row, from its worst to its best."""
    values = table.to_numpy(np.float64)
    low, high = np.nanmin(values, 1, keepdims=True), np.nanmax(values, 1, keepdims=True)
    shade = (values - low) / np.where(high > low, high - low, 1.0)
    size = 1.5 + 0.52 * len(table)
    figure = Figure(figsize=(1.7 + 0.62 * table.shape[1], size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shade, cmap="Greys", vmin=-0.05, vmax=1.6, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        axes.text(column, row, signed(value, 2), ha="center", va="center", fontsize=8, color=INK,
                  fontweight="bold" if table.index[row] == table.columns[column] else "normal")
    axes.set_xticks(range(table.shape[1]), map(model_name, table.columns), fontsize=8.5,
                    rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(table)), map(model_name, table.index), fontsize=8.5)
    for labels, names in ((axes.get_xticklabels(), table.columns),
                          (axes.get_yticklabels(), table.index)):
        for label, name in zip(labels, names, strict=True):
            label.set_color(style(name)[0])
    axes.set_xlabel("whose samples", fontsize=9, color=INK)
    axes.set_ylabel("under which model (dark: highest; bold: own)", fontsize=9, color=INK)
    axes.set_title("strict LL of samples, nats per token", fontsize=9.5, color=INK, loc="left")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure
