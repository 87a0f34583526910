"""Correlation along one training: by hand, with the intervals that resampled dev sentences give."""

import math

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_references, made_up_run, made_up_validations
from sacrebleu.metrics import BLEU

from analysis.trajectory import across_checkpoints
from lib.errors import DataError
from lib.runs import RunFolder

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
    [row] = across_checkpoints([run]).to_dict("records")
    assert (row["model"], row["n"]) == ("ga_b", 5)
    assert row["spearman"] == pytest.approx(0.9)  # ranks 1 3 2 4 5: 1 - 6 * 2 / (5 * 24)
    assert math.isnan(row["pearson_low"])  # no sentences were kept


def test_changes_between_checkpoints_forget_the_common_trend(run):
    steps = np.arange(1, 8)
    wave = np.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    keep_history(run, step=steps, dev_ll=steps + 0.5 * wave, dev_bleu=steps - 0.5 * wave)
    table = across_checkpoints([run])
    assert table["pearson"][0] > 0.9
    assert table["pearson_changes"][0] == pytest.approx(-1.0)


def test_checkpoints_before_the_full_kl_weight_are_left_out(run):
    keep_history(run, step=range(1, 8), kl_weight=[0.1, 0.5, 0.9, 1.0, 1.0, 1.0, 1.0],
                 dev_ll=[-15.0, -9.0, -6.0, -4.0, -3.0, -2.0, -1.0],
                 dev_bleu=[1.0, 9.0, 12.0, 16.0, 15.0, 14.0, 13.0])
    table = across_checkpoints([run])
    assert table["n"][0] == 4
    assert table["pearson"][0] == pytest.approx(-1.0)  # over all seven it is far above 0


def test_the_interval_holds_the_correlation_and_widens_with_the_noise(run):
    worse_and_worse(run)
    [sure] = across_checkpoints([run]).to_dict("records")
    # every resample loses the same nat a token: only BLEU varies
    assert sure["pearson_low"] <= sure["pearson"] <= sure["pearson_high"]
    assert sure["spearman_low"] == sure["spearman"] == 1.0
    worse_and_worse(run, noise=6.0)
    [noisy] = across_checkpoints([run]).to_dict("records")
    assert noisy["pearson_low"] < noisy["pearson"] < noisy["pearson_high"]
    assert (noisy["pearson_high"] - noisy["pearson_low"]
            > 2 * (sure["pearson_high"] - sure["pearson_low"]))
    assert noisy["pearson_changes_low"] < noisy["pearson_changes"] < noisy["pearson_changes_high"]


def test_only_the_checkpoints_at_full_kl_weight_are_resampled(run):
    worse_and_worse(run, noise=1.0)
    history = pd.read_csv(run.history).assign(kl_weight=[0.5, 1.0, 1.0, 1.0, 1.0])
    history.to_csv(run.history, index=False)
    late = across_checkpoints([run])
    history.iloc[1:].to_csv(run.history, index=False)
    pd.testing.assert_frame_equal(late, across_checkpoints([run]))


def test_bad_files_have_one_clear_message(run):
    worse_and_worse(run)
    run.validations.write_bytes(b"PK")
    with pytest.raises(DataError, match=r"damaged.*02_train"):
        across_checkpoints([run])
    run.history.unlink()
    with pytest.raises(DataError, match=r"history.csv is missing.*02_train"):
        across_checkpoints([run])
