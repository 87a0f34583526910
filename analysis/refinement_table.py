"""Table 3: BLEU and bounds after each refinement step; beside it the other ways to decode (07).

All rows are measured on the same resamples of the test sentences. Bounds are in nats per sentence:
refinement keeps a sentence's padded length, while its real tokens may change. `by_steps` reads the
scores of evaluated runs, the other tables decode again.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import published
from analysis.settings import difference, scores
from analysis.style import family_keys, finish, line, panels, size_keys, style, text_keys
from analysis.tables import interval, intervals
from lib.bleu import RESAMPLES, resample_weights, resampled_bleu, with_interval
from lib.config import Evaluation, model_name

__all__ = ["by_steps", "compact", "compact_steps", "measured_on", "procedures_table",
           "refinement_figure", "steps_figure", "table3", "with_published"]

STEPS = Evaluation.refinements  # that latent runs are scored at


# ---- of evaluated runs ----

def by_steps(dataset: str, scale: str) -> pd.DataFrame:
    """BLEU after k steps, a row a latent system and k: the mean over seeds and its gain over k = 0,
    each with its 95% interval over sentences and training (`analysis.settings`).
    """
    rows = []
    for k in STEPS:
        bleu, gains = (scores(dataset, scale, f"k{k}", base).set_index(
            ["model", "train_data"], drop=False) for base in ("", "k0"))
        for model, data in gains.index:
            row = {"dataset": dataset, "scale": scale, "model": model, "train_data": data, "k": k}
            for name, table in (("bleu", bleu), ("bleu_gain", gains)):
                number = difference(table.loc[[(model, data)]])
                row |= {name: number.value, f"{name}_low": number.low, f"{name}_high": number.high}
            rows.append(row)
    return pd.DataFrame(rows)


def compact_steps(table: pd.DataFrame) -> pd.DataFrame:
    """`by_steps` for reading: a row a system, BLEU at k = 0 and the gains of more steps."""
    keys, rows = ["dataset", "scale", "model", "train_data"], []
    for (dataset, scale, model, data), steps in table.groupby(keys, sort=False):
        cells = {"corpus": f"{dataset}, {scale}", "model": model_name(model), "trained on": data}
        for step in steps.to_dict("records"):
            name, heading = ("bleu_gain", "gain at k = ") if step["k"] else ("bleu", "BLEU at k = ")
            cells[f"{heading}{step['k']}"] = interval(
                *(step[f"{name}{end}"] for end in ("", "_low", "_high")), plus=step["k"] > 0)
        rows.append(cells)
    return pd.DataFrame(rows)


def steps_figure(table: pd.DataFrame) -> Figure:
    """The gain in BLEU over k = 0 against k, a panel a (dataset, scale), with 95% intervals."""
    places = list(table.groupby(["dataset", "scale"]))
    figure, cells, room = panels(len(places))
    for axes, ((dataset, scale), of_place) in zip(cells, places, strict=True):
        for (model, data), steps in of_place.groupby(["model", "train_data"], sort=False):
            look = line(model) | {"linestyle": "-" if data == "raw" else "--"}
            axes.plot(steps["k"], steps["bleu_gain"], **look)
            axes.fill_between(steps["k"], steps["bleu_gain_low"], steps["bleu_gain_high"],
                              color=look["color"], alpha=0.06, lw=0)
        finish(axes, "refinement steps k", "BLEU minus that at k = 0, better →")
        axes.set_xticks(STEPS)
        axes.set_title(f"{dataset}, {scale}")
    figure.legend(handles=[*family_keys(table["model"]), *size_keys(table["model"]),
                           *text_keys(table["train_data"], lines=True)], **room)
    return figure


# ---- decoded again ----


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
        for step, of_step in zip(steps, bleu, strict=True):
            gain = step["elbo"].to_numpy() - start
            rows.append({
                "model": model, "k": int(step["k"].iloc[0]), **of_step,
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
