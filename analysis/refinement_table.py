"""Table 3: BLEU and bounds after each refinement step; beside it the other ways to decode (07).

All rows are measured on the same resamples of the test sentences. Bounds are in nats per sentence:
refinement keeps a sentence's padded length, while its real tokens may change.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import published
from analysis.style import finish, line, style
from analysis.tables import intervals
from lib.bleu import RESAMPLES, resample_weights, resampled_bleu, with_interval
from lib.config import model_name

__all__ = ["compact", "measured_on", "procedures_table", "refinement_figure", "table3",
           "with_published"]


def table3(refined: Mapping[str, pd.DataFrame], references: Sequence[str], *,
           resamples: int = RESAMPLES) -> pd.DataFrame:
    """BLEU, proxy bound and ELBO after each step, one row a model and k.

    refined: {model: `lib.evaluation.refining.refined_sentences`}, all of the same lines.
    references: the whole test set. Gains are over k = 0; changed and lowered are the shares of
    sentences whose output this step changed and whose proxy bound it lowered.
    """
    rows = []
    for model, frame in refined.items():
        steps = [step for _, step in frame.groupby("k")]
        lines, start = steps[0]["line"], steps[0]["elbo"].to_numpy()
        weights = resample_weights(len(lines), resamples)
        bleu = _bleu(frame, [step["hypothesis"].tolist() for step in steps],
                     [references[place] for place in lines], weights)
        for step, scores in zip(steps, bleu, strict=True):
            gain = step["elbo"].to_numpy() - start
            rows.append({
                "model": model, "k": int(step["k"].iloc[0]), **scores,
                "bound": (step["log_p_y"] + step["log_p_z"]).mean(), "elbo": step["elbo"].mean(),
                **with_interval("elbo_gain", gain.mean(), weights @ gain / len(gain)),
                "changed": step["changed"].mean(), "lowered": step["lowered"].mean(),
                "sentences": len(lines)})
    return pd.DataFrame(rows)


def procedures_table(outputs: Mapping[str, pd.DataFrame], references: Sequence[str], *,
                     resamples: int = RESAMPLES) -> pd.DataFrame:
    """BLEU of each model under several decoding settings, on the same sentences and resamples.

    outputs: {model: `lib.evaluation.refining.outputs_by_setting`}. Gains are over the model's first
    setting; different: the share of sentences whose hypothesis isn't that setting's; length_ratio:
    characters of the hypotheses over those of the references.
    """
    rows = []
    for model, frame in outputs.items():
        texts, lines = frame.drop(columns="line"), [references[place] for place in frame["line"]]
        bleu = _bleu(frame, [texts[name].tolist() for name in texts], lines,
                     resample_weights(len(lines), resamples))
        rows += [{"model": model, "setting": name, **scores,
                  "different": (texts[name] != texts.iloc[:, 0]).mean(),
                  "length_ratio": texts[name].map(len).sum() / max(1, sum(map(len, lines))),
                  "sentences": len(lines)} for name, scores in zip(texts, bleu, strict=True)]
    return pd.DataFrame(rows)


def _bleu(frame: pd.DataFrame, outputs: Sequence[list[str]], references: list[str],
          weights: np.ndarray) -> list[dict[str, float]]:
    """BLEU of each output and its gain over the first, with intervals over the same resamples."""
    scores = [resampled_bleu(texts, references, weights, frame.attrs.get("tokenizer", "13a"))
              for texts in outputs]
    first, first_drawn = scores[0]
    return [with_interval("bleu", bleu, drawn)
            | with_interval("bleu_gain", bleu - first, drawn - first_drawn)
            for bleu, drawn in scores]


def with_published(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """`table3` with the paper's BLEU and its gain beside ours, where it has the data set."""
    if published.column(dataset) is None:
        return table
    bleu = [[published.value(3, "bleu", dataset=dataset, model=row.model, refinement_steps=k)
             for k in (row.k, 0)] for row in table.itertuples()]
    return table.assign(published_bleu=[now for now, _ in bleu],
                        published_gain=[now - start for now, start in bleu])


def refinement_figure(table: pd.DataFrame) -> Figure:
    """BLEU and the ELBO's rise against k, a line a model, with 95% intervals over sentences."""
    figure = Figure(figsize=(9.6, 3.6))
    for axes, column, label in zip(figure.subplots(1, 2), ("bleu", "elbo_gain"), (
            "BLEU (0 to 100), better →",
            "ELBO of the output minus that at k = 0\n(nats per sentence), better →"), strict=True):
        for model, frame in table.groupby("model", sort=False):
            axes.plot(frame["k"], frame[column], **line(model), label=model_name(model))
            axes.fill_between(frame["k"], frame[f"{column}_low"], frame[f"{column}_high"],
                              color=style(model)[0], alpha=0.08, lw=0)
        finish(axes, "refinement steps k", label)
        axes.set_xticks(sorted(table["k"].unique()))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    return figure


def compact(table: pd.DataFrame) -> pd.DataFrame:
    """`table3` or `procedures_table` for reading: an interval beside its number in one column."""
    shown = intervals(table, plus=("bleu_gain", "elbo_gain"))
    gains = [name for name in ("bleu_gain", "elbo_gain") if name in shown]
    shown.loc[~table.duplicated("model"), gains] = ""  # the others are compared with it
    return shown


def measured_on(train_data: str, sentences: int, test_set: int) -> str:
    """What the rows of either table are of, as a note; sentences: 0 for the whole test set."""
    part = f"{sentences:,} of {test_set:,} test sentences, evenly spread"
    return f"Models trained on {train_data} text; " + (
        f"{part}." if 0 < sentences < test_set else "the whole test set.")
