"""Two checkpoints of one training: what the better likelihood costs or gains in BLEU."""

import json

import pandas as pd
import pytest
from made_up import made_up_references, made_up_run

from analysis import systems
from analysis.two_checkpoints import compact_checkpoints, count_orders, two_checkpoints
from lib.bleu import bleu_from_counts, bleu_statistics


def second(run, *, nats, hypotheses, slack=None):
    """Give a run a checkpoint with the best dev LL: better by `nats` a token."""
    table = pd.read_csv(run.sentences)
    if slack is not None:  # of the first checkpoint's bound
        table["iw_bound_100"] = table["log_prob"] - slack * table["n_tokens"]
        table.to_csv(run.sentences, index=False)
        del table["iw_bound_100"]
    table["log_prob"] += nats * table["n_tokens"]
    table.assign(hypothesis=hypotheses).to_csv(run.sentences_ll, index=False)
    values = json.loads(run.metrics.read_text())
    values |= {"step": 700, "best_ll": {"step": 400, "bleu": {}, "log_likelihood": {}}}
    run.metrics.write_text(json.dumps(values))


@pytest.mark.parametrize(("nats", "right", "slack", "order"), [
    (0.2, False, None, "disagree"), (0.2, True, None, "agree"), (0.0, True, None, "undecided"),
    (0.2, False, 0.3, "undecided"),  # a bound that may rise by more than the difference
])
def test_the_better_likelihood_is_compared_in_bleu(isolated, nats, right, slack, order):
    references = made_up_references()
    run = made_up_run("ga_b", 0.3, 1.5)
    made_up_run("tr_s", 0.3, 1.5)  # one checkpoint: no row
    second(run, nats=nats, slack=slack,
           hypotheses=references if right else ["never right at all"] * len(references))
    table = two_checkpoints(systems.collected("toy", "smoke"), references)
    [row] = table.to_dict("records")
    own = bleu_from_counts(bleu_statistics(run.read_sentences()["hypothesis"].tolist(),
                                           references).sum(axis=0))
    assert row["bleu"] == pytest.approx(own)
    assert row["bleu_delta"] == pytest.approx((100.0 if right else 0.0) - own)
    assert row["ll_delta"] == pytest.approx(nats)
    assert (row["bleu_step"], row["ll_step"], row["order"]) == (700, 400, order)
    assert row["bleu_low"] <= row["bleu_delta"] <= row["bleu_high"]
    shown = compact_checkpoints(table)
    assert shown["order"].tolist() == [order] and shown.loc[0, "step of best dev BLEU"] == "700"
    words = count_orders(table)
    assert f"lower test BLEU in {int(not right)};" in words
    assert f"disagree in {int(order == 'disagree')}," in words


def test_without_a_second_checkpoint_there_is_no_row(isolated):
    run = made_up_run("tr_s", 0.3, 1.5)
    table = two_checkpoints(systems.collect([run]), made_up_references())
    assert table.empty and "No run" in count_orders(table) and compact_checkpoints(table).empty
