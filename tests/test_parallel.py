"""Two processes are one: the same losses and weights, resumed too; none outlives its starter."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from processes import alive, until
from test_training import EVERY, STEPS, run, small
from torch import nn

from lib.config import load_config
from lib.errors import ConfigError, TrainingError
from lib.paths import ROOT
from lib.runs import run_folder
from lib.training import checkpoints, parallel, train, train_in_processes

pytestmark = pytest.mark.usefixtures("isolated")

FAMILIES = ("tr_s", "ga_b", "fl_s")
# Four ragged batches a step, two for each of two processes; dropout on, which must agree as well.
SHARED = {"accumulate": 4, "batch_tokens": 64, "dropout": 0.1}
CUT = 7  # between two checkpoints, after both data-dependent initialisations

WORKER = """
    import json, os, sys
    from pathlib import Path
    import torch
    from lib.training import parallel
    from test_training import Interrupted, run, small

    torch.set_default_dtype(torch.float64)
    base, jobs, shared = json.loads(sys.argv[1])
    with parallel.joined():
        for model, name, until in jobs:
            os.environ["DISCREPANCY_OUTPUTS"] = str(Path(base) / name)
            log = {}
            try:
                run(small(model, **shared), log, until)
            except Interrupted:
                pass
            path = Path(base) / f"{name}-{model}-{until}-{parallel.rank()}.json"
            path.write_text(json.dumps(log))
