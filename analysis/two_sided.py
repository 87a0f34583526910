"""Both divergences between a model and the truth, and which of them predicts BLEU (11, toy alone).

Likelihood sees KL(p* || m) only; generation is nearer to KL(m || p*), which asks how much of what
the model writes the truth would write. All numbers are nats per sentence.
"""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.correlation import correlate, spearman
from analysis.scatter import name_points
from analysis.style import FAINT, INK, family_keys, finish, key, style
from analysis.tables import interval
from lib.bleu import TAILS, resample_weights, resampled_bleu
from lib.config import family_of
from lib.runs import RunFolder
from lib.synthetic import ToyTask

__all__ = ["PREDICTORS", "compact", "correlations", "divergences", "divergences_figure", "reading",
           "totals", "trainings_figure"]

PREDICTORS = {
    "likelihood": ("−KL(p* || m), what likelihood sees", -1),
    "reverse": ("−KL(m || p*) over possible strings", -1),
    "impossible": ("share of probability on possible strings", -1),
    "entropy": ("−entropy of the model", -1),
    "lost": ("−total correlation lost", -1)}
"""Column of `divergences` -> what predicts BLEU, and the sign that makes more of it better."""
BLEUS = {"bleu": "search", "bleu_mbr": "minimum Bayes risk"}


# ---- a model's samples against the truth ----

def totals(samples: pd.DataFrame, toy: ToyTask, sources: Sequence[str]) -> pd.DataFrame:
    """Sums over the draws of each sentence, a row a sentence, from which all can be resampled.

    samples: of `own_samples`. sources: of the test set. Columns: `draws`; `possible`, those that
    the truth gives some probability; `proper`, those whose log m has both bounds, with the sums
    `lower` and `upper` of them; `both`, proper and possible, with `both_lower`, `both_upper` and
    `truth`, the sum of log p*; `marginals`, the sum over positions of the entropies of the drawn
    words (plug-in, with Miller and Madow's correction); `correlation`, the truth's total
    correlation.
    """
    rows = []
    for line, part in samples.groupby("line"):
        source, count = sources[line], part["draws"].str.split().str.len().to_numpy()
        star = np.array([toy.log_prob(source, text) for text in part["text"]])
        proper = part["proper"].to_numpy() * part["upper"].notna().to_numpy()
        both = np.where(np.isfinite(star), proper, 0)
        lower, upper = (part[name].fillna(0.0).to_numpy(np.float64) for name in ("lower", "upper"))
        rows.append({
            "line": line, "draws": count.sum(), "possible": count[np.isfinite(star)].sum(),
            "proper": proper.sum(), "lower": proper @ lower, "upper": proper @ upper,
            "both": both.sum(), "both_lower": both @ lower, "both_upper": both @ upper,
            "truth": both @ np.where(np.isfinite(star), star, 0.0),
            "marginals": _marginal_entropies(part["text"].tolist(), count),
            "correlation": toy.total_correlation(source)})
    return pd.DataFrame(rows).set_index("line").astype(np.float64)


def _marginal_entropies(texts: Sequence[str], count: np.ndarray) -> float:
    """sum_t H(y_t), the end counting as a word at each position after it."""
    total = 0.0
    for words in zip_longest(*(text.split() for text in texts), fillvalue=""):
        p = pd.Series(count).groupby(list(words)).sum().to_numpy() / count.sum()
        total += -(p * np.log(p)).sum() + (len(p) - 1) / (2 * count.sum())
    return float(total)


def _measures(sums: Mapping[str, Any]) -> dict[str, Any]:
    """What the sums over sentences say; each of them a number, or an array of one a resample."""
    share = sums["possible"] / sums["draws"]
    with np.errstate(divide="ignore", invalid="ignore"):
        outside = -np.log(share)  # infinite where no draw is possible
        ends = [(sums[f"both_{end}"] - sums["truth"]) / np.maximum(sums["both"], 1) + outside
                for end in ("lower", "upper")]
        entropy = [-sums[end] / sums["proper"] for end in ("upper", "lower")]
    apart = (sums["correlation"] - sums["marginals"]) / sums["sentences"]
    return {"impossible": 1 - share, "reverse_least": ends[0], "reverse_most": ends[1],
            "entropy_least": entropy[0], "entropy_most": entropy[1],
            "lost_least": apart + entropy[0], "lost_most": apart + entropy[1],
            "reverse": np.mean(ends, 0), "entropy": np.mean(entropy, 0),
            "lost": apart + np.mean(entropy, 0), "improper": 1 - sums["proper"] / sums["draws"]}


# ---- every model ----

