"""BLEU from per-sentence counts equals sacreBLEU's whole-corpus computation."""

import numpy as np
import pytest
from made_up import noisy_lines
from sacrebleu.metrics import BLEU

from lib import bleu
from lib.errors import DataError


@pytest.mark.parametrize("noise", [0.0, 0.3, 0.95, 1.0])
def test_bleu_equals_sacrebleu(noise):
    hypotheses, references = noisy_lines(200, noise, seed=1)
    counts = bleu.bleu_statistics(hypotheses, references)
    theirs = BLEU().corpus_score(hypotheses, [references])
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


CHINESE = ["我今天去北京的学校上课。", "小狗在花园里跑来跑去。", "他们昨天买了三本新书。"]
GUESSES = ["我今天去上海的学校上课。", "小猫在花园里跑来跑去。", "他们昨天买了三本旧书。"]


def test_chinese_is_no_single_word():
    """With 13a a sentence without spaces is one word, and any slip in it costs everything."""
    score, signature = bleu.bleu(GUESSES, CHINESE, "zh")
    assert score.score == pytest.approx(
        BLEU(tokenize="zh").corpus_score(GUESSES, [CHINESE]).score) and score.score > 50
    assert bleu.tokenizer_of(signature) == "zh"
    words, usual = bleu.bleu(GUESSES, CHINESE)
    assert words.score == 0.0
    assert usual.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")


@pytest.mark.parametrize("tokenizer", ["13a", "zh", "char", "intl", "none"])
def test_counts_are_those_of_every_tokeniser(tokenizer):
    counts = bleu.bleu_statistics(GUESSES, CHINESE, tokenizer=tokenizer)
    score = bleu.bleu(GUESSES, CHINESE, tokenizer)[0].score
    assert bleu.bleu_from_counts(counts.sum(0)) == pytest.approx(score, abs=1e-10)
    weights = bleu.resample_weights(3, 4)
    drawn = bleu.resampled_bleu(GUESSES, CHINESE, weights, tokenizer)
    assert drawn[0] == pytest.approx(score, abs=1e-10)
    np.testing.assert_allclose(drawn[1], bleu.bleu_from_counts(weights @ counts))


@pytest.mark.parametrize(("signature", "tokenizer"), [
    ("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0", "13a"),
    ("tok:ja-mecab", "ja-mecab"), ("nrefs:1|tok:char", "char"), ("sig", "13a"), ("", "13a")])
def test_a_signature_names_its_tokeniser(signature, tokenizer):
    assert bleu.tokenizer_of(signature) == tokenizer
