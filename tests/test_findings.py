"""Each finding on made-up runs in which it holds, fails, or can't be tested."""

import json

import pandas as pd
import pytest
from made_up import made_up_references, made_up_run

from analysis import correlation, findings, significance, tables

# model: (share of wrong words, nats a token, mean of the released estimate)
AS_PUBLISHED = {"tr_s": (0.20, 2.0, None), "tr_b": (0.10, 1.8, None), "ga_b": (0.30, 2.5, -1.9),
                "ga_l": (0.22, 2.2, -1.7), "fl_s": (0.60, 1.7, -1.5), "fl_b": (0.45, 1.5, -1.3)}


def compared(runs):
    """Run folders and the tables that 05_correlation makes of them; runs: keyword lists."""
    for run in runs:
        made_up_run(**run)
    frame = correlation.collect()
    drawn = correlation.resample_runs(frame, made_up_references(), "strict", "released",
                                      resamples=200)
    pairs = significance.pairs(frame, drawn)
    tables.write(pairs, "significance_toy_smoke")
    tables.write(significance.concordance(pairs, frame, drawn), "concordance_toy_smoke")
    return {(found.finding.number, found.accounting): found
            for found in findings.verdicts("toy", "smoke")}


def raw(spec, **changes):
    return [{"model": model, "wrong": wrong, "nats": nats, "released": released} | {
        name: values[model] for name, values in changes.items() if model in values}
        for model, (wrong, nats, released) in spec.items()]


def test_findings_as_published(isolated):
    runs = raw(AS_PUBLISHED, k0_wrong={"ga_b": 0.6, "ga_l": 0.5, "fl_s": 0.62, "fl_b": 0.46})
    runs += [run | {"train_data": "distilled", "nats": run["nats"] + 0.3,
                    "wrong": run["wrong"] * 0.5,
                    "k0_wrong": run.get("k0_wrong") and run["k0_wrong"] * 0.5,
                    "released": run["released"] and run["released"] - 0.3} for run in runs]
    told = compared(runs)
    assert {key: found.verdict for key, found in told.items()} == {
        (1, "strict"): "holds", (1, "released"): "holds", (2, "strict"): "holds",
        (2, "released"): "holds", (3, "strict"): "holds", (3, "released"): "holds",
        (4, ""): "undecided", (5, ""): "not testable yet"}
    assert told[1, "strict"].evidence.startswith("of 6 pairs within a family 5 agree, 0 disagree, ")
    assert "(Fl-B) minus the best of the others (Tr-B) +0.3" in told[2, "strict"].evidence
    assert "LL falls for 6 of 6 models, by 0.2" in told[3, "strict"].evidence
    assert "BLEU of non-autoregressive models rises for 4 of 4 models" in told[3, "strict"].evidence
    assert "Ga-B +" in told[4, ""].evidence
    assert "[" not in told[4, ""].evidence and "without an interval" in told[4, ""].evidence


def test_the_overview_has_a_row_a_finding_and_a_column_an_accounting(isolated):
    told = compared(raw({"tr_b": (0.10, 1.8, None), "ga_b": (0.30, 2.5, -1.9),
                         "fl_b": (0.60, 2.2, -1.3)}))
    head, _, *rows = findings.overview([("toy", "smoke")]).split("\n")
    assert head == "| finding | toy smoke, strict | toy smoke, released |"
    assert len(rows) == 5
    assert rows[1].endswith(f"| {told[2, 'strict'].verdict} | {told[2, 'released'].verdict} |")
    assert rows[4].endswith(f"| {told[5, ''].verdict} | {told[5, ''].verdict} |")


def test_findings_the_other_way_round(isolated):
    turned = {"tr_s": (0.10, 2.0, None), "tr_b": (0.25, 1.8, None), "ga_b": (0.60, 2.6, -2.6),
              "ga_l": (0.75, 2.5, -2.5), "fl_s": (0.30, 2.4, -2.4), "fl_b": (0.45, 2.2, -2.2)}
    runs = raw(turned, k0_wrong={"ga_b": 0.6, "ga_l": 0.75, "fl_s": 0.5, "fl_b": 0.6})
    runs += [run | {"train_data": "distilled", "nats": run["nats"] - 0.3,
                    "wrong": min(0.9, run["wrong"] * 1.4), "k0_wrong": None,
                    "released": run["released"] and run["released"] + 0.3} for run in runs]
    told = compared(runs)
    assert {found.verdict for key, found in told.items() if key[0] < 4} == {"does not hold"}
    assert told[4, ""].verdict == "undecided"  # no interval, no verdict
    assert "0 agree" in told[1, "strict"].evidence
    assert "LL falls for 0 of 6 models (6 the other way)" in told[3, "strict"].evidence


def test_accountings_can_differ(isolated):
    spec = {"tr_b": (0.10, 1.8, None), "ga_b": (0.30, 2.5, -1.9), "fl_b": (0.60, 2.2, -1.3)}
    told = compared(raw(spec))
    assert told[2, "strict"].verdict == "holds in part"         # the worst BLEU, not the best LL
    assert told[2, "released"].verdict == "holds"
    sentence = findings.sentences(told[2, "strict"].finding, [("toy", "smoke")])[0]
    assert sentence.startswith("toy, smoke: strict LL: *holds in part*: trained on raw text")
    assert "Released LL: *holds*" in sentence


