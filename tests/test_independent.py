"""Na: a distribution over strings, independent given the length, and its loss by hand."""

import math

import pytest
import torch
from tiny import INDEPENDENT, batch_of, model_of, strings, training

pytestmark = pytest.mark.usefixtures("float64")

WORDS = [3, 4, 5]
PAIRS = [([3, 4], [5, 3, 4, 4, 5]), ([5], [3]), ([4, 4, 3], [4, 5, 3])]


@pytest.fixture
def model():
    return model_of(INDEPENDENT, 6, spread=0.3)


def log_prob(model, batch):
    terms = model.log_prob_terms(batch)
    assert not terms.log_p_z.any() and not terms.log_q_z.any()
    return terms.log_p_y[0], terms.log_p_length


@pytest.mark.parametrize("source", [[3], [5, 4, 3, 3, 4]])
@pytest.mark.parametrize("padded", [4, 8])
def test_strings_of_a_padded_length_sum_to_one(model, source, padded):
    """Those of T - 4 to T - 1 subwords: with the lengths', which do so themselves, all strings."""
    every = strings(WORDS, padded - 4, padded - 1)
    found, length = log_prob(model, batch_of([(source, string) for string in every], 4))
    assert float(found.exp().sum()) == pytest.approx(1, abs=1e-9)
    assert (length == length[0]).all()
    assert float(found.max() - found.min()) > 1


def test_subwords_are_independent_given_the_length(model):
    """log p(abc) + log p(dbe) = log p(abe) + log p(dbc)."""
    def of(*string):
        return log_prob(model, batch_of([([3, 5], list(string))], 4))[0]

    torch.testing.assert_close(of(3, 4, 5) + of(5, 4, 4), of(3, 4, 4) + of(5, 4, 5))


def test_log_prob_is_that_of_single_sentences_without_padding(model):
    together = log_prob(model, batch_of(PAIRS, 4))
    for row, pair in enumerate(PAIRS):
        for part, alone in zip(together, log_prob(model, batch_of([pair], 4)), strict=True):
            torch.testing.assert_close(alone[0], part[row])


def test_the_loss_is_minus_log_prob_with_the_length_predictors_own(model):
    batch = batch_of(PAIRS, 4)
    terms = model.loss_terms(batch, training(), 1.0)
    torch.testing.assert_close(terms["nll"], -log_prob(model, batch)[0].sum())
    torch.testing.assert_close(terms["loss"], terms["nll"] + terms["length"])
    memory = model.encode(batch.source, batch.source_mask)
    torch.testing.assert_close(terms["length"],
                               model.length_predictor.loss(memory, batch.target_tokens))


def test_the_padded_length_is_part_of_the_probability(model):
    """Over many lengths the strings' probabilities come to the lengths'."""
    memory = model.encode(batch_of(PAIRS[:1]).source, None)
    table = model.length_predictor.table(memory, beyond=8)[1]
    assert float(table.exp().sum().detach()) == pytest.approx(1, abs=1e-6)
    empty = log_prob(model, batch_of([(PAIRS[0][0], [])], 4))
    assert float(empty[1]) == pytest.approx(float(table[0, 0]), abs=1e-12)
    assert -math.inf < float(empty[0]) < 0
