"""Coefficients and p-values worked by hand, and tables of runs."""

import math

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_references, made_up_run
from scipy import stats

from analysis import correlation as module
from analysis import systems
from analysis.resampling import Resamples, resample_runs
from lib.config import family_of
from lib.errors import ConfigError, DataError


def test_coefficients_by_hand():
    x, y = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 5.0])
    # deviations -1.5 -0.5 0.5 1.5 and -1.75 0.25 -0.75 2.25: 5.5 / sqrt(5 * 8.75)
    assert module.pearson(x, y) == pytest.approx(5.5 / math.sqrt(5 * 8.75))
    # ranks 1 3 2 4: 1 - 6 * (1 + 1) / (4 * 15)
    assert module.spearman(x, y) == pytest.approx(0.8)
    # five pairs concordant, one discordant
    assert module.kendall(x, y) == pytest.approx(4 / 6)


def test_coefficients_equal_scipys_with_ties_and_leading_axes():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (6, 9)).astype(float), rng.integers(0, 5, (6, 9)).astype(float)
    for ours, theirs in ((module.pearson, stats.pearsonr), (module.spearman, stats.spearmanr),
                         (module.kendall, stats.kendalltau)):
        expected = [theirs(a, b).statistic for a, b in zip(x, y, strict=True)]
        np.testing.assert_allclose(ours(x, y), expected, atol=1e-12)


@pytest.mark.parametrize("coefficient", module.COEFFICIENTS.values())
def test_two_points_and_constants_have_no_correlation(coefficient):
    assert math.isnan(coefficient(np.array([1.0, 2.0]), np.array([1.0, 2.0])))
    assert math.isnan(coefficient(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.1, 0.1])))
    assert math.isnan(module.permutation_p(np.ones(4), np.arange(4.0), coefficient))


def test_permutation_p_by_hand():
    # n = 4, one neighbouring swap: tau = 4/6. |tau| >= 4/6 has 1 + 3 orders on either side
    swapped = np.array([1, 3, 2, 4])
    assert module.permutation_p(np.arange(4), swapped, module.kendall) == pytest.approx(8 / 24)
    # n = 8, perfectly ordered: 2 of 40,320
    assert module.permutation_p(np.arange(8), np.arange(8), module.pearson) == 2 / 40320
    # n = 3: of 6 orders none could have p <= 0.05
    assert math.isnan(module.permutation_p(np.arange(3), np.arange(3), module.spearman))


def test_permutations_stay_within_families():
    """Two clusters far apart: r is 1 whatever is permuted within, which p has to know."""
    x = np.array([0.0, 101.0, 1.0, 102.0, 2.0, 100.0])
    y = np.array([0.0, 102.0, 2.0, 100.0, 1.0, 101.0])
    families = ["tr", "ga"] * 3
    assert module.permutation_p(x, y, module.pearson) < 0.1
    p = module.permutation_p(x, y, module.pearson, families)
    # of 3! 3! = 36 pairings: those whose sum of products is as large as the observed one
    assert p > 0.3 and p * 36 == pytest.approx(round(p * 36))
    assert math.isnan(module.permutation_p(x[:4], y[:4], module.pearson, families[:4]))  # 1 of 4
    many = np.tile(x, 3) + np.repeat([0.0, 0.1, 0.2], 6)
    sampled = module.permutation_p(many, many, module.pearson, families * 3, samples=200)
    assert sampled == 1 / 201


def test_sampled_permutation_p_is_seeded_and_near_the_exact_one():
    rng = np.random.default_rng(1)
    x = rng.normal(size=30)
    y = 0.4 * x + rng.normal(size=30)
    p = module.permutation_p(x, y, module.pearson, samples=5000, seed=2)
    assert p == module.permutation_p(x, y, module.pearson, samples=5000, seed=2)
    assert p == pytest.approx(stats.pearsonr(x, y).pvalue, abs=0.03)


def test_correlate_gives_intervals_only_from_resamples():
    x, y = np.arange(5.0), np.array([0.0, 1.0, 3.0, 2.0, 4.0])
    bare = module.correlate(x, y)
    assert bare["n"] == 5
    assert math.isnan(bare["pearson_low"])
    rng = np.random.default_rng(3)
    drawn = module.correlate(x, y, resampled=(x + rng.normal(0, 0.3, (500, 5)),
                                              y + rng.normal(0, 0.3, (500, 5))))
    assert drawn["pearson_low"] < drawn["pearson"] < drawn["pearson_high"]
    assert drawn["kendall_low"] <= drawn["kendall"] <= drawn["kendall_high"]
    assert "pearson_p" not in drawn
    assert module.correlate(x, y, groups=["a"] * 5)["pearson_p"] == module.permutation_p(
        x, y, module.pearson)


