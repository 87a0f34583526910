"""Every notebook through papermill with parameters, and the checkpoints that ship."""

import json

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest

from analysis.data import exact_log_prob
from lib.bleu import bleu
from lib.config import MODELS, load_config
from lib.decoding import Options
from lib.evaluation.scoring import accountings, likelihoods, load_run
from lib.paths import NOTEBOOKS, ROOT
from lib.runs import RunFolder
from lib.runtime import autocast
from lib.task import Task
from lib.training.checkpoints import load
from lib.training.validation import translate

TINY = {"steps": 12, "validate_every": 4, "kl_start": 1, "kl_ramp": 3, "dev_sentences": 10,
        "start_from": ""}


def execute(folder, name, **parameters):
    """The executed notebook; runs in `folder`, as papermill runs where it was called."""
    executed = folder / f"{name}.ipynb"
    papermill.execute_notebook(NOTEBOOKS / f"{name}.ipynb", executed, parameters, cwd=folder,
                               kernel_name="python3", progress_bar=False)
    return nbformat.read(executed, as_version=4)


def printed(book) -> str:
    """All text that the notebook shows."""
    parts = []
    for cell in book.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            parts += [output.get("text", ""), data.get("text/markdown", ""),
                      data.get("text/plain", "")]
    return "\n".join(parts)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Outputs of this module's own, where a small Ga-B is trained and evaluated by notebook."""
    folder = tmp_path_factory.mktemp("outputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISCREPANCY_OUTPUTS", str(folder))
        patch.setenv("TQDM_DISABLE", "1")
        trained = execute(folder, "02_train", model="ga_b", overrides=TINY)
        evaluated = execute(folder, "03_eval", model="ga_b",
                            overrides={"samples": 3, "mbr_samples": 2})
        yield folder, trained, evaluated


def test_training_leaves_its_history_and_checkpoints(place):
    _, trained, _ = place
    folder = RunFolder("toy", "smoke", "ga_b")
    history = pd.read_csv(folder.history)
    assert history["step"].tolist() == [4, 8, 12]
    assert folder.best.exists() and folder.last.exists()
    assert json.loads(folder.config.read_text())["training"]["steps"] == 12
    assert "12 of 12 steps to go" in printed(trained)


def test_training_again_says_that_it_is_finished(place):
    before = RunFolder("toy", "smoke", "ga_b").last.read_bytes()
    again = execute(place[0], "02_train", model="ga_b", overrides=TINY)
    assert "finished already" in printed(again)
    assert "a second" not in printed(again) and "0/?" not in printed(again)
    assert RunFolder("toy", "smoke", "ga_b").last.read_bytes() == before


def test_training_in_two_processes_from_the_notebook(place):
    trained = execute(place[0], "02_train", seed=2, processes=2, overrides={
        **TINY, "steps": 8, "validate_every": 8, "accumulate": 2, "batch_tokens": 500})
    folder = RunFolder("toy", "smoke", "tr_s", seed=2)
    assert json.loads(folder.config.read_text())["processes"] == 2
    assert pd.read_csv(folder.history)["step"].tolist() == [8]
    assert "8 steps in" in printed(trained)


def test_evaluation_writes_what_it_shows(place):
    metrics = json.loads(RunFolder("toy", "smoke", "ga_b").metrics.read_text())
    assert set(metrics["bleu"]) == {"k0", "k1", "k2", "k4", "k8", "mbr2-chrf"}
    assert metrics["log_likelihood"]["strict"]["samples"] == 3
    assert len(pd.read_csv(RunFolder("toy", "smoke", "ga_b").sentences)) == 1000
    assert f"{metrics['log_likelihood']['strict']['mean']:.3f} nats per token" in printed(place[2])
    assert "nats per sentence" in printed(place[2])


def test_data_notebook_counts_the_corpus(place):
    text = printed(execute(place[0], "01_data", sentence=3))
    assert "20,000 training pairs" in text and "right translations" in text
    assert (place[0] / "figures/corpus_toy_smoke.png").exists()


def test_latent_space_takes_other_models(place):
    text = printed(execute(place[0], "04_latent_space", models=["ga_b"], samples=12, sentence=5))
    points = pd.read_csv(place[0] / "figures/latent_space_toy_smoke_ga_b_5_n12.csv")
    assert points.groupby("kind")["count"].sum().tolist() == [12, 12, 12]
    assert "Ga-B: refinement takes 12 samples" in text


def test_correlation_reads_whatever_runs_exist(place):
    text = printed(execute(place[0], "05_correlation", accounting="bits_per_char"))
    table = pd.read_csv(place[0] / "tables/table1_toy_smoke_bits_per_char.csv")
    metrics = json.loads(RunFolder("toy", "smoke", "ga_b").metrics.read_text())
    assert table["model"].tolist() == ["ga_b"]
    assert table["log_likelihood"][0] == pytest.approx(
        metrics["log_likelihood"]["bits_per_char"]["mean"], rel=1e-4)
    assert len(pd.read_csv(place[0] / "tables/table2_toy_smoke.csv")) == 1
    assert "Three models are needed for a correlation" in text


