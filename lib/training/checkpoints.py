"""Saving and loading checkpoints: tensors and plain Python only, replaced in one move."""

import dataclasses
import hashlib
import json
import os
import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from lib.config import SECTIONS, Dataset
from lib.errors import CheckpointError
from lib.paths import replacing

__all__ = ["changed_settings", "check_model", "check_settings", "check_vocabulary", "fingerprint",
           "load", "load_weights", "save", "trained_otherwise"]

FORMAT = "discrepancy-1"
# How long a run goes on, and how it is computed: not what it does.
MAY_CHANGE = ("training.steps", "training.patience", "training.graphs", "training.compile")
OF_THE_MODEL = ("architecture.", "training.objective")  # what weights mean depends on these


def save(path: Path, content: dict) -> None:
    """Write `content` beside `path` and move it there, so that an old file survives any failure.

    Errors: CheckpointError where the disk refuses (it is full, say).
    """
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            torch.save({"format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        kept = f"; {path.name} of before is untouched" if path.exists() else ""
        raise CheckpointError(
            f"can't write checkpoint {path}: {error}{kept}. Free some disk space, or set "
            "DISCREPANCY_OUTPUTS to a folder that can be written to, and run the same command "
            "again: it resumes") from None


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
    """Load weights that must fit. Errors: CheckpointError naming the first tensor that doesn't."""
    own = model.state_dict()
    for name in (*own, *weights):
        if name not in weights or name not in own or own[name].shape != weights[name].shape:
            here = tuple(own[name].shape) if name in own else "absent"
            there = tuple(weights[name].shape) if name in weights else "absent"
            raise CheckpointError(
                f"checkpoint {path} doesn't fit this model: {name} is {there} there and {here} "
                "here. Use the model, scale and params/ that it was trained with, or delete "
                f"{path.parent.parent} and train again")
    model.load_state_dict(weights)


def check_vocabulary(content: dict, fingerprint: str, path: Path) -> None:
    """Refuse other subwords than a checkpoint's. Errors: CheckpointError, with fingerprints."""
    if content["vocabulary"] != fingerprint:
        raise CheckpointError(
            f"checkpoint {path} was trained with vocabulary {content['vocabulary'][:12]}, this "
            f"corpus gives {fingerprint[:12]}: restore the corpus or params/datasets/ file it was "
            f"trained with, or delete {path.parent.parent} and train again")


def changed_settings(config: dict, recorded: dict) -> list[str]:
    """Names `section.key` of the settings that differ from a record of `Config.as_dict`.

    A record may be older than a setting: it was then made at what is now the default. Sizes of the
    vocabulary at other scales, which older records have too, decide nothing.
    """
    changed = []
    for section, cls in {"dataset": Dataset, **SECTIONS}.items():
        known = {**_defaults(cls), **recorded.get(section, {})}
        if isinstance(known.get("vocabulary"), dict):
            known["vocabulary"] = {scale: size for scale, size in known["vocabulary"].items()
                                   if scale == config["scale"]}
        changed += [f"{section}.{key}" for key, value in config[section].items()
                    if key not in known or known[key] != value]
    return changed


def trained_otherwise(config: dict, recorded: dict) -> list[str]:
    """`changed_settings` without those of the evaluation; none where nothing is recorded."""
    return [name for name in changed_settings(config, recorded)
            if not name.startswith("evaluation.")] if recorded else []


def _defaults(cls) -> dict:
    """The settings of a section that have a default, as JSON would hold them."""
    none, fields = dataclasses.MISSING, dataclasses.fields(cls)
    return json.loads(json.dumps(
        {f.name: f.default for f in fields if f.default is not none}
        | {f.name: f.default_factory() for f in fields if f.default_factory is not none}))


def check_settings(content: dict, config: dict, path: Path) -> None:
    """Refuse to go on with other settings than it was trained with. Errors: CheckpointError."""
    _refuse([name for name in trained_otherwise(config, content["config"])
             if name not in MAY_CHANGE], path)


def check_model(content: dict, config: dict, path: Path) -> None:
    """Refuse weights of another architecture or objective, which may have the same shapes.

    Errors: CheckpointError.
    """
    _refuse([name for name in trained_otherwise(config, content.get("config", {}))
             if name.startswith(OF_THE_MODEL)], path)


def _refuse(changed: list[str], path: Path) -> None:
    if changed:
        raise CheckpointError(
            f"{path} was trained with other settings of {', '.join(changed)}: restore them in "
            f"params/ or the overrides, or delete {path.parent.parent} to start again")


def fingerprint(weights: dict[str, Tensor]) -> str:
    """sha256 of the names, types, shapes and values of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