def divergences(runs: Mapping[str, RunFolder], summed: Mapping[str, pd.DataFrame],
                truth: Float[np.ndarray, " sentences"], references: Sequence[str],
                ) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """A row a model, and the same numbers on resamples: name -> [resamples, models].

    runs, summed: model -> its run and `totals` of its samples. truth: log p* of the references.
    Columns: `likelihood` = KL(p* || m) over the test set (an upper bound for latent models; a
    reference of probability 0 counts as the worst finite one), `reverse` = KL(m || p*) of both
    restricted to possible strings, `impossible`, the share of draws that the truth never writes,
    `entropy` of the model, `lost`: the truth's conditional total correlation minus the model's
    (Huang et al. 2022), each with its 95% interval over sentences; where log m is held between
    bounds `_least` to `_most`, their middle and the union of both intervals. `improper`: the share
    of draws that are left out of all but `impossible`; `bleu` of its search and `bleu_mbr`.
    """
    tables = {model: run.read_sentences() for model, run in runs.items()}
    weights = resample_weights(len(references))
    resampled: dict[str, list] = {}
    rows = []
    for model, run in runs.items():
        joint = tables[model]["log_prob"] + tables[model]["log_p_length"]
        gap = truth - joint.to_numpy(np.float64)
        gap = np.where(np.isfinite(gap), gap, np.nanmax(gap[np.isfinite(gap)]))
        metrics, sums = run.read_metrics(), summed[model].assign(sentences=1.0)
        again = resample_weights(len(sums)) @ sums.to_numpy()  # [resamples, sums]
        drawn = _measures(dict(zip(sums, again.T, strict=True)))
        drawn |= {"likelihood": weights @ gap / len(gap)}
        own = _measures(dict(sums.sum())) | {"likelihood": gap.mean()}
        row = {"model": model, "family": family_of(model)}
        for name in PREDICTORS:
            low, high = (_quantile(drawn.get(f"{name}_{end}", drawn[name]), tail)
                         for end, tail in zip(("least", "most"), TAILS, strict=True))
            row |= {name: own[name], f"{name}_low": low, f"{name}_high": high}
            resampled.setdefault(name, []).append(drawn[name])
        row |= {name: float(value) for name, value in own.items()
                if name.endswith(("_least", "_most")) or name == "improper"}
        rows.append(row | {"bleu": metrics.own.score,
                           "bleu_mbr": metrics.mbr.score if metrics.mbr else np.nan})
    for name, column in {"bleu": "hypothesis", "bleu_mbr": "hypothesis_mbr"}.items():
        if all(column in table for table in tables.values()):
            resampled[name] = [resampled_bleu(table[column].tolist(), references, weights)[1]
                               for table in tables.values()]
    return pd.DataFrame(rows), {name: np.stack(of, 1) for name, of in resampled.items()}


def _quantile(values: np.ndarray, tail: float) -> float:
    """A quantile of the finite values; NaN where none is."""
    finite = values[np.isfinite(values)]
    return float(np.quantile(finite, tail)) if len(finite) else np.nan


