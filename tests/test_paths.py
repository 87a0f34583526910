"""Folders that can't be written, and the variable that names another."""

import os

import pytest

from lib.errors import ConfigError
from lib.paths import cache_root, data_root, outputs_root, writable, write_text


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
    assert [path.name for path in (outputs_root() / "a b").iterdir()] == ["ü.txt"]
