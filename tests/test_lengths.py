"""The length predictor: a probability for every length, predictions by hand, its loss."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny import close

from lib.layers import Memory
from lib.lengths import LARGEST_DIFFERENCE, LengthPredictor, source_lengths

pytestmark = pytest.mark.usefixtures("float64")


def length_predictor(source):
    """A predictor and the memory of one source of that length, with 3 padded positions."""
    model = LengthPredictor(8)
    torch.nn.init.normal_(model.outer.weight)
    torch.nn.init.normal_(model.outer.bias)
    mask = torch.arange(source + 3)[None] < source
    return model, Memory(torch.randn(1, source + 3, 8), mask)


@pytest.mark.parametrize("source", [1, 3, 29, 30, 31, 47])
def test_length_probabilities_equal_a_table_and_sum_to_one(source):
    model, memory = length_predictor(source)
    table = {}  # padded length -> probability
    for difference, p in zip(range(-30, 31), model(memory)[0].exp().tolist(), strict=True):
        tail = range(200) if abs(difference) == LARGEST_DIFFERENCE else [None]
        for beyond in tail:
            share = p if beyond is None else p * 2.0**-(beyond + 1)
            length = source + difference + (beyond or 0) * (1 if difference > 0 else -1)
            padded = max(4, math.ceil(length / 4) * 4)
            table[padded] = table.get(padded, 0.0) + share
    lengths = range(4, 161, 4)
    found = torch.cat([model.log_prob(memory, torch.tensor([length])) for length in lengths])
    assert found.isfinite().all()
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-10)
    for length, log_prob in zip(lengths, found.tolist(), strict=True):
        assert log_prob == pytest.approx(math.log(table[length]), rel=1e-9)


def test_length_log_prob_is_finite_far_out():
    model, memory = length_predictor(5)
    near, far = (model.log_prob(memory, torch.tensor([n])).item() for n in (400, 404))
    assert near - far == pytest.approx(4 * math.log(2), rel=1e-9)


@pytest.mark.parametrize(("source", "difference", "expected"), [
    (5, 0, 8), (5, 3, 8), (5, 4, 12), (4, 0, 4), (5, -30, 4), (5, -5, 4), (40, -30, 12),
    (40, 30, 72),
])
def test_predicted_lengths_hand_worked(source, difference, expected):
    model, memory = length_predictor(source)
    with torch.no_grad():
        model.outer.weight.zero_()
        model.outer.bias.zero_()[difference + 30] = 1.0
    assert model.predict(memory).tolist() == [expected]


def test_length_predictor_pools_real_states_and_leaves_the_encoder_alone():
    model, memory = length_predictor(5)
    states = memory.states.clone().requires_grad_()
    log_probs = model(Memory(states, memory.mask))
    pooled = states[:, :5].mean(1)
    close(log_probs, model.outer(F.relu(model.inner(pooled))).log_softmax(-1))
    close(model(Memory(states[:, :5], None)), log_probs)
    assert torch.autograd.grad(log_probs[0, 0], states, allow_unused=True) == (None,)


def test_loss_is_that_of_the_difference_and_leaves_rows_without_tokens_out():
    model, memory = length_predictor(5)
    memory = Memory(memory.states.repeat(3, 1, 1), memory.mask.repeat(3, 1))
    log_probs = model(memory)[0]
    assert source_lengths(memory).tolist() == [5, 5, 5]
    found = model.loss(memory, torch.tensor([7, 0, 90]))
    close(found, -(log_probs[2 + 30] + log_probs[60]))
