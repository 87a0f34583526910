"""The grid as a whole: what is shown of it, its profiles, and that killing it costs nothing.

The last test runs the real workflow on a copy of the repository whose toy corpus and models are
tiny, once without a break and once killed in each kind of step.
"""

import gzip
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from lib.config import MODELS
from lib.paths import NOTEBOOKS, ROOT
from lib.runs import RunFolder
from workflow import grid
from workflow.grid import workflow
from workflow.grid.cluster import PROFILES, Place
from workflow.grid.workflow import Grid

pytest.importorskip("snakemake")


def snakemake(*words: str, **environment: str) -> str:
    """What Snakemake says; fails with it."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow/Snakefile"),
         "--nolock", *words],
        cwd=ROOT, env=os.environ | environment, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


# What is planned ------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    """A dry run under the SLURM profile, which checks the profile's names and values too."""
    place = tmp_path_factory.mktemp("dry")
    pytest.importorskip("snakemake_executor_plugin_slurm")
    return snakemake("-n", "-p", "--cores", "8", "--workflow-profile", str(PROFILES / "slurm"),
                     DISCREPANCY_OUTPUTS=str(place / "outputs"),
                     DISCREPANCY_CACHE=str(place / "cache"))


def test_the_slurm_profile_plans_the_whole_grid(dry):
    counts = dict(re.findall(r"^(\w+) +(\d+) *$", dry, flags=re.MULTILINE))
    assert counts["train"] == counts["evaluate"] == str(2 * len(MODELS))
    assert counts["corpus"] == counts["distil"] == counts["correlation"] == "1"


def asked(plan: str, rule: str) -> list[dict[str, str]]:
    """What each job of a rule asks a cluster for."""
    jobs = re.findall(rf"^rule {rule}:$(.*?)^Shell command", plan, flags=re.MULTILINE | re.DOTALL)
    lines = [re.search("^    resources: (.*)$", job, flags=re.MULTILINE)[1] for job in jobs]
    return [dict(word.split("=") for word in line.split(", ")) for line in lines]


def test_rules_ask_a_cluster_for_what_they_need(dry):
    for each in asked(dry, "train"):
        assert (each["gres"], each["cpus_per_task"], each["runtime"]) == ("gpu:1", "4", "2880")
    assert {each["gres"] for each in asked(dry, "evaluate")} == {"gpu:1"}
    [small] = asked(dry, "corpus")
    assert "gres" not in small and small["runtime"] == "120"


def test_the_study_of_speed_has_a_node_of_its_own(dry):
    extra = [each["slurm_extra"] for each in asked(dry, "study")]
    assert sorted(extra) == [""] * 5 + ["--exclusive"] * 2  # 04, 06, 07, 10, 11; 08 on both texts


def test_a_changed_resource_leaves_the_others(isolated):
    pytest.importorskip("snakemake_executor_plugin_slurm")
    plan = snakemake("-n", "-p", "--workflow-profile", str(PROFILES / "slurm"), "--set-resources",
                     "train:runtime=600", "--config", "models=tr_s", "scale=paper", "processes=2")
    for each in asked(plan, "train"):
        assert (each["gres"], each["cpus_per_task"], each["runtime"]) == ("gpu:2", "8", "600")
        assert int(each["mem_mb"]) >= 32000


def test_a_cluster_without_gpus_is_asked_for_none(isolated):
    plan = snakemake("-n", "-p", "--cores", "1", "--config", "models=tr_s", "gpus=0")
    for rule in ("train", "distil", "evaluate", "study"):
        assert asked(plan, rule) and {each["gres"] for each in asked(plan, rule)} == {""}


def test_every_line_on_a_notebook_gives_papermill_two_paths_and_known_parameters(dry):
    lines = re.findall(r"^Shell command: (papermill .*)$", dry, flags=re.MULTILINE)
    assert len(lines) > 30
    for line in lines:
        _, notebook, executed, *rest = shlex.split(line)
        source = json.loads((ROOT / notebook).read_text(encoding="utf-8"))
        cell = next("".join(c["source"]) for c in source["cells"]
                    if "parameters" in c["metadata"].get("tags", []))
        assert executed.endswith(".ipynb") and executed != notebook
        given = [name for flag, word in itertools.pairwise(rest) if flag in ("-p", "-y")
                 for name in ([word] if flag == "-p" else yaml.safe_load(word))]
        assert given
        for name in given:
            assert re.search(rf"^{name} = ", cell, flags=re.MULTILINE), (notebook, name)