@pytest.fixture
def frame():
    """Five runs as `systems.collect` gives them."""
    runs = (("tr_s", 30.0, -2.0), ("tr_b", 33.0, -1.8), ("tr_l", 35.0, -1.7),
            ("ga_b", 25.0, -2.5), ("fl_b", 20.0, -1.5))
    return pd.DataFrame([{
        "dataset": "toy", "scale": "smoke", "model": model, "family": family_of(model),
        "train_data": "raw", "seed": 1, "bleu": bleu, "strict": ll, "strict_error": 0.02,
        "bits_per_char": -ll, "bits_per_char_error": 0.02, "lines": 20}
        for model, bleu, ll in runs])


def test_models_table_within_and_across_families(frame):
    table = module.models_table(frame, "strict").set_index("scope")
    assert table.loc["autoregressive", "pearson"] == pytest.approx(1.0, abs=0.05)
    assert table.loc["autoregressive", "spearman"] == 1.0
    assert table.loc["all", "n"] == 5
    assert table.loc["all", "spearman"] < 0.5
    assert math.isnan(table.loc["latent", "pearson"])        # two runs only
    # bits per character rank the runs alike once the sign is turned
    bits = module.models_table(frame, "bits_per_char").set_index("scope")
    assert bits.loc["all", "pearson"] == pytest.approx(table.loc["all", "pearson"])


def test_resamples_give_intervals(frame):
    noise = np.random.default_rng(0).normal(0, 0.05, (50, 5))
    drawn = Resamples(*(frame[name].to_numpy() for name in ("strict", "bleu")),
                      *(frame[name].to_numpy() + noise for name in ("strict", "bleu")))
    found = module.models_table(frame, "strict", resamples=drawn).set_index("scope")
    assert set(found.index) == {"autoregressive", "gaussian", "flow", "latent", "all"}
    assert found.loc["all", "pearson_low"] < found.loc["all", "pearson"]


def test_several_seeds_of_a_model_are_one_point(frame):
    again = frame[frame["model"] == "tr_s"].assign(seed=2, bleu=36.0, strict=-1.6)
    table = module.models_table(pd.concat([frame, again], ignore_index=True), "strict")
    table = table.set_index("scope")
    assert table.loc["autoregressive", "n"] == 3
    # Tr-S is now at (33, -1.8), as Tr-B is: two points of three coincide
    assert table.loc["autoregressive", "pearson"] == pytest.approx(1.0)


def test_bad_input_has_one_clear_message(frame):
    with pytest.raises(ConfigError, match="unknown accounting"):
        module.models_table(frame, "nats")
    mixed = frame.assign(dataset=["a", "a", "a", "b", "b"])
    with pytest.raises(DataError, match="several data sets"):
        module.models_table(mixed, "strict")


def test_two_decoders_correlates_with_both_and_resamples_the_hypotheses_asked_for(isolated):
    references = made_up_references()
    for model, wrong, nats in (("tr_s", 0.2, 1.0), ("ga_b", 0.4, 1.5), ("fl_s", 0.6, 1.2)):
        made_up_run(model, wrong, nats, references=references, mbr_wrong=1 - wrong)
    runs = systems.collect()
    own = resample_runs(runs, references, "strict")["strict"]
    mbr = resample_runs(runs, references, "strict", hypotheses="hypothesis_mbr")["strict"]
    assert np.allclose(own.bleu, runs["bleu"])
    assert np.allclose(mbr.bleu, runs["bleu_mbr"])
    table = module.two_decoders(runs, "strict", headline=own, mbr=mbr)
    whole = table[table["scope"] == "all"].set_index("decoder")
    assert whole.loc["headline", "spearman"] == pytest.approx(0.5)
    assert whole.loc["mbr", "spearman"] == pytest.approx(-0.5)
    assert whole.loc["mbr", "spearman_low"] <= -0.5 <= whole.loc["mbr", "spearman_high"]