def test_refinement_takes_its_intervals_from_table_3(isolated):
    for model in ("ga_b", "fl_b"):
        made_up_run(model, 0.3, 2.0, k0_wrong=0.4)
    # means 4 and 1; half-widths 1 and 2: 3 +- sqrt(5)
    tables.write(pd.DataFrame({"model": ["ga_b", "ga_b", "fl_b"], "k": [0, 4, 4],
                               "bleu_gain": [0, 4, 1], "bleu_gain_low": [0, 3, -1],
                               "bleu_gain_high": [0, 5, 3]}), "table3_toy_smoke")
    found = findings.verdicts("toy", "smoke")[-2]
    assert found.verdict == "holds"
    assert "Ga-B +4.0 [+3.0, +5.0], Fl-B +1.0 [−1.0, +3.0]" in found.evidence
    assert "minus that with flow priors +3.0 [+0.8, +5.2]" in found.evidence
    assert "without an interval" not in found.evidence


def test_equal_models_decide_nothing(isolated):
    told = compared(raw({"tr_s": (0.3, 2.0, None), "tr_b": (0.3, 2.0, None)}))
    assert told[1, "strict"].verdict == "undecided"
    assert told[2, "strict"].verdict == "not testable yet"
    assert "missing: gaussian, flow" in told[2, "strict"].evidence
    assert told[3, "strict"].verdict == told[4, ""].verdict == "not testable yet"


def test_without_results_every_finding_names_what_it_needs(isolated):
    found = findings.verdicts("toy", "smoke")
    assert {verdict.verdict for verdict in found} == {"not testable yet"}
    assert all(verdict.evidence.startswith("needs ") for verdict in found)
    text = findings.paragraph([("toy", "smoke")])
    assert text.count("not testable yet") == 5
    assert text.startswith("1. **Within a family")


def fast_systems(*, distilled=0.5, speeds=(2.0, 3.0, 0.5), of=""):
    """Both priors on both kinds of text; speeds of Ga-B's k4 and k0 and of Fl-B's k4."""
    runs = raw({"ga_b": (0.3, 2.0, None), "fl_b": (0.6, 2.0, None)},
               k0_wrong={"ga_b": 0.6, "fl_b": 0.6})
    runs += [run | {"train_data": "distilled", "wrong": run["wrong"] * distilled} for run in runs]
    tables.write(pd.DataFrame({
        "system": ["tr_b", "ga_b", "ga_b", "fl_b"], "setting": ["beam4", "k4", "k0", "k4"],
        "weights": "auto", "vs Tr-B beam4": [1.0, *speeds]}), f"table4_toy_smoke{of}")
    tables.write(pd.DataFrame({
        "model": ["ga_b"], "k": [4], "bleu_gain": [9.0], "bleu_gain_low": [7.0],
        "bleu_gain_high": [11.0]}), "table3_toy_smoke_distilled")
    return compared(runs)[5, ""]


def test_a_simple_prior_with_distillation_and_refinement(isolated):
    tables.write(pd.DataFrame({"system": []}), "table4_toy_smoke")  # the other one counts
    told = fast_systems(of="_distilled")
    assert told.verdict == "holds"
    assert "(Ga-B) minus the best with a flow prior (Fl-B) +" in told.evidence
    assert "distillation gives it +" in told.evidence
    assert "refinement +9.0 [+7.0, +11.0]" in told.evidence
    assert ("4.0 times the flow model's speed and 2.00 times that of Tr-B beam4 (unrefined 3.00"
            in told.evidence)


@pytest.mark.parametrize("change", [{"distilled": 1.4}, {"speeds": (0.9, 3.0, 0.5)},
                                    {"speeds": (2.0, 3.0, 2.5)}])
def test_each_part_of_the_claim_can_fail(isolated, change):
    assert fast_systems(**change).verdict == "holds in part"


def test_gains_with_intervals_of_their_own_need_no_table_3(isolated):
    for seed, (gain, model) in enumerate([(3.0, "ga_b"), (5.0, "ga_b"), (1.0, "fl_b")]):
        run = made_up_run(model, 0.3, 2.0, seed=seed, k0_wrong=0.4)
        metrics = json.loads(run.metrics.read_text())
        metrics["bleu"]["k4"] |= {"score": metrics["bleu"]["k0"]["score"] + gain,
                                  "gain_low": gain - 1, "gain_high": gain + 1}
        run.metrics.write_text(json.dumps(metrics))
    found = findings.verdicts("toy", "smoke")[-2]
    # of two seeds: mean 4, half-width sqrt(1 + (t sd / sqrt(2))^2) with sd = sqrt(2), t = 12.7
    assert "Ga-B +4.0 [−8.7, +16.7], Fl-B +1.0 [+0.0, +2.0]" in found.evidence


@pytest.mark.parametrize(("answers", "verdict"), [
    (["yes", "yes"], "holds"), (["yes", "no"], "holds in part"), (["no", "no"], "does not hold"),
    (["yes", "undecided"], "undecided"), (["no", "undecided"], "does not hold"),
    (["both"], "holds in part"),
])
def test_answers_make_a_verdict(answers, verdict):
    assert findings._verdict(answers) == verdict


@pytest.mark.parametrize(("answers", "answer"), [
    (["yes", "yes", "undecided"], "yes"), (["yes", "no", "undecided"], "both"),
    (["no"], "no"), (["yes", "undecided"], "undecided"), ([], "undecided"),
    (["no", "undecided", "undecided"], "undecided"),
])
def test_few_decided_pairs_decide_no_claim(answers, answer):
    assert findings._all_told(answers) == answer
