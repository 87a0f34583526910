"""The corpora: how much text, how long, how multimodal, and what a teacher leaves of it (01, 09).

Text of a corpus is shown for the toy task only; of any other corpus, numbers.
"""

import math

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from analysis.style import INK, finish
from lib.batching import collate, training_batches
from lib.bleu import bleu
from lib.config import Config
from lib.lengths import LARGEST_DIFFERENCE
from lib.synthetic import ToyTask
from lib.task import Task

__all__ = ["batch_summary", "ceiling", "corpus_overview", "corpus_sizes", "entropy_by_word",
           "exact_log_prob", "length_counts", "mode_table", "toy_task", "vocabulary_table"]

SOURCE, TARGET = "#777777", "#0072B2"


def toy_task(config: Config) -> ToyTask | None:
    """The generator of a synthetic corpus, None for a real one."""
    synthetic = config.dataset.corpus == "synthetic"
    return ToyTask.from_options(config.dataset.options) if synthetic else None


def exact_log_prob(task: Task, split: str = "test") -> Float[np.ndarray, " sentences"] | None:
    """log p*(y|x) of every pair of a split in nats, where the corpus has one (toy)."""
    toy = toy_task(task.config)
    if toy is None:
        return None
    pairs = zip(task.sources(split), task.references(split), strict=True)
    return np.array([toy.log_prob(source, target) for source, target in pairs])


def ceiling(task: Task) -> dict[str, float] | None:
    """What no model of a synthetic corpus can beat but by luck, on its test set: `truth`, log p*
    in nats per token, and BLEU of p*'s most probable translations (`argmax of p*`) and of one draw
    a sentence (`samples of p*`). None for a real corpus.
    """
    toy = toy_task(task.config)
    if toy is None:
        return None
    sources, references = task.sources("test"), task.references("test")
    rng = np.random.default_rng(0)
    tokens = (task.test.target_lengths + 1).sum()
    return {"truth": exact_log_prob(task).sum() / tokens,
            "argmax of p*": bleu([toy.most_likely(x) for x in sources], references)[0].score,
            "samples of p*": bleu([toy.sample(x, rng) for x in sources], references)[0].score}


def corpus_sizes(task: Task) -> pd.DataFrame:
    """One row a split: sentence pairs, subwords of both sides, mean and longest lengths.

    Training pairs are those within `max_tokens`; `left out` counts the others.
    """
    rows = []
    for split in ("train", "dev", "test"):
        data, lines = getattr(task, split), len(task.sources(split))
        row = {"split": split, "pairs": len(data), "left out": lines - len(data)}
        for side, lengths in (("source", data.source_lengths), ("target", data.target_lengths)):
            row |= {f"{side} subwords": int(lengths.sum()), f"{side} mean": lengths.mean(),
                    f"{side} longest": int(lengths.max())}
        rows.append(row)
    return pd.DataFrame(rows)


def length_counts(task: Task) -> pd.DataFrame:
    """Training pairs by (source, target) length in subwords: what the length figure plots."""
    lengths = pd.DataFrame({"source": task.train.source_lengths,
                            "target": task.train.target_lengths})
    return lengths.value_counts(sort=False).rename("pairs").reset_index()


def mode_table(toy: ToyTask, source: str) -> pd.DataFrame:
    """The most probable translation of `source` in each mode, with p(mode) and p*(y|x), and how
    many translations the mode has in all.
    """
    support = pd.DataFrame([(int(np.argmax(toy.log_joint(source, target))), target, log_prob)
                            for target, log_prob in toy.support(source)],
                           columns=["mode", "target", "log_prob"])
    return pd.DataFrame([{
        "mode": mode + 1, "p(mode)": toy.modes[mode],
        "most probable translation": part.loc[part["log_prob"].idxmax(), "target"],
        "p*(y|x)": math.exp(part["log_prob"].max()), "translations": len(part)}
        for mode, part in support.groupby("mode")])


def vocabulary_table(task: Task) -> pd.DataFrame:
    """Size and kind of the joint vocabulary, and how finely it cuts the test set."""
    words = {side: sum(len(line.split()) for line in lines) for side, lines in
             (("source", task.sources("test")), ("target", task.references("test")))}
    return pd.DataFrame([{
        "kind": task.config.dataset.subword, "entries": len(task.vocabulary),
        "asked for at most": task.config.dataset.vocabulary[task.config.scale],
        "subwords a source word": task.test.source_lengths.sum() / words["source"],
        "subwords a target word": task.test.target_lengths.sum() / words["target"],
        "fingerprint": task.vocabulary.fingerprint[:12]}])


