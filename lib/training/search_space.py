"""What may be chosen by dev BLEU before a model is trained, and the record of how it was chosen.

The paper picks warm-up and dropout so, by model and data set. The values lie in
`params/search/<scale>.yaml`; `lib.training.hyperparameters` runs the trials.
"""

import dataclasses
import itertools
import json
from pathlib import Path

import yaml

from lib.config import Config, Training, load_config, unknown
from lib.errors import ConfigError
from lib.paths import PARAMS, outputs_root, write_text

__all__ = ["combinations", "read_record", "record_path", "write_record"]

_SETTINGS = [field.name for field in dataclasses.fields(Training)]


def combinations(config: Config) -> list[dict[str, float | int]]:
    """Every trial's settings of `training`, in the order of the file, each in its range.

    Errors: ConfigError for a file that isn't there, no list of values, an unknown setting or a
    value out of range.
    """
    path = PARAMS / "search" / f"{config.scale}.yaml"
    where = f"params/search/{path.name}"
    if not path.exists():
        raise ConfigError(f"{where} isn't there: write it, a list of values for each setting")
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(loaded, dict) or not loaded or not all(
            isinstance(values, list) and values for values in loaded.values()):
        raise ConfigError(f"{where} must give each setting a list of values, e.g. "
                          "warmup_steps: [400, 800]")
    if wrong := set(loaded) - set(_SETTINGS):
        raise ConfigError(f"{where}: {unknown('setting of training', min(wrong), _SETTINGS)}")
    trials = [dict(zip(loaded, values, strict=True))
              for values in itertools.product(*loaded.values())]
    for trial in trials:
        load_config(config.model, config.dataset.name, config.scale, **trial)
    return trials


def record_path(config: Config) -> Path:
    """Where the trials of a model on these data are recorded; a committed file."""
    return (outputs_root() / "search" / config.dataset.name / config.scale
            / f"{config.model}_{config.train_data}_s{config.seed}.json")


def read_record(config: Config) -> dict:
    """`trials` (settings, dev_bleu, step, seconds) and the `chosen` settings; {} without a search.

    Errors: ConfigError for a damaged file.
    """
    path = record_path(config)
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {"chosen": record["chosen"], "trials": record["trials"]}
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{path} is damaged ({error}): delete it and search again") from None


def write_record(config: Config, trials: list[dict]) -> dict:
    """Record the trials and the best one's settings, the first of equals; returns the record."""
    best = max(trials, key=lambda trial: trial["dev_bleu"])
    record = {"chosen": best["settings"], "trials": trials}
    write_text(record_path(config), json.dumps(record, indent=2) + "\n")
    return record
