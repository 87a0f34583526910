"""config.json: every resolved setting of a run, what it reads and what it runs on."""

from lib import runtime
from lib.config import Config
from lib.errors import CheckpointError
from lib.paths import read_json, write_json
from lib.runs import RunFolder
from lib.training import checkpoints, parallel
from lib.training.choice import choice

__all__ = ["KEEP_BOTH", "check_free", "write", "write_evaluation"]

KEEP_BOTH = ("keep both by setting DISCREPANCY_OUTPUTS to another folder (in a notebook, in its "
             "first cell: %env DISCREPANCY_OUTPUTS=/a/folder)")


def write(folder: RunFolder, config: Config, about: dict) -> None:
    """Every setting, with what the trainer tells `about` the run, and what it runs on."""
    described = {**config.as_dict(), **about, "processes": parallel.processes(),
                 "side_by_side": runtime.side_by_side(),
                 "versions": runtime.versions(), "commit": runtime.commit()}
    if chosen := choice(config):
        described["search"] = chosen  # how rate, warm-up and dropout were chosen
    write_json(folder.config, described)


def write_evaluation(folder: RunFolder, config: Config) -> None:
    """Other settings of the evaluation alone: what the run was trained on stays as it was."""
    recorded, now = read_json(folder.config), config.as_dict()
    if any(name.startswith("evaluation.")
           for name in checkpoints.changed_settings(now, recorded)):
        write_json(folder.config, recorded | {"evaluation": now["evaluation"]})


def check_free(folder: RunFolder, config: Config) -> None:
    """Refuse to begin where a run with other settings has left its results, but no last.pt.

    Errors: CheckpointError naming the settings, and the ways out.
    """
    there = folder.best.exists() or folder.metrics.exists()
    changed = checkpoints.trained_otherwise(config.as_dict(), read_json(folder.config))
    if there and changed:
        raise CheckpointError(
            f"{folder.path} holds a run with other settings of {', '.join(changed)}: restore them, "
            f"delete {folder.path} to start again, or {KEEP_BOTH}")
