"""Folders that can't be written, and the variable that names another."""

import errno
import os

import pytest

from lib.errors import ConfigError, OutputError
from lib.paths import (
    cache_root,
    data_root,
    outputs_root,
    remove_leftovers,
    replacing,
    writable,
    write_text,
)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("root", "variable"), [
    (cache_root, "DISCREPANCY_CACHE"), (data_root, "DISCREPANCY_DATA"),
    (outputs_root, "DISCREPANCY_OUTPUTS")])
@pytest.mark.parametrize("how", ["a file in the way", "read-only"])
def test_a_folder_that_cannot_be_written_is_named_with_its_variable(isolated, monkeypatch, root,
                                                                    variable, how):
    if how == "read-only":
        monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    else:
        root().rmdir()
        root().touch()
    for write in (writable, lambda folder: write_text(folder / "x", "")):
        with pytest.raises(ConfigError, match=rf"{root()}.*: set {variable} to another folder"):
            write(root() / "below")


def test_a_folder_is_made_where_there_is_none(isolated):
    write_text(outputs_root() / "a b" / "ü.txt", "text\r\n")
    assert (outputs_root() / "a b" / "ü.txt").read_bytes() == b"text\r\n"
    assert names(outputs_root() / "a b") == ["ü.txt"]


def test_two_writers_of_one_file_never_share_a_name(tmp_path):
    """Two processes with one number (on two machines) write at once: each its own, the last wins.
    """
    path = tmp_path / "run" / "last.pt"
    with replacing(path) as one, replacing(path) as other:
        assert one != other and one.parent == other.parent == path.parent
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"
    assert names(path.parent) == ["last.pt"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "last.pt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert names(tmp_path) == ["last.pt"]


def test_leftovers_of_a_file_are_removed_and_no_others(tmp_path):
    for name in ("last.pt", "last.pt.1f.tmp", "best.pt.1f.tmp", "last.ptx.1f.tmp"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "last.pt")
    assert names(tmp_path) == ["best.pt.1f.tmp", "last.pt", "last.ptx.1f.tmp"]


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match=r"can't write .*metrics.json \(No space left on device"):
        write_text(tmp_path / "metrics.json", "{}")
    assert names(tmp_path) == []
