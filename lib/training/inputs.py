"""What a run reads, by fingerprint, so that it never goes on with anything else than it began with.

Texts are hashed as training takes them (lower-cased, normalised), weights by name and value.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lib.errors import CheckpointError
from lib.subword import text_hash
from lib.task import Task, distilled_folder
from lib.training.checkpoints import fingerprint

__all__ = ["check_reads", "fingerprints"]

NAMES = {"training_text": "training text", "distilled_text": "distilled text",
         "dev_text": "dev text", "start_from": "set of weights to start from"}


def fingerprints(task: Task, dev_sentences: int, parent: Mapping[str, Tensor] | None,
                 ) -> dict[str, str]:
    """sha256 (hexadecimal) of each thing that a run with this task reads.

    `training_text`: both sides of the whole original training set; `distilled_text`: the teacher's
    targets, for a run on them; `dev_text`: the pairs that are validated on; `start_from`: the
    weights of another model, where the run starts from them and they are still there.
    """
    sides = [task.sources("dev"), task.references("dev")]
    digests = {"training_text": text_hash(task.sources("train"), task.references("train")),
               "dev_text": text_hash(*(side[:dev_sentences] for side in sides))}
    if task.config.train_data == "distilled":  # Task.train has compared it with the text
        described = distilled_folder(task.config).config.read_text(encoding="utf-8")
        digests["distilled_text"] = json.loads(described)["distilled_text"]
    if parent is not None:
        digests["start_from"] = fingerprint(dict(parent))
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
