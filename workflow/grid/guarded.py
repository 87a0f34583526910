"""One line of the workflow that can't outlive the workflow: python -m workflow.grid.guarded LINE.

The Snakefile puts this before each line by itself. The line reads nothing, and what it writes is
shown only if it fails. A notebook that papermill has executed is cleaned where it lies, of a
failed line too. When the process that started this one is gone, however it ended, the line's
processes end: else a killed workflow that is started again would find its own runs still at work.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lib.host import die_with_parent
from workflow.grid.executed import clean, error_line

__all__ = ["main", "run_line"]

POLL = 0.2  # seconds between two looks at the starter
GRACE = 5.0  # seconds that a process has to end by itself
SHOWN = 15  # last lines of a failed line's output
# Papermill without a check of addresses that no notebook asks for, whose import takes seconds.
PAPERMILL = ("import sys; sys.modules['rfc3987_syntax'] = None; "
             "from papermill.cli import papermill; papermill(prog_name='papermill')")
# By this Python's modules: PATH may lead elsewhere, and a moved environment's scripts do.
COMMANDS = {"python": (sys.executable,), "papermill": (sys.executable, "-c", PAPERMILL)}


def run_line(words: list[str], starter: int) -> tuple[int, str]:
    """Run the words as a process; returns its exit code, and what a person should read if not 0.

    `starter`: the process whose end ends this one; as a rule `os.getppid()`.
    """
    command = [*COMMANDS.get(words[0], words[:1]), *words[1:]]
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output,
                                       stderr=subprocess.STDOUT, start_new_session=True,
                                       preexec_fn=die_with_parent,
                                       env=os.environ | {"PYTHONUNBUFFERED": "1"})
        except OSError as error:
            return 127, f"{words[0]}: {error.strerror}"
        try:
            while process.poll() is None:
                if os.getppid() != starter:
                    return 143, "the workflow has ended"
                time.sleep(POLL)
        finally:
            _end(process)
        reason = _finish(words)
        if process.returncode == 0:
            return 0, ""
        output.seek(0)
        lines = output.read().decode("utf-8", "replace").rstrip().split("\n")
        return process.returncode, reason or "\n".join(lines[-SHOWN:])


def _end(process: subprocess.Popen) -> None:
    """End the process and its group; papermill's kernel notices by itself that it is alone."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, how)
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                continue


def _finish(words: list[str]) -> str:
    """Clean what papermill has written; returns the error that it holds."""
    if words[0] != "papermill" or len(words) < 3 or not Path(words[2]).exists():
        return ""
    executed = Path(words[2])
    notebook = json.loads(executed.read_text(encoding="utf-8"))
    clean(notebook)
    text = json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True)  # as nbformat has it
    partial = executed.with_name(executed.name + ".partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(executed)
    return error_line(notebook)


def main(words: list[str] | None = None) -> int:
    """Run the line that the arguments give; its exit code."""
    starter = os.getppid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    code, message = run_line(words or sys.argv[1:], starter)
    if message:
        sys.stderr.write(f"{message}\n")
    return code if code >= 0 else 128 - code


def _stop(number: int, _frame) -> None:
    raise SystemExit(128 + number)  # through the `finally` that ends the line


if __name__ == "__main__":
    sys.exit(main())
