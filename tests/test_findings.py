"""The page of findings: its overview, its tables of evidence, its pictures."""

import pandas as pd
from compared import TOY, compared, of_models
from made_up import made_up_run

from analysis import findings, tables, two_sided, within_training
from analysis.verdicts import verdicts
from lib.runs import RunFolder

SPEC = {"tr_b": (0.10, 1.8, None), "ga_b": (0.30, 2.5, -1.9), "fl_b": (0.60, 2.2, -1.3)}


def test_the_overview_has_a_row_a_finding_and_a_column_a_place(isolated):
    outcomes = compared(of_models(SPEC))
    table = findings.overview(verdicts(TOY))
    assert list(table) == ["finding", "toy smoke"]
    assert outcomes[2, "strict"].over == "sentences only"
    assert table["toy smoke"].tolist()[1:] == [
        "strict: holds in part (over sentences only); paper: holds in part (over sentences only); "
        "released: holds (over sentences only)",
        "not testable yet", "does not hold (over sentences only)",  # nothing is gained
        "not testable yet"]
    again = findings.overview([*verdicts(TOY), *verdicts(("ted", "mini"))])
    assert list(again) == ["finding", "toy smoke", "ted mini"]


def test_evidence_stands_once_where_accountings_agree(isolated):
    compared(of_models(SPEC))
    rows = findings.evidence_table(2, verdicts(TOY)).set_index("quantity")
    gap = rows.loc[rows.index.str.startswith("best LL of a flow prior")].iloc[0]
    assert gap["strict"].endswith(" no") and gap["released"].endswith(" yes")
    assert set(rows.loc[rows.index.str.startswith("best BLEU"), "released"]) == {"the same"}


def test_without_results_the_page_says_what_each_finding_needs(isolated):
    text = findings.page(verdicts(TOY))
    assert text.count("not testable yet; it needs") == 5
    assert "## 1. Within a family" in text and "| WMT'14 En-De | raw |" in text


def test_the_page_holds_the_other_side_of_every_training(isolated):
    made_up_run("tr_s", 0.3, 1.5, scale="small")
    for stem, data, seed in (("_s5", "raw", 5), ("_distilled", "distilled", 1)):
        tables.write(pd.DataFrame([{
            "dataset": "toy", "scale": "small", "train_data": data, "seed": seed, "n": 9,
            "decoding": "search", "predictor": name, "spearman": 0.5, "spearman_low": 0.25,
            "spearman_high": 0.75} for name in two_sided.PREDICTORS]),
            f"two_sided_ranks_toy_small{stem}")
    text = findings.page(verdicts(("toy", "small"))).replace(tables.NO_BREAK, " ")
    assert "## The other side of the divergence" in text
    raw, distilled = (text.index(f"| toy, small | {data} | search | {seed} | 9 | 0.50 [0.25, 0.75]")
                      for data, seed in (("raw", 5), ("distilled", 1)))
    assert raw < distilled


def test_the_page_holds_the_open_question_and_what_happens_within_a_training(isolated,
                                                                                  monkeypatch):
    place = {"dataset": "toy", "scale": "small"}
    made_up_run("tr_s", 0.3, 1.5, scale="small")
    ends = {f"{name}_{end}": value for name in ("ll", "bleu")
            for end, value in (("delta", 1.25), ("low", 1.0), ("high", 1.5))}
    for name, row in (
            ("objective", {"factor": "objective", "first": "dp_b", "second": "da_b",
                           "train_data": "raw", "first_seeds": 1, "second_seeds": 1,
                           "order": "agree", "over": "sentences only"}),
            ("checkpoint_pairs", {"model": "tr_s", "train_data": "raw", "seed": 1,
                                  "checkpoints": 5, "peak": 300,
                                  **dict.fromkeys(within_training.COUNTS, 3)}),
            ("two_checkpoints", {"model": "tr_s", "train_data": "raw", "seed": 1, "bleu_step": 900,
                                 "ll_step": 300, "bleu": 20.0, "ll": -1.5, "order": "agree"})):
        tables.write(pd.DataFrame([place | row | ends]), f"{name}_toy_small")
    text = findings.page(verdicts(("toy", "small"), ("toy", "unknown")))
    assert ("| toy, small | objective | Da-B, best path → Da-B | raw | 1, 1 | "
            "+1.25 [+1.00, +1.50] | +1.2 [+1.0, +1.5] |") in text.replace(tables.NO_BREAK, " ")
    assert "Of 1 trainings" in text and "agree in 1, disagree in 0" in text
    assert "| toy, small | Tr-S | raw | 1 | 900 | 300 | 20.0, −1.500 |" in text
    assert "| toy | small | raw | 1 | 3 / 3 / 3 | 3 / 3 / 3 | 3 / 3 / 3 |" in text
    pd.DataFrame({"step": [1, 2], "dev_ll": [-2.0, -1.0], "dev_bleu": [1.0, 2.0],
                  "kl_weight": 1.0}).to_csv(RunFolder("toy", "small", "tr_s").history, index=False)
    titles, draw = [], within_training.trajectories
    monkeypatch.setattr(within_training, "trajectories",
                        lambda runs: titles.extend(runs) or draw(runs))
    findings.picture([("toy", "small")])
    assert titles == ["toy, small: trained on raw text"]  # toy's texts have a panel each
    points = pd.read_csv(isolated / "outputs/figures/answer.csv")
    assert points["model"].tolist() == ["tr_s"]
