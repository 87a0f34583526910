"""Where the lines of a grid run, and the jobs that a killed workflow leaves in the queue."""

import os
import re
import sys

import pytest

from lib.errors import ConfigError
from workflow import grid
from workflow.grid.cluster import PROFILES, Place, job_prefix, no_jobs_left
from workflow.grid.workflow import Grid


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """A stand-in for squeue, which shows the lines that are written into the file returned."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "squeue").write_text(f"#!/bin/sh\nexec cat '{tmp_path}/queue'\n")
    (folder / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    (tmp_path / "queue").touch()
    return tmp_path / "queue"


def test_a_profile_says_where_the_lines_run():
    here = Place.of(str(PROFILES / "default"), 3)
    assert here.words(Grid())[2:] == ["--cores", "3"]
    there = Place.of("workflow/profiles/slurm", 3)
    assert (there.executor, there.side_by_side) == ("slurm", 40)
    assert there.words(Grid())[2:] == ["--slurm-jobname-prefix", job_prefix(Grid())]


def test_what_is_no_profile_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"the profile .*none can't be read: .*No such file"):
        Place.of(str(tmp_path / "none"), 1)
    (tmp_path / "config.yaml").write_text("executor: [slurm")
    with pytest.raises(ConfigError, match="can't be read: while parsing"):
        Place.of(str(tmp_path), 1)
    (tmp_path / "config.yaml").write_text("- executor\n- slurm\n")
    with pytest.raises(ConfigError, match="holds no settings: give lines like `executor: slurm`"):
        Place.of(str(tmp_path), 1)


def test_a_python_that_snakemake_cannot_start_on_a_cluster_is_refused(monkeypatch):
    for path, fits in (("/srv/über_uns/bin/python3.11", True), ("/srv/my clone/python", False),
                       ("/srv/it's/python", False), ("/srv/$x/python", False)):
        monkeypatch.setattr(sys, "executable", path)
        Place.of(str(PROFILES / "default"), 1)
        if fits:
            Place.of(str(PROFILES / "slurm"), 1)
        else:
            with pytest.raises(ConfigError, match="use a Python in a folder without spaces"):
                Place.of(str(PROFILES / "slurm"), 1)


def test_jobs_are_named_by_grid_and_outputs(isolated, monkeypatch):
    first = job_prefix(Grid(scale="mini"))
    assert re.fullmatch(r"toy-mini-[0-9a-f]{8}", first)
    monkeypatch.setenv("DISCREPANCY_OUTPUTS", str(isolated / "other"))
    assert job_prefix(Grid(scale="mini")) != first
    odd = job_prefix(Grid(dataset="my über.set" + 60 * "x"))
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,50}", odd), "as the plugin wants it"


def test_jobs_of_a_killed_workflow_are_named(isolated, queue):
    no_jobs_left(Grid())
    mine, other = job_prefix(Grid()), job_prefix(Grid(scale="mini"))
    queue.write_text(f"7 {other}_1b4e\n12 {mine}_2f6a\n13 {mine}_2f6a\n14 bash\n")
    with pytest.raises(ConfigError, match=r"2 jobs .* stop them \(scancel 12 13\)"):
        no_jobs_left(Grid())


def test_nothing_starts_beside_the_jobs_of_a_killed_workflow(isolated, queue, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(grid, "_run", lambda asked, place: started.append(place) or 0)
    queue.write_text(f"12 {job_prefix(Grid())}_2f6a\n")
    assert grid.main(["--profile", "workflow/profiles/slurm"]) == 1
    assert "1 job of a workflow" in capsys.readouterr().err and not started
    assert grid.main([]) == 0 and len(started) == 1, "on this machine no queue is asked"


def test_a_queue_that_does_not_answer_ends_in_one_line(isolated, queue, monkeypatch):
    queue.unlink()
    with pytest.raises(ConfigError, match=r"no answer from SLURM's queue \(squeue .*No such file"):
        no_jobs_left(Grid())
    monkeypatch.setenv("PATH", str(isolated))
    with pytest.raises(ConfigError, match=r"no answer from SLURM's queue .*squeue"):
        no_jobs_left(Grid())
