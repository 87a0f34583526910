"""Sums over paths and alignments against brute force, their gradients in float64, best ones."""

import math
from itertools import combinations, groupby, pairwise, product

import pytest
import torch
from torch.autograd import gradcheck

from lib.likelihood.path_sums import (
    NOTHING,
    alignments_log_prob,
    best_path,
    paths_log_prob,
)

pytestmark = pytest.mark.usefixtures("float64")

VERTICES, LENGTHS = torch.tensor([6, 4, 6, 3, 5]), torch.tensor([3, 2, 0, 2, 1])
IMPOSSIBLE = 3  # two subwords, and one vertex that isn't silent
FRAMES, WORDS = torch.tensor([5, 4, 3, 4, 3]), [[0, 0], [1], [], [0, 0, 1], [0, 0]]


def graphs():
    """Random graphs with normalised transitions, and emissions."""
    size = int(VERTICES.max())
    at = torch.arange(size)
    open_ = (at[:, None] < at) & (at < VERTICES[:, None, None])
    transitions = torch.randn(len(VERTICES), size, size).masked_fill(~open_, NOTHING)
    transitions = transitions.log_softmax(-1).masked_fill(~open_, NOTHING)
    return transitions, torch.randn(len(VERTICES), size, int(LENGTHS.max())) - 1.0


def every_path(transitions, emissions, row):
    """log of each path's product, by its inner vertices."""
    last, length = int(VERTICES[row]) - 1, int(LENGTHS[row])
    found = {}
    for inner in combinations(range(1, last), length):
        stops = (0, *inner, last)
        total = sum(transitions[row, i, j] for i, j in pairwise(stops))
        found[inner] = total + sum(emissions[row, v, step] for step, v in enumerate(inner))
    return found


def test_a_sum_over_paths_is_that_over_all_of_them():
    transitions, emissions = graphs()
    found = paths_log_prob(transitions, emissions, LENGTHS, VERTICES)
    best = paths_log_prob(transitions, emissions, LENGTHS, VERTICES, best=True)
    for row in range(len(VERTICES)):
        paths = every_path(transitions, emissions, row)
        if row == IMPOSSIBLE:
            assert not paths and found[row] == best[row] == -math.inf
            continue
        values = torch.stack(list(paths.values()))
        torch.testing.assert_close(found[row], values.logsumexp(0))
        torch.testing.assert_close(best[row], values.max())
    assert found[0] > best[0], "the best path is one of several"


def test_the_best_path_is_the_best_of_all_of_them():
    transitions, emissions = graphs()
    path = best_path(transitions, emissions, LENGTHS, VERTICES)
    for row, length in enumerate(LENGTHS.tolist()):
        if row != IMPOSSIBLE:
            paths = every_path(transitions, emissions, row)
            assert tuple(path[row, :length].tolist()) == max(paths, key=paths.get)


def test_equal_paths_give_one_path():
    """A graph without any preference: the maximum's gradient must not be shared out."""
    transitions, emissions = graphs()
    flat = torch.where(transitions == NOTHING, NOTHING, 0.0)
    emissions = torch.zeros_like(emissions, requires_grad=True)
    value = paths_log_prob(flat, emissions, LENGTHS, VERTICES, best=True)
    used = torch.autograd.grad(value[0], emissions)[0][0]
    assert set(used.flatten().tolist()) == {0.0, 1.0} and used.sum() == LENGTHS[0]


@pytest.mark.parametrize("best", [False, True])
def test_gradients_of_paths_are_numerical_ones(best):
    transitions, emissions = (x.requires_grad_() for x in graphs())
    real = transitions.detach() > NOTHING / 2
    possible = [row for row in range(len(VERTICES)) if row != IMPOSSIBLE]

    def value(transitions, emissions):
        transitions = torch.where(real, transitions, NOTHING)
        return paths_log_prob(transitions, emissions, LENGTHS, VERTICES, best)[possible]

    assert gradcheck(value, (transitions, emissions))


def test_gradients_are_finite_where_there_is_no_path():
    transitions, emissions = (x.requires_grad_() for x in graphs())
    value = paths_log_prob(transitions, emissions, LENGTHS, VERTICES)
    torch.where(value > -math.inf, value, 0.0).sum().backward()
    assert transitions.grad.isfinite().all() and emissions.grad.isfinite().all()
    assert not transitions.grad[IMPOSSIBLE].any() and not emissions.grad[IMPOSSIBLE].any()


