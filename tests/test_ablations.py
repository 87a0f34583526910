"""What the released code does besides: the table, beside the runs of params/."""

import json

import pandas as pd

from analysis.tables import interval
from lib.config import load_config
from lib.paths import outputs_root, write_json
from lib.runs import run_folder
from workflow import ablations, trials
from workflow.job import Job


def metrics_of(folder, k0, k4, ll):
    """A metrics.json with what the table of ablations shows."""
    path = folder / "metrics.json"
    bleu = {k: {"score": score, "signature": "s"} for k, score in zip(
        ("k0", "k1", "k4"), (k0, (k0 + k4) / 2, k4), strict=True)}
    write_json(path, {
        "model": "ga_b", "family": "gaussian", "dataset": "toy", "scale": "smoke",
        "train_data": "raw", "seed": 1, "parameters": 1, "bleu": bleu, "headline": "k1",
        "log_likelihood": {"strict": {"mean": ll, "standard_error": 0.1}}, "step": 7,
        "test_set": {"name": "toy", "lines": 1}, "diagnostics": {"kl": -ll}})


def test_ablations_are_shown_beside_the_runs_of_params(isolated, monkeypatch):
    for seed, k4 in enumerate((12.0, 14.0), 1):
        run = run_folder(load_config("ga_b", "toy", "smoke", seed))
        metrics_of(run.path, 9.0 + seed / 2, k4, -0.8 - 0.1 * seed)
    made = []

    def work_off(jobs: list[Job], *_):
        for job in jobs:
            given = dict(zip(job.words[2::2], job.words[3::2], strict=False))
            seed = int(given["--seed"])
            assert "--only-train" not in job.words
            made.append(json.loads(given["--overrides"]))
            run = job.outputs / f"runs/toy/smoke/ga_b/raw/s{seed}"
            metrics_of(run, 9.0 + seed / 2, 14.0 + seed, -0.1 * seed)
        return type("Work", (), {"failed": {}})

    monkeypatch.setattr(trials, "work_off", work_off)
    ablations.main(["--scale", "smoke", "--models", "ga_b", "--seeds", "1", "2"])
    assert made == [*ablations.RELEASED.values()] * 2
    table = pd.read_csv(outputs_root() / "tables" / "ablations_toy_smoke.csv")
    assert table["BLEU k4"].tolist() == [12.0, 14.0] + [15.0, 16.0] * 3
    assert table["gain of k4"].tolist() == [2.5, 4.0] + [5.5, 6.0] * 3
    shown = ablations.compact(table).set_index("training")
    assert shown["seeds"].tolist() == [2] * 4
    assert shown.loc["params/", ["BLEU k4", "LL"]].tolist() == ["13.0", "−0.95"]
    # Welch by hand: 2.5 over seeds, standard errors 1 and 0.5, t(1.47) = 6.19
    [more] = set(shown["BLEU k4"]) - {"13.0"}
    assert more == f"15.5 ({interval(2.5, -4.42, 9.42, plus=True)})"


def test_a_single_seed_has_no_interval():
    rows = [{"model": "ga_b", "training": name, "seed": 1,
             **dict.fromkeys(ablations.COLUMNS, value)}
            for name, value in (("params/", 1.0), ("another", 1.5))]
    shown = ablations.compact(pd.DataFrame(rows))
    assert shown["BLEU k0"].tolist() == ["1.0", "1.5 (+0.5)"]