"""


def script(folder: Path, code: str) -> str:
    path = folder / "worker.py"
    path.write_text(textwrap.dedent(code))
    return str(path)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with runs by two processes: `two` in one go, `cut` stopped and started again."""
    folder = tmp_path_factory.mktemp("two")
    jobs = [job for model in FAMILIES
            for job in ((model, "two", None), (model, "cut", CUT), (model, "cut", None),
                        (model, "fewer", CUT))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
        patch.setenv("DISCREPANCY_CACHE", str(folder / "cache"))
        parallel.run(2, [script(folder, WORKER), json.dumps([str(folder), jobs, SHARED])], 1)
    return folder


def log_of(folder: Path, model: str, name: str = "two", until: int | None = None,
           rank: int = 0) -> dict:
    read = json.loads((folder / f"{name}-{model}-{until}-{rank}.json").read_text())
    return {int(step): terms for step, terms in read.items()}


def state_of(folder: Path, model: str, monkeypatch, name: str) -> dict:
    monkeypatch.setenv("DISCREPANCY_OUTPUTS", str(folder / name))
    state = checkpoints.load(run_folder(small(model)).last, "")
    return state | {"history": [{k: v for k, v in row.items() if k != "seconds"}
                                for row in state["history"]]}


# The same run --------------------------------------------------------------------------------

@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("model", FAMILIES)
def test_two_processes_give_the_losses_and_weights_of_one(model, two, monkeypatch, isolated):
    """Losses, weights, averages, dev scores and the place in the data, after twelve steps."""
    expected = {}
    monkeypatch.setenv("DISCREPANCY_OUTPUTS", str(isolated / "one"))
    whole = run(small(model, **SHARED), expected)
    assert whole.epoch >= 2, "the run should cross epochs"
    log = log_of(two, model)
    assert list(log) == list(expected) == list(range(1, STEPS + 1))
    for step, terms in expected.items():
        assert log[step] == pytest.approx(terms, rel=1e-9), step
    one = state_of(isolated, model, monkeypatch, "one")
    both = state_of(two, model, monkeypatch, "two")
    assert [both[k] for k in ("step", "epoch", "place")] == [STEPS, whole.epoch, whole.place]
    for kind in ("weights", "average"):
        for name, value in one[kind].items():
            torch.testing.assert_close(both[kind][name], value, rtol=1e-7, atol=1e-9, msg=name)
    assert len(both["history"]) == STEPS // EVERY
    for row, same in zip(both["history"], one["history"], strict=True):
        assert row == pytest.approx(same, rel=1e-7)


@pytest.mark.parametrize("model", FAMILIES)
def test_both_processes_see_the_whole_step(model, two):
    assert log_of(two, model, rank=0) == log_of(two, model, rank=1)


@pytest.mark.parametrize("model", FAMILIES)
def test_two_processes_resume_as_if_uninterrupted(model, two, monkeypatch):
    whole = log_of(two, model)
    before, after = log_of(two, model, "cut", CUT), log_of(two, model, "cut")
    assert before == {step: whole[step] for step in range(1, CUT + 1)}
    first = CUT // EVERY * EVERY + 1
    assert after == {step: whole[step] for step in range(first, STEPS + 1)}
    one, other = (state_of(two, model, monkeypatch, name) for name in ("two", "cut"))
    assert one["history"] == other["history"]
    for kind in ("weights", "average"):
        assert all(torch.equal(value, other[kind][name]) for name, value in one[kind].items())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("model", FAMILIES)
def test_one_process_goes_on_where_two_stopped(model, two, monkeypatch):
    """The number of processes isn't part of a run's settings."""
    monkeypatch.setenv("DISCREPANCY_OUTPUTS", str(two / "fewer"))
    whole, log = log_of(two, model), {}
    run(small(model, **SHARED), log)
    assert min(log) == CUT // EVERY * EVERY + 1
    for step, terms in log.items():
        assert terms == pytest.approx(whole[step], rel=1e-9), step


def test_from_a_shell_with_overrides(monkeypatch, isolated):
    """`torchrun ... -m lib.training`, as the notebook starts it: the history of one process."""
    overrides = {"steps": 4, "validate_every": 2, "accumulate": 2, "batch_tokens": 128,
                 "dev_sentences": 20, "precision": "fp32"}
    config = load_config("tr_s", **overrides)
    one = train(config, progress=False)
    rows = []
    monkeypatch.setenv("DISCREPANCY_OUTPUTS", str(isolated / "other"))
    folder = train_in_processes(config, 2, overrides, rows.append)
    assert [row["step"] for row in rows] == ["2", "4"]
    history = [line.split(",") for line in one.history.read_text().split("\n")[1:-1]]
    for row, expected in zip(rows, history, strict=True):
        assert float(row["train_nll"]) == pytest.approx(float(expected[3]), rel=1e-5)
    described = json.loads(folder.config.read_text())
    assert (described["processes"], described["training"]["accumulate"]) == (2, 2)


def test_too_few_batches_for_the_processes(isolated):
    overrides = {"steps": 2, "dev_sentences": 20}
    with pytest.raises(TrainingError, match=r"^2 processes can't share a step of accumulate = 1 "
                                            r"batch: start 1, or set accumulate to a multiple"):
        train_in_processes(load_config("tr_s", **overrides), 2, overrides)


# Alone, and shares ---------------------------------------------------------------------------

def test_a_process_alone_shares_with_nobody():
    model = nn.Linear(2, 2)
    model.loss_terms = lambda x, y: {"loss": model(x).sum() + y}
    replica = parallel.replicate(model, unused=True)
    with parallel.joined(), parallel.first_goes_ahead(), parallel.local(replica, last=False):
        terms = replica(torch.ones(1, 2), 3.0)
        terms["loss"].backward()
    assert torch.equal(model.weight.grad, torch.ones(2, 2))
    assert parallel.totals({"a": terms["loss"].detach(), "tokens": torch.tensor(3)})["tokens"] == 3
    assert parallel.from_first(lambda: {"dev_bleu": 1.5}) == {"dev_bleu": 1.5}
    assert (parallel.rank(), parallel.processes(), parallel.is_first()) == (0, 1, True)


@pytest.mark.parametrize(("batches", "count"), [(8, 8), (8, 2), (8, 3), (1, 1)])
def test_every_batch_belongs_to_one_process(batches, count, monkeypatch):
    monkeypatch.setattr(parallel, "processes", lambda: count)
    shares = []
    for rank in range(count):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        shares.append(parallel.share(range(batches)))
    assert sorted(place for own in shares for place in own) == list(range(batches))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_without_a_batch_is_refused(monkeypatch):
    monkeypatch.setattr(parallel, "processes", lambda: 4)
    with pytest.raises(ConfigError, match="4 processes can't share a step of accumulate = 2 "
                                          "batches: start 2, or set accumulate to a multiple of 4"):
        parallel.share(range(2))


# None survives -------------------------------------------------------------------------------

SLEEPER = """
    import os, sys, time
    from pathlib import Path
    from lib.training import parallel

    with parallel.joined():
        ready = Path(sys.argv[1]) / f"{parallel.rank()}.txt"
        ready.with_suffix(".new").write_text(f"{os.getpid()} {os.getppid()}")
        ready.with_suffix(".new").rename(ready)
        time.sleep(300)
"""
STARTER = """
    import sys
    from lib.training import parallel

    parallel.run(2, sys.argv[1:], 1)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the signal for a killed starter is Linux's")
@pytest.mark.parametrize("victim", ["starter", "torchrun"])
def test_no_process_survives_a_kill(victim, isolated):
    """SIGKILL to the notebook's process, or to torchrun itself: nothing is left in seconds."""
    worker = script(isolated, SLEEPER)
    starter = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STARTER), worker, str(isolated)], cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    pids = {starter.pid}
    try:
        ready = [isolated / f"{rank}.txt" for rank in range(2)]
        until(lambda: all(path.exists() for path in ready), 120)
        workers = [list(map(int, path.read_text().split())) for path in ready]
        torchrun = workers[0][1]
        assert torchrun == workers[1][1]
        pids |= {pid for pair in workers for pid in pair}
        assert all(map(alive, pids)) and len(pids) == 4
        os.kill(starter.pid if victim == "starter" else torchrun, signal.SIGKILL)
        until(lambda: starter.poll() is not None and not any(map(alive, pids)), 30)
    finally:
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)
        starter.wait()
