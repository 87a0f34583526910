"""Cores as given; a process that asked for it ends with its parent, although that was killed."""

import getpass
import os
import pwd
import signal
import subprocess
import sys

import pytest
from processes import alive, until

from lib import host
from lib.host import allowed_cores

PARENT = """
import subprocess, sys, time
from lib.host import die_with_parent
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"],
                         preexec_fn=die_with_parent)
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the signal is Linux's")
def test_a_killed_parent_takes_its_child_with_it():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    os.kill(child, 0)  # it is there
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until(lambda: not alive(child), 20)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_cores_are_those_that_the_process_was_given():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert allowed_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert allowed_cores() == len(before)


def test_a_home_that_can_be_written_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    host.have_home(tmp_path / "spare")
    assert os.environ["HOME"] == str(tmp_path) and not (tmp_path / "spare").exists()


@pytest.mark.parametrize("home", ["/", "", "/no/such/folder"])
def test_who_has_no_home_gets_one(home, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", home)
    host.have_home(tmp_path / "spare")
    assert os.environ["HOME"] == str(tmp_path / "spare") and (tmp_path / "spare").is_dir()
    assert host.home() == tmp_path / "spare"


def test_who_has_no_name_is_called_by_the_number(tmp_path, monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # a user of no list
    monkeypatch.setenv("LOGNAME", "")  # for what is set below to be undone
    host.have_home(tmp_path)
    assert getpass.getuser() == str(os.getuid())
