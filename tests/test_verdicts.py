"""Each finding on made-up runs in which it holds, fails, or can't be tested."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
from compared import TOY, compared, of_models
from made_up import made_up_run

from analysis import significance, tables
from analysis import verdicts as module
from analysis.training_variance import Source, Spread, half_width
from analysis.verdicts import verdicts
from lib.bleu import bleu_from_counts, resample_weights, with_interval
from lib.errors import DataError
from lib.runs import RunFolder, find_runs

# model: (share of wrong words, nats a token, mean of the released estimate)
AS_PUBLISHED = {"tr_s": (0.20, 2.0, None), "tr_b": (0.10, 1.8, None), "ga_b": (0.30, 2.5, -1.9),
                "ga_l": (0.22, 2.2, -1.7), "fl_s": (0.60, 1.7, -1.5), "fl_b": (0.45, 1.5, -1.3)}


def evidence(verdict):
    """Quantity -> the number, of all training data that are asked for."""
    return {(part.train_data, part.quantity): part for part in verdict.evidence}


def test_findings_as_published(isolated):
    runs = of_models(AS_PUBLISHED, k0_wrong={"ga_b": 0.6, "ga_l": 0.5, "fl_s": 0.62, "fl_b": 0.46})
    runs += [run | {"train_data": "distilled", "nats": run["nats"] + 0.3,
                    "wrong": run["wrong"] * 0.5,
                    "k0_wrong": run.get("k0_wrong") and run["k0_wrong"] * 0.5,
                    "released": run["released"] and run["released"] - 0.3} for run in runs]
    told = compared(runs)
    assert {key: found.verdict for key, found in told.items()} == {
        (number, name): "holds" for number in (1, 2, 3) for name in significance.SHOWN} | {
        (4, ""): "holds", (5, ""): "not testable yet"}
    within = evidence(told[1, "strict"])
    assert within["either", "pairs of 6 within the paper's families: agree"].value == 5
    across = evidence(told[2, "strict"])
    gap = across["raw", "best LL of a flow prior (Fl-B) minus the best of the other families "
                 "(Tr-B)"]
    assert gap.value == pytest.approx(0.3, abs=0.05) and gap.answer == "yes"
    changes = [part for part in told[3, "strict"].evidence if part.quantity.startswith("LL of")]
    assert len(changes) == 6 and {part.answer for part in changes} == {"yes"}
    gains = [part for part in told[4, ""].evidence if "minus before any" in part.quantity]
    assert len(gains) == 8 and all(part.low < part.value < part.high for part in gains)
    assert "notebooks/08_speed.ipynb" in told[5, ""].needs


def test_findings_the_other_way_round(isolated):
    turned = {"tr_s": (0.10, 2.0, None), "tr_b": (0.25, 1.8, None), "ga_b": (0.60, 2.6, -2.6),
              "ga_l": (0.75, 2.5, -2.5), "fl_s": (0.30, 2.4, -2.4), "fl_b": (0.45, 2.2, -2.2)}
    runs = of_models(turned, k0_wrong={"ga_b": 0.6, "ga_l": 0.75, "fl_s": 0.5, "fl_b": 0.6})
    runs += [run | {"train_data": "distilled", "nats": run["nats"] - 0.3,
                    "wrong": min(0.9, run["wrong"] * 1.4), "k0_wrong": None,
                    "released": run["released"] and run["released"] + 0.3} for run in runs]
    told = compared(runs)
    assert {found.verdict for key, found in told.items() if key[0] < 5} == {"does not hold"}
    within = evidence(told[1, "strict"])
    assert within["either", "pairs of 6 within the paper's families: agree"].value == 0
    assert {part.answer for part in told[3, "strict"].evidence} == {"no"}


def test_accountings_can_differ(isolated):
    told = compared(of_models({"tr_b": (0.10, 1.8, None), "ga_b": (0.30, 2.5, -1.9),
                         "fl_b": (0.60, 2.2, -1.3)}))
    assert told[2, "strict"].verdict == "holds in part"         # the worst BLEU, not the best LL
    assert told[2, "released"].verdict == "holds"


def test_a_run_without_pairs_yet_changes_no_verdict(isolated):
    spec = {"tr_b": (0.10, 1.8, None), "ga_b": (0.30, 2.5, -1.9), "fl_b": (0.60, 2.2, -1.3)}
    before = compared(of_models(spec))
    made_up_run("fl_s", 0.05, 0.5, released=-0.5)  # the best of all, evaluated after the tables
    after = {(found.finding.number, found.accounting): found for found in verdicts(TOY)}
    assert [found.verdict for found in after.values()] == [
        found.verdict for found in before.values()]


def test_without_results_every_finding_names_what_it_needs(isolated):
    found = verdicts(TOY)
    assert {verdict.verdict for verdict in found} == {"not testable yet"}
    assert all(verdict.needs and not verdict.evidence for verdict in found)


def test_equal_models_decide_nothing(isolated):
    told = compared(of_models({"tr_s": (0.3, 2.0, None), "tr_b": (0.3, 2.0, None)}))
    assert told[1, "strict"].verdict == "undecided"
    assert told[2, "strict"].verdict == "not testable yet"
    assert "missing: Gaussian, flow" in told[2, "strict"].needs
    assert told[3, "strict"].verdict == told[4, ""].verdict == "not testable yet"


def with_gains(run, gain, half=2.0):
    """Give the run's BLEU after four steps this gain over none, with an interval, as in a run of
    before BLEU's counts were kept.
    """
    run.bleu_counts.unlink()
    metrics = json.loads(run.metrics.read_text())
    metrics["bleu"]["k4"] |= {"score": metrics["bleu"]["k0"]["score"] + gain,
                              "gain_low": gain - half, "gain_high": gain + half}
    run.metrics.write_text(json.dumps(metrics))


def fast_systems(*, distilled=0.5, speeds=(3.0, 2.0, 0.5), of="", sure=True):
    """Both priors on both kinds of text; speeds of Ga-B's k1 and k4 and of Fl-B's k1."""
    runs = of_models({"ga_b": (0.3, 2.0, None), "fl_b": (0.6, 2.0, None)},
               k0_wrong={"ga_b": 0.6, "fl_b": 0.6})
    runs += [run | {"train_data": "distilled", "wrong": run["wrong"] * distilled} for run in runs]
    ratios = np.array([1.0, *speeds])
    tables.write(pd.DataFrame({
        "system": ["tr_b", "ga_b", "ga_b", "fl_b"], "setting": ["beam4", "k1", "k4", "k1"],
        "weights": "auto", "vs Tr-B beam4": ratios} | ({
            "vs Tr-B beam4_low": 0.99 * ratios, "vs Tr-B beam4_high": 1.01 * ratios}
            if sure else {})), f"table4_toy_smoke{of}")
    return compared(runs)[5, ""]


def test_a_simple_prior_with_distillation_and_refinement(isolated):
    tables.write(pd.DataFrame({"system": []}), "table4_toy_smoke")  # the other one counts
    told = fast_systems(of="_distilled")
    assert told.verdict == "holds"
    found = {part.quantity: part for part in told.evidence}
    speed = found["speed of Ga-B k1 over Fl-B k1, a sentence at a time"]
    assert (speed.value, speed.answer) == (pytest.approx(6.0), "yes")
    assert (speed.low, speed.high) == pytest.approx((6 * 0.99 / 1.01, 6 * 1.01 / 0.99))
    assert found["speed of Ga-B k1 over Tr-B beam4, a sentence at a time"].value == 3.0
    assert found["speed of Ga-B k4 over Tr-B beam4, a sentence at a time"].answer == ""
    assert found["BLEU of Ga-B after one step minus before any"].answer == "yes"
    ahead, beside = (found[f"BLEU of Ga-B minus Fl-B, the best with either prior, {k}"]
                     for k in ("k1", "k4"))
    assert (ahead.answer, beside.answer) == ("yes", "")  # the paper decodes with one step


@pytest.mark.parametrize("change", [{"distilled": 1.4}, {"speeds": (0.9, 0.8, 0.5)},
                                    {"speeds": (2.0, 1.0, 2.5)}])
def test_each_part_of_the_claim_can_fail(isolated, change):
    assert fast_systems(**change).verdict == "holds in part"


def test_a_speed_without_an_interval_over_rounds_decides_nothing(isolated):
    assert fast_systems(sure=False).verdict == "undecided"


def test_the_priors_are_compared_by_what_is_asked_of_them(isolated):
    for model, k4, mbr in (("ga_b", 0.2, 0.5), ("fl_s", 0.3, 0.5)):
        made_up_run(model, k4, 2.0, k0_wrong=k4 + 0.1, mbr_wrong=mbr)
    found = {part.quantity.partition(",")[0]: part for part in verdicts(TOY)[-2].evidence
             if part.quantity.endswith("Gaussian priors minus flow priors")}
    bleu = {run.model: run.read_metrics().bleu for run in find_runs("toy", "smoke")}

    def apart(setting):
        return bleu["ga_b"][setting].score - bleu["fl_s"][setting].score

    for what, setting in (("before any step", "k0"), ("after four steps", "k4"),
                          ("by minimum Bayes risk over 16 samples", "mbr16-chrf")):
        assert found[f"mean BLEU {what}"].value == pytest.approx(apart(setting))
    gain = found["mean gain of four steps over minimum Bayes risk"]
    assert gain.value == pytest.approx(apart("k4") - apart("mbr16-chrf")) and gain.value > 5
    assert not any(part.answer for part in found.values())  # the finding doesn't rest on them


def test_gains_are_averaged_over_seeds_and_their_interval_widened(isolated):
    for seed, (gain, model) in enumerate([(3.0, "ga_b"), (5.0, "ga_b"), (1.0, "fl_b")]):
        with_gains(made_up_run(model, 0.3, 2.0, seed=seed, k0_wrong=0.4), gain, half=1.0)
    found = {part.quantity: part for part in verdicts(TOY)[-2].evidence}
    # of two seeds: mean 4, half-width sqrt(1 + (t sd / sqrt(2))^2) with sd = sqrt(2), t = 12.7;
    # the one seed of Fl-B has that sd, too
    ours = found["BLEU of Ga-B after four steps minus before any"]
    assert (ours.value, ours.low, ours.high) == pytest.approx((4.0, -8.7, 16.7), abs=0.1)
    ahead = found["mean gain of Gaussian priors minus that of flow priors"]
    assert (ahead.value, ahead.answer) == (pytest.approx(3.0), "undecided")
    half = math.hypot(12.71 * 3 ** 0.5, 2 ** 0.5)
    assert ahead.high - ahead.value == pytest.approx(half, abs=0.05)
    assert ahead.over.endswith("borrowed from other families or text")
    assert ahead.outlook.endswith("seeds")


def gains_of(model, share, seed=1, **options):
    """A run whose fourth step mends words, its gain in metrics.json as evaluation writes it."""
    run = made_up_run(model, share, 2.0, seed=seed, k0_wrong=share + 0.2, **options)
    counts, weights = run.read_bleu_counts(), resample_weights(200)
    of = {name: (bleu_from_counts(table.sum(0)), bleu_from_counts(weights @ table))
          for name, table in counts.items()}
    metrics, drawn = json.loads(run.metrics.read_text()), of["k4"][1] - of["k0"][1]
    metrics["bleu"]["k4"] |= with_interval("gain", float(of["k4"][0] - of["k0"][0]), drawn)
    run.metrics.write_text(json.dumps(metrics))
    return drawn


def told_of_finding_4():
    found = {part.quantity: part for part in verdicts(TOY)[-2].evidence}
    return found["mean gain of Gaussian priors minus that of flow priors"]


def test_gains_of_runs_are_resampled_together(isolated):
    """One system is the other one's twin: their difference is known far better than their gains,
    which go up and down with the sentences that were drawn.
    """
    ours = gains_of("ga_b", 0.3)
    theirs = RunFolder("toy", "smoke", "fl_b")
    shutil.copytree(RunFolder("toy", "smoke", "ga_b").path, theirs.path)
    twin = theirs.metrics.read_text().replace("ga_b", "fl_b").replace("gaussian", "flow")
    theirs.metrics.write_text(twin)
    ahead = told_of_finding_4()
    assert (ahead.value, ahead.low, ahead.high) == (0.0, 0.0, 0.0)
    assert np.ptp(np.quantile(ours, [0.025, 0.975])) > 1.0
    theirs.bleu_counts.unlink()  # as an older run: nobody knows how they go together
    ahead = told_of_finding_4()
    half = np.ptp(np.quantile(ours, [0.025, 0.975])) / 2
    assert ahead.high - ahead.value == pytest.approx(math.sqrt(2) * half, rel=1e-6)


def test_the_difference_of_gains_is_that_of_the_same_resamples(isolated):
    drawn = {(model, seed): gains_of(model, share, seed)
             for model, share, seed in (("ga_b", 0.2, 1), ("ga_b", 0.22, 2), ("fl_b", 0.5, 1),
                                        ("fl_s", 0.6, 1))}
    ahead = told_of_finding_4()
    ours = (drawn["ga_b", 1] + drawn["ga_b", 2]) / 2
    low, high = np.quantile(ours - (drawn["fl_b", 1] + drawn["fl_s", 1]) / 2, [0.025, 0.975])
    gains = [RunFolder("toy", "smoke", "ga_b", seed=seed).read_metrics().bleu["k4"].gain
             for seed in (1, 2)]
    own = float(np.var(gains, ddof=1))
    pool = (Source(0, own, 1),)
    spread = half_width([(1.0, Spread(pool, 2)), (0.5, Spread(pool, 1)), (0.5, Spread(pool, 1))])
    assert ahead.value - ahead.low == pytest.approx(math.hypot(ahead.value - low, spread))
    assert ahead.high - ahead.value == pytest.approx(math.hypot(high - ahead.value, spread))


def test_gains_on_different_test_texts_are_refused(isolated):
    gains_of("ga_b", 0.3)
    gains_of("fl_b", 0.3)
    path = RunFolder("toy", "smoke", "fl_b").metrics
    metrics = json.loads(path.read_text())
    metrics["test_set"]["references"] = "0" * 16
    path.write_text(json.dumps(metrics))
    with pytest.raises(DataError, match="different test texts"):
        verdicts(TOY)


@pytest.mark.parametrize(("answers", "verdict"), [
    (["yes", "yes"], "holds"), (["yes", "no"], "holds in part"), (["no", "no"], "does not hold"),
    (["yes", "undecided"], "undecided"), (["no", "undecided"], "does not hold"),
    (["both"], "holds in part"), ([], "undecided"),
])
def test_answers_make_a_verdict(answers, verdict):
    assert module.decide(answers) == verdict


@pytest.mark.parametrize(("answers", "answer"), [
    (["yes", "yes", "undecided"], "yes"), (["yes", "no", "undecided"], "both"),
    (["no"], "no"), (["yes", "undecided"], "undecided"), ([], "undecided"),
    (["no", "undecided", "undecided"], "undecided"),
])
def test_few_decided_pairs_decide_no_claim(answers, answer):
    assert module._most(answers) == answer


def test_what_would_decide_more_than_half_suffices_for_each_of_them():
    """The easiest three of five: one decided, one by seeds alone, one by sentences alone."""
    wanted = pd.DataFrame({"bleu_sentences": [math.nan, math.nan, 2000.0, 9000.0, 9000.0],
                           "ll_sentences": [math.nan, math.nan, 1500.0, math.nan, 9000.0],
                           "bleu_seeds": math.nan,
                           "ll_seeds": [math.nan, 11.0, math.nan, 40.0, 40.0]})
    assert module._half_decided(wanted) == (
        "more than half would be decided with 2,000 sentences and 11 seeds")


@pytest.mark.parametrize(("ours", "verdict"), [(0.0, "does not hold"), (-0.02, "undecided")])
def test_only_a_gain_that_is_none_for_sure_cannot_be_larger(isolated, ours, verdict):
    for model, gain in (("ga_b", ours), ("fl_b", -0.1)):
        with_gains(made_up_run(model, 0.3, 2.0, k0_wrong=0.4), gain, half=0.5 if ours else 0.0)
    assert verdicts(TOY)[-2].verdict == verdict