@pytest.mark.parametrize("path", sorted(PROFILES.glob("*/config.yaml")),
                         ids=lambda path: path.parent.name)
def test_profiles_keep_what_a_killed_workflow_needs(path):
    profile = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert profile["rerun-incomplete"] is True
    # what a command line gives replaces such a block as a whole, so that rules ask by themselves
    assert not {"set-threads", "set-resources", "default-resources"} & set(profile)
    assert "code" not in profile["rerun-triggers"]
    if profile.get("executor") == "slurm":  # sacct needs slurmdbd, and misses a cancellation
        assert profile["slurm-status-command"] == "squeue"


def test_numbers_in_overrides_reach_the_lines_by_snakemakes_own_command(isolated):
    lines = snakemake("-n", "-p", "--cores", "2", "--config", "models=ga_b", "train_data=raw",
                      "overrides={steps: 20, refinements: [0, 4], prior_keeps_pace: true}")
    for notebook in ("02_train", "03_eval"):
        assert re.search(rf"papermill notebooks/{notebook}.ipynb .* -y '{{overrides: {{steps: 20, "
                         r"refinements: \[0, 4\], prior_keeps_pace: true}}'", lines)


def test_all_settings_reach_snakemake():
    asked = Grid(models=("tr_s",), train_data=("raw",), seeds=(1, 2), seeded=("tr_s",),
                 overrides={"steps": 3, "accumulate": 2}, processes=2, gpus=0)
    given = grid.words(asked, Place.of(str(PROFILES / "default"), 2))
    settings = dict(word.split("=", 1) for word in given[given.index("--config") + 1:])
    for name in ("overrides", "processes", "gpus"):  # as Snakemake reads them
        settings[name] = json.loads(settings[name])
    assert Grid.of(settings) == asked


# The command ----------------------------------------------------------------------------------

def test_a_plan_lists_the_steps_with_what_they_took_before(isolated):
    before = RunFolder("toy", "smoke", "tr_s")
    before.path.mkdir(parents=True)
    before.history.write_text("step,seconds\n100,90.0\n200,180.0\n")
    before.config.write_text('{"device": "cuda"}')
    done = subprocess.run([sys.executable, "-m", "workflow.grid", "--list", "--fresh", "--models",
                           "tr_s", "ga_b", "--train-data", "raw"], cwd=ROOT, capture_output=True,
                          text=True, check=False)
    first, *steps, last = done.stdout.splitlines()
    assert first == "The grid on toy at scale smoke: 2 runs." and done.returncode == 0
    assert re.fullmatch(r" +tr_s raw s1 train +3.0 minutes on cuda before", steps[2])
    assert {"  ga_b raw s1 train", "  tr_s raw s1 evaluate", "  gallery"} < set(steps)
    assert last == "12 steps, 2 of them trainings; those with a time took 0.1 hours on cuda"
    assert len(steps) == 12 and before.history.exists()


def test_only_one_call_at_a_time_works_on_a_grid(isolated, capsys):
    with grid._alone(Grid()):
        assert grid.main(["--cores", "1"]) == 1
    assert "is being run already" in capsys.readouterr().err


def test_what_cannot_be_written_is_named_before_anything_starts(isolated, monkeypatch, capsys):
    for name in ("OUTPUTS", "CACHE"):
        with monkeypatch.context() as patched:
            patched.setenv(f"DISCREPANCY_{name}", "/dev/null/x")
            assert grid.main([]) == 1
        assert f"set DISCREPANCY_{name} to another folder" in capsys.readouterr().err


