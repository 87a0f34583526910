"""Both divergences on a toy whose truth is known, and what is said of their ranks."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_run

from analysis import two_sided
from lib.bleu import RESAMPLES
from lib.synthetic import ToyTask

TOY = ToyTask(concepts=3, varied=2, min_length=1, max_length=2, modes=(0.7, 0.3), synonyms=2,
              synonym_entropy=0.3, particles=1, insertion=0.25, train_pairs=4, dev_pairs=1,
              test_pairs=2)
SOURCES = TOY.pairs("test")[0]


def samples_of(of):
    """samples.csv of draws (line, text, times, log m, slack of its upper bound)."""
    rows, start = [], {}
    for line, text, times, log_m, slack in of:
        first = start.get(line, 0)
        start[line] = first + times
        rows.append({"line": line, "text": text, "proper": times, "n_tokens": 1, "lower": log_m,
                     "draws": " ".join(map(str, range(first, first + times))),
                     "upper": log_m + slack})
    return pd.DataFrame(rows)


def the_truth(draws=20000):
    """Samples of the truth itself, as often as it is probable."""
    return samples_of([(line, text, round(draws * math.exp(value)), value, 0.0)
                       for line in (0, 1) for text, value in TOY.support(SOURCES[line])])


def measured(samples):
    sums = two_sided.totals(samples, TOY, SOURCES).assign(sentences=1.0)
    return two_sided._measures(sums.sum().to_dict())


def test_the_truth_against_itself():
    found = measured(the_truth())
    assert found["impossible"] == 0 and found["improper"] == 0
    assert found["reverse"] == pytest.approx(0.0, abs=1e-9)
    entropy = np.mean([TOY.entropy(source) for source in SOURCES])
    assert found["entropy"] == pytest.approx(entropy, abs=1e-3)
    assert found["lost"] == pytest.approx(0.0, abs=2e-3)


def test_a_model_that_knows_one_mode_alone():
    """It writes the first mode's targets as often as the truth does among them."""
    rows = [(line, text, round(20000 * math.exp(value)), value - math.log(0.7), 0.0)
            for line in (0, 1) for text, value in TOY.support(SOURCES[line])
            if np.isfinite(TOY.log_joint(SOURCES[line], text)[0])]
    found = measured(samples_of(rows))
    assert found["reverse"] == pytest.approx(-math.log(0.7), abs=1e-3)
    assert found["impossible"] == 0


def test_impossible_strings_and_bounds_by_hand():
    text, value = next(iter(TOY.support(SOURCES[0])))
    samples = samples_of([(0, text, 3, value + 0.5, 0.4), (0, "nonsense", 1, -2.0, 0.0)])
    found = measured(samples)
    assert found["impossible"] == 0.25
    assert found["reverse_least"] == pytest.approx(0.5 - math.log(0.75))
    assert found["reverse_most"] == pytest.approx(0.9 - math.log(0.75))
    assert found["entropy_most"] == pytest.approx(-(3 * (value + 0.5) - 2.0) / 4)
    assert found["entropy_least"] == pytest.approx(-(3 * (value + 0.9) - 2.0) / 4)
    assert found["lost_most"] - found["lost_least"] == pytest.approx(0.3)


def test_improper_draws_count_for_the_possible_share_alone():
    text, value = next(iter(TOY.support(SOURCES[0])))
    samples = samples_of([(0, text, 2, value, 0.0), (0, "nonsense", 2, -2.0, 0.0)])
    samples["proper"] = [2, 0]
    samples.loc[1, "upper"] = np.nan
    found = measured(samples)
    assert (found["impossible"], found["improper"]) == (0.5, 0.5)
    assert found["reverse"] == pytest.approx(math.log(2))
    assert found["entropy"] == pytest.approx(-value)


def test_where_no_draw_is_possible_the_divergence_is_infinite():
    found = measured(samples_of([(0, "nonsense", 4, -2.0, 0.0)]))
    assert (found["impossible"], found["reverse"]) == (1.0, math.inf)
    assert found["entropy"] == pytest.approx(2.0)


def test_marginal_entropies_count_the_end():
    entropy = two_sided._marginal_entropies(["a b", "a"], np.array([2, 2]))
    assert entropy == pytest.approx(math.log(2) + 1 / 8)  # with Miller and Madow's correction


# ---- across models ----

@pytest.fixture
def compared(isolated):
    """Five models whose BLEU follows the share of possible strings, not the likelihood."""
    return compare([40, 32, 24, 16, 8])


def compare(possible):
    """Models whose BLEU falls from one to the next, with so many draws that the truth may write."""
    references = [f"{text} w w w w" for text in TOY.pairs("test")[1]] * 30
    runs, summed = {}, {}
    text, value = next(iter(TOY.support(SOURCES[0])))
    for place, (model, nats) in enumerate([("tr_s", 2.0), ("ga_b", 1.0), ("na_b", 2.2),
                                           ("da_b", 1.1), ("ct_b", 1.6)]):
        runs[model] = made_up_run(model, 0.05 + 0.15 * place, nats, mbr_wrong=0.1 + 0.15 * place,
                                  references=references)
        draws = [(line, text, possible[place], value, 0.0) for line in (0, 1) if possible[place]]
        samples = samples_of(draws + [(line, "x", 41 - possible[place], -3.0, 0.0)
                                      for line in (0, 1)])
        summed[model] = two_sided.totals(samples, TOY, [SOURCES[0], SOURCES[0]])
    return two_sided.divergences(runs, summed, np.full(len(references), -1.0), references)


