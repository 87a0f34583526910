"""Da: a distribution over strings, its transitions, and independence of padding."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import DAG, batch_of, model_of, strings

from lib.dag import Transitions
from lib.likelihood.path_sums import NOTHING

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize(("source", "upsampling"), [([3], 2), ([3], 3), ([4, 5], 2), ([], 4)])
def test_all_strings_that_fit_sum_to_one_and_no_others_are_possible(source, upsampling):
    model = model_of(replace(DAG, upsampling=upsampling), 6, spread=0.3)
    longest = upsampling * (len(source) + 1) - 2
    every = strings([3, 4, 5], 0, longest + 1)
    found = model.log_prob_terms(batch_of([(source, string) for string in every])).log_p_y[0]
    assert float(found.exp().sum()) == pytest.approx(1, abs=1e-9)
    fits = torch.tensor([len(string) <= longest for string in every])
    assert torch.equal(found > -math.inf, fits)
    assert float(found[fits].max() - found[fits].min()) > 1


def test_transitions_go_forward_to_real_vertices_and_sum_to_one():
    layer, states = Transitions(16, 4), 3 * torch.randn(2, 6, 16)
    real = torch.arange(6) < torch.tensor([[6], [4]])
    found = layer(states, real)
    for row, count in enumerate((6, 4)):
        for start in range(6):
            later = [end for end in range(count) if end > start]
            assert (found[row, start] > NOTHING / 2).nonzero()[:, 0].tolist() == later
            if later:
                assert found[row, start].exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_a_transition_is_a_mixture_over_heads():
    layer, states = Transitions(8, 2), torch.randn(1, 4, 8)
    found = layer(states, torch.ones(1, 4, dtype=torch.bool))
    q, k = layer.query_key(states)[0].split(8, -1)
    gates = layer.gate(states)[0].softmax(-1)
    for start in range(3):
        expected = 0.0
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            scores = q[start, part] @ k[start + 1:, part].T / 2
            expected = expected + gates[start, head] * scores.softmax(-1)
        torch.testing.assert_close(found[0, start, start + 1:].exp(), expected)


def test_gradients_reach_every_parameter_and_stay_finite():
    layer, states = Transitions(8, 2), torch.randn(2, 5, 8, requires_grad=True)
    real = torch.arange(5) < torch.tensor([[5], [2]])
    found = layer(states, real)
    (found * (found > NOTHING / 2)).sum().backward()
    assert states.grad.isfinite().all() and states.grad.any()
    assert all(p.grad.isfinite().all() and p.grad.any() for name, p in layer.named_parameters()
               if not name.startswith("query_key.bias"))
