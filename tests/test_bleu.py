"""BLEU from per-sentence counts equals sacreBLEU's whole-corpus computation."""

import numpy as np
import pytest
from made_up import noisy_lines
from sacrebleu.metrics import BLEU

from lib import bleu
from lib.errors import DataError


@pytest.mark.parametrize("noise", [0.0, 0.3, 0.95, 1.0])
@pytest.mark.parametrize("lowercase", [False, True])
def test_bleu_equals_sacrebleu(noise, lowercase):
    hypotheses, references = noisy_lines(200, noise, seed=1)
    counts = bleu.bleu_statistics(hypotheses, references, lowercase=lowercase)
    theirs = BLEU(lowercase=lowercase).corpus_score(hypotheses, [references])
    summed = counts.sum(axis=0)
    assert [theirs.sys_len, theirs.ref_len, *theirs.counts, *theirs.totals] == summed.tolist()
    assert bleu.bleu_from_counts(summed) == pytest.approx(theirs.score, abs=1e-10)


@pytest.mark.parametrize(("hypothesis", "reference"), [
    ("", "a b"), ("a", "a"), ("a b c d", "e f g h"), ("a b x y", "a b c d"), ("a b c", "a b c"),
    ("a b c d e", "a b c d e"), ("a x b y c z", "a b c"),
])
def test_bleu_equals_sacrebleu_on_degenerate_corpora(hypothesis, reference):
    counts = bleu.bleu_statistics([hypothesis], [reference]).sum(axis=0)
    theirs = BLEU().corpus_score([hypothesis], [[reference]]).score
    assert bleu.bleu_from_counts(counts) == pytest.approx(theirs, abs=1e-10)


def test_resampled_bleu_equals_sacrebleu_on_the_drawn_lines():
    hypotheses, references = noisy_lines(30, 0.3, seed=2)
    weights = bleu.resample_weights(30, 5, seed=3)
    counts = bleu.bleu_statistics(hypotheses, references)
    for row, ours in zip(weights, bleu.bleu_from_counts(weights @ counts), strict=True):
        drawn = np.repeat(np.arange(30), row.astype(int))
        theirs = BLEU().corpus_score([hypotheses[i] for i in drawn],
                                     [[references[i] for i in drawn]])
        assert ours == pytest.approx(theirs.score, abs=1e-10)


def test_weights_are_paired_and_seeded():
    weights = bleu.resample_weights(7, 20, seed=5)
    assert (weights.sum(axis=1) == 7).all()
    assert (weights == bleu.resample_weights(7, 20, seed=5)).all()
    assert (weights != bleu.resample_weights(7, 20, seed=6)).any()


def test_bad_input_has_one_clear_message():
    with pytest.raises(DataError, match="2 hypotheses but 1 references"):
        bleu.bleu_statistics(["a", "b"], ["a"])
    with pytest.raises(DataError, match="test set is empty"):
        bleu.bleu_statistics([], [])
