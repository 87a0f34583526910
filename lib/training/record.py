"""config.json: every resolved setting of a run, what it reads and what it runs on."""

import json

from lib import runtime
from lib.config import Config
from lib.errors import CheckpointError
from lib.paths import write_text
from lib.runs import RunFolder
from lib.training import checkpoints, parallel
from lib.training.choice import choice

__all__ = ["KEEP_BOTH", "check_free", "read", "write", "write_evaluation"]

KEEP_BOTH = ("keep both by setting DISCREPANCY_OUTPUTS to another folder (in a notebook, in its "
             "first cell: %env DISCREPANCY_OUTPUTS=/a/folder)")


def read(folder: RunFolder) -> dict:
    """What config.json records, or nothing where there is none that can be read."""
    try:
        return json.loads(folder.config.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def write(folder: RunFolder, config: Config, about: dict) -> None:
    """Every setting, with what the trainer tells `about` the run, and what it runs on."""
    described = {**config.as_dict(), **about, "processes": parallel.processes(),
                 "side_by_side": runtime.side_by_side(),
                 "versions": runtime.versions(), "commit": runtime.commit()}
    if chosen := choice(config):
        described["search"] = chosen  # how rate, warm-up and dropout were chosen
    _write(folder, described)


def write_evaluation(folder: RunFolder, config: Config) -> None:
    """Other settings of the evaluation alone: what the run was trained on stays as it was."""
    recorded, now = read(folder), config.as_dict()
    if any(name.startswith("evaluation.")
           for name in checkpoints.changed_settings(now, recorded)):
        _write(folder, recorded | {"evaluation": now["evaluation"]})


def check_free(folder: RunFolder, config: Config) -> None:
    """Refuse to begin where a run with other settings has left its results, but no last.pt.

    Errors: CheckpointError naming the settings, and the ways out.
    """
    there = folder.best.exists() or folder.metrics.exists()
    changed = checkpoints.trained_otherwise(config.as_dict(), read(folder))
    if there and changed:
        raise CheckpointError(
            f"{folder.path} holds a run with other settings of {', '.join(changed)}: restore them, "
            f"delete {folder.path} to start again, or {KEEP_BOTH}")


def _write(folder: RunFolder, described: dict) -> None:
    write_text(folder.config, json.dumps(described, indent=2, ensure_ascii=False) + "\n")
