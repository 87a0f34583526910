"""What may be chosen by dev BLEU before a model is trained, and what was.

The paper chooses warm-up and dropout so, by model and data set; here it is the same few values for
every family. They lie in `params/search/<scale>.yaml`, with what a trial changes of a run (fewer
steps); `lib.training.trials` runs the trials.
"""

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path

from lib.config import Config, Training, load_config, read_yaml, unknown
from lib.errors import ConfigError
from lib.objectives import kl_weight
from lib.paths import PARAMS, outputs_root
from lib.runs import RunFolder
from lib.training import history

__all__ = ["TrialFolder", "choice", "trial_folder", "trials"]

_SETTINGS = [field.name for field in dataclasses.fields(Training)]


@dataclass(frozen=True)
class TrialFolder(RunFolder):
    """A trial's folder, `search/<dataset>/<scale>/<model>/s<seed>/<trial>/` in the outputs."""

    trial: str = ""

    @property
    def path(self) -> Path:
        """The trial's folder."""
        return (outputs_root() / "search" / self.dataset / self.scale / self.model /
                f"s{self.seed}" / self.trial)


def trials(config: Config) -> dict[str, Config]:
    """Name -> settings of every trial for a model on raw text, in the order of the file.

    Errors: ConfigError for a file that isn't there or has a mistake.
    """
    path = PARAMS / "search" / f"{config.scale}.yaml"
    where = f"params/search/{path.name}"
    if not path.exists():
        raise ConfigError(f"{where} isn't there: write it, a list of values for each setting")
    loaded = read_yaml(path)
    values, changes = loaded.get("values"), loaded.get("trial") or {}
    if not isinstance(values, dict) or not values or not all(
            isinstance(some, list) and some for some in values.values()):
        raise ConfigError(f"{where} must give, below `values`, each setting a list of values, e.g. "
                          "warmup_steps: [400, 800]")
    if wrong := {*values, *changes} - set(_SETTINGS):
        raise ConfigError(f"{where}: {unknown('setting of training', min(wrong), _SETTINGS)}")
    configs = {}
    for chosen in itertools.product(*values.values()):
        settings = dict(zip(values, chosen, strict=True))
        configs[",".join(f"{name}={value}" for name, value in settings.items())] = load_config(
            config.model, config.dataset.name, config.scale, config.seed, **changes, **settings)
    return configs


def trial_folder(config: Config, trial: str) -> TrialFolder:
    """Where a trial for a model lies."""
    return TrialFolder(config.dataset.name, config.scale, config.model, seed=config.seed,
                       trial=trial)


def choice(config: Config) -> dict:
    """The `chosen` trial, and the best dev BLEU of each in `trials`; {} until all have ended.

    Between equal BLEU the better dev LL decides, then the order of the file.
    """
    scores = {}
    there = (PARAMS / "search" / f"{config.scale}.yaml").exists()
    for trial, of in trials(config).items() if there else ():
        settings = of.training
        last_weight = kl_weight(settings.steps, settings.kl_start, settings.kl_ramp)
        rows = [{name: float(row[name]) for name in ("step", "dev_bleu", "dev_ll", "kl_weight")}
                for row in history.read_rows(trial_folder(config, trial).history)]
        if not rows or not history.finished(rows, int(rows[-1]["step"]), settings, last_weight):
            return {}
        if (place := history.best(rows, last_weight)) is None:
            return {}
        scores[trial] = rows[place]["dev_bleu"], rows[place]["dev_ll"]
    return {"chosen": max(scores, key=scores.__getitem__),
            "trials": {trial: bleu for trial, (bleu, _) in scores.items()}} if scores else {}