def batch_summary(task: Task) -> pd.DataFrame:
    """One epoch of training batches for both ways of padding: how many, how full.

    The share of padding counts positions that no loss is taken at (PAD), EOS padding apart: the
    latent models predict that.
    """
    tokens, rows = task.config.training.batch_tokens, []
    for family, multiple in (("autoregressive", 1), ("latent", 4)):
        groups = training_batches(task.train, tokens, multiple, task.config.seed, 0)
        chosen = groups[:: max(1, len(groups) // 200)]  # an evenly spaced sample of a large corpus
        batches = [collate(task.train, group, multiple) for group in chosen]
        source, real_source, target, real_target, counted = np.sum([
            (batch.source.numel(), _real(batch.source, batch.source_mask), batch.target.numel(),
             _real(batch.target, batch.target_mask), int(batch.target_tokens.sum()))
            for batch in batches], axis=0)
        rows.append({"models": family, "targets padded to a multiple of": multiple,
                     "batches an epoch": len(groups),
                     "sentences a batch": len(task.train) / len(groups),
                     "source padding": 1 - real_source / source,
                     "target padding": 1 - real_target / target,
                     "target EOS padding": (real_target - counted) / target})
    return pd.DataFrame(rows)


def _real(tokens: Tensor, mask: Tensor | None) -> int:
    return tokens.numel() if mask is None else int(mask.sum())


def corpus_overview(source_lengths: Int[np.ndarray, " pairs"],
                    target_lengths: Int[np.ndarray, " pairs"], *, max_tokens: int = 64,
                    ) -> Figure:
    """Lengths of a training set in subwords, and the differences that the length predictor meets.

    max_tokens: longer pairs are left out of training.
    """
    figure = Figure(figsize=(8.4, 3.2))
    left, right = figure.subplots(1, 2)
    edges = np.arange(0.5, max(source_lengths.max(), target_lengths.max(), max_tokens) + 1.5)
    for lengths, colour, label in ((source_lengths, SOURCE, "source"),
                                   (target_lengths, TARGET, "target")):
        left.hist(lengths, bins=edges, histtype="stepfilled", color=colour, alpha=0.45,
                  label=f"{label}, mean {lengths.mean():.1f}")
    kept = np.mean(np.maximum(source_lengths, target_lengths) <= max_tokens)
    left.axvline(max_tokens, color=INK, lw=1, ls="--")
    left.set_xlim(0, max(max_tokens * 1.06, np.quantile(edges, 0.5)))
    left.legend(title=f"{kept:.1%} of pairs within {max_tokens}", title_fontsize=9,
                loc="upper right", bbox_to_anchor=(0.92, 1.0))
    finish(left, "sentence length (subwords)", "sentences")
    difference = target_lengths - source_lengths
    inside = np.mean(np.abs(difference) <= LARGEST_DIFFERENCE)
    right.hist(difference, bins=np.arange(-LARGEST_DIFFERENCE - 5.5, LARGEST_DIFFERENCE + 6.5),
               color=TARGET, alpha=0.6)
    for end in (-LARGEST_DIFFERENCE, LARGEST_DIFFERENCE):
        right.axvline(end, color=INK, lw=1, ls="--")
    finish(right, "target minus source length (subwords)", "sentences")
    right.set_title(f"{inside:.1%} within ±{LARGEST_DIFFERENCE}, the length predictor's range")
    return figure


def entropy_by_word(words: pd.DataFrame) -> Figure:
    """H(y|x) of each source word in the distilled text against the raw one; under the diagonal its
    translation became surer. words: columns raw and distilled, in nats.
    """
    figure = Figure(figsize=(4.4, 4.2))
    axes = figure.subplots()
    axes.axline((0, 0), slope=1, color="#bbbbbb", linewidth=1)
    axes.scatter(words["raw"], words["distilled"], s=14, alpha=min(1.0, 300 / max(1, len(words))),
                 color=TARGET, linewidth=0)
    limit = 1.05 * words[["raw", "distilled"]].max(axis=None)
    axes.set(xlim=(-0.02 * limit, limit), ylim=(-0.02 * limit, limit), aspect="equal")
    finish(axes, "H(y|x) of a source word, raw text (nats)",
           "H(y|x) of the same word, distilled text (nats)")
    return figure
