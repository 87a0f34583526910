"""What the paper's released code does and its text doesn't: python -m workflow.ablations.

    python -m workflow.ablations --dataset toy --scale small --models ga_b fl_s --seeds 1 2 3

Trains latent models with each of these settings alone, all else as in params/, scores them on the
test set, and writes outputs/tables/ablations_<dataset>_<scale>: BLEU without refinement and with
it, and log-likelihood, beside the runs of outputs/runs/ (all their seeds). The trainings lie in the
cache, and the table has all that are there; the same command goes on where it was stopped.

Source: tensor2tensor, models/research/transformer_vae_flow_prior.py and its _ops.py.
"""

import argparse
from collections.abc import Iterator

import pandas as pd
from scipy import stats

from analysis import tables
from lib.config import LATENT, MODELS, family_of
from lib.errors import one_line_errors
from lib.host import allowed_cores
from lib.paths import read_json
from lib.runs import Metrics, find_runs
from workflow.trials import Trial, train_all

__all__ = ["RELEASED", "compact", "main", "score"]

BASE = "params/"
LATENTS = [model for model in MODELS if family_of(model) in LATENT]
RELEASED = {
    "whole words dropped for q": {"posterior_word_dropout": 0.2},  # posterior_2d_dropout
    "rate starts again with the KL": {"rate_restarts": True},  # learning_rate_schedule
    "penalty on the prior": {"posterior_penalty": 0.0, "prior_penalty": 1e-4},  # kl_reg
}
COLUMNS = {"BLEU k0": 1, "BLEU k1": 1, "BLEU k4": 1, "gain of k4": 1, "LL": 2, "KL": 2}
"""what is shown, and its decimals"""


def score(metrics: Metrics) -> dict:
    """Of a run: BLEU after 0, 1 and 4 steps of refinement, what the four add, LL a token (strict)
    and its KL.
    """
    bleu = {f"BLEU {k}": metrics.bleu[k].score for k in ("k0", "k1", "k4")}
    return {**bleu, "gain of k4": bleu["BLEU k4"] - bleu["BLEU k0"],
            "LL": metrics.log_likelihood["strict"].mean, "KL": metrics.diagnostics["kl"],
            "step": metrics.step}


def _rows(dataset: str, scale: str) -> Iterator[dict]:
    """A row a run, model by model: those of outputs/runs/, then all ablations that are made."""
    for model in LATENTS:
        made = {name: [Metrics.of(read_json(file)) for file in Trial(
            model, dataset, scale, settings=settings, scored=True).files("metrics.json")]
            for name, settings in RELEASED.items()}
        if not any(made.values()):
            continue
        ours = [run.read_metrics() for run in find_runs(dataset, scale)
                if run.model == model and run.train_data == "raw"]
        for name, runs in {BASE: ours, **made}.items():
            for metrics in runs:
                yield {"model": model, "training": name, "seed": metrics.seed, **score(metrics)}


def compact(table: pd.DataFrame) -> pd.DataFrame:
    """For reading: a row a model and training. Means over seeds; beside each what it has more than
    that of params/, with Welch's 95% interval over seeds where both have several.
    """
    rows = []
    for (model, name), part in table.groupby(["model", "training"], sort=False):
        base = table[(table["model"] == model) & (table["training"] == BASE)]
        cells = {}
        for column, digits in COLUMNS.items():
            cells[column] = tables.signed(part[column].mean(), digits)
            if name != BASE and len(base):
                delta = part[column].mean() - base[column].mean()
                low = high = float("nan")
                if min(len(part), len(base)) > 1:
                    low, high = stats.ttest_ind(
                        part[column], base[column], equal_var=False).confidence_interval()
                more = tables.interval(delta, low, high, digits=digits, plus=True)
                cells[column] += f" ({more})"
        rows.append({"model": model, "training": name, "seeds": len(part), **cells})
    return pd.DataFrame(rows)


def main(words: list[str] | None = None) -> None:
    """Make what isn't there yet, then write the table; SystemExit on a wrong call or failure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="toy", help="a file of params/datasets/")
    parser.add_argument("--scale", default="small", help="a folder of params/")
    parser.add_argument("--models", nargs="+", default=["ga_b", "fl_s"],
                        choices=LATENTS)
    parser.add_argument("--only", nargs="+", default=list(RELEASED), choices=list(RELEASED))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--side-by-side", type=int, default=allowed_cores())
    asked = parser.parse_args(words)
    with one_line_errors():
        train_all([Trial(model, asked.dataset, asked.scale, seed, RELEASED[name], scored=True)
                   for seed in asked.seeds for name in asked.only for model in asked.models],
                  asked.side_by_side)
    table = pd.DataFrame(_rows(asked.dataset, asked.scale))
    tables.write(table, f"ablations_{asked.dataset}_{asked.scale}", shown=compact(table), notes=[
        "Means over seeds on the test set, raw text; in brackets: more than as in params/, with "
        "the 95% interval over seeds (Welch) where both have several "
        "(python -m workflow.ablations)."])


if __name__ == "__main__":
    main()