def test_padding_changes_no_path():
    transitions, emissions = graphs()
    found = paths_log_prob(transitions, emissions, LENGTHS, VERTICES)
    for row, (size, length) in enumerate(zip(VERTICES.tolist(), LENGTHS.tolist(), strict=True)):
        some = slice(row, row + 1)
        alone = paths_log_prob(transitions[some, :size, :size],
                               emissions[some, :size, :max(1, length)], LENGTHS[some],
                               VERTICES[some])
        torch.testing.assert_close(alone, found[some])


def test_fp32_is_near_fp64_for_a_sentence_of_usual_size():
    """64 vertices and up to 20 subwords: relative differences of 3e-5 at most."""
    size, length = 64, 20
    at = torch.arange(size)
    scores = 3 * torch.randn(4, size, size)
    transitions = scores.masked_fill(at[:, None] >= at, NOTHING).log_softmax(-1)
    transitions = transitions.masked_fill(at[:, None] >= at, NOTHING)
    emissions = 4 * torch.randn(4, size, length) - 9.0
    lengths, vertices = torch.tensor([20, 3, 19, 12]), torch.full((4,), size)
    exact = paths_log_prob(transitions, emissions, lengths, vertices)
    rounded = paths_log_prob(transitions.float(), emissions.float(), lengths, vertices)
    torch.testing.assert_close(rounded.double(), exact, rtol=3e-5, atol=0)


# Alignments ----------------------------------------------------------------------------------

def frames():
    """Random log-probabilities of the blank, of three subwords, and of each target's subwords."""
    count = int(FRAMES.max())
    table = torch.randn(len(WORDS), count, 4).log_softmax(-1)
    longest = max(map(len, WORDS))
    ids = torch.tensor([words + [2] * (longest - len(words)) for words in WORDS])
    emissions = table[..., 1:].gather(2, ids[:, None].expand(-1, count, -1))
    repeated = torch.zeros_like(ids, dtype=torch.bool)
    repeated[:, 1:] = ids[:, 1:] == ids[:, :-1]
    return table, emissions, repeated, torch.tensor([len(words) for words in WORDS])


def every_alignment(table, row):
    """log of each alignment's product, for those that collapse to the target; 0 is the blank."""
    found = {}
    for symbols in product(range(4), repeat=int(FRAMES[row])):
        collapsed = [symbol - 1 for symbol, _ in groupby(symbols) if symbol]
        if collapsed == WORDS[row]:
            found[symbols] = sum(table[row, frame, symbol] for frame, symbol in enumerate(symbols))
    return found


def test_a_sum_over_alignments_is_that_over_all_of_them():
    table, emissions, repeated, lengths = frames()
    arguments = table[..., 0], emissions, repeated, lengths, FRAMES
    found = alignments_log_prob(*arguments)
    for row in range(len(WORDS)):
        values = torch.stack(list(every_alignment(table, row).values()))
        torch.testing.assert_close(found[row], values.logsumexp(0))
    shorter = alignments_log_prob(*arguments[:4], FRAMES - 1)
    assert (shorter == -math.inf).tolist() == [False, False, False, True, True]


def test_gradients_of_alignments_are_numerical_ones():
    table, emissions, repeated, lengths = frames()

    def value(blank, emissions):
        return alignments_log_prob(blank, emissions, repeated, lengths, FRAMES)

    assert gradcheck(value, (table[..., 0].clone().requires_grad_(), emissions.requires_grad_()))


def test_gradients_are_finite_where_there_is_no_alignment():
    table, emissions, repeated, lengths = frames()
    blank, emissions = table[..., 0].clone().requires_grad_(), emissions.requires_grad_()
    value = alignments_log_prob(blank, emissions, repeated, lengths, FRAMES - 1)
    torch.where(value > -math.inf, value, 0.0).sum().backward()
    assert blank.grad.isfinite().all() and emissions.grad.isfinite().all()
    assert not blank.grad[3:].any() and not emissions.grad[3:].any()


def test_padding_changes_no_alignment():
    table, emissions, repeated, lengths = frames()
    found = alignments_log_prob(table[..., 0], emissions, repeated, lengths, FRAMES)
    for row, (count, length) in enumerate(zip(FRAMES.tolist(), lengths.tolist(), strict=True)):
        some, width = slice(row, row + 1), max(1, length)
        alone = alignments_log_prob(table[some, :count, 0], emissions[some, :count, :width],
                                    repeated[some, :width], lengths[some], FRAMES[some])
        torch.testing.assert_close(alone, found[some])
