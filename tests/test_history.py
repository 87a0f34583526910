"""What validations leave: resamples that are scored as they would be alone, files that repeat."""

from dataclasses import replace

import numpy as np
import pytest
from made_up import made_up_references, made_up_validations
from sacrebleu.metrics import BLEU

from lib.bleu import resample_weights
from lib.config import load_config
from lib.errors import DataError
from lib.training.history import Validations, best, ended_by, read_rows, stale, write_rows

REFERENCES = made_up_references(60)


def test_resampled_dev_sets_are_scored_as_they_would_be_alone(tmp_path):
    """Each resample's BLEU is sacreBLEU's of the sentences drawn, its LL their nats a token."""
    kept, texts = made_up_validations(REFERENCES, noise=0.5)
    kept.write(tmp_path / "kept.npz")
    weights = resample_weights(60, 3)
    ll, bleu = Validations.read(tmp_path / "kept.npz").resampled(weights)
    assert ll.shape == bleu.shape == (3, 5)
    for drawn, weight in enumerate(weights.astype(int)):
        rows = np.repeat(np.arange(60), weight)
        for place, lines in enumerate(texts):
            theirs = BLEU().corpus_score([lines[row] for row in rows],
                                         [[REFERENCES[row] for row in rows]]).score
            assert bleu[drawn, place] == pytest.approx(theirs, rel=1e-9)
            nats = sum(kept.log_prob[place, row] for row in rows) / kept.tokens[rows].sum()
            assert ll[drawn, place] == pytest.approx(nats, rel=1e-6)


def test_an_impossible_dev_sentence_is_left_out_at_every_checkpoint():
    kept, _ = made_up_validations(REFERENCES)
    kept.log_prob[2, 7] = -np.inf
    ll, _ = kept.resampled(np.ones((1, 60)))
    rest = np.arange(60) != 7
    np.testing.assert_allclose(ll[0], kept.log_prob[:, rest].sum(1) / kept.tokens[rest].sum())


def test_validations_are_found_by_their_steps():
    kept, _ = made_up_validations(REFERENCES)
    late = kept.at([50, 30])
    assert late.steps.tolist() == [50, 30]
    np.testing.assert_array_equal(late.log_prob, kept.log_prob[[4, 2]])
    np.testing.assert_array_equal(late.counts, kept.counts[[4, 2]])
    with pytest.raises(DataError, match="no validation after step 7"):
        kept.at([10, 7])


def test_the_same_numbers_make_the_same_bytes(tmp_path):
    kept, _ = made_up_validations(REFERENCES)
    for name in ("one.npz", "other.npz"):
        kept.write(tmp_path / name)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "other.npz").read_bytes()
    again = Validations.read(tmp_path / "one.npz")
    for name in ("steps", "tokens", "counts"):
        np.testing.assert_array_equal(getattr(again, name), getattr(kept, name))
    np.testing.assert_allclose(again.log_prob, kept.log_prob, rtol=1e-6)


def test_a_missing_and_a_damaged_file_have_one_clear_message(tmp_path):
    for damage in (None, b"PK", b""):
        if damage is not None:
            (tmp_path / "kept.npz").write_bytes(damage)
        with pytest.raises(DataError, match=r"missing or damaged.*02_train"):
            Validations.read(tmp_path / "kept.npz")


def test_rows_may_have_different_columns(tmp_path):
    file = tmp_path / "history.csv"
    assert read_rows(file) == []
    write_rows(file, [{"step": 1, "dev_ll": -2.5}, {"step": 2, "dev_ll": -2.0, "train_kl": 0.5}])
    assert read_rows(file) == [{"step": "1", "dev_ll": "-2.5", "train_kl": ""},
                               {"step": "2", "dev_ll": "-2.0", "train_kl": "0.5"}]


def test_best_and_stale_by_hand():
    """(dev BLEU, dev LL, KL weight): the first row is of another weight and never chosen."""
    rows = [{"dev_bleu": bleu, "dev_ll": ll, "kl_weight": weight} for bleu, ll, weight in (
        (99.0, 0.0, 0.5), (5.0, -3.0, 1.0), (5.0, -2.0, 1.0), (4.0, -1.0, 1.0), (5.0, -2.0, 1.0))]
    assert (best(rows, 1.0), best(rows, 1.0, "ll"), stale(rows, 1.0)) == (2, 3, 1)
    assert (best(rows[:1], 1.0), stale(rows[:1], 1.0)) == (None, 0)
    assert stale(rows[:2], 1.0) == 0
    settings = replace(load_config("ga_b").training, steps=9, kl_start=0, kl_ramp=0)
    ends = [ended_by(rows, step, replace(settings, patience=patience))
            for step, patience in ((8, 0), (9, 0), (8, 2), (8, 1))]
    assert ends == ["", "steps", "", "patience"]
