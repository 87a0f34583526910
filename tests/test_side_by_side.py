"""Several jobs at a time: their order, their clock, and what failed."""

import time

import pytest

from lib.errors import ConfigError
from workflow import side_by_side
from workflow.job import Job
from workflow.side_by_side import work_off


def job(name, code="pass", after=(), seconds=0.0):
    return Job(name, ("-c", code), after, seconds)


def test_jobs_run_after_what_they_need_and_not_after_what_failed(isolated, capsys):
    jobs = [job("a"), job("b", "raise SystemExit('no such thing')"), job("c", after=("a",)),
            job("d", after=("b",)), job("e", after=("d",))]
    work = work_off(jobs, 2, time.monotonic() + 60)
    assert set(work.took) == {"a", "c"}
    assert work.failed == {"b": "no such thing", "d": "what it needs failed",
                           "e": "what it needs failed"}
    assert "b: failed" in capsys.readouterr().out


def test_none_side_by_side_is_refused(isolated):
    with pytest.raises(ConfigError, match="--side-by-side = 0 must be 1 or more"):
        work_off([job("a")], 0, time.monotonic() + 60)


def test_what_would_not_end_in_time_is_not_begun(isolated, tmp_path):
    touched = tmp_path / "touched"
    jobs = [job("long", f"open({str(touched)!r}, 'w')", seconds=1000.0), job("short")]
    work = work_off(jobs, 2, time.monotonic() + 30)
    assert set(work.took) == {"short"} and [j.name for j in work.waiting] == ["long"]
    assert not touched.exists()


def test_nothing_builds_on_what_the_clock_cut_off(isolated, capsys):
    work = work_off([job("a", "raise SystemExit(75)"), job("b", after=("a",))], 2,
                        time.monotonic() + 60)
    assert work.cut_off == {"a"} and not work.took and not work.failed
    assert [left.name for left in work.waiting] == ["b"]
    assert "a: cut off" in capsys.readouterr().out


def test_the_pace_is_that_of_all_that_has_ended(isolated, tmp_path):
    work = side_by_side._Work([], 2, time.monotonic() + 100, tmp_path, 0.0)
    work.planned, work.took = {"a": 10.0, "b": 10.0}, {"a": 30.0, "b": 10.0, "unplanned": 9.0}
    assert work.fits(job("c", seconds=45.0)) and not work.fits(job("c", seconds=55.0))


def test_what_runs_over_is_stopped(isolated):
    work = work_off([job("slow", "import time; time.sleep(600)")], 1, time.monotonic() + 1)
    [(_, process, _)] = work.running.values()
    assert process.poll() is not None and not work.took
