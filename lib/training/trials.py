"""Peak rate, warm-up and dropout chosen by dev BLEU, from the same few values for every family.

    python -m lib.training.trials --model ga_b --dataset multi30k_de_en --scale mini [--trial 3]

Each trial (`lib.training.choice`) is a training in a folder of its own, so that several processes
can share them: its history and settings stay in `outputs/search/`, and every run trained
afterwards has the choice in its config.json.
"""

import argparse
import logging

from lib.config import Config, load_config, run_arguments
from lib.errors import ConfigError, ReproError
from lib.training import Trainer
from lib.training.choice import choice, trial_folder, trials

__all__ = ["main", "run_trial"]

logger = logging.getLogger(__name__)


def run_trial(config: Config, trial: str) -> None:
    """Train one trial to its end, or go on where it was stopped.

    Errors: ConfigError for a trial that ends before a validation at the last KL weight.
    """
    trainer = Trainer(trials(config)[trial], folder=trial_folder(config, trial))
    trainer.run()
    if not trainer.best_row():
        raise ConfigError(f"trial {trial} ended before a validation at the last KL weight: raise "
                          "steps, or lower kl_start, kl_ramp or validate_every")


def main(arguments: list[str] | None = None) -> None:
    """Run the trials from a shell, all or one of them."""
    parser = argparse.ArgumentParser(description="Choose rate, warm-up and dropout by dev BLEU.")
    run_arguments(parser)
    parser.add_argument("--trial", type=int, default=0, help="only this one, from 1")
    options = vars(parser.parse_args(arguments))
    one = options.pop("trial")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        config = load_config(**options)
        names = list(trials(config))
        if not 0 <= one <= len(names):
            raise ConfigError(f"--trial {one}: there are trials 1 to {len(names)}")
        for trial in names[one - 1:one] if one else names:
            run_trial(config, trial)
    except ReproError as error:
        raise SystemExit(f"error: {error}") from None
    if made := choice(config):
        logger.info("chosen: %s. Write it into params/%s/%s.yaml, or give it as overrides.",
                    made["chosen"], config.scale, config.model)


if __name__ == "__main__":
    main()
