"""A small grid of training settings, the same for every family: python -m workflow.recipe.

    python -m workflow.recipe --grid '{learning_rate: [0.001, 0.002, 0.004]}'

Trains a model of each family with every combination of the values, all else as in params/, and
writes the best validation of each to outputs/tables/recipe_<dataset>_<scale>. No test set is read.
A combination that is params/ as it stands is the run of outputs/runs/, where there is one; all
others lie in the cache. The same command goes on where it was stopped.
"""

import argparse
import itertools
from collections.abc import Mapping, Sequence

import pandas as pd

from analysis import tables
from lib.config import MODELS, parse_overrides
from lib.errors import ConfigError, one_line_errors
from lib.host import allowed_cores
from lib.runs import at_full_kl
from workflow.trials import Trial, train_all

__all__ = ["combinations", "compact", "main"]

FAMILIES = ("tr_s", "ga_b", "fl_s", "na_b", "da_b", "ct_b", "md_b")  # a model of each
GRID = "{learning_rate: [0.001, 0.002, 0.004]}"


def combinations(grid: Mapping) -> list[dict]:
    """Every choice of one value a setting. Errors: ConfigError for a setting without a list."""
    for name, values in grid.items():
        if not isinstance(values, list | tuple) or not values:
            raise ConfigError(f"grid: {name} = {values!r}: a list of values is needed, such as "
                              f"'{GRID}'")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _row(trial: Trial) -> dict:
    """The best validations of a training that has ended."""
    history = at_full_kl(pd.read_csv(trial.file("history.csv")))
    best = history.loc[history["dev_bleu"].idxmax()]
    return {"model": trial.model, **trial.settings, "dev_bleu": best["dev_bleu"],
            "step": int(best["step"]), "dev_ll": best["dev_ll"],
            "best_dev_ll": history["dev_ll"].max(), "seed": trial.seed,
            "in_params": trial.in_params}


def compact(table: pd.DataFrame, grid: Mapping[str, Sequence]) -> pd.DataFrame:
    """For reading: a row a model; under each combination dev BLEU, and dev LL there; then what the
    best dev BLEU has above that of params/.
    """
    rows = []
    for model, part in table.groupby("model", sort=False):
        cells = {", ".join(f"{name.replace('_', ' ')} {_shown(row[name])}" for name in grid):
                 f"{row['dev_bleu']:.1f}, {tables.signed(row['dev_ll'], 2)}"
                 for row in part.to_dict("records")}
        ours = part.loc[part["in_params"], "dev_bleu"].max()
        rows.append({"model": model, **cells, "BLEU of the best above params/": tables.signed(
            part["dev_bleu"].max() - ours, 1)})
    return pd.DataFrame(rows)


def _shown(value) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def main(words: list[str] | None = None) -> None:
    """Train what isn't trained yet, then write the table; SystemExit on a wrong call or failure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="toy", help="a file of params/datasets/")
    parser.add_argument("--scale", default="small", help="with params that start from scratch")
    parser.add_argument("--models", nargs="+", default=list(FAMILIES), choices=MODELS)
    parser.add_argument("--grid", default=GRID, help="settings and values, in JSON or YAML")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--side-by-side", type=int, default=allowed_cores())
    asked = parser.parse_args(words)
    with one_line_errors():
        _write(asked, parse_overrides(asked.grid))


def _write(asked: argparse.Namespace, grid: Mapping) -> None:
    trials = [Trial(model, asked.dataset, asked.scale, asked.seed, settings)
              for settings in combinations(grid) for model in asked.models]
    if any(trial.config.training.start_from for trial in trials):
        raise ConfigError(f"scale {asked.scale} has models that start from another one")
    train_all(trials, asked.side_by_side)
    table = pd.DataFrame([_row(trial) for trial in trials])
    tables.write(table, f"recipe_{asked.dataset}_{asked.scale}",
                 shown=compact(table, grid), notes=[
                     f"Dev BLEU of the best validation at the full KL weight, and dev LL there; "
                     f"seed {asked.seed}, one training each (python -m workflow.recipe)."])


if __name__ == "__main__":
    main()
