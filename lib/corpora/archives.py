"""Downloaded files: fetched with a known checksum, verified once, read without unpacking them."""

import contextlib
import hashlib
import json
import logging
import shlex
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pooch

from lib.errors import DataError
from lib.paths import cache_root, data_root, read_json, replacing, write_cache

__all__ = ["POINT_TO", "Remote", "fetch", "members"]

logger = logging.getLogger(__name__)

POINT_TO = ("Set DISCREPANCY_DATA (in a notebook: %env DISCREPANCY_DATA=/the/folder, in its first "
            "cell) to the folder that holds")


@dataclass(frozen=True)
class Remote:
    """A file that a user can download again."""

    name: str  # file name, below the corpus's folder
    address: str
    checksum: str  # "sha256:..." or "md5:...", in hexadecimal


def fetch(folder: str, remotes: Sequence[Remote], later: Sequence[Remote] = ()) -> list[Path]:
    """Paths of `remotes` below `data_root()/folder`, each with the right checksum.

    A missing file is downloaded, and has its name once its checksum is right. One that is there is
    hashed once; afterwards its size and time of change vouch for it. `later`: files of other
    splits, not fetched now, but named where a download fails.

    Errors: DataError for a file that can't be fetched (with the commands that get all missing
    ones), or has another checksum.
    """
    where = data_root() / folder
    for remote in remotes:
        path = where / remote.name
        if path.exists():
            _verify(path, remote)
            continue
        try:
            _download(path, remote)
        except OSError as error:  # errors of the network are OSErrors too
            raise DataError(_missing(folder, remote, [*remotes, *later], error)) from error
    return [where / remote.name for remote in remotes]


def _missing(folder: str, remote: Remote, wanted: Iterable[Remote], error: OSError) -> str:
    where = data_root() / folder
    response = getattr(error, "response", None)
    reason = error.strerror or type(error).__name__
    if response is not None:
        reason = f"HTTP status {response.status_code}"
    commands = "\n".join(
        f"  curl -L --create-dirs -o {shlex.quote(str(where / r.name))} {shlex.quote(r.address)}"
        for r in dict.fromkeys(wanted) if not (where / r.name).exists())
    return (f"{where / remote.name} is missing and could not be fetched from {remote.address} "
            f"({reason}). {POINT_TO} {folder}/{remote.name}, or fetch what is missing where there "
            f"is a network:\n{commands}")


def _download(path: Path, remote: Remote) -> None:
    new = [folder for folder in path.parents if not folder.exists()]
    # Servers that compress on the way would hand over other bytes than the checksum's.
    logger.info("fetching %s", remote.address)
    download = pooch.HTTPDownloader(progressbar=True, headers={"Accept-Encoding": "identity"})
    try:
        with replacing(path) as partial:
            download(remote.address, str(partial), None)
            actual = _hash(partial, remote)
            if actual != remote.checksum:
                raise DataError(
                    f"what {remote.address} sent for {path} has the wrong checksum (expected "
                    f"{remote.checksum}, actual {actual}) and was removed: the download broke off, "
                    f"or the address now holds something else. Try again, or get the file by hand "
                    f"(in a browser where the address answers with a web page) and put it at "
                    f"{path}")
    finally:
        for folder in new:  # from the innermost; one that has the file stays
            with contextlib.suppress(OSError):
                folder.rmdir()
    _remember(path, remote)


def _hash(path: Path, remote: Remote) -> str:
    algorithm = remote.checksum.partition(":")[0]
    return f"{algorithm}:{pooch.file_hash(str(path), alg=algorithm)}"


def _verify(path: Path, remote: Remote) -> None:
    if read_json(_stamp_path(path)) == _stamp(path, remote):
        return
    actual = _hash(path, remote)
    if actual != remote.checksum:
        raise DataError(
            f"{path} has the wrong checksum (expected {remote.checksum}, actual {actual}): it is "
            f"damaged or another version. Delete it to have it fetched again from {remote.address}")
    _remember(path, remote)


def _stamp(path: Path, remote: Remote) -> dict:
    state = path.stat()
    return {"path": str(path), "size": state.st_size, "changed_ns": state.st_mtime_ns,
            "checksum": remote.checksum}


def _stamp_path(path: Path) -> Path:
    return cache_root() / "checksums" / f"{hashlib.sha256(str(path).encode()).hexdigest()}.json"


def _remember(path: Path, remote: Remote) -> None:
    stamp = json.dumps(_stamp(path, remote))
    write_cache(_stamp_path(path), lambda temporary: temporary.write_text(stamp, encoding="utf-8"))


def members(archive: Path, names: Sequence[str], inner: str | None = None) -> list[bytes]:
    """The contents of `names` in a .tgz, in that order, read in one pass without unpacking it.

    A name matches at the end of a member's path, from a folder's boundary on. inner: the member
    that is the .tgz which holds them, where there is one inside the archive.

    Errors: DataError for a name that is not in the archive, or one that can't be read.
    """
    try:
        with tarfile.open(archive, mode="r|gz") as outer:
            if inner is None:
                return _contents(outer, names, str(archive))
            for member in outer:
                if _matches(member, inner):
                    with tarfile.open(fileobj=outer.extractfile(member), mode="r|gz") as nested:
                        return _contents(nested, names, f"{archive}: {member.name}")
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"{archive} can't be read as a .tgz ({error}): delete it to have it "
                        "fetched again") from error
    raise _lacking(str(archive), [inner])


def _matches(member: tarfile.TarInfo, name: str) -> bool:
    return member.isfile() and f"/{member.name}".endswith(f"/{name}")


def _contents(archive: tarfile.TarFile, names: Sequence[str], where: str) -> list[bytes]:
    contents = {}
    for member in archive:
        for name in names:
            if name not in contents and _matches(member, name):
                contents[name] = archive.extractfile(member).read()
        if len(contents) == len(set(names)):
            return [contents[name] for name in names]
    raise _lacking(where, [name for name in names if name not in contents])


def _lacking(where: str, names: Sequence[str]) -> DataError:
    return DataError(f"{where} has no file {', '.join(names)}: put the archive that the corpus's "
                     "page names in its place")
