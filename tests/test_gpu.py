"""The command for a card at hand for minutes, without one: wrong calls, archives, a rehearsal."""

import signal
import tarfile

import pytest
import torch
from made_up import made_up_run

from lib.training import checkpoints
from workflow import gpu, plans


@pytest.mark.parametrize(("words", "message"), [
    (["--plan", "multi30k_mni"], "unknown plan 'multi30k_mni': did you mean multi30k_mini?"),
    (["--plan", "rehearsal", "--cpu", "--minutes", "0.3"], "too short for one run of this plan"),
    (["--plan", "rehearsal", "--cpu", "--side-by-side", "0"], "--side-by-side must be 1 or more")])
def test_a_wrong_call_ends_before_anything_starts(words, message, isolated, capsys):
    assert gpu.main(words) == 2
    assert message in capsys.readouterr().err
    assert not list((isolated / "outputs").iterdir())


def test_without_a_card_it_says_so(isolated, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--plan", "rehearsal"]) == 2
    assert "finds no CUDA GPU" in capsys.readouterr().err


@pytest.mark.parametrize("runs_already", [True, False])
def test_a_daemon_that_another_command_started_stays(runs_already, isolated, tmp_path, monkeypatch):
    control, said = tmp_path / "nvidia-cuda-mps-control", tmp_path / "said"
    control.write_text(f'#!/bin/sh\n[ "$1" = -d ] && exit {int(runs_already)}\ncat > {said}\n')
    control.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with gpu.shared_card(2):
        assert not said.exists()
    assert said.exists() is not runs_already


def test_the_archive_holds_whole_runs_and_no_checkpoint(isolated, tmp_path):
    run = made_up_run("tr_s", 0.3, -2.0)
    run.checkpoints.mkdir()
    run.best.write_bytes(b"weights")
    (isolated / "outputs/runs/toy/smoke/ga_b/raw/s1").mkdir(parents=True)
    (isolated / "outputs/runs/toy/smoke/ga_b/raw/s1/history.csv").write_text("step")  # no metrics
    [path] = gpu.pack(tmp_path / "archive")
    with tarfile.open(path) as archive:
        names = archive.getnames()
    folder = "runs/toy/smoke/tr_s/raw/s1/"
    assert folder + "metrics.json" in names and folder + "sentences.csv" in names
    assert not any("ga_b" in name or name.endswith(".pt") for name in names)


def test_weights_travel_in_bf16_beside_the_distilled_text(isolated, tmp_path):
    run = made_up_run("tr_s", 0.3, -2.0)
    run.checkpoints.mkdir()
    weights = {"w": torch.linspace(-1, 1, 50), "count": torch.tensor(3)}
    checkpoints.save(run.best, {"step": 7, "weights": weights})
    text = isolated / "outputs/distilled/toy/smoke/tr_s_s1/train.en.gz"
    text.parent.mkdir(parents=True)
    text.write_bytes(b"lines")
    [path] = gpu.pack(tmp_path / "archive", ["tr_s", "ga_b"])
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path / "there", filter="data")
    assert (tmp_path / "there" / text.relative_to(isolated / "outputs")).read_bytes() == b"lines"
    there = checkpoints.load(tmp_path / "there" / run.best.relative_to(isolated / "outputs"), "")
    assert there["step"] == 7 and there["weights"]["w"].dtype == torch.bfloat16
    torch.testing.assert_close(there["weights"]["w"].float(), weights["w"], rtol=2**-8, atol=0)
    assert there["weights"]["count"] == 3


def test_what_is_whole_comes_back_from_a_call_that_was_stopped(isolated, monkeypatch, capsys):
    made_up_run("tr_s", 0.3, -2.0, dataset="multi30k_de_en")

    def stop(*_):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(gpu, "work_off", stop)
    words = ["--plan", "rehearsal", "--cpu", "--parts", "runs", "--archive"]
    assert gpu.main([*words, str(isolated / "archive")]) == 130
    [path] = (isolated / "archive").iterdir()
    with tarfile.open(path) as archive:
        assert any(name.endswith("metrics.json") for name in archive.getnames())
    assert "stopped: the same command goes on" in capsys.readouterr().out


def test_archives_are_cut_between_runs(isolated, tmp_path):
    for seed in range(3):
        made_up_run("tr_s", 0.3, -2.0, seed=seed)
    paths = gpu.pack(tmp_path / "archive", largest=40_000)
    found = []
    for path in paths:
        with tarfile.open(path) as archive:
            found += archive.getnames()
    assert len(paths) > 1
    assert len(found) == len(set(found)) and sum("metrics.json" in name for name in found) == 3


def test_rehearsal_of_two_runs_and_a_second_call_that_does_nothing(isolated, monkeypatch, capsys):
    text = (plans.PLANS / "rehearsal.yaml").read_text()
    (isolated / "plans").mkdir()
    (isolated / "plans/mine.yaml").write_text(text[:text.index("stages:")] +
                                              "stages: [{models: tr_s ga_b, train_data: raw}]\n")
    monkeypatch.setattr(plans, "PLANS", isolated / "plans")
    words = ["--plan", "mine", "--cpu", "--parts", "runs", "--side-by-side", "2"]
    assert gpu.main([*words, "--archive", str(isolated / "archive")]) == 0
    folder = isolated / "outputs/runs/toy/smoke/ga_b/raw/s1"
    before = {name: (folder / name).read_bytes() for name in ("history.csv", "sentences.csv")}
    assert gpu.main(words) == 0
    assert before == {name: (folder / name).read_bytes() for name in before}
    assert "2 of 2 jobs ended well" in capsys.readouterr().out
    assert len(list((isolated / "archive").iterdir())) == 1
