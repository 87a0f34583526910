"""Search of Na and Md: positions filled by hand, and frequencies of draws."""

import pytest
import torch
from all_orders import exact_log_prob
from tiny import (
    INDEPENDENT,
    MASKED,
    batch_of,
    drawn_as_often,
    model_of,
    near_lengths,
    sources_of,
    strings,
)

from lib.decoding.unmasking import draws, greedy, unmask
from lib.subword import EOS

pytestmark = pytest.mark.usefixtures("float64")

SOURCES = [[3, 4], [5], [4, 3, 3, 5, 5, 3]]


def short(model, padded=4):
    """Targets of the first source, which has 3 subwords with EOS, have that padded length."""
    return near_lengths(model, range(padded - 3, padded - 2))


def test_greedy_takes_the_best_subword_at_each_position():
    model, inputs = model_of(INDEPENDENT, 6, spread=0.3), sources_of(SOURCES)
    found = greedy(model, *inputs)
    memory = model.encode(*inputs)
    for row, length in enumerate(model.length_predictor.predict(memory).tolist()):
        alone = model.encode(*sources_of([SOURCES[row]]))
        real = torch.ones(1, length, dtype=torch.bool)
        ids = model.subwords(alone, real).best()[1][0].tolist()
        assert found[row] == ids[:ids.index(EOS)]
        assert length - 4 <= len(found[row]) < length


@torch.no_grad()
def by_hand(model, source, goals):
    """So many positions known after each step, the most confident ones first."""
    memory = model.encode(*sources_of([source]))
    length = int(model.length_predictor.predict(memory))
    ids, known = torch.full((1, length), EOS), torch.zeros(1, length, dtype=torch.bool)
    for goal in goals(length):
        values, best = model.subwords(memory, ids, known, torch.ones_like(known)).best()
        left = sorted((place for place in range(length) if not known[0, place]),
                      key=lambda place: (-float(values[0, place]), place))
        for place in left[:goal - int(known.sum())]:
            ids[0, place], known[0, place] = best[0, place], True
    row = ids[0].tolist()
    return row[:row.index(EOS)]


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 0])
def test_unmasking_by_hand(steps):
    for seed in range(3):
        torch.manual_seed(seed)
        model = near_lengths(model_of(MASKED, 6, spread=0.3))

        def goals(length):
            taken = min(steps or length, length)
            return [-(-length * step // taken) for step in range(1, taken + 1)]

        assert unmask(model, *sources_of(SOURCES), steps) == [
            by_hand(model, source, goals) for source in SOURCES]


def test_as_many_steps_as_positions_or_more_are_one_a_position():
    model = short(model_of(MASKED, 6, spread=0.3))
    one = unmask(model, *sources_of(SOURCES[:1]))
    assert one == unmask(model, *sources_of(SOURCES[:1]), 4)
    assert one == unmask(model, *sources_of(SOURCES[:1]), 99)


@pytest.mark.parametrize("architecture", [INDEPENDENT, MASKED], ids=["na", "md"])
def test_draws_have_the_models_frequencies(architecture):
    """Of Md those of the exact likelihood over all orders."""
    model, count, source = short(model_of(architecture, 6, spread=0.3)), 3000, [3, 4]
    every = strings([3, 4, 5], 0, 3)
    batch = batch_of([(source, string) for string in every], 4)
    if architecture is INDEPENDENT:
        log_probs = model.log_prob_terms(batch).log_p_y[0]
    else:
        log_probs = exact_log_prob(model, batch)
    expected = count * log_probs.exp().numpy()
    found = draws(model, *sources_of([source]), count, seed=1)[0]
    counts = [found.count(string) for string in every]
    assert sum(counts) == count
    drawn_as_often(counts, expected, classes=6)


@pytest.mark.parametrize("architecture", [INDEPENDENT, MASKED], ids=["na", "md"])
def test_the_first_draws_of_more_are_the_same(architecture):
    model, inputs = short(model_of(architecture, 6, spread=0.3), 8), sources_of(SOURCES)
    some, more = (draws(model, *inputs, count, seed=2) for count in (2, 5))
    assert [rows[:2] for rows in more] == some
    assert draws(model, *inputs, 5, seed=3) != more


def test_lengths_are_drawn_too():
    model = model_of(INDEPENDENT, 6, spread=0.3)
    lengths = {len(row) for row in draws(model, *sources_of([[3, 4]]), 40)[0]}
    assert len({length // 4 for length in lengths}) > 2


def test_a_low_temperature_draws_the_most_probable():
    model = short(model_of(INDEPENDENT, 6, spread=0.3))
    inputs = sources_of(SOURCES[:1])
    assert draws(model, *inputs, 5, 1e-4)[0] == greedy(model, *inputs) * 5
