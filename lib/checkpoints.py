"""Saving and loading checkpoints: tensors and plain Python only, replaced in one move."""

import os
import pickle
from pathlib import Path

import torch
from torch import nn

from .errors import CheckpointError

__all__ = ["check_vocabulary", "load", "load_weights", "save"]

FORMAT = "discrepancy-1"


def save(path: Path, content: dict) -> None:
    """Write `content` beside `path` and move it there, so that an old file survives any failure.

    Errors: CheckpointError where the disk refuses (it is full, say).
    """
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            torch.save({"format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        kept = f"; {path.name} of before is untouched" if path.exists() else ""
        raise CheckpointError(
            f"can't write checkpoint {path}: {error}{kept}. Free some disk space and run the same "
            "command again: it resumes") from None


def load(path: Path, made_by: str) -> dict:
    """The content of a checkpoint, on the CPU; `made_by` is the command that makes a missing one.

    Errors: CheckpointError for a missing, truncated or foreign file.
    """
    if not path.exists():
        raise CheckpointError(f"no checkpoint {path}: train it first with `{made_by}`")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or ["empty"])[0].split(". ")[0]
        if isinstance(error, (pickle.UnpicklingError, KeyError)):  # torch advises to trust the file
            reason = "it holds more than tensors and plain values"
        raise CheckpointError(f"checkpoint {path} is truncated or not a checkpoint ({reason}): "
                              f"delete it and run `{made_by}`") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint {path} wasn't made by this repository: delete it and "
                              f"run `{made_by}`")
    return content


def load_weights(model: nn.Module, weights: dict, path: Path) -> None:
    """Load weights that must fit exactly.

    Errors: CheckpointError naming the first tensor that doesn't.
    """
    own = model.state_dict()
    for name in (*own, *weights):
        if name not in weights or name not in own or own[name].shape != weights[name].shape:
            here = tuple(own[name].shape) if name in own else "absent"
            there = tuple(weights[name].shape) if name in weights else "absent"
            raise CheckpointError(
                f"checkpoint {path} doesn't fit this model: {name} is {there} there and {here} "
                "here. Use the model, scale and params/ that it was trained with, or train again")
    model.load_state_dict(weights)


def check_vocabulary(content: dict, fingerprint: str, path: Path) -> None:
    """Refuse a checkpoint whose subwords are others.

    Errors: CheckpointError with both fingerprints.
    """
    if content["vocabulary"] != fingerprint:
        raise CheckpointError(
            f"checkpoint {path} was trained with vocabulary {content['vocabulary'][:12]}, this "
            f"corpus gives {fingerprint[:12]}: restore the corpus or params/datasets/ file it was "
            "trained with, or train again")
