"""Within one training: correlations worked by hand, pairs of checkpoints, and the two best ones."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_references, made_up_run, made_up_validations
from sacrebleu.metrics import BLEU

from analysis import systems, within_training
from analysis.tables import table2
from analysis.within_training import compact_checkpoints, count_orders, two_checkpoints
from lib.bleu import bleu_from_counts, bleu_statistics
from lib.errors import DataError
from lib.runs import RunFolder
from lib.training.history import Validations

REFERENCES = made_up_references(60)


@pytest.fixture
def run(isolated):
    return made_up_run("ga_b", 0.3, 2.0, references=REFERENCES)


def keep_history(run: RunFolder, **columns) -> None:
    pd.DataFrame(columns).to_csv(run.history, index=False)


def worse_and_worse(run: RunFolder, noise: float = 0.0) -> None:
    """Keep `made_up_validations`, and their sums in the history."""
    kept, texts = made_up_validations(REFERENCES, noise=noise)
    kept.write(run.validations)
    keep_history(run, step=kept.steps, dev_ll=kept.log_prob.sum(1) / kept.tokens.sum(),
                 dev_bleu=[BLEU().corpus_score(lines, [REFERENCES]).score for lines in texts])


def test_ranks_by_hand(run):
    keep_history(run, step=range(5), dev_ll=[-2.8, -2.6, -2.4, -2.2, -2.0],
                 dev_bleu=[1.0, 3.0, 2.0, 5.0, 6.0])
    [row] = within_training.across_checkpoints([run]).to_dict("records")
    assert (row["model"], row["n"]) == ("ga_b", 5)
    assert row["spearman"] == pytest.approx(0.9)  # ranks 1 3 2 4 5: 1 - 6 * 2 / (5 * 24)
    assert math.isnan(row["pearson_low"])  # no sentences were kept


def test_changes_between_checkpoints_forget_the_common_trend(run):
    steps = np.arange(1, 8)
    wave = np.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    keep_history(run, step=steps, dev_ll=steps + 0.5 * wave, dev_bleu=steps - 0.5 * wave)
    table = within_training.across_checkpoints([run])
    assert table["pearson"][0] > 0.9
    assert table["pearson_changes"][0] == pytest.approx(-1.0)


def test_checkpoints_before_the_full_kl_weight_are_left_out(run):
    keep_history(run, step=range(1, 8), kl_weight=[0.1, 0.5, 0.9, 1.0, 1.0, 1.0, 1.0],
                 dev_ll=[-15.0, -9.0, -6.0, -4.0, -3.0, -2.0, -1.0],
                 dev_bleu=[1.0, 9.0, 12.0, 16.0, 15.0, 14.0, 13.0])
    table = within_training.across_checkpoints([run])
    assert table["n"][0] == 4
    assert table["pearson"][0] == pytest.approx(-1.0)  # over all seven it is far above 0


def test_the_interval_holds_the_correlation_and_widens_with_the_noise(run):
    worse_and_worse(run)
    [sure] = within_training.across_checkpoints([run]).to_dict("records")
    # every resample loses the same nat a token: only BLEU varies
    assert sure["pearson_low"] <= sure["pearson"] <= sure["pearson_high"]
    assert sure["spearman_low"] == sure["spearman"] == 1.0
    worse_and_worse(run, noise=6.0)
    [noisy] = within_training.across_checkpoints([run]).to_dict("records")
    assert noisy["pearson_low"] < noisy["pearson"] < noisy["pearson_high"]
    assert (noisy["pearson_high"] - noisy["pearson_low"]
            > 2 * (sure["pearson_high"] - sure["pearson_low"]))
    assert noisy["pearson_changes_low"] < noisy["pearson_changes"] < noisy["pearson_changes_high"]


def test_only_the_checkpoints_at_full_kl_weight_are_resampled(run):
    worse_and_worse(run, noise=1.0)
    history = pd.read_csv(run.history).assign(kl_weight=[0.5, 1.0, 1.0, 1.0, 1.0])
    history.to_csv(run.history, index=False)
    late = within_training.across_checkpoints([run])
    history.iloc[1:].to_csv(run.history, index=False)
    pd.testing.assert_frame_equal(late, within_training.across_checkpoints([run]))


def test_bad_files_of_a_training_have_one_clear_message(run):
    worse_and_worse(run)
    run.validations.write_bytes(b"PK")
    with pytest.raises(DataError, match=r"damaged.*02_train"):
        within_training.across_checkpoints([run])
    run.history.unlink()
    with pytest.raises(DataError, match=r"history.csv is missing.*02_train"):
        within_training.across_checkpoints([run])


# ---- every pair of checkpoints ----

@pytest.mark.parametrize(("better", "counts"), [
    ("all along", {"rising_agree": 3, "falling_disagree": 3, "across_agree": 1,
                   "across_disagree": 3}),
    ("never", {"rising_disagree": 3, "falling_agree": 3, "across_agree": 3,
               "across_disagree": 1}),
    ("nowhere", {"rising_undecided": 3, "falling_undecided": 3, "across_undecided": 4})])
def test_pairs_are_counted_on_each_side_of_the_best_likelihood(run, better, counts):
    """LL peaks at the third of five checkpoints; the four pairs across the peak count apart."""
    kept, _ = made_up_validations(REFERENCES)  # each translates worse than the one before
    nats = np.array([3.0, 2.0, 1.0, 2.5, 3.5])[:, None] * kept.tokens
    places = {"all along": slice(None, None, -1), "never": slice(None), "nowhere": [0] * 5}
    kept = Validations(kept.steps, kept.tokens, -nats, kept.counts[places[better]])
    kept.write(run.validations)
    keep_history(run, step=kept.steps, dev_ll=[-3.0, -2.0, -1.0, -2.5, -3.5], dev_bleu=1.0)
    table = within_training.checkpoint_pairs([run, made_up_run("tr_s", 0.3, 1.5)])
    [row] = table.to_dict("records")  # the other run kept no sentences
    assert (row["model"], row["checkpoints"], row["peak"]) == ("ga_b", 5, 30)
    assert {name: row[name] for name in within_training.COUNTS if row[name]} == counts
    [shown] = within_training.compact_phases(table).to_dict("records")
    assert shown["trainings"] == 1
    agree = counts.get("falling_agree", 0)
    assert f"from the best dev LL on LL and BLEU agree in {agree} of 3 pairs" in (
        within_training.count_phases(table))


def test_without_kept_sentences_there_is_nothing_to_count(run):
    keep_history(run, step=[1, 2], dev_ll=[-2.0, -1.0], dev_bleu=[1.0, 2.0])
    table = within_training.checkpoint_pairs([run])
    assert table.empty and within_training.compact_phases(table).empty
    assert "No run" in within_training.count_phases(table)


def test_a_trajectory_ends_where_its_training_ended(run):
    keep_history(run, step=[1, 2, 3], kl_weight=[0.5, 1.0, 1.0], dev_ll=[-3.0, -1.0, -2.0],
                 dev_bleu=[1.0, 2.0, 3.0])
    [axes] = within_training.trajectories({"here": [run]}).axes
    path, peak, end = (line.get_xydata().tolist() for line in axes.lines)
    assert path == [[-1.0, 2.0], [-2.0, 3.0]]
    assert peak == [[-1.0, 2.0]] and end == [[-2.0, 3.0]]  # of dev LL, of the training


def test_of_several_seeds_one_is_read_and_every_marker_is_in_the_legend(run):
    runs = [made_up_run("ga_b", 0.3, 2.0, seed=2, references=REFERENCES), run,
            made_up_run("tr_s", 0.3, 2.0, "distilled", references=REFERENCES)]
    for of in runs:
        keep_history(of, step=[1, 2], dev_ll=[-3.0, -of.seed], dev_bleu=[1.0, 2.0])
    figure = within_training.trajectories({"here": runs})
    [axes], [legend] = figure.axes, figure.legends
    keys = dict(zip([text.get_text() for text in legend.get_texts()], legend.legend_handles,
                    strict=True))
    assert {"another seed", "best dev LL", "last checkpoint:", "trained on raw text"} <= set(keys)
    marked = {line.get_marker() for line in axes.lines} - {"None"}
    assert marked == {"x", "s", "o"} <= {of.get_marker() for of in keys.values()}
    [pale] = [line for line in axes.lines if line.get_alpha()]
    assert pale.get_xdata().tolist() == [-3.0, -2.0]  # of the second seed, though it came first
    alone = within_training.trajectories({"here": [run]}).legends[0].get_texts()
    assert "another seed" not in {text.get_text() for text in alone}


# ---- the two best checkpoints, on the test set ----

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


def test_models_are_compared_where_their_likelihood_is_best(isolated):
    """At their best BLEU the two agree; at its best LL the second has the better LL, and the third,
    whose checkpoint of the best LL wasn't scored, isn't there.
    """
    references = made_up_references()
    first, other, lost = (made_up_run(model, wrong, nats) for model, wrong, nats in (
        ("tr_s", 0.1, 1.5), ("ga_b", 0.3, 2.0), ("fl_s", 0.2, 1.0)))
    for run in (first, other, lost):  # the best dev LL is that of step 6
        values = json.loads(run.metrics.read_text())
        run.metrics.write_text(json.dumps(values | {"step": 6 if run is first else 3}))
    second(other, nats=1.0, hypotheses=["never right at all"] * len(references))
    frame = systems.collected("toy", "smoke")
    assert within_training.at_best_ll(frame, references).empty  # that of `other` is of step 400
    values = json.loads(other.metrics.read_text())
    other.metrics.write_text(json.dumps(values | {"best_ll": {"step": 6}}))
    [row] = within_training.at_best_ll(frame, references).to_dict("records")
    assert (row["kind"], row["pairs"], row["disagree"]) == ("autoregressive, latent", 1, 1)
    assert within_training.at_best_ll(frame.iloc[:0], references).empty


def test_each_phase_of_a_training_has_its_own_correlation(run):
    keep_history(run, step=range(1, 8), dev_ll=[-4.0, -3.0, -2.0, -1.0, -1.1, -1.2, -1.3],
                 dev_bleu=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    [row] = within_training.across_checkpoints([run]).to_dict("records")
    assert row["pearson_rising"] == pytest.approx(1.0)
    assert row["pearson_falling"] == pytest.approx(-1.0) and row["pearson"] > 0
    shown = within_training.compact_correlations(table2(pd.DataFrame([row])))
    assert shown["r from the best dev LL on"].tolist() == ["−1.00 to −1.00 (1)"]
    assert within_training.compact_correlations(pd.DataFrame()).empty
