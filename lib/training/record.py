"""config.json: every resolved setting of a run, what it reads and what it runs on.

What a run reads is known by its fingerprint, so that it never goes on with anything else than it
began with. Texts are hashed as training takes them (lower-cased, normalised).
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lib import runtime
from lib.config import Config
from lib.errors import CheckpointError
from lib.paths import read_json, write_json
from lib.runs import RunFolder
from lib.subword import text_hash
from lib.task import Task, distilled_folder
from lib.training import checkpoints, parallel
from lib.training.history import ended_by

__all__ = ["KEEP_BOTH", "check_free", "check_reads", "evaluated_otherwise", "fingerprints",
           "scored_with", "trained_with", "write", "write_evaluation"]

KEEP_BOTH = ("keep both by setting DISCREPANCY_OUTPUTS to another folder (in a notebook, in its "
             "first cell: %env DISCREPANCY_OUTPUTS=/a/folder)")
NAMES = {"training_text": "training text", "distilled_text": "distilled text",
         "dev_text": "dev text", "start_from": "set of weights to start from"}


def write(folder: RunFolder, config: Config, about: dict) -> None:
    """Every setting, with what the trainer tells `about` the run, and what it runs on."""
    write_json(folder.config, {**config.as_dict(), **about, "processes": parallel.processes(),
                               "side_by_side": runtime.side_by_side(),
                               "versions": runtime.versions(), "commit": runtime.commit()})


def evaluated_otherwise(folder: RunFolder, config: Config) -> bool:
    """Whether config.json tells of other settings of the evaluation; not where there is none."""
    recorded = read_json(folder.config)
    return bool(recorded) and any(name.startswith("evaluation.") for name in (
        checkpoints.changed_settings(config.as_dict(), recorded)))


def write_evaluation(folder: RunFolder, config: Config) -> None:
    """The settings that a run was scored with; what it was trained with stays as it was."""
    if evaluated_otherwise(folder, config):
        write_json(folder.config, read_json(folder.config) | {
            "evaluation": config.as_dict()["evaluation"]})


def _made_with(folder: RunFolder, config: Config) -> bool:
    recorded = read_json(folder.config)
    return bool(recorded) and not checkpoints.trained_otherwise(config.as_dict(), recorded)


def trained_with(folder: RunFolder, config: Config) -> bool:
    """Whether the folder holds a training with these settings that ended by itself.

    Errors: DataError for a damaged history.csv.
    """
    if not folder.history.exists() or not _made_with(folder, config):
        return False
    rows = folder.read_history().to_dict("records")
    return bool(rows and ended_by(rows, rows[-1]["step"], config.training))


def scored_with(folder: RunFolder, config: Config) -> bool:
    """Whether metrics.json is of a training with these settings that ended by itself."""
    metrics = folder.known_metrics()
    return metrics is not None and not metrics.stopped and _made_with(folder, config)


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


def fingerprints(task: Task, dev_sentences: int, parent: Mapping[str, Tensor] | None,
                 ) -> dict[str, str]:
    """sha256 (hexadecimal) of each thing that a run with this task reads: the whole original
    `training_text`, the teacher's `distilled_text`, the `dev_text` that is validated on, and the
    weights to `start_from`, where there are such.
    """
    sides = [task.sources("dev"), task.references("dev")]
    digests = {"training_text": text_hash(task.sources("train"), task.references("train")),
               "dev_text": text_hash(*(side[:dev_sentences] for side in sides))}
    if task.config.train_data == "distilled":  # Task.train has compared it with the text
        described = read_json(distilled_folder(task.config).config)
        digests["distilled_text"] = described["distilled_text"]
    if parent is not None:
        digests["start_from"] = checkpoints.fingerprint(dict(parent))
    return digests


def check_reads(recorded: Mapping[str, str], now: Mapping[str, str], folder: Path) -> None:
    """Refuse a run some of whose inputs have changed since it began; one that is gone is no change.

    Errors: CheckpointError naming what changed, and the way out.
    """
    changed = [name for name in recorded if now.get(name, recorded[name]) != recorded[name]]
    if changed:
        named = ", ".join(f"{NAMES.get(name, name)} (sha256 {recorded[name][:12]} then, "
                          f"{now[name][:12]} now)" for name in changed)
        raise CheckpointError(f"{folder} was trained with another {named}: restore it as it was "
                              f"then, or delete {folder} to start again")
