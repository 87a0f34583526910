"""The checkpoint with the best likelihood against the one with the best BLEU, of one training.

Both are chosen on the dev set and scored on the test set, so the question is the repository's own
with everything else held fixed: does the weights' better density come with better translations?
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.resampling import bootstrap
from analysis.significance import ORDERS, order_of
from analysis.tables import interval, signed
from lib.bleu import TAILS, tokenizer_of
from lib.config import model_name

__all__ = ["compact_checkpoints", "count_orders", "two_checkpoints"]

COLUMNS = ["dataset", "scale", "model", "train_data", "seed", "bleu_step", "ll_step",
           *(f"{name}{end}" for name in ("bleu", "ll")
             for end in ("", "_delta", "_low", "_high")), "order"]


def two_checkpoints(runs: pd.DataFrame, references: Sequence[str]) -> pd.DataFrame:
    """What the checkpoint with the best dev LL has above that with the best dev BLEU, a row a run
    whose two are of different steps and that scored both: `COLUMNS`.

    runs: `systems.collect`'s rows of one data set. BLEU is that of the run's headline decoding, LL
    strict in nats per token; `bleu` and `ll` are those of the checkpoint with the best dev BLEU.
    Intervals: 95% percentiles over paired resamples of the test sentences, of LL wider by what the
    last tenfold of importance samples raised each bound; training isn't in them.
    `order`: whether the checkpoint that is better in LL is better in BLEU, too.
    """
    rows = []
    for run in runs["run"]:
        metrics = run.read_metrics()
        if "bleu" not in metrics.best_ll or not run.sentences_ll.exists():
            continue
        drawn = bootstrap([run.read_sentences(by="bleu"), run.read_sentences(by="ll")], references,
                          "strict", tokenizer=tokenizer_of(metrics.own.signature))["strict"]
        row = {name: getattr(run, name) for name in COLUMNS[:5]} | {
            "bleu_step": metrics.step, "ll_step": metrics.best_ll["step"]}
        for name, values, resampled, slack in (
                ("bleu", drawn.bleu, drawn.bleu_resampled, (0.0, 0.0)),
                ("ll", drawn.likelihood, drawn.likelihood_resampled, drawn.slack)):
            low, high = np.quantile(resampled[:, 1] - resampled[:, 0], TAILS)
            row |= {name: values[0], f"{name}_delta": values[1] - values[0],
                    f"{name}_low": low - slack[0], f"{name}_high": high + slack[1]}
        rows.append(row | {"order": order_of((row["bleu_low"], row["bleu_high"]),
                                             (row["ll_low"], row["ll_high"]))})
    return pd.DataFrame(rows, columns=COLUMNS)


def count_orders(table: pd.DataFrame) -> str:
    """`two_checkpoints` in a sentence."""
    if table.empty:
        return "No run here kept two checkpoints of different steps."
    counts = [int((table["order"] == kind).sum()) for kind in ORDERS]
    worse = int((table["bleu_delta"] < 0).sum())
    return (f"Of {len(table)} trainings whose two best checkpoints differ, the one with the better "
            f"dev LL has the lower test BLEU in {worse}; with intervals (over test sentences) LL "
            f"and BLEU agree in {counts[0]}, disagree in {counts[2]}, and {counts[1]} are "
            "undecided.")


def compact_checkpoints(table: pd.DataFrame) -> pd.DataFrame:
    """`two_checkpoints` for reading."""
    return pd.DataFrame([{
        "model": model_name(row["model"]), "train data": row["train_data"], "seed": row["seed"],
        "step of best dev BLEU": f"{row['bleu_step']:,}",
        "step of best dev LL": f"{row['ll_step']:,}",
        "BLEU, LL at the first": f"{row['bleu']:.1f}, {signed(row['ll'], 3)}",
        "BLEU of the second above it": interval(row["bleu_delta"], row["bleu_low"],
                                                row["bleu_high"], plus=True),
        "LL of the second above it": interval(row["ll_delta"], row["ll_low"], row["ll_high"],
                                              digits=3, plus=True),
        "order": row["order"]} for row in table.to_dict("records")])