def test_divergences_hold_both_sides(compared):
    table, resampled = compared
    nats = [2.0, 1.0, 2.2, 1.1, 1.6]
    tokens = table["likelihood"] + 1.0
    np.testing.assert_allclose(tokens / tokens[1], nats, atol=0.05)
    assert table["impossible"].is_monotonic_increasing
    for name in two_sided.PREDICTORS:
        assert (table[f"{name}_low"] <= table[name] + 1e-9).all()
        assert (table[name] <= table[f"{name}_high"] + 1e-9).all()
        assert resampled[name].shape == (RESAMPLES, 5)
    assert resampled["bleu_mbr"].shape == (RESAMPLES, 5)


def test_a_model_that_writes_nothing_possible_is_ranked_last(isolated):
    table, resampled = compare([40, 32, 24, 16, 0])
    assert table["reverse"].iloc[-1] == math.inf and np.isfinite(table["reverse"].iloc[:-1]).all()
    ranked = two_sided.correlations(table, resampled).set_index(["decoding", "predictor"])
    assert ranked.loc[("search", "reverse"), "spearman"] == pytest.approx(1)
    two_sided.divergences_figure(table, ranked.reset_index()).draw_without_rendering()


def test_what_predicts_bleu_is_found(compared):
    table, resampled = compared
    ranked = two_sided.correlations(table, resampled)
    search = ranked[ranked["decoding"] == "search"].set_index("predictor")
    assert (search["n"] == 5).all() and (search["families"] == 5).all()
    assert search.loc["impossible", "spearman"] == 1
    assert search.loc["likelihood", "spearman"] < 0.5
    assert search.loc["impossible", "ahead_low"] > 0
    assert search.loc["likelihood", ["ahead", "ahead_low", "ahead_high"]].tolist() == [0, 0, 0]
    told = two_sided.reading(ranked)
    assert re.search(r"search: likelihood ranks the 5 models .* ranks them better, ρ = 1\.00", told)
    assert "5 models of 5 families aren't 5 independent cases" in told
    figure = two_sided.divergences_figure(table, ranked)
    left = figure.axes[0]
    assert all("nats per sentence" in words for words in (left.get_xlabel(), left.get_ylabel()))
    assert {text.get_text() for text in figure.axes[0].texts} == {"Tr-S", "Ga-B", "Na-B", "Da-B",
                                                                 "Ct-B"}


def test_trainings_of_all_models_stand_side_by_side(compared):
    ranked = two_sided.correlations(*compared).assign(dataset="toy", scale="small")
    several = pd.concat([ranked.assign(train_data=data, seed=seed)
                         for data, seed in (("raw", 5), ("distilled", 1), ("distilled", 2))])
    table = two_sided.compact(several)
    assert list(table.columns[:5]) == ["corpus", "trained on", "BLEU of", "seed", "models"]
    assert len(table) == 3 * 2 and set(table["models"]) == {5}
    share = two_sided.PREDICTORS["impossible"][0]
    assert table.loc[table["BLEU of"] == "search", share].str.startswith("1.00").all()
    raw, distilled = two_sided.trainings_figure(several).axes
    assert [axes.get_title(loc="left") for axes in (raw, distilled)] == [
        "trained on raw text", "trained on distilled text"]
    assert [len(axes.lines) for axes in (raw, distilled)] == [1 * 2 + 1, 2 * 2 + 1]


def ranked_table(ahead, n=6):
    """Made-up `correlations` of one decoding: how far the reverse divergence is ahead."""
    row = {"decoding": "search", "families": 4, "n": n}
    return pd.DataFrame([
        row | {"predictor": "likelihood", "words": "LL", "spearman": 0.5, "ahead": 0.0,
               "ahead_low": 0.0, "ahead_high": 0.0},
        row | {"predictor": "reverse", "words": "reverse", "spearman": 0.5 + ahead[0],
               "ahead": ahead[0], "ahead_low": ahead[1], "ahead_high": ahead[2]}])


@pytest.mark.parametrize(("ahead", "n", "words"), [
    ((0.3, 0.1, 0.5), 6, r"ρ = 0\.50; reverse ranks them better, ρ = 0\.80 .*of 1 other meas"),
    ((0.3, -0.1, 0.5), 6, r"no other measure ranks them better .* explain\. 6 models of 4 fam"),
    ((-0.3, -0.5, -0.1), 6, r"no other measure .* explain; 1 rank them worse"),
    ((0.3, 0.1, 0.5), 3, r"3 models are too few"),
])
def test_every_branch_of_the_reading(ahead, n, words):
    assert re.search(words, two_sided.reading(ranked_table(ahead, n)))


def test_nothing_to_read():
    assert two_sided.reading(ranked_table((0, 0, 0)).iloc[:0]) == "No run here has samples."
