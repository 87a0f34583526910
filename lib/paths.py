"""Where everything lies: all paths hang off the repository's root, whatever the working folder."""

import contextlib
import glob
import io
import json
import logging
import os
import uuid
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.errors import ConfigError, OutputError

__all__ = [
    "NOTEBOOKS", "PARAMS", "ROOT", "TEACHER_SEED", "DistilledFolder", "cache_root", "data_root",
    "outputs_root", "path_in", "read_arrays", "read_json", "remove_leftovers", "replacing",
    "writable", "write_arrays", "write_bytes", "write_cache", "write_json", "write_text",
]

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
PARAMS = ROOT / "params"
NOTEBOOKS = ROOT / "notebooks"
TEACHER_SEED = 1
"""One teacher for students of all seeds: their spread is that of students alone."""


def _root(variable: str, default: str) -> Path:
    """The folder that a variable names, from the repository's root where it is a relative path."""
    return (ROOT / Path(os.environ.get(variable) or default).expanduser()).resolve()


def data_root() -> Path:
    """The folder of downloaded corpora: `$DISCREPANCY_DATA`, else `data/`."""
    return _root("DISCREPANCY_DATA", "data")


def cache_root() -> Path:
    """The folder of vocabularies and tokenised corpora: `$DISCREPANCY_CACHE`, else `cache/`."""
    return _root("DISCREPANCY_CACHE", "cache")


def outputs_root() -> Path:
    """The folder of runs, tables and figures: `$DISCREPANCY_OUTPUTS`, else `outputs/`."""
    return _root("DISCREPANCY_OUTPUTS", "outputs")


def writable(folder: Path) -> Path:
    """The folder, made where there is none.

    Errors: ConfigError, with the variable that names another, where nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        refused = "" if os.access(folder, os.W_OK) else "it is read-only"
    except OSError as error:
        refused = error.strerror
    if refused:
        variable = next((name for name, root in (("DISCREPANCY_CACHE", cache_root()),
                                                 ("DISCREPANCY_DATA", data_root()))
                         if folder.is_relative_to(root)), "DISCREPANCY_OUTPUTS")
        raise ConfigError(f"nothing can be written in {folder} ({refused}): set {variable} to "
                          "another folder")
    return folder


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of text: UTF-8, lines as they are."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, content: dict) -> None:
    """`write_bytes` of JSON, indented."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """`write_bytes` of an .npz; the same bytes for the same numbers."""
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    write_bytes(path, packed.getvalue())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file in one move, its folder made where there is none.

    Errors: ConfigError for a folder that can't be written to, OutputError for a disk that is full.
    """
    writable(path.parent)
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise OutputError(f"can't write {path} ({error.strerror or error}): free some disk space "
                          "and run the same command again") from None


def read_json(path: Path) -> dict:
    """What a JSON file holds; {} where it is missing or damaged, and can be made again."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz. Errors: OSError where it is missing, ValueError where damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (EOFError, zipfile.BadZipFile) as error:
        raise ValueError(str(error)) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name, nobody else's, of a new file to write beside `path`, which it replaces in one move
    at the end; after any error there is no such file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_cache(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write(temporary)` make a file that can be made again; a disk that refuses it costs time
    later.
    """
    try:
        with replacing(path) as temporary:
            write(temporary)
    except OSError as error:
        logger.warning("can't keep %s: %s. DISCREPANCY_CACHE may name a folder that can be written "
                       "to; without it this is made again each time", path,
                       error.strerror or error)


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of `replacing` this file; nobody else writes it."""
    for leftover in path.parent.glob(f"{glob.escape(path.name)}.*.tmp"):
        leftover.unlink(missing_ok=True)


def path_in(name: str) -> property:
    """What a class of folders says of a file or folder in its `path`: where it lies."""
    return property(lambda folder: folder.path / name)


@dataclass(frozen=True)
class DistilledFolder:
    """One teacher's translation of a training set, or of its first `lines` pairs (a preview).

    `distilled/<dataset>/<scale>/<teacher>_s<seed>/` below the outputs.
    """

    dataset: str
    scale: str
    teacher: str
    seed: int = 1
    lines: int = 0  # 0: all

    @property
    def path(self) -> Path:
        """The set's folder; a preview's lies in it."""
        folder = (outputs_root() / "distilled" / self.dataset / self.scale
                  / f"{self.teacher}_s{self.seed}")
        return folder / f"first_{self.lines}" if self.lines else folder

    config = path_in("config.json")  # every setting that decides the text, as JSON
    metrics = path_in("metrics.json")  # the teacher's scores, and how much simpler its text is
    shards = path_in("shards")  # the folder of finished parts; not in git

    def text(self, language: str) -> Path:
        """The distilled targets; not in git."""
        return self.path / f"train.{language}.gz"

    @property
    def command(self) -> str:
        """The line that makes the set."""
        line = (f"python -m lib.distillation --dataset {self.dataset} --scale {self.scale} "
                f"--teacher {self.teacher} --seed {self.seed}")
        return f"{line} --lines {self.lines}" if self.lines else line
