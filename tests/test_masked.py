"""Md: bounds against all orders written out, the training estimate, and exact policies."""

import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from all_orders import exact_log_prob
from tiny import MASKED, batch_of, model_of, strings, training

from lib.emissions import Emissions
from lib.likelihood import elbo, iw_bound
from lib.masked import MaskedModel
from lib.subword import EOS

pytestmark = pytest.mark.usefixtures("float64")

WORDS = [3, 4, 5]
PAIRS = [([3, 4], [5, 3, 4, 4, 5]), ([5], [3]), ([4, 4, 3], [4, 5, 3])]


@pytest.fixture
def model():
    return model_of(MASKED, 6, spread=0.3)


@torch.no_grad()
def over_orders(model, pair):
    """log p of each of the T! orders, one pass a step, written out."""
    batch = batch_of([pair], 4)
    memory, length = model.encode(batch.source, None), batch.target.shape[1]
    real, found = torch.ones(1, length, dtype=torch.bool), []
    for order in permutations(range(length)):
        known, total = torch.zeros_like(real), 0.0
        for at in order:
            log_probs = model.subwords(memory, batch.target, known, real).log_prob_at(batch.target)
            total += float(log_probs[0, at])
            known[0, at] = True
        found.append(total)
    return torch.tensor(found)


@pytest.mark.parametrize("string", [[3], [4, 5, 3], []])
def test_the_exact_likelihood_is_the_mean_over_all_orders(model, string):
    orders = over_orders(model, ([3, 4], string))
    assert orders.max() - orders.min() > 0.01, "the order should matter"
    found = exact_log_prob(model, batch_of([([3, 4], string)], 4))
    assert float(found) == pytest.approx(float(orders.logsumexp(0)) - math.log(24), abs=1e-12)


def test_bounds_rise_to_the_exact_likelihood(model):
    """ELBO < importance-weighted bound < exact in expectation, both that of all orders."""
    pair = ([3, 4], [4, 5])
    orders, count = over_orders(model, pair), 400
    terms = model.log_prob_terms(batch_of([pair] * count, 4), 16,
                                 torch.Generator().manual_seed(1))
    assert not terms.log_p_z.any() and not terms.log_q_z.any()
    parts = terms.log_p_y, terms.log_p_z, terms.log_q_z
    for found, expected in ((elbo(*parts), orders.mean()),
                            (iw_bound(*parts), None)):
        error = float(found.std()) / math.sqrt(count)
        if expected is not None:
            assert float(found.mean()) == pytest.approx(float(expected), abs=4 * error)
    exact = float(orders.logsumexp(0)) - math.log(24)
    assert float(orders.mean()) + 4 * error < float(iw_bound(*parts).mean()) < exact
    drawn = {round(value, 9) for value in terms.log_p_y.flatten().tolist()}
    assert drawn == {round(value, 9) for value in orders.tolist()}


def test_the_training_estimate_is_the_elbo_in_expectation(model):
    """One masked set a sentence, weight T/k: a wrong weight is the usual fault."""
    pair, count, times = ([3, 4], [4, 5]), 500, 40
    batch = batch_of([pair] * count, 4)
    with torch.no_grad():
        draws = torch.stack([model.loss_terms(batch, training(), 1.0)["nll"] / count
                             for _ in range(times)])
    expected, error = -float(over_orders(model, pair).mean()), float(draws.std()) / times**0.5
    assert error < 0.01 * expected
    assert float(draws.mean()) == pytest.approx(expected, abs=4 * error)


def test_strings_sum_to_one_exactly_and_by_the_policy(model):
    batch = batch_of([([3, 4], string) for string in strings(WORDS, 0, 3)], 4)
    assert float(exact_log_prob(model, batch).exp().sum()) == pytest.approx(1, abs=1e-9)
    assert float(model.policy_log_prob(batch).exp().sum()) == pytest.approx(1, abs=1e-9)
    longer = batch_of([([5], string) for string in strings(WORDS, 4, 7)], 4)
    assert float(model.policy_log_prob(longer).exp().sum()) == pytest.approx(1, abs=1e-9)


def test_the_policy_is_one_of_the_orders(model):
    for pair in PAIRS[1:]:
        found = float(model.policy_log_prob(batch_of([pair], 4)))
        assert min(abs(found - value) for value in over_orders(model, pair).tolist()) < 1e-9


def test_scores_are_those_of_single_sentences_without_padding(model):
    together = batch_of(PAIRS, 4)
    for score in (MaskedModel.policy_log_prob, exact_log_prob):
        found = score(model, together)
        for row, pair in enumerate(PAIRS):
            torch.testing.assert_close(score(model, batch_of([pair], 4))[0], found[row])


def test_with_a_generator_each_a_sentence_has_the_same_orders_in_any_batch(model):
    pair = PAIRS[0]

    def terms(count, seeds, chunk):
        return model.log_prob_terms(batch_of([pair] * count, 4), 5,
                                    [torch.Generator().manual_seed(seed) for seed in seeds], chunk)

    together = terms(3, (1, 2, 1), 2)
    for row, seed in enumerate((1, 2, 1)):
        torch.testing.assert_close(together.log_p_y[:, row], terms(1, (seed,), 5).log_p_y[:, 0])
    assert (together.log_p_y[:, 0] - together.log_p_y[:, 1]).abs().min() > 1e-9


def test_the_loss_of_a_fixed_batch_is_the_same_and_fillers_count_nothing(model):
    batch = batch_of(PAIRS, 4)
    losses = []
    for fixed in (False, True):
        torch.manual_seed(5)
        losses.append(model.loss_terms(replace(batch, fixed=fixed), training(), 1.0))
    torch.testing.assert_close(*losses)
    empty = replace(batch, fixed=True, target=batch.target * 0, target_tokens=batch.index * 0,
                    target_mask=torch.zeros_like(batch.target, dtype=torch.bool))
    terms = model.loss_terms(empty, training(), 1.0)
    assert float(terms["loss"].detach()) == 0.0
    terms["loss"].backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_gradients_are_numerical_ones(model):
    batch, parameter = batch_of(PAIRS, 4), model.embedding.weight

    def loss():
        torch.manual_seed(5)
        return model.loss_terms(batch, training(), 1.0)

    loss()["loss"].backward()  # the length predictor's gradient stops before the encoder
    direction = torch.randn_like(parameter)
    with torch.no_grad():
        step = 1e-6 * direction
        parameter += step
        above = float(loss()["nll"])
        parameter -= 2 * step
        below = float(loss()["nll"])
        parameter += step
    assert (above - below) / 2e-6 == pytest.approx(float((parameter.grad * direction).sum()),
                                                   rel=1e-6)


def test_of_equally_confident_positions_the_policy_takes_the_first(model, monkeypatch):
    batch, taken, real = batch_of([([3, 4], [5, 3, 4])], 4), [], Emissions.log_prob_at
    monkeypatch.setattr(Emissions, "log_prob_at", lambda self, ids: (
        taken.append(int(ids)), real(self, ids))[1])
    with torch.no_grad():
        model.embedding.weight.zero_()  # all subwords alike
    model.policy_log_prob(batch)
    assert taken == [EOS, 5, 3, 4]  # the last position's EOS alone is certain
