"""Emissions against a softmax written out: values, gradients in float64, draws, impossible ones."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from lib import emissions as module
from lib.emissions import Emissions, log_normaliser
from lib.subword import EOS, UNK

pytestmark = pytest.mark.usefixtures("float64")

BATCH, LENGTH, WIDTH, VOCABULARY = 2, 3, 4, 9


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """So that a handful of rows takes several chunks of every kind."""
    monkeypatch.setattr(module, "_rows", lambda weight, numbers: 2)
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", 2 * VOCABULARY)


@pytest.fixture
def given():
    return torch.randn(BATCH, LENGTH, WIDTH), torch.randn(VOCABULARY, WIDTH)


def table(states, weight, first=UNK):
    """log p of every subword, -inf for what can't be emitted."""
    logits = states @ weight.T
    logits[..., :first] = -math.inf
    return logits.log_softmax(-1)


def test_the_normaliser_and_its_gradient():
    hidden = torch.randn(7, WIDTH, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, requires_grad=True)
    torch.testing.assert_close(log_normaliser(hidden, weight), (hidden @ weight.T).logsumexp(-1))
    assert gradcheck(log_normaliser, (hidden, weight))


def test_it_rounds_as_little_as_fp32_under_autocast():
    """Products in bf16, the sum over the vocabulary in fp32."""
    hidden, weight = torch.randn(5, 64).float(), torch.randn(2000, 64).float() / 8
    with torch.autocast("cpu", torch.bfloat16):
        found = log_normaliser(hidden, weight)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, (hidden @ weight.T).logsumexp(-1), rtol=0, atol=0.01)


@pytest.mark.parametrize("ending", [False, True])
def test_probabilities_sum_to_one_under_autocast(ending):
    """The logits, up to 30, are rounded to bf16, by as much as 0.06: all of them alike."""
    states, weight = torch.randn(1, 8, 64).float(), torch.randn(500, 64).float()
    flags = (EOS, torch.ones(1, 8, dtype=bool), torch.zeros(1, 8, dtype=bool)) if ending else ()
    with torch.autocast("cpu", torch.bfloat16):
        found = Emissions(states, weight, *flags)
        total = sum(found.log_prob_at(torch.full((1, 8), subword)).double().exp()
                    for subword in range(found.first, 500))
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-4)


@pytest.mark.parametrize("first", [EOS, UNK])
def test_log_probs_of_some_subwords_at_every_position(given, first):
    states, weight = given
    ids = torch.tensor([[3, 8, 3, 5], [7, 4, 6, 6]])
    found = Emissions(states, weight, first).log_prob(ids)
    for row in range(BATCH):
        torch.testing.assert_close(found[row], table(states, weight, first)[row][:, ids[row]])


def test_log_probs_of_the_subword_that_stands_there(given):
    states, weight = given
    ids = torch.tensor([[3, 8, 5], [7, 4, 6]])
    found = Emissions(states, weight).log_prob_at(ids)
    torch.testing.assert_close(found, table(states, weight).gather(2, ids[..., None])[..., 0])


def test_gradients_are_numerical_ones(given):
    states, weight = (x.requires_grad_() for x in given)
    ids = torch.tensor([[3, 8, 5], [7, 4, 6]])
    ends = torch.rand(2, BATCH, LENGTH) < 0.5

    def sums(states, weight):
        plain = Emissions(states, weight)
        ending = Emissions(states, weight, EOS, ends[0] | ends[1], ends[1])
        return plain.log_prob(ids), plain.log_prob_at(ids), ending.log_prob_at(ids)

    assert gradcheck(sums, (states, weight))


def test_where_a_string_may_and_must_end(given):
    states, weight = given
    may = torch.tensor([[False, True, True], [True, True, False]])
    must = torch.tensor([[False, False, True], [False, True, False]])
    found = Emissions(states, weight, EOS, may, must)
    expected = torch.where(may[..., None], table(states, weight, EOS), table(states, weight))
    only = torch.full((VOCABULARY,), -math.inf)
    only[EOS] = 0.0
    expected = torch.where(must[..., None], only, expected)
    every = torch.stack([found.log_prob_at(torch.full((BATCH, LENGTH), subword))
                         for subword in range(EOS, VOCABULARY)], -1)
    possible = expected[..., EOS:] > -math.inf
    torch.testing.assert_close(every[possible], expected[..., EOS:][possible])
    values, ids = found.top(VOCABULARY)
    torch.testing.assert_close(values.exp(), expected.gather(2, ids).exp())
    best, subword = found.best()
    torch.testing.assert_close(best, expected.amax(-1))
    assert torch.equal(subword, expected.argmax(-1))
    assert (subword[must] == EOS).all() and (subword[~may] != EOS).all()


def test_draws_have_the_frequencies_of_the_softmax_at_a_temperature(given):
    states, weight = given
    count = 4000
    uniform = (torch.arange(count) + 0.5) / count  # evenly spaced: frequencies are exact
    drawn = Emissions(states, weight).sample(uniform.expand(BATCH, LENGTH, -1), 0.5)
    expected = (table(states, weight) / 0.5).softmax(-1)
    frequencies = torch.nn.functional.one_hot(drawn, VOCABULARY).double().mean(2)
    torch.testing.assert_close(frequencies, expected, rtol=0, atol=1 / count)
    one = Emissions(states, weight).sample(uniform[:6].view(BATCH, LENGTH), 0.5)
    assert torch.equal(one.flatten(), torch.stack([
        drawn.view(BATCH * LENGTH, count)[place, place] for place in range(6)]))


def test_a_frozen_product_stands_in_for_search_alone(given):
    states, weight = given
    other = Emissions(states, weight, output=lambda rows: -(rows @ weight.T))
    assert torch.equal(other.best()[1], Emissions(-states, weight).best()[1])
    ids = torch.tensor([[3], [4]])
    assert torch.equal(other.log_prob(ids), Emissions(states, weight).log_prob(ids))


@pytest.mark.parametrize("ending", [False, True])
def test_those_of_some_positions_are_those_of_all(given, ending):
    flags = (EOS, torch.rand(BATCH, LENGTH) < 0.5, torch.rand(BATCH, LENGTH) < 0.3)
    emissions = Emissions(*given, *(flags if ending else ()))
    places = torch.tensor([[2, 0], [1, 1]])
    ids = torch.randint(UNK, VOCABULARY, (BATCH, LENGTH))
    found = emissions.at(places)
    torch.testing.assert_close(found.log_prob_at(ids.gather(1, places)),
                               emissions.log_prob_at(ids).gather(1, places))
    assert found.best()[1].tolist() == emissions.best()[1].gather(1, places).tolist()
