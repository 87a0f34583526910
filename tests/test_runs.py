"""The door to run folders: commands, files and what is said where one is missing or damaged."""

import json
import math
import shutil

import pandas as pd
import pytest
from made_up import made_up_references, made_up_run

from lib.bleu import bleu_from_counts
from lib.config import load_config
from lib.errors import DataError
from lib.paths import outputs_root
from lib.runs import RunFolder, find_runs, run_folder


def test_a_run_has_its_folder_and_its_commands(isolated):
    run = run_folder(load_config("ga_b", "toy", "smoke", 3, "distilled"))
    assert run == RunFolder("toy", "smoke", "ga_b", "distilled", 3)
    assert run.path == outputs_root() / "runs/toy/smoke/ga_b/distilled/s3"
    words = "-p model ga_b -p dataset toy -p scale smoke -p train_data distilled -p seed 3"
    assert run.train_command == f"papermill notebooks/02_train.ipynb OUT.ipynb {words}"
    assert run.evaluate_command == f"papermill notebooks/03_eval.ipynb OUT.ipynb {words}"
    raw = RunFolder("toy", "smoke", "ga_b")
    assert raw.train_command.endswith("-p model ga_b -p dataset toy -p scale smoke -p seed 1")


def test_runs_are_found_by_data_set_and_scale(isolated):
    made_up_run("tr_s", 0.1, 1.0, seed=2)
    made_up_run("ga_b", 0.1, 1.0, "distilled")
    made_up_run("tr_s", 0.1, 1.0, scale="mini")
    assert find_runs("toy", "smoke") == [RunFolder("toy", "smoke", "ga_b", "distilled", 1),
                                         RunFolder("toy", "smoke", "tr_s", "raw", 2)]
    assert len(find_runs()) == 3
    run = find_runs()[0]
    shutil.copytree(run.path, run.path.with_name("s1_backup"))
    assert len(find_runs()) == 3


def test_metrics_tell_their_fields(isolated):
    run = made_up_run("ga_b", 0.2, 1.5, k0_wrong=0.4, mbr_wrong=0.1)
    values = json.loads(run.metrics.read_text())
    values["bleu"]["k4"] |= {"gain": 3, "gain_low": None, "not known yet": 1}
    values["dev_bleu"] = 30
    run.metrics.write_text(json.dumps(values))
    metrics = run.read_metrics()
    assert (metrics.model, metrics.family, metrics.test_set.lines) == ("ga_b", "gaussian", 200)
    assert metrics.own == metrics.bleu["k4"] and metrics.own.gain == 3.0
    assert math.isnan(metrics.own.gain_low) and math.isnan(metrics.own.score_low)
    assert metrics.mbr.score == values["bleu"]["mbr16-chrf"]["score"]
    assert metrics.log_likelihood["strict"].mean == values["log_likelihood"]["strict"]["mean"]
    assert made_up_run("tr_s", 0.2, 1.5).read_metrics().mbr is None


def test_sentences_are_text_whatever_they_read(isolated):
    odd = ["", "nan", "NA", 'a "quoted", comma', "one"]
    run = made_up_run("tr_s", 0.0, 1.0, references=odd)
    table = run.read_sentences()
    assert table["hypothesis"].tolist() == odd
    assert table["elbo"].isna().all() and table["log_prob"].notna().all()


def test_another_column_of_hypotheses_takes_the_place(isolated):
    run = made_up_run("tr_s", 0.0, 1.0, mbr_wrong=0.9)
    assert run.read_sentences()["hypothesis"].tolist() == made_up_references()
    other = run.read_sentences("hypothesis_mbr")
    assert other["hypothesis"].tolist() == other["hypothesis_mbr"].tolist() != made_up_references()
    with pytest.raises(DataError, match=r"sentences.csv has no column best: .*03_eval"):
        run.read_sentences("best")


def test_a_bound_at_fewer_samples_takes_the_place(isolated):
    run = made_up_run("ga_b", 0.3, 1.0)
    bounds = {"iw_bound_1": -9.0, "iw_bound_10": -8.0, "iw_bound_100": -7.0}
    pd.read_csv(run.sentences).assign(**bounds).to_csv(run.sentences, index=False)
    table = run.read_sentences(samples=10)
    assert (table["log_prob"] == -8.0).all()
    assert [name for name in table if name.startswith("iw_bound_")] == ["iw_bound_1"]
    assert run.read_sentences(samples=7).equals(run.read_sentences())


@pytest.mark.parametrize(("read", "command"), [
    (RunFolder.read_metrics, "03_eval"), (RunFolder.read_sentences, "03_eval"),
    (RunFolder.read_history, "02_train")])
def test_what_is_missing_is_named_with_what_makes_it(isolated, read, command):
    with pytest.raises(DataError, match=rf"is missing: papermill notebooks/{command}.*-p model"):
        read(RunFolder("toy", "smoke", "tr_s"))


@pytest.mark.parametrize(("text", "message"), [
    ("{", "metrics.json is damaged"), ('{"model": "tr_s"}', "metrics.json has no 'bleu'"),
    ('{"bleu": null}', "metrics.json is damaged")])
def test_a_damaged_file_is_made_again(isolated, text, message):
    run = made_up_run("tr_s", 0.1, 1.0)
    run.metrics.write_text(text)
    with pytest.raises(DataError, match=f"{message}.*03_eval"):
        run.read_metrics()


def test_counts_of_bleu_are_none_before_they_were_kept_and_named_where_damaged(isolated):
    run = made_up_run("ga_b", 0.1, 1.0)
    counts = run.read_bleu_counts()
    assert {"k0", "k4"} <= set(counts)
    assert float(bleu_from_counts(counts["k4"].sum(0))) == pytest.approx(
        run.read_metrics().bleu["k4"].score)
    for harm in (b"", b"PK", run.bleu_counts.read_bytes()[:100]):
        run.bleu_counts.write_bytes(harm)
        with pytest.raises(DataError, match=r"bleu_counts.npz is damaged .*03_eval"):
            run.read_bleu_counts()
    run.bleu_counts.unlink()
    assert run.read_bleu_counts() == {}