def test_the_model_on_one_page_takes_a_flow(place, monkeypatch):
    monkeypatch.setenv("DISCREPANCY_OUTPUTS", str(ROOT / "outputs"))
    text = printed(execute(place[0], "00_model", model="fl_b", sentence=3, samples=20))
    assert "| importance-weighted bound, K = 20 |" in text and "the truth" in text


def test_a_misspelt_model_fails_with_one_clear_line(place):
    with pytest.raises(papermill.PapermillExecutionError) as failure:
        execute(place[0], "03_eval", model="ga_bb")
    error = failure.value
    assert (error.ename, error.evalue.partition("?")[0]) == (
        "ConfigError", "unknown model 'ga_bb': did you mean ga_b")
    assert len(error.traceback) == 1 and "Traceback" not in error.traceback[0]


# ---- the checkpoints that ship with the repository ----

def shipped(model: str) -> RunFolder:
    """The committed run; skips where there is none, or it was trained anew since."""
    folder = RunFolder("toy", "smoke", model)
    if not folder.best.exists() or not folder.metrics.exists():
        pytest.skip(f"no committed run of {model} on toy/smoke: make demo")
    content, metrics = load(folder.best, "make demo"), json.loads(folder.metrics.read_text())
    if (content["step"], content["dev_bleu"]) != (metrics["step"], metrics["dev_bleu"]):
        pytest.skip(f"{model} was trained anew since its evaluation: make demo")
    return folder


@pytest.fixture
def committed(monkeypatch):
    monkeypatch.setenv("DISCREPANCY_OUTPUTS", str(ROOT / "outputs"))


@pytest.mark.parametrize("model", ["tr_s", "ga_b", "fl_b"])
def test_shipped_checkpoints_evaluate_to_their_results(committed, model):
    """Every fifth sentence of the test set, with the draws that it has in the whole."""
    folder, config = shipped(model), load_config(model)
    metrics, kept = folder.read_metrics(), folder.read_sentences().iloc[::5]
    run, headline = load_run(config), metrics.headline
    data = run.task.test.take(kept.index.to_numpy())
    with autocast(config.training.precision):
        lines = translate(run.model, data, run.task.vocabulary, [headline],
                          Options(config.evaluation.length_penalty))[headline]
    references = run.task.references("test")[::5]
    score, signature = bleu(lines, references)
    assert score.score == pytest.approx(bleu(kept["hypothesis"].tolist(), references)[0].score,
                                        abs=1.0)  # bf16 may round otherwise on another machine
    assert signature == metrics.own.signature
    samples = metrics.log_likelihood["strict"].samples
    sentences = likelihoods(run, data, samples, progress=False).assign(n_chars=1)
    if "released_estimate" not in sentences:
        sentences["released_estimate"] = float("nan")
    again, before = accountings(sentences, samples), accountings(kept, samples)
    for name in ("paper", "strict"):  # nats per token
        assert again[name]["mean"] == pytest.approx(before[name]["mean"], abs=1e-2)


@pytest.mark.parametrize("model", ["ga_b", "fl_b"])
def test_bf16_products_move_a_bound_by_less_than_its_error(committed, model):
    """Latent models are scored in the run's precision, Transformers in fp32: no side gains."""
    tables = {}
    for precision in ("fp32", "bf16"):
        run = load_run(load_config(model, precision=precision))
        data = run.task.test.take(np.arange(0, 1000, 10))
        tables[precision] = likelihoods(run, data, 20, progress=False)  # the same draws
    strict = {name: table["log_prob"] + table["log_p_length"] for name, table in tables.items()}
    gap, tokens = strict["bf16"] - strict["fp32"], tables["fp32"]["n_tokens"].sum()
    assert 0 < gap.abs().max() < 0.5  # nats a sentence; 0: nothing was rounded
    assert abs(gap.sum() / tokens) < 0.003  # nats a token: the smallest gap reported is 0.01


def test_no_committed_transformer_is_nearer_than_the_truth():
    """Gibbs: E[log p*(y|x) - log p(y|x)] is 0 or more for any exact likelihood."""
    truth = exact_log_prob(Task(load_config("tr_s")))
    runs = sorted((ROOT / "outputs" / "runs" / "toy" / "smoke").glob("tr_*/*/s*/sentences.csv"))
    if not runs:
        pytest.skip("no results yet: make demo")
    for run in runs:
        nearer = pd.read_csv(run)["log_prob"] - truth
        assert nearer.mean() < 4 * nearer.std() / len(nearer)**0.5, run.parent
        assert nearer.max() > 0  # single sentences are: it is the mean that can't be


def test_shipped_checkpoints_are_small(committed):
    sizes = [shipped(model).best.stat().st_size for model in MODELS]
    assert sum(sizes) < 32e6
