"""A lock on a run: one holder at a time, named in the refusal, and none that outlives its process.
"""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from lib.paths import ROOT
from lib.training.lock import RunLock

HOLDER = """
import sys, time
from pathlib import Path
from lib.training.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
assert lock.take() == ""
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s1" / "checkpoints" / "lock"


@pytest.fixture
def holder(path):
    """Another process that has the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], cwd=ROOT, text=True,
                               env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_refused_and_told_whose_it_is(path, holder):
    refusal = RunLock(path).take()
    assert refusal.startswith(f"{path.parent.parent} is being trained already, by process "
                              f"{holder.pid} on {socket.gethostname()} since 2")
    assert "\n" not in refusal
    owner = json.loads(path.read_text())
    assert (owner["process"], owner["host"]) == (holder.pid, socket.gethostname())


def test_a_lock_of_a_killed_process_is_none(path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert path.exists()
    lock = RunLock(path)
    assert lock.take() == ""
    assert json.loads(path.read_text())["process"] == os.getpid()
    lock.release()


def test_a_released_lock_is_free_and_leaves_nothing(path):
    first, second = RunLock(path), RunLock(path)
    assert first.take() == ""
    assert f"by process {os.getpid()} on" in second.take()
    first.release()
    assert not path.exists()
    assert second.take() == ""
    second.release()
    second.release()


def test_a_file_that_was_removed_under_it_is_made_again(path, monkeypatch):
    """The holder lets go between the opening of its file and the locking: that file is no more."""
    holder, other = RunLock(path), RunLock(path)
    assert holder.take() == ""
    real = RunLock._locked

    def locked(self, file):
        holder.release()
        return real(self, file)

    monkeypatch.setattr(RunLock, "_locked", locked)
    assert other.take() == ""
    assert json.loads(path.read_text())["process"] == os.getpid()
    assert "is being trained already" in RunLock(path).take()
    other.release()


@pytest.mark.parametrize("content", ["", "half a {", "[]", "{}"])
def test_an_owner_who_has_not_yet_written_his_name(path, content):
    lock = RunLock(path)
    assert lock.take() == ""
    path.write_text(content)
    assert "is being trained already: wait for its end" in RunLock(path).take()
    lock.release()


def test_a_file_system_without_locks_costs_a_warning(path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(95, os.strerror(95))
    monkeypatch.setattr("fcntl.flock", flock)
    lock = RunLock(path)
    assert lock.take() == ""
    lock.release()
    assert "can't be locked" in caplog.text
