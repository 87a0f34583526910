"""What each training cost and what ended it: steps, tokens, FLOPs, and its best validations."""

import json
import math
from collections.abc import Iterable

import pandas as pd

from analysis.tables import MISSING
from lib.config import load_config
from lib.flops import tokens_a_step, training_flops
from lib.runs import RunFolder, at_full_kl
from lib.task import Task

__all__ = ["compact_training", "ended", "training_table"]

ENDED = {"patience": "converged", "steps": "limit", "": "stopped"}
"""metrics.json's word for what ended a training -> the tables'."""
TERA = 1e12


def training_table(runs: Iterable[RunFolder], task: Task) -> pd.DataFrame:
    """A row a run: dataset, scale, model, train_data, seed; steps, ended (`ENDED`), tokens (of the
    target side, one EOS a sentence), start (the model whose weights it began with, "" from
    scratch), teraflops, of this training alone, and teraflops_with_start; best_bleu_step and
    best_ll_step, and dev BLEU at the first and at the second.

    task: the corpus, for FLOPs a token (`lib.flops.training_flops`: an approximation) and for the
    tokens of runs that counted none: steps x the mean of a step.
    """
    costs: dict[str, float] = {}
    return pd.DataFrame([_row(run, task, costs) for run in runs])


def ended(run: RunFolder) -> str:
    """What ended a training, of `ENDED`; of a run that didn't keep it by its number of steps."""
    known = run.read_metrics().training.get("ended_by")
    if known is None and run.history.exists():
        settings = _settings(run)
        last = int(run.read_history()["step"].iloc[-1])
        known = "steps" if last >= settings.get("steps", math.inf) else ""
    return ENDED.get(known, MISSING)


def _settings(run: RunFolder) -> dict:
    return json.loads(run.config.read_text("utf-8"))["training"] if run.config.exists() else {}


def _row(run: RunFolder, task: Task, costs: dict[str, float]) -> dict:
    history = run.read_history()
    tokens, teraflops = _cost(run, task, costs)
    start = _settings(run).get("start_from", "")
    parent = RunFolder(run.dataset, run.scale, start, run.train_data, run.seed)
    before = 0.0 if not start else (
        _cost(parent, task, costs)[1] if parent.history.exists() else math.nan)
    full = at_full_kl(history)
    by_bleu, by_ll = (full.loc[full[name].idxmax()] for name in ("dev_bleu", "dev_ll"))
    return {"dataset": run.dataset, "scale": run.scale, "model": run.model,
            "train_data": run.train_data, "seed": run.seed, "steps": int(history["step"].iloc[-1]),
            "ended": ended(run),
            "tokens": tokens, "start": start, "teraflops": teraflops,
            "teraflops_with_start": teraflops + before, "best_bleu_step": int(by_bleu["step"]),
            "dev_bleu": by_bleu["dev_bleu"], "best_ll_step": int(by_ll["step"]),
            "dev_bleu_at_best_ll": by_ll["dev_bleu"]}


def _cost(run: RunFolder, task: Task, costs: dict[str, float]) -> tuple[float, float]:
    """Tokens and teraflops of a run's own training. costs: of a token, by model, filled here."""
    config = load_config(run.model, run.dataset, run.scale, run.seed, run.train_data)
    if run.model not in costs:
        costs[run.model] = training_flops(config, task.train, len(task.vocabulary)) / TERA
    last = run.read_history().iloc[-1]
    tokens = last["tokens"] if "tokens" in last else (
        last["step"] * tokens_a_step(config, task.train))  # batches the corpus: for old runs alone
    return float(tokens), float(tokens) * costs[run.model]


def compact_training(table: pd.DataFrame) -> pd.DataFrame:
    """`training_table` for reading: tokens in millions, the two best steps with dev BLEU there."""
    def at(step: str, bleu: str) -> list[str]:
        return [f"{row[step]:,} (BLEU {row[bleu]:.1f})" for row in table.to_dict("records")]

    shown = table[["model", "train_data", "seed", "steps", "ended"]]
    return shown.assign(**{
        "tokens (millions)": table["tokens"] / 1e6, "TFLOP": table["teraflops"],
        "TFLOP with the start": table["teraflops_with_start"],
        "best dev BLEU at": at("best_bleu_step", "dev_bleu"),
        "best dev LL at": at("best_ll_step", "dev_bleu_at_best_ll")})
