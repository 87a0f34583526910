"""Table 3: BLEU and bounds after each refinement step; beside it the other ways to decode (07).

Everything is measured on test sentences, on the same resamples of them for every row, so that
differences have intervals of their own. Bounds are in nats per sentence: refinement keeps a
sentence's padded length, while the number of its real tokens may change from step to step.
`gains` and `gain_difference` compare evaluated runs, from their files alone.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import published
from analysis.significance import TAILS, seed_spread
from analysis.style import finish, line, style
from analysis.systems import collect, model_order
from analysis.tables import intervals
from lib.bleu import bleu_from_counts, resample_weights, resampled_bleu, with_interval
from lib.config import model_name
from lib.runs import RunFolder, find_runs

__all__ = ["compact", "gain_difference", "gains", "procedures_table", "refinement_figure", "table3",
           "with_published"]

RESAMPLES = 1000


def table3(refined: Mapping[str, pd.DataFrame], references: Sequence[str], *,
           resamples: int = RESAMPLES) -> pd.DataFrame:
    """BLEU, proxy bound and ELBO after each step, one row a model and k.

    refined: {model: `lib.evaluation.refining.refined_sentences`}, all of the same lines.
    references: the whole test set. Columns: model, k, bleu with its 95% interval, bleu_gain over
    k = 0 with its own, bound and elbo (nats per sentence), elbo_gain over k = 0 with its interval,
    and the shares of sentences whose output this step changed and whose proxy bound it lowered.
    """
    rows = []
    for model, frame in refined.items():
        by_step = [group for _, group in frame.groupby("k")]
        lines = by_step[0]["line"].to_numpy()
        some = [references[row] for row in lines]
        weights = resample_weights(len(lines), resamples)
        bleu = [resampled_bleu(group["hypothesis"].tolist(), some, weights,
                               frame.attrs.get("tokenizer", "13a")) for group in by_step]
        bounds = [weights @ group["elbo"].to_numpy() / len(lines) for group in by_step]
        for k, group in enumerate(by_step):
            nats = group["elbo"].mean()
            rows.append({
                "model": model, "k": int(group["k"].iloc[0]),
                **with_interval("bleu", *bleu[k]),
                **with_interval("bleu_gain", bleu[k][0] - bleu[0][0], bleu[k][1] - bleu[0][1]),
                "bound": (group["log_p_y"] + group["log_p_z"]).mean(), "elbo": nats,
                **with_interval("elbo_gain", nats - by_step[0]["elbo"].mean(),
                                bounds[k] - bounds[0]),
                "changed": group["changed"].mean(), "lowered": group["lowered"].mean(),
                "sentences": len(lines)})
    return pd.DataFrame(rows)


def with_published(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """`table3` with the paper's BLEU and its gain beside ours, where it has the data set."""
    def theirs(model: str, k: int) -> float:
        return published.value(3, "bleu", dataset=dataset, model=model, refinement_steps=k)

    if published.column(dataset) is None:
        return table
    return table.assign(
        published_bleu=[theirs(row.model, row.k) for row in table.itertuples()],
        published_gain=[theirs(row.model, row.k) - theirs(row.model, 0)
                        for row in table.itertuples()])


def refinement_figure(table: pd.DataFrame) -> Figure:
    """BLEU and the ELBO's rise against k, a line a model, with 95% intervals over sentences."""
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    panels = zip(figure.subplots(1, 2), ("bleu", "elbo_gain"), (
        "BLEU (0 to 100), better →",
        "ELBO of the output minus that at k = 0\n(nats per sentence), better →"), strict=True)
    for axes, column, label in panels:
        for model, frame in table.groupby("model", sort=False):
            axes.plot(frame["k"], frame[column], **line(model), label=model_name(model))
            axes.fill_between(frame["k"], frame[f"{column}_low"], frame[f"{column}_high"],
                              color=style(model)[0], alpha=0.08, lw=0)
        finish(axes, "refinement steps k", label)
        axes.set_xticks(sorted(table["k"].unique()))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def procedures_table(outputs: Mapping[str, pd.DataFrame], references: Sequence[str], *,
                     resamples: int = RESAMPLES) -> pd.DataFrame:
    """BLEU of each model under several decoding settings, on the same sentences and resamples.

    outputs: {model: `lib.evaluation.refining.outputs_by_setting`}. Columns: model, setting, bleu
    with its 95% interval, bleu_gain over the model's first setting with its own, different: the
    share of sentences whose hypothesis isn't the first setting's, and length_ratio: characters of
    the hypotheses over those of the references.
    """
    rows = []
    for model, frame in outputs.items():
        some = [references[place] for place in frame["line"]]
        weights = resample_weights(len(some), resamples)
        settings = [name for name in frame if name != "line"]
        texts = {name: frame[name].tolist() for name in settings}
        bleu = {name: resampled_bleu(texts[name], some, weights,
                                     frame.attrs.get("tokenizer", "13a")) for name in settings}
        first, drawn = bleu[settings[0]]
        rows += [{"model": model, "setting": name, **with_interval("bleu", *bleu[name]),
                  **with_interval("bleu_gain", bleu[name][0] - first, bleu[name][1] - drawn),
                  "different": np.mean([a != b for a, b in zip(texts[name], texts[settings[0]],
                                                               strict=True)]),
                  "length_ratio": sum(map(len, texts[name])) / max(1, sum(map(len, some))),
                  "sentences": len(some)} for name in settings]
    return pd.DataFrame(rows)


