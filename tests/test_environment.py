"""What `make` does around Python: an environment that is this clone's own, whatever its folder.

A script stands for the interpreter, pip and pytest: it notes what it is asked.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lib.paths import ROOT

INTERPRETER = """#!/usr/bin/env bash
# stands for Python: notes its arguments, and makes environments that hold a copy of it
[ "$1" = -c ] || {
    printf '%s|' "$@"; printf 'LOGNAME=%s|HOME=%s\\n' "$LOGNAME" "$HOME"
} >> "$NOTES"
[ "$1 $2" = "-m venv" ] && {
    while [ -e "$NOTES.hold" ]; do sleep 0.05; done
    mkdir -p .venv/bin; cp "$0" .venv/bin/python
}
true
"""


class Clone:
    """What `make` needs of the repository, in a folder of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("Makefile", "pyproject.toml", "constraints.txt", "scripts/environment.sh"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        self.bin = folder / "bin"
        self.bin.mkdir()
        (self.bin / "fake").write_text(INTERPRETER)
        (self.bin / "fake").chmod(0o755)

    def start(self, *words: str, **environment: str) -> subprocess.Popen:
        variables = {k: v for k, v in os.environ.items()
                     if not k.startswith(("DISCREPANCY_", "MAKE", "MFLAGS"))}
        variables |= {"PATH": f"{self.bin}:{os.environ['PATH']}",
                      "NOTES": str(self.folder / "notes")}
        return subprocess.Popen(["make", "PYTHON=fake", "TORCH=torch", *words], cwd=self.folder,
                                env=variables | environment, stdin=subprocess.DEVNULL, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def make(self, *words: str, **environment: str) -> str:
        process = self.start(*words, **environment)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said
        return said

    def notes(self) -> list[str]:
        """What the interpreters were asked since the last look."""
        file = self.folder / "notes"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path / "über uns" / "it's here")


def built(notes: list[str]) -> bool:
    return any(line.startswith("-m|venv|") for line in notes)


def test_the_environment_is_built_once(clone):
    assert "[1/3] environment" in clone.make("lint")
    notes = clone.notes()
    assert built(notes) and sum("|pip|install|" in line for line in notes) == 2
    clone.make("lint")
    assert [line.partition("|LOGNAME")[0] for line in clone.notes()] == ["-m|ruff|check|."]


@pytest.mark.skipif(shutil.which("flock") is None, reason="flock isn't installed")
def test_two_first_calls_build_one_environment(clone):
    hold = clone.folder / "notes.hold"
    hold.touch()
    first = clone.start("lint")
    assert first.stdout.readline().startswith("==> [1/3] environment")
    second = clone.start("lint")
    assert "being built by another make: waiting" in second.stdout.readline()
    hold.unlink()
    said = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert first.returncode == second.returncode == 0, said
    notes = clone.notes()
    assert sum(line.startswith("-m|venv|") for line in notes) == 1
    assert sum("|pip|install|" in line for line in notes) == 2
    assert sum("ruff" in line for line in notes) == 2


@pytest.mark.parametrize("move", [Path.rename, shutil.copytree])
def test_a_moved_or_copied_clone_builds_its_own(clone, tmp_path, move):
    clone.make("lint")
    clone.notes()
    old, clone.folder = clone.folder, tmp_path / "elsewhere"
    move(old, clone.folder)
    clone.bin = clone.folder / "bin"
    assert f".venv was built for {old}" in clone.make("lint")
    assert built(clone.notes())
    clone.make("lint")
    assert not built(clone.notes())


def test_a_link_to_another_clones_environment_is_refused(clone, tmp_path):
    clone.make("lint")
    other = Clone(tmp_path / "other")
    (other.folder / ".venv").symlink_to(clone.folder / ".venv")
    process = other.start("lint")
    said, _ = process.communicate(timeout=60)
    assert process.returncode and f"link to the environment of {clone.folder}" in said
    assert not other.notes()


def test_new_versions_are_installed_into_the_environment_that_is_there(clone):
    clone.make("lint")
    clone.notes()
    stamp = (clone.folder / ".venv/.installed").stat().st_mtime
    os.utime(clone.folder / "constraints.txt", (stamp + 5, stamp + 5))
    clone.make("lint")
    notes = clone.notes()
    assert not built(notes) and sum("|pip|install|" in line for line in notes) == 2


def test_without_a_python_that_fits_it_says_which_it_tried(clone):
    process = clone.start("lint", "PYTHON=no-such-python")
    said, _ = process.communicate(timeout=60)
    assert process.returncode and "(tried: no-such-python)" in said


def test_overrides_keep_their_quotes(clone):
    clone.make("lint")
    clone.notes()
    clone.make("grid", """OVERRIDES={start_from: 'ga_b', headline: "k4"}""")
    [line] = (line for line in clone.notes() if "|workflow.grid|" in line)
    assert """|--overrides|{start_from: 'ga_b', headline: "k4"}|""" in line


@pytest.mark.parametrize("home", ["/", "", "/no/such/folder"])
def test_who_has_no_home_gets_one_below_the_cache(clone, home):
    clone.make("lint", HOME=home, LOGNAME="someone")
    folder = clone.folder / "cache/home"
    said = f"|LOGNAME=someone|HOME={folder}"
    assert folder.is_dir() and all(line.endswith(said) for line in clone.notes())


def test_who_has_no_name_is_called_by_the_number(clone):
    (clone.bin / "id").write_text('#!/bin/sh\n[ "$1" = -u ] && echo 4321\n')  # a user of no list
    (clone.bin / "id").chmod(0o755)
    clone.make("lint", HOME=str(clone.bin), LOGNAME="", USER="")
    assert all(line.endswith(f"|LOGNAME=4321|HOME={clone.bin}") for line in clone.notes())
