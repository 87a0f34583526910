"""Table 3: BLEU and bounds after each refinement step; and beside it the other ways to decode.

Everything is measured on test sentences, on the same resamples of them for every row, so that
differences have intervals of their own. Bounds are in nats per sentence: refinement keeps a
sentence's padded length, while the number of its real tokens may change from step to step.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from analysis import published
from analysis.style import style
from analysis.tables import interval
from lib import runtime
from lib.batching import collate, evaluation_batches
from lib.bleu import resample_weights, resampled_bleu, with_interval
from lib.decoding import Options, candidates
from lib.decoding.refinement import trace
from lib.errors import ConfigError
from lib.evaluation.scoring import TrainedRun
from lib.likelihood import elbo
from lib.runs import RunFolder
from lib.training.validation import translate

__all__ = ["compact", "latent_models", "procedures_table", "read_best", "read_gains",
           "refined_sentences", "refinement_figure", "some_lines", "table3"]

TOKENS = 1024  # of the longest side, with padding, that are decoded together
RESAMPLES = 1000


def latent_models(dataset: str, scale: str, train_data: str = "raw", seed: int = 1) -> list[str]:
    """The latent models that have a checkpoint, in the paper's order.

    Errors: ConfigError where there is none.
    """
    names = [name for name in published.MODELS if not name.startswith("tr_")]
    found = [name for name in names
             if RunFolder(dataset, scale, name, train_data, seed).best.exists()]
    if not found:
        raise ConfigError(f"no latent model of {dataset}/{scale} is trained on {train_data} data: "
                          f"papermill notebooks/02_train.ipynb OUT.ipynb -p model ga_b -p dataset "
                          f"{dataset} -p scale {scale}")
    return found


def some_lines(lines: int, count: int) -> np.ndarray:
    """`count` line numbers spread evenly over a test set; all of them where count is 0."""
    if count <= 0 or count >= lines:
        return np.arange(lines)
    return np.linspace(0, lines - 1, count).astype(np.int64)


# ---- Table 3 ----

@torch.no_grad()
def refined_sentences(run: TrainedRun, steps: int, *, samples: int = 10, sentences: int = 0,
                      seed: int = 0, progress: bool = True) -> pd.DataFrame:
    """Every test sentence (or `sentences` of them) after every step 0 ... `steps`, in fp32.

    Columns: line, k, hypothesis; in nats per sentence log_p_y and log_p_z, whose sum is the proxy
    bound, and elbo, the evidence lower bound of log p(y, T|x) of the hypothesis itself by `samples`
    draws; changed and lowered: whether this step changed the output, and lowered the proxy bound.
    """
    model, rows = run.model, []
    where = next(model.parameters()).device
    lines = some_lines(len(run.task.test), sentences)
    data = run.task.test.take(lines)
    groups = evaluation_batches(data, TOKENS // 2, model.multiple)
    with runtime.autocast("fp32", where):
        for group in tqdm(groups, desc=f"refinement, {run.config.model}", disable=not progress,
                          leave=False):
            batch = collate(data, group, model.multiple).to(where)
            source, mask = batch.source, batch.source_mask
            found = trace(model, source, mask, steps)
            strings = [list(of) for of in zip(*found.hypotheses, strict=True)]
            bounds = candidates.importance_scores(model, source, mask, model.encode(source, mask),
                                                  strings, samples, seed, elbo)
            columns = {"log_p_y": found.log_p_y, "log_p_z": found.log_p_z, "elbo": bounds.T,
                       "changed": found.changed, "lowered": found.lowered}
            columns = {name: values.cpu().numpy() for name, values in columns.items()}
            for k, ids in enumerate(found.hypotheses):
                texts = run.task.vocabulary.decode(ids)
                rows += [{"line": int(lines[row]), "k": k, "hypothesis": text}
                         | {name: values[k, place].item() for name, values in columns.items()}
                         for place, (row, text) in enumerate(zip(group, texts, strict=True))]
    table = pd.DataFrame(rows).sort_values(["k", "line"], ignore_index=True)
    table.attrs["tokenizer"] = run.config.dataset.bleu_tokenizer
    return table


def table3(refined: Mapping[str, pd.DataFrame], references: Sequence[str], *,
           resamples: int = RESAMPLES) -> pd.DataFrame:
    """BLEU, proxy bound and ELBO after each step, one row a model and k.

    refined: {model: `refined_sentences`}, all of the same lines. references: the whole test set.
    Columns: model, k, bleu with its 95% interval, bleu_gain over k = 0 with its own, bound and elbo
    (nats per sentence), elbo_gain over k = 0 with its interval, and the shares of sentences whose
    output this step changed and whose proxy bound it lowered. Where the paper's table is
    transcribed, published_bleu and published_elbo.
    """
    theirs, rows = published.table3(), []
    for model, frame in refined.items():
        by_step = [group for _, group in frame.groupby("k")]
        lines = by_step[0]["line"].to_numpy()
        some = [references[line] for line in lines]
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
                "sentences": len(lines),
                **{f"published_{metric}": published.value(theirs, model=model, setting=f"k{k}",
                                                          metric=metric)
                   for metric in ("bleu", "elbo")}})
    table = pd.DataFrame(rows)
    return table.dropna(axis=1, how="all")


def read_gains(table: pd.DataFrame, k: int) -> str:
    """What `k` steps did, in a sentence a model."""
    told = []
    for row in table[table["k"] == k].itertuples():
        last = table[(table["model"] == row.model) & (table["k"] == table["k"].max())].iloc[0]
        fell = table.loc[table["model"] == row.model].set_index("k")["lowered"]
        told.append(
            f"{published.MODELS[row.model]}: {k} steps change BLEU by "
            f"{_told(row, 'bleu_gain')} and the ELBO of "
            f"the output by {_told(row, 'elbo_gain')} nats "
            f"a sentence. The first step lowers the proxy bound of {fell.get(1, 0.0):.0%} of the "
            f"sentences, step {int(last['k'])} that of {last['lowered']:.0%}; it still changes "
            f"{last['changed']:.0%} of the outputs.")
    return "\n\n".join(told)


def refinement_figure(table: pd.DataFrame) -> Figure:
    """BLEU and the ELBO's rise against k, a line a model, with 95% intervals over sentences."""
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    panels = zip(figure.subplots(1, 2), ("bleu", "elbo_gain"), (
        "BLEU (0 to 100), better →",
        "ELBO of the output minus that at k = 0\n(nats per sentence), better →"), strict=True)
    for axes, column, label in panels:
        for model, frame in table.groupby("model", sort=False):
            colour, marker = style(model)
            axes.plot(frame["k"], frame[column], color=colour, marker=marker, ms=5, lw=1.5,
                      label=published.MODELS[model])
            axes.fill_between(frame["k"], frame[f"{column}_low"], frame[f"{column}_high"],
                              color=colour, alpha=0.08, lw=0)
        axes.set_xlabel("refinement steps k")
        axes.set_ylabel(label)
        axes.set_xticks(sorted(table["k"].unique()))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dddddd", lw=0.6)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


