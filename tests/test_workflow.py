"""Steps as real processes: order, what is done already, failures, and that none survives."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import nbformat
import pytest

from lib import workflow
from lib.paths import ROOT
from lib.workflow import Event, Step, order_problem, run_steps


@pytest.fixture
def folder(isolated):
    return isolated


def step(folder, name, code="", needs=(), inputs=(), **others):
    """A step that runs `code` and then writes its stamp."""
    stamp = folder / f"{name}.txt"
    code = f"{textwrap.dedent(code)}\nopen({str(stamp)!r}, 'w').close()"
    return Step(name, (sys.executable, "-c", code), 1.0, stamp, needs=needs, inputs=inputs,
                **others)


def run(steps, slots=2):
    heard: list[Event] = []
    last = run_steps(steps, slots, heard.append, poll=0.02)
    return {event.step.name: event for event in last}, [(e.step.name, e.kind) for e in heard]


def test_steps_run_after_what_they_need(folder):
    steps = [step(folder, "a"), step(folder, "b", needs=("a",)),
             step(folder, "c", needs=("a", "b"))]
    last, heard = run(steps)
    assert heard == [("a", "started"), ("a", "done"), ("b", "started"), ("b", "done"),
                     ("c", "started"), ("c", "done")]
    assert all(event.seconds > 0 for event in last.values())


def test_no_more_than_the_slots_run_at_once(folder):
    wait = "import time; time.sleep(0.3)"
    _, heard = run([step(folder, name, wait) for name in "abc"], slots=2)
    assert [kind for _, kind in heard[:3]] == ["started", "started", "done"]


def test_a_second_run_does_nothing(folder):
    steps = [step(folder, "a"), step(folder, "b", needs=("a",), inputs=(folder / "a.txt",))]
    run(steps)
    assert run(steps)[1] == [("a", "kept"), ("b", "kept")]


def test_what_is_older_than_its_input_is_made_again(folder):
    source = folder / "source"
    source.touch()
    steps = [step(folder, "a", inputs=(source,)), step(folder, "b")]
    run(steps)
    os.utime(source, (time.time() + 5,) * 2)
    assert run(steps)[1][0] == ("a", "started")
    (folder / "b.txt").unlink()
    assert ("b", "done") in run(steps)[1]


def test_what_follows_a_step_made_again_is_made_again(folder):
    steps = [step(folder, "a"), step(folder, "b", needs=("a",))]
    run(steps)
    (folder / "a.txt").unlink()
    assert ("b", "done") in run(steps)[1]


def test_a_failure_skips_what_needs_it_and_nothing_else(folder):
    steps = [step(folder, "a", "raise ValueError('too green')"), step(folder, "b", needs=("a",)),
             step(folder, "c", needs=("b",)), step(folder, "d")]
    last, _ = run(steps)
    assert {n: e.kind for n, e in last.items()} == {"a": "failed", "b": "skipped", "c": "skipped",
                                                    "d": "done"}
    assert last["a"].reason == "ValueError: too green"
    assert last["b"].reason == "a"


def test_a_step_that_made_nothing_has_failed(folder):
    silent = Step("a", (sys.executable, "-c", ""), 1.0, folder / "never")
    last, _ = run([silent])
    assert last["a"].kind == "failed" and "never" in last["a"].reason


def test_processes_read_nothing_and_use_one_thread(folder):
    code = "import os, sys\nassert sys.stdin.read() == '' and os.environ['OMP_NUM_THREADS'] == '1'"
    assert run([step(folder, "a", code)])[0]["a"].kind == "done"


def test_an_order_that_cannot_be_kept_is_refused(folder):
    steps = [step(folder, "a", needs=("b",)), step(folder, "b")]
    assert order_problem(steps) == "a needs b, which no step before it makes"
    with pytest.raises(ValueError, match="a needs b"):
        run(steps)


def test_interruption_ends_every_process(folder):
    pids = []

    def interrupt():
        found = folder / "pid"
        if found.exists() and found.read_text():
            pids.append(int(found.read_text()))
            raise KeyboardInterrupt

    code = f"""
        import os, time
        open({str(folder / 'pid')!r}, 'w').write(str(os.getpid()))
        time.sleep(60)"""
    with pytest.raises(KeyboardInterrupt):
        run_steps([step(folder, "a", code)], 1, lambda event: None, interrupt, poll=0.02)
    assert not _alive(pids[0])


@pytest.mark.skipif(sys.platform != "linux", reason="the signal for a killed starter is Linux's")
def test_a_killed_starter_leaves_nothing_behind(folder):
    starter = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from lib.workflow import Step, run_steps
        code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
        step = Step("a", (sys.executable, "-c", code), 1.0, Path({str(folder)!r}) / "never")
        run_steps([step], 1, lambda event: None)
    """)
    process = subprocess.Popen([sys.executable, "-c", starter], cwd=ROOT, stdin=subprocess.DEVNULL)
    log = folder / "cache/steps/a.log"
    try:
        _until(lambda: log.exists() and log.read_text().strip())
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    child = int(log.read_text())
    _until(lambda: not _alive(child))


def test_a_failing_notebook_is_told_by_its_error(folder, monkeypatch):
    monkeypatch.setattr(workflow, "NOTEBOOKS", folder)
    cells = [nbformat.v4.new_code_cell("raise ValueError('first line\\nsecond line')")]
    book = nbformat.v4.new_notebook(cells=cells, metadata={
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
    nbformat.write(book, folder / "x.ipynb")
    failing = workflow.notebook_step("x", "x", folder / "out.ipynb", 1.0, {})
    last, _ = run([failing])
    assert last["x"].reason == "ValueError: first line"
    assert failing.work.exists() and not failing.stamp.exists()


def _alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected doesn't."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _until(what, seconds=60.0):
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.05)
