"""One line as real processes: its output, its notebook, and that it doesn't outlive its starter."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat
import pytest
from processes import alive, until

from lib.paths import ROOT
from workflow.grid import guarded


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def test_a_line_reads_nothing_and_says_nothing_when_it_ends_well(capfd):
    code, message = guarded.run_line(python("import sys; print(sys.stdin.read() + 'x')"),
                                     os.getppid())
    assert (code, message) == (0, "") and capfd.readouterr().out == ""


def test_what_a_failed_line_wrote_last_is_told(monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    code, message = guarded.run_line(python("print('a'); raise ValueError('too green')"),
                                     os.getppid())
    assert code == 1 and message.endswith("ValueError: too green")


def test_a_command_that_is_not_there_is_named():
    assert guarded.run_line(["no-such-command"], os.getppid()) == (
        127, "no-such-command: No such file or directory")


def test_a_failing_notebook_is_kept_cleaned_and_told_by_its_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    cells = [nbformat.v4.new_code_cell("raise ValueError('first line\\nsecond line')")]
    book = nbformat.v4.new_notebook(cells=cells, metadata={
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
    nbformat.write(book, tmp_path / "in.ipynb")
    executed = tmp_path / "out.ipynb"
    code, message = guarded.run_line(
        ["papermill", str(tmp_path / "in.ipynb"), str(executed)], os.getppid())
    assert code == 1 and message == "ValueError: first line"
    kept = nbformat.read(executed, as_version=4)
    assert executed.read_text(encoding="utf-8") == nbformat.writes(kept) + "\n"
    assert set(kept.metadata) == {"kernelspec", "language_info"}
    assert any(cell.get("outputs") for cell in kept.cells)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_the_starter_ends_the_line(tmp_path, how):
    """The starter stands for Snakemake, whose shell becomes the guard."""
    told = tmp_path / "pid"
    line = f"import os, time; open({str(told)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    starter = subprocess.Popen(
        python(f"""
            import subprocess, sys
            subprocess.run([sys.executable, "-m", "workflow.grid.guarded", sys.executable, "-c",
                            {line!r}])
        """), cwd=ROOT, stdin=subprocess.DEVNULL)
    try:
        until(lambda: told.exists() and told.read_text())
    finally:
        starter.send_signal(how)
        starter.wait()
    until(lambda: not alive(int(told.read_text())))


@pytest.mark.skipif(sys.platform != "linux", reason="the signal for a killed guard is Linux's")
def test_a_killed_guard_takes_its_line_along(tmp_path):
    told = tmp_path / "pid"
    line = f"import os, time; open({str(told)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    command = [sys.executable, "-m", "workflow.grid.guarded", *python(line)]
    guard = subprocess.Popen(command, cwd=ROOT)
    try:
        until(lambda: told.exists() and told.read_text())
    finally:
        guard.kill()
        guard.wait()
    until(lambda: not alive(int(told.read_text())))