def test_lines_of_a_read_only_clone_run_below_the_cache(isolated, monkeypatch):
    monkeypatch.setattr(workflow.os, "access", lambda path, mode: path != ROOT)
    words = grid.words(Grid(), Place.of(str(PROFILES / "default"), 1))
    assert words[words.index("--directory") + 1] == str(isolated / "cache/grid/snakemake")
    assert Grid.notebook("08_speed") == str(NOTEBOOKS / "08_speed.ipynb")


def test_fresh_forgets_what_it_would_go_on_from(isolated, monkeypatch, capsys):
    monkeypatch.setattr(grid, "_run", lambda asked, place: 0)
    folder = RunFolder("toy", "smoke", "tr_s")
    folder.checkpoints.mkdir(parents=True)
    folder.last.touch()
    folder.metrics.touch()
    assert grid.main([]) == 0 and folder.last.exists()
    assert grid.main(["--fresh"]) == 0
    assert not folder.checkpoints.exists() and folder.metrics.exists()
    assert "README.md" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "message"), [
    (["--models", "gab"], "did you mean ga_b?"),
    (["--accountings", "strict", "strikt"], "unknown accounting 'strikt'"),
    (["--overrides", "{seed: 2}"], "overrides name seed, which has an option of its own")])
def test_a_wrong_call_is_refused_in_one_line(words, message, isolated, capsys):
    assert grid.main(words) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


# Killed and started again ---------------------------------------------------------------------

TINY = {
    "params/datasets/toy.yaml": {"train_pairs": 300, "dev_pairs": 30, "test_pairs": 30},
    "params/smoke/tr_s.yaml": {"steps": 60, "validate_every": 20, "dev_sentences": 30},
}
SHARD_LINES = 50  # of 300
# Where a test would kill a process, it stays until it is killed, however fast the machine is.
HELD = """        os.replace(temporary, path)
        held = ROOT / "held.txt"
        while held.exists() and held.read_text(encoding="utf-8") == path.name:
            __import__("time").sleep(0.02)
"""


