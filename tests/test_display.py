"""What is shown of a grid at work."""

import logging
import os
import re
import subprocess
import sys
import time

import pytest

from lib.config import load_config
from lib.paths import ROOT
from lib.runs import RunFolder
from workflow.grid import display as module
from workflow.grid.workflow import Grid


@pytest.fixture
def display(isolated):
    shown = module.Display(Grid(), 2)
    yield shown
    shown.bar.close()


def tell(display, event, **fields):
    record = logging.LogRecord("snakemake", logging.INFO, "", 0, None, None, None)
    record.__dict__ |= {"event": event, **fields}
    display.emit(record)


def test_every_outcome_is_shown(display, capsys):
    tell(display, "run_info", stats={"train": 2, "distil": 1, "all": 1, "total": 4})
    run = {"model": "ga_b", "train_data": "raw", "seed": "1"}
    tell(display, "job_info", jobid=1, rule_name="train", wildcards=run)
    tell(display, "job_info", jobid=2, rule_name="distil", wildcards=None)
    display.tick()
    assert "left: ga_b raw s1 train 0/500, distil" in display.bar.desc
    tell(display, "job_finished", job_id=1)
    tell(display, "job_error", jobid=2, log=["outputs/09_distillation.ipynb"])
    tell(display, "job_finished", job_id=0)
    said = capsys.readouterr().out
    assert "3 steps to go" in said
    assert re.search(r"\[ 1/3\] ga_b raw s1 train +0 s", said)
    assert re.search(r"\[ 2/3\] distil +FAILED after 0 s, see outputs/09_distillation.ipynb", said)
    assert display.failed == 1 and display.waiting == {"train": 1, "distil": 0}


def test_progress_of_a_training_comes_from_its_own_history(isolated):
    history, steps = RunFolder("toy", "smoke", "tr_s").history, load_config("tr_s").training.steps
    name, begun = "tr_s raw s1 train", time.monotonic() - 60
    assert module._doing(Grid(), "train", name, begun) == f"{name} 0/{steps}"
    history.parent.mkdir(parents=True)
    history.write_text("step,seconds\n100,1.5\n200,3.0\n")
    assert module._doing(Grid(), "train", name, begun) == f"{name} 200/{steps}"
    os.utime(history, (0, 0))
    assert module._doing(Grid(), "train", name, begun) == f"{name} 0/{steps}"
    assert module._doing(Grid(), "distil", "distil", begun) == "distil"


def test_a_job_that_is_tried_again_is_counted_once(display, capsys):
    tell(display, "run_info", stats={"train": 1, "all": 1, "total": 2})
    run = {"model": "ga_b", "train_data": "raw", "seed": "1"}
    for _ in range(2):
        tell(display, "job_info", jobid=1, rule_name="train", wildcards=run)
        tell(display, "job_error", jobid=1, log=["02_train.ipynb"])
    assert (display.done, display.failed, display.waiting) == (1, 1, {"train": 0})
    tell(display, "job_info", jobid=1, rule_name="train", wildcards=run)
    tell(display, "job_finished", job_id=1)
    assert (display.done, display.failed, display.waiting) == (1, 0, {"train": 0})
    assert re.findall(r"\[ 1/1\]", capsys.readouterr().out) == ["[ 1/1]"] * 3


def test_the_work_goes_on_when_nobody_reads_what_is_shown(tmp_path):
    code = ("import time; from workflow.grid.display import show\n"
            f"show('first'); time.sleep(1); show('second'); open({str(tmp_path / 'done')!r}, 'w')")
    reader = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert reader.stdout.readline() == b"first\n"
    reader.stdout.close()
    assert reader.wait() == 0 and (tmp_path / "done").exists()
