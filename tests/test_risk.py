"""Minimum Bayes risk: scores equal sacreBLEU's, the choice equals brute force."""

import random

import numpy as np
import pytest
import sacrebleu

from lib.decoding.risk import consensus, expected_utilities, utilities

WORDS = ["a", "the", "cat", "cats", "sat,", "on", "(mats)", "it's", "3.5%", "Straße", "!", "  x "]


def lines(count: int, longest: int = 9) -> list[str]:
    return [" ".join(random.choices(WORDS, k=random.randint(0, longest))) for _ in range(count)]


def test_every_pair_scores_as_in_sacrebleu():
    some = ["", "a", "a b", "  ", "the cat sat on the mat", "the cat sat on the mat .", *lines(25)]
    expected = [[sacrebleu.sentence_chrf(hypothesis, [reference]).score for reference in some]
                for hypothesis in some]
    np.testing.assert_allclose(utilities(some), expected, rtol=1e-12, atol=1e-9)
    assert np.ptp(expected) > 90


@pytest.mark.parametrize("longest", [2, 9])
def test_the_choice_is_brute_force(longest):
    """Short lines repeat themselves: every copy counts as a sample of its own."""
    for _ in range(5):
        some = lines(12, longest)
        expected = [np.mean([sacrebleu.sentence_chrf(h, [r]).score
                             for j, r in enumerate(some) if j != i]) for i, h in enumerate(some)]
        np.testing.assert_allclose(expected_utilities(some), expected, rtol=1e-12)
        assert expected[consensus(some)] == pytest.approx(max(expected))


def test_copies_vote():
    """Two equal lines win against one that is nearer to each of the others."""
    assert consensus(["the dog", "the cat sat", "the cat sat", "the cat"]) == 1
    assert consensus(["x", "the dog", "the dog"]) == 1


def test_of_equal_lines_the_first_is_chosen():
    assert consensus(["b", "a"]) == 0
    assert consensus(["a", "a", "a"]) == 0


def test_a_single_line_is_chosen():
    assert consensus(["whatever"]) == 0
    assert expected_utilities(["whatever"]).tolist() == [0.0]