def copy_of_the_repository(folder: Path) -> Path:
    """What the workflow needs of the repository, with a tiny corpus, model and shards; a process
    that has written the file named in `held.txt` goes no further while that is there.
    """
    for name in ("lib", "analysis", "notebooks", "params", "workflow"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, values in TINY.items():
        text = (folder / name).read_text(encoding="utf-8")
        for key, value in values.items():
            text, count = re.subn(rf"^(\s*{key}:) *\S+", rf"\1 {value}", text, flags=re.MULTILINE)
            assert count == 1, (name, key)
        (folder / name).write_text(text, encoding="utf-8")
    for name, old, new in (
            ("distillation/__init__.py", r"^SHARD_LINES = \d+", f"SHARD_LINES = {SHARD_LINES}"),
            ("paths.py", r"^        os\.replace\(temporary, path\)\n", HELD)):
        module = folder / "lib" / name
        text, count = re.subn(old, new, module.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert count == 1, name
        module.write_text(text, encoding="utf-8")
    return folder


WITHOUT_WORKFLOW = """
from lib.config import load_config
from lib.distillation import distil
from lib.evaluation import evaluate
from lib.training import Trainer
for data in ("raw", "distilled"):
    config = load_config("tr_s", "toy", "smoke", train_data=data)
    Trainer(config, progress=False).run()
    distil(config) if data == "raw" else evaluate(config, progress=False)
"""


class Workflow:
    """The workflow in a copy of the repository, up to an evaluated run on distilled text, for which
    it takes a step of every kind.
    """

    def __init__(self, folder: Path):
        self.folder = copy_of_the_repository(folder)
        self.outputs = folder / "outputs"
        self.run = self.outputs / "runs/toy/smoke/tr_s"

    def start(self, *words: str) -> subprocess.Popen:
        """The workflow, or Python with other words."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DISCREPANCY_")}
        goal = "outputs/runs/toy/smoke/tr_s/distilled/s1/checkpoints/evaluated"
        with open(self.folder / "said.txt", "ab") as said:
            return subprocess.Popen(
                [sys.executable, *(words or ("-m", "snakemake", goal, "--cores", "1", "--nolock"))],
                cwd=self.folder, env=environment | {"PYTHONPATH": str(self.folder)},
                stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)

    def finish(self) -> None:
        process = self.start()
        assert process.wait(LONG) == 0, self.said()

    def kill_at(self, folder: Path, name: str) -> None:
        """Start, SIGKILL once such a file is below the folder, and its writer waits; nothing may be
        left of it.
        """
        held = self.folder / "held.txt"
        held.write_text(name, encoding="utf-8")
        process, limit = self.start(), time.monotonic() + LONG
        try:
            while not any(folder.rglob(name)):
                assert process.poll() is None and time.monotonic() < limit, self.said()
                time.sleep(0.02)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        while self.processes():
            assert time.monotonic() < limit, self.processes()
            time.sleep(0.05)
        held.unlink()

    def processes(self) -> list[str]:
        """What runs in the copy's folder (Linux), or nothing."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (entry / "cwd").resolve() == self.folder.resolve():
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return [line for line in found if line]

    def said(self) -> str:
        return (self.folder / "said.txt").read_text(encoding="utf-8")[-4000:]

    def results(self) -> dict:
        """Every result that doesn't tell of the machine or of the time."""
        found = {}
        for data in ("raw", "distilled"):
            run = self.run / data / "s1"
            found[data, "history"] = pd.read_csv(run / "history.csv").drop(columns="seconds")
            found[data, "validations"] = (run / "validations.npz").read_bytes()
            found[data, "config"] = json.loads((run / "config.json").read_text())
            for name in ("best", "last"):
                content = torch.load(run / f"checkpoints/{name}.pt", weights_only=True)
                found[data, name] = content["weights"]
        found["sentences"] = (run / "sentences.csv").read_bytes()
        found["metrics"] = json.loads((run / "metrics.json").read_text())
        del found["metrics"]["speed"], found["metrics"]["training"]["seconds"]
        [text] = self.outputs.glob("distilled/toy/smoke/tr_s_s1/train.*.gz")
        found["distilled text"] = gzip.decompress(text.read_bytes())
        return found


LONG = 900.0  # seconds, on a machine that others use too


def same(ours, theirs) -> bool:
    if isinstance(ours, pd.DataFrame):
        return ours.equals(theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[k], theirs[k]) for k in ours)
    return torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.skipif(not (NOTEBOOKS / "09_distillation.ipynb").exists(), reason="no distillation")
def test_a_workflow_killed_in_every_kind_of_step_gives_the_files_of_calls_without_one(tmp_path):
    whole, broken = Workflow(tmp_path / "whole"), Workflow(tmp_path / "it's über uns")
    at_once = whole.start("-c", WITHOUT_WORKFLOW)
    last = broken.run / "raw/s1/checkpoints/last.pt"
    shards = broken.outputs / "distilled/toy/smoke/tr_s_s1/shards"
    try:
        broken.kill_at(broken.run, last.name)
        assert not (last.parent / "trained").exists()
        kept = torch.load(last, weights_only=True)["step"]
        assert kept == TINY["params/smoke/tr_s.yaml"]["validate_every"]

        broken.kill_at(shards, "00001.json.gz")
        part = list(shards.glob("*/*.json.gz"))
        assert len(part) == 2 and not list(shards.parent.glob("train.*.gz"))
        made = {path: path.stat().st_mtime_ns for path in part}

        broken.kill_at(broken.run, "sentences.csv")
        assert not list(broken.run.rglob("metrics.json"))
        assert made == {path: path.stat().st_mtime_ns for path in part}  # none decoded again
        broken.finish()
        assert at_once.wait(LONG) == 0, whole.said()
    finally:
        at_once.kill()

    ours, theirs = broken.results(), whole.results()
    for name in theirs:
        assert same(ours[name], theirs[name]), name
    before = {p: p.stat().st_mtime_ns for p in broken.outputs.rglob("*") if p.is_file()}
    broken.finish()
    assert before == {p: p.stat().st_mtime_ns for p in broken.outputs.rglob("*") if p.is_file()}
    assert "Nothing to be done" in broken.said()