# ---- other procedures ----

def procedures_table(run: TrainedRun, settings: Sequence[str], *, teacher: TrainedRun | None = None,
                     sentences: int = 0, seed: int = 0, resamples: int = RESAMPLES,
                     progress: bool = True) -> pd.DataFrame:
    """BLEU of a run under several decoding settings, on the same sentences and resamples.

    Columns: model, setting, bleu with its 95% interval, bleu_gain over the first setting with its
    own, different: the share of sentences whose hypothesis isn't the first setting's, and
    length_ratio: characters of the hypotheses over those of the references.
    """
    lines = some_lines(len(run.task.test), sentences)
    references = [run.task.references("test")[line] for line in lines]
    where = next(run.model.parameters()).device
    with runtime.autocast(run.config.training.precision, where):
        options = Options(run.config.evaluation.length_penalty, seed,
                          None if teacher is None else teacher.model)
        found = translate(run.model, run.task.test.take(lines), run.task.vocabulary, settings,
                          options, progress=f"{run.config.model}, {len(settings)} settings"
                          if progress else None)
    weights, rows = resample_weights(len(lines), resamples), []
    for setting in settings:
        texts = found[setting]
        bleu, drawn = resampled_bleu(texts, references, weights,
                                     run.config.dataset.bleu_tokenizer)
        if not rows:
            first, first_drawn, first_texts = bleu, drawn, texts
        rows.append({"model": run.config.model, "setting": setting,
                     **with_interval("bleu", bleu, drawn),
                     **with_interval("bleu_gain", bleu - first, drawn - first_drawn),
                     "different": np.mean([a != b for a, b in zip(texts, first_texts,
                                                                   strict=True)]),
                     "length_ratio": sum(map(len, texts)) / max(1, sum(map(len, references))),
                     "sentences": len(lines)})
    return pd.DataFrame(rows)


def read_best(table: pd.DataFrame) -> str:
    """Each model's best setting of `procedures_table`, in a sentence."""
    told = []
    for model, frame in table.groupby("model", sort=False):
        best, first = frame.loc[frame["bleu"].idxmax()], frame.iloc[0]
        gain = "" if best["setting"] == first["setting"] else (
            f", {_told(best, 'bleu_gain')} over {first['setting']}")
        told.append(f"{published.MODELS[model]} translates best with {best['setting']} "
                    f"({best['bleu']:.1f} BLEU{gain})")
    return "; ".join(told) + ". The best of several looks better than it is."


# ---- parts ----

def compact(table: pd.DataFrame) -> pd.DataFrame:
    """`table3` or `procedures_table` for reading: an interval beside its number in one column."""
    shown = table.assign(model=table["model"].map(published.MODELS))
    start = ~table.duplicated("model")  # has no gain: the others are compared with it
    for name in [column.removesuffix("_low") for column in table if column.endswith("_low")]:
        gain = name.endswith("_gain")
        told = table[[name, f"{name}_low", f"{name}_high"]].apply(
            lambda row, gain=gain: interval(*row, plus=gain), axis=1)
        shown[name] = told.where(~start, "") if gain else told
    return shown.drop(columns=[c for c in table if c.endswith(("_low", "_high"))])


def _told(row, name: str) -> str:
    """A gain with its interval."""
    return interval(*(getattr(row, f"{name}{end}") for end in ("", "_low", "_high")), plus=True)
