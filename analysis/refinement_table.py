"""Table 3: BLEU and bounds after each refinement step; beside it the other ways to decode (07).

Everything is measured on test sentences, on the same resamples of them for every row, so that
differences have intervals of their own. Bounds are in nats per sentence: refinement keeps a
sentence's padded length, while the number of its real tokens may change from step to step.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import published
from analysis.style import finish, line, style
from analysis.tables import intervals
from lib.bleu import resample_weights, resampled_bleu, with_interval
from lib.config import model_name

__all__ = ["compact", "procedures_table", "refinement_figure", "table3", "with_published"]

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
