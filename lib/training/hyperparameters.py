"""Warm-up and dropout chosen by dev BLEU, as the paper does.

    python -m lib.training.hyperparameters --model ga_b --dataset multi30k_de_en --scale mini

Each trial is a whole training under the run's own settings but for the chosen ones, below the
run's `checkpoints/search/`, and goes on where it was stopped. All trials' dev BLEU and the choice
are written to `outputs/search/`; every run trained afterwards has them in its config.json.
"""

import argparse
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path

from lib.config import Config, load_config, run_arguments
from lib.errors import ConfigError, ReproError
from lib.runs import RunFolder, run_folder
from lib.training import Trainer
from lib.training.search_space import combinations, record_path, write_record

__all__ = ["TrialFolder", "choose", "main", "run_trial"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialFolder(RunFolder):
    """A trial's folder, among the checkpoints of the run that it is a trial for: not in git."""

    trial: str = ""

    @property
    def path(self) -> Path:
        """The trial's folder."""
        run = RunFolder(self.dataset, self.scale, self.model, self.train_data, self.seed)
        return run.checkpoints / "search" / self.trial


def run_trial(config: Config, settings: dict, progress: bool = True) -> dict:
    """Train with these settings, or go on; returns `settings, dev_bleu, step, seconds`.

    `dev_bleu` is the best of the validations that a checkpoint may be chosen at, `step` the last
    step, `seconds` the training's without validations.
    """
    run = run_folder(config)
    folder = TrialFolder(run.dataset, run.scale, run.model, run.train_data, run.seed,
                         ",".join(f"{name}={value}" for name, value in settings.items()))
    tried = replace(config, training=replace(config.training, **settings))
    trainer = Trainer(tried, progress, folder)
    trainer.run()
    if trainer.best_bleu == -math.inf:
        raise ConfigError(f"trial {folder.trial} ended before a validation at the last KL weight: "
                          "raise steps, or lower kl_start, kl_ramp or validate_every")
    return {"settings": settings, "dev_bleu": round(trainer.best_bleu, 3), "step": trainer.step,
            "seconds": round(trainer.seconds, 1)}


def choose(config: Config, progress: bool = True) -> dict:
    """Run every trial, record them all; returns `chosen` settings and `trials`.

    A model that starts from another one needs that one trained, for each trial starts from it.
    """
    trials = []
    for settings in combinations(config):
        trials.append(run_trial(config, settings, progress))
        logger.info("%s", trials[-1])
    return write_record(config, trials)


def main(arguments: list[str] | None = None) -> None:
    """Search from a shell: python -m lib.training.hyperparameters --model ga_b."""
    parser = argparse.ArgumentParser(description="Choose hyperparameters by dev BLEU.")
    run_arguments(parser)
    asked = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        config = load_config(**asked)
        record = choose(config)
    except ReproError as error:
        raise SystemExit(f"error: {error}") from None
    logger.info("chosen: %s (%s). Write it into params/%s/%s.yaml, or give it as overrides.",
                record["chosen"], record_path(config), config.scale, config.model)


if __name__ == "__main__":
    main()
