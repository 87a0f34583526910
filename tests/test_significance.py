"""Differences between models: sacreBLEU's own resamples, paired errors, orders and counts."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_references, made_up_run
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from analysis import significance, systems
from analysis.resampling import Resamples, resample_runs
from analysis.tables import markdown
from lib.bleu import RESAMPLES
from lib.config import family_of


def frame(rows):
    """(model, train_data, seed, BLEU, strict LL) a run."""
    return pd.DataFrame([{
        "dataset": "toy", "scale": "smoke", "model": model, "family": family_of(model),
        "train_data": data, "seed": seed, "parameters": 1, "setting": "k4", "bleu": bleu,
        "lines": 1000, "strict": ll, "strict_error": 0.01 * seed, "path": f"{model}{data}{seed}",
    } for model, data, seed, bleu, ll in rows])


def resampled(runs, spread=0.01, count=400, seed=0):
    noise = np.random.default_rng(seed).normal(0, spread, (2, count, len(runs)))
    return {"strict": Resamples(runs["strict"].to_numpy(), runs["bleu"].to_numpy(),
                                runs["strict"].to_numpy() + noise[0],
                                runs["bleu"].to_numpy() + noise[1])}


def test_differences_are_those_of_sacrebleus_paired_bootstrap(isolated, monkeypatch):
    monkeypatch.delenv("SACREBLEU_SEED", raising=False)
    references = made_up_references(150)
    for model, wrong in (("tr_s", 0.30), ("tr_b", 0.31), ("ga_b", 0.34), ("fl_s", 0.42)):
        made_up_run(model, wrong, 2.0, references=references)
    runs = systems.collect()
    drawn = resample_runs(runs, references, "strict")["strict"]
    texts = [run.read_sentences()["hypothesis"].tolist() for run in runs["run"]]
    _, theirs = PairedTest(list(zip(runs["model"], texts, strict=True)), {"BLEU": BLEU()},
                           [references], test_type="bs", n_samples=RESAMPLES)()
    first, *others = theirs["BLEU"]
    for place, result in enumerate(others, 1):
        delta = drawn.bleu_resampled[:, 0] - drawn.bleu_resampled[:, place]
        assert drawn.bleu[0] - drawn.bleu[place] == pytest.approx(first.score - result.score)
        distance = np.abs(delta) - np.abs(delta).mean() > abs(first.score - result.score)
        assert (distance.sum() + 1) / (RESAMPLES + 1) == pytest.approx(result.p_value, abs=1e-12)


def test_the_likelihoods_error_is_the_paired_one(isolated):
    references = made_up_references(300)
    for model, nats in (("tr_s", 2.0), ("tr_b", 2.2)):
        made_up_run(model, 0.3, nats, references=references)
    runs = systems.collect()
    row = significance.pairs(runs, resample_runs(runs, references, "strict")).iloc[0]
    a, b = (run.read_sentences() for run in
            runs.set_index("model").loc[["tr_s", "tr_b"], "run"])
    gap, tokens = a["log_prob"] - b["log_prob"], a["n_tokens"]
    mean = gap.sum() / tokens.sum()
    error = math.sqrt(len(gap) * (gap - mean * tokens).var(ddof=1)) / tokens.sum()
    assert row["ll_delta"] == pytest.approx(mean, rel=1e-4)
    assert row["ll_error"] == pytest.approx(error, rel=0.1)    # 10,000 resamples: +- 1%
    assert row["ll_low"] < mean < row["ll_high"]


def test_orders_of_pairs_by_hand():
    runs = frame([("tr_s", "raw", 1, 30.0, -2.0), ("ga_b", "raw", 1, 20.0, -2.5),
                  ("fl_s", "raw", 1, 15.0, -2.2), ("fl_b", "raw", 1, 15.0, -2.1)])
    table = significance.pairs(runs, resampled(runs)).set_index(["first", "second"])
    assert table["order"].to_dict() == {
        ("tr_s", "ga_b"): "agree", ("tr_s", "fl_s"): "agree", ("tr_s", "fl_b"): "agree",
        ("ga_b", "fl_s"): "disagree", ("ga_b", "fl_b"): "disagree",
        ("fl_s", "fl_b"): "undecided"}                          # equal BLEU
    assert table["kind"].value_counts().to_dict() == {
        "autoregressive, latent": 3, "Gaussian, flow": 2, "within families": 1}
    assert set(table["over"]) == {"sentences only"}
    assert significance.order_of((1.0, 2.0), (np.nan, np.nan)) == "undecided"
    assert table.loc[("tr_s", "ga_b"), "bleu_delta"] == pytest.approx(10.0)
    assert table.loc[("fl_s", "fl_b"), "ll_delta"] == pytest.approx(-0.1)


def test_a_pair_is_undecided_while_a_bound_may_rise_over_the_other_model():
    """The flow's bound may be 0.35 too low, the Transformer's likelihood is exact."""
    runs = frame([("tr_s", "raw", 1, 30.0, -2.0), ("fl_s", "raw", 1, 15.0, -2.3)])
    drawn = resampled(runs, spread=1e-6)
    assert significance.pairs(runs, drawn).loc[0, "order"] == "agree"
    row = significance.pairs(runs, {"strict": replace(
        drawn["strict"], slack=np.array([0.0, 0.35]))}).iloc[0]
    assert (row["ll_low"], row["ll_high"]) == (pytest.approx(-0.05, abs=1e-4),
                                               pytest.approx(0.3, abs=1e-4))
    assert row["order"] == "undecided"
    other = significance.pairs(runs, {"strict": replace(
        drawn["strict"], slack=np.array([0.35, 0.0]))}).iloc[0]
    assert other["order"] == "agree"  # a better Transformer would only be further ahead


def test_concordance_counts_every_pair_once():
    runs = frame([("tr_s", "raw", 1, 30.0, -2.0), ("ga_b", "raw", 1, 20.0, -2.5),
                  ("fl_s", "raw", 1, 15.0, -2.2), ("fl_b", "raw", 1, 15.0, -2.1),
                  ("ga_b", "distilled", 1, 25.0, -3.0)])
    pairs = significance.pairs(runs, resampled(runs))
    table = significance.concordance(pairs)
    # the distilled Ga-B is compared with the raw one alone
    assert table[["kind", "train_data", "pairs", *significance.ORDERS]].to_numpy().tolist() == [
        ["autoregressive, latent", "raw", 3, 3, 0, 0], ["Gaussian, flow", "raw", 2, 0, 2, 0],
        ["within families", "raw", 1, 0, 0, 1], ["raw, distilled", "mixed", 1, 0, 1, 0]]


def test_training_widens_the_interval_of_whoever_was_trained_once():
    runs = frame([("tr_s", "raw", 1, 30.0, -2.0), ("tr_s", "raw", 2, 34.0, -2.2),
                  ("tr_b", "raw", 1, 28.0, -2.5)])
    row = significance.pairs(runs, resampled(runs)).iloc[0]
    # variance of a training: 8, with one degree of freedom; of the two means' difference: 4 + 8.
    # Student's t: tan(0.475 pi) = 12.7 at 97.5%; sentences hardly vary here
    half = math.sqrt(12) * math.tan(0.475 * math.pi)
    assert row["bleu_delta"] == pytest.approx(4.0)
    assert (row["bleu_low"], row["bleu_high"]) == (pytest.approx(4 - half, abs=0.01),
                                                   pytest.approx(4 + half, abs=0.01))
    assert (row["order"], row["over"]) == ("undecided", "sentences and training")
    # 17 seeds of each: 2.12 sqrt(8 / 17 + 8 / 17) = 2.06 < 0.7 * 4
    assert 9 <= row["bleu_seeds"] <= 17 and math.isnan(row["bleu_sentences"])
    single = significance.pairs(runs[runs["seed"] == 1], resampled(runs[runs["seed"] == 1])).iloc[0]
    assert single["bleu_high"] - single["bleu_low"] < 0.1
    assert single["over"] == "sentences only"


def test_an_undecided_pair_says_what_would_decide_it():
    runs = frame([("tr_s", "raw", 1, 30.0, -2.0), ("tr_b", "raw", 1, 30.5, -2.5)])
    row = significance.pairs(runs, resampled(runs, spread=0.5)).iloc[0]
    half = row["bleu_high"] - row["bleu_delta"]
    assert row["bleu_sentences"] == pytest.approx(1000 * (half / 0.35) ** 2, rel=0.01)
    assert math.isnan(row["bleu_seeds"])  # nobody knows how training varies
    shown = significance.compact_pairs(pd.DataFrame([row])).iloc[0]["order, strict"]
    assert shown.startswith("undecided (BLEU: ") and "sentences" in shown


def test_fewer_bits_are_better():
    runs = frame([("tr_s", "raw", 1, 30.0, 1.0), ("ga_b", "raw", 1, 20.0, 2.0)])
    runs = runs.rename(columns={"strict": "bits_per_char", "strict_error": "bits_per_char_error"})
    drawn = {"bits_per_char": resampled(runs.assign(strict=runs["bits_per_char"]))["strict"]}
    row = significance.pairs(runs, drawn).iloc[0]
    assert row["ll_delta"] == 1.0
    assert row["order"] == "agree"


def test_nothing_to_show_is_said():
    empty = pd.DataFrame(columns=significance.PAIR_COLUMNS)
    assert "nothing to show" in markdown(significance.compact_pairs(empty))


def test_pairs_and_counts_are_told_compactly():
    runs = frame([("tr_s", "raw", 1, 30.0, -2.0), ("ga_b", "raw", 1, 20.0, -2.5)])
    drawn = resampled(runs)
    pairs = significance.pairs(runs, drawn)
    shown = significance.compact_pairs(pairs).iloc[0]
    assert shown["first, second"] == "Tr-S, Ga-B" and shown["order, strict"] == "agree"
    mixed = significance.compact_pairs(pairs.assign(second="tr_s", second_data="distilled"))
    assert mixed.loc[0, "first, second"] == "Tr-S, Tr-S distilled"
    assert shown["BLEU difference"].startswith("10.0\N{NO-BREAK SPACE}[")
    summary = significance.compact_summary(significance.concordance(pairs))
    assert summary.loc[0, "agree / disagree / undecided, strict"] == "1 / 0 / 0"