def compact(table: pd.DataFrame) -> pd.DataFrame:
    """`table3` or `procedures_table` for reading: an interval beside its number in one column."""
    shown = intervals(table, plus=("bleu_gain", "elbo_gain"))
    start = ~table.duplicated("model")  # has no gain: the others are compared with it
    for name in shown:
        if name.endswith("_gain") and name != "published_gain":
            shown.loc[start, name] = ""
    return shown


# ---- gains of evaluated runs, for finding 4 ----

def gains(dataset: str, scale: str) -> pd.DataFrame:
    """BLEU after four steps minus before any, a row a latent system: model, family, train_data,
    gain, low, high; `spread` over seeds (`significance.seed_spread`), and `drawn`, the gain on each
    resample of the test sentences, None where a run doesn't keep BLEU's counts.

    From metrics.json: means over seeds, the interval widened by theirs.
    """
    rows: dict[tuple, list] = {}
    for run in collect(find_runs(dataset, scale))["run"]:
        metrics = run.read_metrics()
        if {"k0", "k4"} <= set(metrics.bleu):
            refined = metrics.bleu["k4"]
            rows.setdefault((run.model, metrics.family, run.train_data), []).append((
                refined.score - metrics.bleu["k0"].score, refined.gain_low, refined.gain_high,
                _drawn_gain(run)))
    table = pd.DataFrame([(*key, *_over_seeds(of_runs)) for key, of_runs in rows.items()],
                         columns=["model", "family", "train_data", "gain", "low", "high", "spread",
                                  "drawn"])
    return table.loc[model_order(table["model"]).sort_values(kind="stable").index]


def _drawn_gain(run: RunFolder) -> np.ndarray | None:
    """The gain of a run on each resample; the draws of all runs of one test set are the same."""
    counts = run.read_bleu_counts()
    if not {"k0", "k4"} <= set(counts):
        return None
    weights = resample_weights(len(counts["k0"]), RESAMPLES)
    return bleu_from_counts(weights @ counts["k4"]) - bleu_from_counts(weights @ counts["k0"])


def _over_seeds(of_runs: list[tuple]) -> tuple[float, float, float, float, np.ndarray | None]:
    """Mean of (gain, low, high) over seeds, its interval widened by theirs; their spread, and the
    mean of the gains on every resample.
    """
    values = np.array([row[:3] for row in of_runs])
    gain, low, high = values.mean(axis=0)
    spread = seed_spread(values[:, 0].std(ddof=1), len(of_runs)) if len(of_runs) > 1 else 0.0
    drawn = [row[3] for row in of_runs]
    return (float(gain), float(gain - np.hypot(gain - low, spread)),
            float(gain + np.hypot(high - gain, spread)), spread,
            None if any(one is None for one in drawn) else np.mean(drawn, axis=0))


def gain_difference(ours: pd.DataFrame, theirs: pd.DataFrame) -> tuple[float, float, float]:
    """Mean gain of some systems minus that of others, with its 95% interval.

    On the same resamples of the test sentences, widened by the spread over seeds; where a run
    doesn't keep BLEU's counts, as if the gains were independent.
    """
    value = float(ours["gain"].mean() - theirs["gain"].mean())

    def added(halves: str) -> float:  # in quadrature, over the means of both
        return math.hypot(*(np.linalg.norm(part[halves]) / len(part) for part in (ours, theirs)))

    ours, theirs = (part.assign(half=(part["high"] - part["low"]) / 2) for part in (ours, theirs))
    half = added("half")
    if math.isnan(half) or any(part["drawn"].isna().any() for part in (ours, theirs)):
        return value, value - half, value + half
    drawn = [np.mean(list(part["drawn"]), axis=0) for part in (ours, theirs)]
    low, high = np.quantile(drawn[0] - drawn[1], TAILS)
    below, above = (math.hypot(max(0.0, side), added("spread"))
                    for side in (value - low, high - value))
    return value, float(value - below), float(value + above)