def correlations(table: pd.DataFrame, resampled: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """How well each of `PREDICTORS` ranks the models as BLEU does: a row a predictor and decoding.

    table, resampled: of `divergences`. `n` models and `families`; Spearman's rho and Kendall's tau
    with 95% intervals over resampled sentences; `ahead`, how far rho is above that of the
    likelihood, with its paired interval. Positive: what is named better goes with better BLEU.
    """
    rows = []
    for bleu, decoding in BLEUS.items():
        if bleu not in resampled:
            continue
        known = table[bleu].notna().to_numpy()
        y, y_drawn = table.loc[known, bleu].to_numpy(), resampled[bleu][:, known]
        baseline = None
        for name, (words, sign) in PREDICTORS.items():
            x = sign * table.loc[known, name].to_numpy()
            x_drawn = sign * resampled[name][:, known]
            usable = np.isfinite(x_drawn).all(1)
            row = correlate(x, y, resampled=(x_drawn[usable], y_drawn[usable]))
            rho = np.where(usable, spearman(np.nan_to_num(x_drawn), y_drawn), np.nan)
            baseline = (row["spearman"], rho) if baseline is None else baseline
            gap = (rho - baseline[1])[np.isfinite(rho - baseline[1])]
            low, high = np.quantile(gap, TAILS) if len(gap) else (np.nan, np.nan)
            rows.append({"decoding": decoding, "predictor": name, "words": words,
                         "families": table.loc[known, "family"].nunique(), **row,
                         "ahead": row["spearman"] - baseline[0], "ahead_low": float(low),
                         "ahead_high": float(high)})
    ranked = pd.DataFrame(rows)
    return ranked.drop(columns=[name for name in ranked if name.startswith("pearson")])


def reading(table: pd.DataFrame) -> str:
    """What the correlations say, a sentence a decoding. table: of `correlations`."""
    lines = []
    for decoding, part in table.groupby("decoding", sort=False):
        n, families = int(part["n"].iloc[0]), int(part["families"].iloc[0])
        if n < 4:
            lines.append(f"BLEU of {decoding}: {n} models are too few to rank predictors.")
            continue
        base = part.loc[part["predictor"] == "likelihood", "spearman"].iloc[0]
        better, worse = part[part["ahead_low"] > 0], (part["ahead_high"] < 0).sum()
        if len(better):
            best = better.loc[better["spearman"].idxmax()]
            answer = (f"; {best['words']} ranks them better, ρ = {best['spearman']:.2f} (ahead by "
                      f"{best['ahead']:.2f} [{best['ahead_low']:.2f}, {best['ahead_high']:.2f}], "
                      f"over sentences, not trainings). It is the best of {len(part) - 1} other "
                      "measures, picked from this very table: a lead to test elsewhere, not a "
                      "result.")
        else:
            answer = (", and no other measure ranks them better by more than resampled sentences "
                      "explain" + (f"; {worse} rank them worse." if worse else "."))
        lines.append(f"BLEU of {decoding}: likelihood ranks the {n} models with ρ = {base:.2f}"
                     f"{answer} {n} models of {families} families aren't {n} independent cases.")
    return " ".join(lines) or "No run here has samples."


def compact(table: pd.DataFrame) -> pd.DataFrame:
    """`correlations` of several texts and seeds for reading: a row a text, decoding and seed, a
    column a measure. table: with the columns `dataset`, `scale`, `train_data` and `seed`.
    """
    rows = []
    for (dataset, scale, data, decoding, seed), part in table.groupby(
            ["dataset", "scale", "train_data", "decoding", "seed"], sort=False):
        rhos = part.set_index("predictor")[["spearman", "spearman_low", "spearman_high"]]
        rows.append({"corpus": f"{dataset}, {scale}", "trained on": data, "BLEU of": decoding,
                     "seed": seed, "models": part["n"].iloc[0]} | {
            words: interval(*rhos.loc[name], digits=2) for name, (words, _) in PREDICTORS.items()})
    return pd.DataFrame(rows)


# ---- the figures ----

def trainings_figure(table: pd.DataFrame) -> Figure:
    """How each measure ranks the models as BLEU does, a panel a text, a mark a training of all
    models with one seed: filled of search, hollow of minimum Bayes risk. table: as `compact`'s.
    """
    texts = list(dict.fromkeys(table["train_data"]))
    figure = Figure(figsize=(1.6 + 3.6 * len(texts), 3.4))
    panels = figure.subplots(1, len(texts), squeeze=False, sharey=True)[0]
    for axes, data in zip(panels, texts, strict=True):
        here = table[table["train_data"] == data]
        for place, (_, of) in enumerate(here.groupby("decoding", sort=False)):
            for each, (_, part) in enumerate(of.groupby("seed")):
                shift = 0.3 * place - 0.15 + 0.07 * each
                _draw_ranks(axes, part, shift, 1.0, 5.0, hollow=place > 0)
        _finish_ranks(axes)
        axes.set_title(f"trained on {data} text")
    figure.legend(handles=_decodings(), loc="outside lower center", ncols=2)
    return figure


def _draw_ranks(axes: Axes, ranked: pd.DataFrame, shift: float, width: float, size: float, *,
                hollow: bool) -> None:
    """One decoding's rho of each measure with its interval, a row a measure."""
    y = ranked["predictor"].map(list(PREDICTORS).index) + shift
    axes.hlines(y, ranked["spearman_low"], ranked["spearman_high"], color=INK, lw=width)
    axes.plot(ranked["spearman"], y, "o", color=INK, mfc="white" if hollow else INK, ms=size)


def _finish_ranks(axes: Axes) -> None:
    """The measures by name, and all that rho can be."""
    finish(axes, "Spearman's ρ with BLEU", "")
    axes.set_yticks(range(len(PREDICTORS)), [textwrap.fill(words, 24)
                                             for words, _ in PREDICTORS.values()])
    axes.axvline(0, color=FAINT, lw=1)
    axes.set(ylim=(len(PREDICTORS) - 0.5, -0.5), xlim=(-1.05, 1.05))


def _decodings() -> list[Line2D]:
    return [key(f"BLEU of {decoding}", INK, mfc=fill, ms=6)
            for decoding, fill in zip(BLEUS.values(), (INK, "white"), strict=True)]


def divergences_figure(table: pd.DataFrame, ranked: pd.DataFrame) -> Figure:
    """Left: both divergences of every model. Right: how each measure ranks the models as BLEU does,
    filled of search, hollow of minimum Bayes risk.

    table: of `divergences`; ranked: of `correlations`.
    """
    figure = Figure(figsize=(9.6, 4.4))
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    for row in table.itertuples():
        colour, marker = style(row.model)
        left.errorbar(row.likelihood, row.reverse, fmt=marker, color=colour, ms=7, elinewidth=1,
                      xerr=[[row.likelihood - row.likelihood_low],
                            [row.likelihood_high - row.likelihood]],
                      yerr=[[row.reverse - row.reverse_low], [row.reverse_high - row.reverse]])
    finish(left, "KL(p* || m), nats per sentence, ← better",
           "KL(m || p*) over possible strings,\nnats per sentence, ← better")
    left.margins(0.12)
    for place, (_, part) in enumerate(ranked.groupby("decoding", sort=False)):
        _draw_ranks(right, part, 0.2 * place - 0.1, 1.2, 6.0, hollow=place > 0)
    _finish_ranks(right)
    figure.legend(handles=[*family_keys(table["model"]), *_decodings()],
                  loc="outside lower center", ncols=5)
    name_points(figure, [(left, table, "likelihood", "reverse")])
    return figure
