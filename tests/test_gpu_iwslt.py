"""The one command for a GPU, rehearsed on a tiny corpus; no timing is tested."""

import shutil

import pandas as pd
import pytest
import torch
import yaml

from benchmarks import gpu
from lib import config as configuration
from lib.config import load_config
from lib.evaluation.scoring import load_run
from lib.paths import PARAMS, DistilledFolder, RunFolder
from lib.training import run_folder
from scripts import gpu_iwslt

OVERRIDES = {"d_model": 16, "d_filter": 32, "encoder_layers": 1, "decoder_layers": 1,
             "posterior_layers": 1, "flow_d_filter": 32, "batch_tokens": 128, "average": 0.0,
             "dev_sentences": 6, "dev_samples": 1, "samples": 2, "mbr_samples": 0,
             "refinements": [0, 4]}


@pytest.fixture
def tiny(isolated, monkeypatch):
    """A toy corpus of few pairs, and the options that make everything small."""
    shutil.copytree(PARAMS, isolated / "params")
    path = isolated / "params" / "datasets" / "toy.yaml"
    content = yaml.safe_load(path.read_text())
    content["options"] |= {"train_pairs": 80, "dev_pairs": 6, "test_pairs": 6}
    path.write_text(yaml.safe_dump(content))
    monkeypatch.setattr(configuration, "PARAMS", isolated / "params")
    monkeypatch.setattr(gpu, "matrix_rate", lambda where: 1e14)
    return ["--cpu", "--dataset", "toy", "--scale", "smoke", "--steps", "3", "--timed-steps", "1",
            "--sentences", "2", "--rounds", "1", "--overrides", yaml.safe_dump(OVERRIDES)]


def test_one_command_does_it_all_and_a_second_call_nothing(tiny, capsys):
    words = [*tiny, "--models", "tr_s", "ga_b"]
    assert gpu_iwslt.main(words) == 0
    training, decoding = gpu.kept("gpu_training"), gpu.kept("gpu_decoding")
    runs = [(m, data) for data in ("raw", "distilled") for m in ("tr_s", "ga_b")]
    assert list(zip(training["model"], training["train_data"], strict=True)) == runs
    assert training["share"].between(1e-9, 1).all() and (training["peak_mib"] > 1).all()
    pd.testing.assert_series_equal(training["share"],
                                   training["tflops"] / training["matrix_tflops"],
                                   rtol=2e-3, check_names=False)
    alone = decoding[decoding["batch"] == 1]
    assert alone["setting"].tolist() == ["greedy", "beam4", "k0", "k1", "k4"] * 2
    assert alone["graphs_ms"].isna().equals(alone["setting"] == "beam4")
    assert alone["same"].dropna().between(0, 1).all()
    assert (decoding["matrix_tflops"] > 0).all() and (alone["eager_share"] > 0).all()
    assert set(decoding.loc[decoding["batch"] != 1, "batch"]) == {6}  # the whole test set
    if not torch.cuda.is_available():
        assert (alone["graphs"] == 0).all()
    assert all(RunFolder("toy", "smoke", *of).metrics.exists() for of in runs)
    assert DistilledFolder("toy", "smoke", "tr_s").metrics.exists()
    assert "tokens_per_second" in capsys.readouterr().out

    before = {run: RunFolder("toy", "smoke", *run).last.stat().st_mtime_ns for run in runs}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("training_speed", "decoding_speed"):
            patch.setattr(gpu, name, None)
        patch.setattr(gpu_iwslt, "evaluate", None)
        assert gpu_iwslt.main(words) == 0
    assert before == {run: RunFolder("toy", "smoke", *run).last.stat().st_mtime_ns for run in runs}


class Alarm:
    """A clock that is over after it was looked at so many times."""

    def __init__(self, looks):
        self.looks = looks

    @property
    def over(self):
        self.looks -= 1
        return self.looks < 0


def test_training_stops_where_it_is_told_and_goes_on(tiny):
    asked = gpu_iwslt.arguments(tiny)
    config = gpu_iwslt.settings(asked, "tr_s", "raw")
    with pytest.raises(gpu_iwslt.OutOfTime):
        gpu_iwslt.train(config, 10, Alarm(2))
    saved = torch.load(run_folder(config).last)
    assert saved["step"] == 2
    gpu_iwslt.train(config, 10, Alarm(1))  # one step is left
    assert torch.load(run_folder(config).last)["step"] == 3
    assert gpu_iwslt.best_step(config) in (1, 2, 3)
    gpu_iwslt.train(config, 10, Alarm(0))  # nothing is


def test_a_run_whose_minutes_are_over_counts_as_trained(tiny):
    asked = gpu_iwslt.arguments(tiny)
    config = gpu_iwslt.settings(asked, "tr_s", "raw")
    gpu_iwslt.train(config, 1e-6, Alarm(9))
    history = pd.read_csv(run_folder(config).history)
    assert history["step"].tolist() == [1]
    assert gpu_iwslt.best_step(config) == load_run(config).step == 1


def test_a_call_without_time_says_so(tiny):
    assert gpu_iwslt.main([*tiny, "--call-minutes", "0"]) == gpu_iwslt.LATER == 75


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA GPU")
def test_without_a_gpu_the_rehearsal_is_named(capsys):
    assert gpu_iwslt.main([]) == 1
    assert "--cpu --dataset toy --scale smoke --train-data raw --steps 3" in capsys.readouterr().err


def test_a_short_schedule_reaches_the_full_weight_in_time():
    published = load_config("fl_b", "ted_de_en", "paper").training
    short = gpu_iwslt.shortened(2000, published)
    assert short == {"steps": 2000, "warmup_steps": 200, "kl_start": 50, "kl_ramp": 200,
                     "validate_every": 500}
    for steps in (1, 3, 1_000_000):
        load_config("fl_b", "ted_de_en", "paper", **gpu_iwslt.shortened(steps, published))
    assert gpu_iwslt.shortened(1_000_000, published)["kl_ramp"] == published.kl_ramp


def test_a_table_keeps_other_runs_and_replaces_its_own(isolated):
    config, other = load_config("tr_s"), load_config("ga_b")
    for which, step in ((config, 1), (other, 5), (config, 2)):
        gpu.keep("gpu_decoding", [{**gpu.of_run(which), "step": step, "setting": s} for s in "ab"])
    table = gpu.kept("gpu_decoding")
    assert table["model"].tolist() == ["ga_b"] * 2 + ["tr_s"] * 2
    assert gpu.has("gpu_decoding", config, step=2) and not gpu.has("gpu_decoding", config, step=1)
    assert not gpu.has("gpu_training", config)


def test_the_flops_of_a_step_are_those_of_its_products(tiny, isolated):
    """The output layer alone takes three products; a flow's prior counts from the first step."""
    rows = {model: gpu.training_speed(load_config(model, batch_tokens=256), 1)
            for model in ("tr_s", "fl_s")}
    per_token = {m: row["tflops"] / row["tokens_per_second"] for m, row in rows.items()}
    assert per_token["tr_s"] * gpu.TERA > 3 * 2 * 90 * 64
    assert per_token["fl_s"] > 1.5 * per_token["tr_s"]
    assert not any(isolated.glob("outputs/**/config.json")), "it leaves nothing behind"
