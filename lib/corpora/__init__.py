"""Aligned sentence pairs of every corpus that params/datasets describes, checked line by line."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from lib.config import Dataset, unknown
from lib.corpora import formats
from lib.corpora.archives import POINT_TO, fetch, members
from lib.corpora.sources import Part, public_sets
from lib.errors import ConfigError, DataError
from lib.paths import data_root
from lib.synthetic import ToyTask

__all__ = ["SPLITS", "Pairs", "prepared", "read"]

SPLITS = ("train", "dev", "test")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pairs:
    """Aligned sentences: line i of `target` translates line i of `source`.

    Errors: DataError, on construction, for unequal line counts and for an empty line or a line of
    white space, with the file (from `names`) and the line number.
    """

    source: list[str]
    target: list[str]
    dropped: int = 0  # training pairs left out because a side was blank
    names: tuple[str, str] = field(default=("source", "target"), repr=False, compare=False)

    def __post_init__(self):
        _check_aligned(self.source, self.target, self.names)
        for name, sentences in zip(self.names, (self.source, self.target), strict=True):
            for number, line in enumerate(sentences, start=1):
                if not line or line.isspace():
                    raise DataError(f"{name}, line {number} is empty or white space: remove that "
                                    "line from both languages' files")

    def __len__(self) -> int:
        return len(self.source)


def read(dataset: Dataset, split: str) -> Pairs:
    """The sentence pairs of one split: 'train', 'dev' or 'test'.

    Files lie below `data_root()/dataset.folder`; missing ones of a public corpus are fetched. In
    the training parts of public corpora a pair with a blank side is left out and counted in
    `Pairs.dropped`; anywhere else it is an error.

    Errors: DataError for files that are missing, damaged, unaligned, empty or not UTF-8 (with file
    and line); ConfigError for an unknown set or option.
    """
    if dataset.corpus == "synthetic":
        return Pairs(*ToyTask.from_options(dataset.options).pairs(split))
    _check_options(dataset)
    if dataset.corpus == "files":
        parts = [_own_files(dataset, stem) for stem in _set_names(dataset, split)]
    else:
        parts = _public_parts(dataset, split)
    return _joined([_pairs(dataset, split, *part) for part in parts])


def prepared(dataset: Dataset, language: str, lines: Iterable[str]) -> list[str]:
    """Sentences as models of a data set are trained on them, and must be given them: without white
    space around them, Romanian without diacritics and all of it in lower case where the data set
    says so.
    """
    lines = [line.strip() for line in lines]
    if language == "ro" and dataset.options.get("normalise_romanian"):
        lines = [formats.normalise_romanian(line) for line in lines]
    return [line.lower() for line in lines] if dataset.lowercase else lines


def _set_names(dataset: Dataset, split: str) -> tuple[str, ...]:
    if not dataset.train:
        raise ConfigError(f"dataset {dataset.name}: train names no set; give at least one")
    return dataset.train if split == "train" else (getattr(dataset, split),)


def _check_options(dataset: Dataset) -> None:
    known = ("normalise_romanian",)
    for name, value in dataset.options.items():
        if name not in known:
            raise ConfigError(f"dataset {dataset.name}: {unknown('option', name, known)}")
        if not isinstance(value, bool):
            raise ConfigError(f"dataset {dataset.name}: normalise_romanian = {value!r} must be "
                              "true or false")
        if value and "ro" not in (dataset.source, dataset.target):
            raise ConfigError(f"dataset {dataset.name}: normalise_romanian is set, but neither "
                              f"{dataset.source} nor {dataset.target} is ro")


_Part = tuple[list[str], list[str], tuple[str, str]]  # source, target, the names of their files


def _own_files(dataset: Dataset, stem: str) -> _Part:
    paths = [_own_file(dataset, stem, language) for language in (dataset.source, dataset.target)]
    source, target = (formats.lines(formats.uncompressed(p), str(p)) for p in paths)
    return source, target, (str(paths[0]), str(paths[1]))


def _own_file(dataset: Dataset, stem: str, language: str) -> Path:
    folder = data_root() / dataset.folder
    plain, compressed = folder / f"{stem}.{language}", folder / f"{stem}.{language}.gz"
    there = [path for path in (plain, compressed) if path.is_file()]
    if not there:
        raise DataError(f"{plain} is missing (and so is {compressed.name}). {POINT_TO} "
                        f"{dataset.folder}/, or put the file there: one sentence a line, UTF-8, "
                        f"aligned with the other language's file. Dataset {dataset.name} has no "
                        "address to download it from")
    if len(there) > 1:
        raise DataError(f"{plain} and {compressed.name} are both there: remove the one that isn't "
                        "meant")
    return there[0]


def _public_parts(dataset: Dataset, split: str) -> list[_Part]:
    sets = {s: [_public_set(dataset, name) for name in _set_names(dataset, s)] for s in SPLITS}
    files = {s: list(dict.fromkeys(remote for part in parts for remote in part.remotes.values()))
             for s, parts in sets.items()}
    later = [remote for s in SPLITS for remote in files[s] if s != split]
    paths = dict(zip(files[split], fetch(dataset.folder, files[split], later), strict=True))
    return [_public_part(part, paths, dataset.source, dataset.target) for part in sets[split]]


def _public_set(dataset: Dataset, name: str) -> Part:
    languages = (dataset.source, dataset.target)
    sets = public_sets(dataset.corpus, *languages)
    if name not in sets:
        raise ConfigError(f"dataset {dataset.name}: "
                          + unknown(f"set of {dataset.corpus}", name, sets))
    part = sets[name]
    for language in languages:
        if language not in part.remotes:
            raise ConfigError(f"dataset {dataset.name}: {dataset.corpus} has no {name} in language "
                              f"'{language}', only in {', '.join(part.remotes)}")
    return replace(part, remotes={language: part.remotes[language] for language in languages})


def _public_part(part: Part, paths: dict, source: str, target: str) -> _Part:
    files = [paths[part.remotes[language]] for language in (source, target)]
    if part.members is None:
        if files[0] == files[1]:
            return *formats.tmx(files[0], source, target), (f"{files[0]} ({source})",
                                                            f"{files[0]} ({target})")
        texts = (formats.lines(formats.uncompressed(path), str(path)) for path in files)
        return *texts, (str(files[0]), str(files[1]))
    wanted = [part.members[language] for language in (source, target)]
    contents = members(files[0], wanted, part.inner)
    names = [f"{files[0]}: {member}" for member in wanted]
    texts = (_parser(m)(c, n) for m, c, n in zip(wanted, contents, names, strict=True))
    return *texts, (names[0], names[1])


def _parser(member: str):
    if member.endswith((".sgm", ".xml")):
        return formats.segments
    if "train.tags" in member:
        return formats.tagged_lines
    return formats.lines


def _pairs(dataset: Dataset, split: str, source: list[str], target: list[str],
           names: tuple[str, str]) -> Pairs:
    _check_aligned(source, target, names)
    dropped = 0
    if split == "train" and dataset.corpus != "files":
        kept = [(s, t) for s, t in zip(source, target, strict=True) if s and t]
        dropped = len(source) - len(kept)
        if dropped:
            logger.info("%s: left out %d of %d pairs with a blank side", names[0], dropped,
                        len(source))
            source, target = [s for s, _ in kept], [t for _, t in kept]
    if not source:
        raise DataError(f"{names[0]} and {names[1]} hold no sentence pair: one sentence a line is "
                        "needed")
    return Pairs(prepared(dataset, dataset.source, source),
                 prepared(dataset, dataset.target, target), dropped, names)


def _check_aligned(source: list[str], target: list[str], names: tuple[str, str]) -> None:
    if len(source) != len(target):
        raise DataError(f"{names[0]} and {names[1]} are not aligned: {len(source)} and "
                        f"{len(target)} lines; line i of one must translate line i of the other")


def _joined(parts: list[Pairs]) -> Pairs:
    if len(parts) == 1:
        return parts[0]
    names = tuple(" + ".join(part.names[side] for part in parts) for side in (0, 1))
    return Pairs([line for part in parts for line in part.source],
                 [line for part in parts for line in part.target],
                 sum(part.dropped for part in parts), names)
