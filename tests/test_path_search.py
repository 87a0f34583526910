"""Search through graphs and frames against enumeration, by hand, and by frequencies."""

from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise

import pytest
import torch
from tiny import CTC, DAG, batch_of, drawn_as_often, model_of, sources_of, strings

from lib.decoding import path_search as module
from lib.decoding.path_search import beam, collapse, draws, greedy, lookahead, viterbi
from lib.decoding.search import length_normaliser
from lib.likelihood import path_sums
from lib.likelihood.path_sums import NOTHING

pytestmark = pytest.mark.usefixtures("float64")

WORDS = [3, 4, 5]
SOURCES = [[3, 4], [5], [4, 3, 3, 5]]
BOTH = pytest.mark.parametrize("architecture", [replace(DAG, upsampling=2),
                                                replace(CTC, upsampling=2)],
                               ids=lambda a: a.family)


def distribution(model, source):
    """Every string that is possible, and its probability."""
    slots = model.architecture.upsampling * (len(source) + 1)
    every = strings(WORDS, 0, slots)
    log_probs = model.log_prob_terms(batch_of([(source, string) for string in every])).log_p_y[0]
    return [(string, log_prob) for string, log_prob in zip(every, log_probs.tolist(), strict=True)
            if log_prob > -torch.inf]


def best_string(model, source, penalty):
    """By enumeration: its score, and itself."""
    return max((log_prob / length_normaliser(len(string) + 1, penalty), string)
               for string, log_prob in distribution(model, source))


@BOTH
@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_a_wide_beam_finds_the_most_probable_string(architecture, penalty):
    for seed in range(3):
        torch.manual_seed(seed)
        model = model_of(architecture, 6, spread=0.3)
        for source in SOURCES[:2]:
            found, score = beam(model, *sources_of([source]), 400, penalty)
            expected, string = best_string(model, source, penalty)
            assert found == [string]
            assert float(score) == pytest.approx(expected, abs=1e-9)


@BOTH
def test_the_beam_knows_every_conditional_probability(architecture):
    """log p(next | prefix) of each step is that of the strings that begin so, summed."""
    model = model_of(architecture, 6, spread=0.3)
    source, mask = sources_of([[3, 4], [5]])
    kind = {"dag": module._GraphSteps, "ctc": module._FrameSteps}[architecture.family]
    for string in ([4, 4], [3, 5, 5], [5]):
        steps = kind(model)
        state = steps.start(steps.encode(source, mask), 2, 10)
        probabilities = {tuple(s): p for s, p in distribution(model, [3, 4])}
        prefix = []
        for last in (1, *string):
            found = steps.step(state, torch.tensor([last, 3, 3, 3]))[0]
            prefix += [last] * (last > 1)
            begun = torch.tensor([p for s, p in probabilities.items()
                                  if list(s[:len(prefix)]) == prefix]).logsumexp(0)
            for word in WORDS:
                longer = [p for s, p in probabilities.items()
                          if list(s[:len(prefix) + 1]) == [*prefix, word]]
                expected = torch.tensor(longer or [-torch.inf]).logsumexp(0) - begun
                torch.testing.assert_close(found[word], expected)
            torch.testing.assert_close(found[2], torch.tensor(
                probabilities.get(tuple(prefix), -torch.inf)) - begun)
            assert (found[:2] == -torch.inf).all()


@BOTH
def test_a_beam_of_few_candidates_still_gives_a_string_its_own_probability(architecture,
                                                                            monkeypatch):
    monkeypatch.setattr(module, "CANDIDATES", 1)
    model = model_of(architecture, 6, spread=0.3)
    for source in SOURCES[:2]:
        found, score = beam(model, *sources_of([source]), 3, 0.0)
        own = {tuple(string): p for string, p in distribution(model, source)}[tuple(found[0])]
        assert float(score) == pytest.approx(own, abs=1e-9)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_viterbi_finds_the_best_path_and_subwords_together(penalty):
    for seed in range(3):
        torch.manual_seed(seed)
        model = model_of(replace(DAG, upsampling=3), 6, spread=0.3)
        for source in SOURCES[:2]:
            inputs = sources_of([source])
            with torch.no_grad():
                graph = model.graph(model.encode(*inputs))
                value, subword = graph.emissions.best()
            last, found = int(graph.vertices) - 1, {}
            for count in range(last):
                for inner in combinations(range(1, last), count):
                    total = sum(float(graph.transitions[0, a, b])
                                for a, b in pairwise((0, *inner, last)))
                    total += sum(float(value[0, v]) for v in inner)
                    found[inner] = total / length_normaliser(count + 1, penalty)
            best = max(found, key=found.get)
            assert viterbi(model, *inputs, penalty) == [[int(subword[0, v]) for v in best]]


def test_greedy_and_lookahead_by_hand():
    model = model_of(DAG, 6, spread=0.3)
    inputs = sources_of(SOURCES)
    graph = model.graph(model.encode(*inputs))
    value, subword = graph.emissions.best()
    for search, ahead in ((greedy, 0.0), (lookahead, 1.0)):
        found = search(model, *inputs)
        for row in range(len(SOURCES)):
            last, at, words = int(graph.vertices[row]) - 1, 0, []
            while True:
                scores = {end: float(graph.transitions[row, at, end])
                          + ahead * float(value[row, end]) * (end != last)
                          for end in range(at + 1, last + 1)}
                at = max(scores, key=scores.get)
                if at == last:
                    break
                words.append(int(subword[row, at]))
            assert found[row] == words
    assert greedy(model, *inputs) != lookahead(model, *inputs)


def test_nothing_collapses_in_a_graph():
    """All vertices say the same; a path through several says it several times."""
    model = model_of(replace(DAG, upsampling=6), 6, spread=0.3)
    with torch.no_grad():
        model.embedding.weight[3:] = model.embedding.weight[3]
    drawn = draws(model, *sources_of([[3, 4]]), 50)[0]
    assert any(a == b for row in drawn for a, b in pairwise(row))


def test_greedy_frames_by_hand():
    model = model_of(CTC, 6, spread=0.3)
    inputs = sources_of(SOURCES)
    frames = model.frames(model.encode(*inputs))
    best = frames.emissions.best()[1]
    assert greedy(model, *inputs) == [collapse(row[:count].tolist()) for row, count in zip(
        best, frames.count.tolist(), strict=True)]
    assert collapse([2, 3, 3, 2, 3, 4, 4, 2]) == [3, 3, 4]
    assert collapse([2, 2]) == collapse([]) == []


@BOTH
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_draws_have_the_models_frequencies(architecture, temperature):
    model, count = model_of(architecture, 6, spread=0.3), 5000
    if temperature == 1.0:
        expected = {tuple(s): count * p for s, p in (
            (s, float(torch.tensor(p).exp())) for s, p in distribution(model, [3, 4]))}
    else:
        expected = tempered(model, count, temperature)
    found = draws(model, *sources_of([[3, 4], [5]]), count, temperature, seed=1)[0]
    counts = Counter(map(tuple, found))
    assert set(counts) <= set(expected), "outside the support"
    drawn_as_often([counts[s] for s in expected], list(expected.values()), classes=6)


@torch.no_grad()
def tempered(model, count, temperature):
    """What paths and subwords drawn at a temperature give: a model with scaled logits."""
    inputs = sources_of([[3, 4]])
    memory, every = model.encode(*inputs), strings(WORDS, 0, 6)
    batch = batch_of([([3, 4], string) for string in every])
    if model.decoding == "graph":
        graph = model.graph(memory)
        emissions = graph.emissions.top(6)
        edges = graph.transitions / temperature
    else:
        emissions, edges = model.frames(memory).emissions.top(6), None
    table = torch.zeros_like(emissions[0]).scatter(2, emissions[1], emissions[0])
    table = (table / temperature).log_softmax(-1)
    columns = table.expand(len(every), -1, -1).gather(2, batch.target[:, None].expand(
        -1, table.shape[1], -1))
    lengths = batch.target_tokens - 1
    slots = torch.full_like(lengths, table.shape[1])
    if edges is not None:
        edges = edges.masked_fill(graph.transitions == NOTHING, NOTHING).log_softmax(-1)
        edges = edges.masked_fill(graph.transitions == NOTHING, NOTHING)
        log_probs = path_sums.paths_log_prob(edges.expand(len(every), -1, -1), columns,
                                                 lengths, slots)
    else:
        same = torch.zeros_like(batch.target, dtype=torch.bool)
        same[:, 1:] = batch.target[:, 1:] == batch.target[:, :-1]
        log_probs = path_sums.alignments_log_prob(
            table[..., 2].expand(len(every), -1), columns, same, lengths, slots)
    return {tuple(s): count * float(p.exp()) for s, p in zip(every, log_probs, strict=True)
            if p > -torch.inf}


@BOTH
def test_the_first_draws_of_more_are_the_same(architecture):
    model, inputs = model_of(architecture, 6, spread=0.3), sources_of(SOURCES)
    some, more = (draws(model, *inputs, count, seed=2) for count in (3, 7))
    assert [rows[:3] for rows in more] == some
    assert draws(model, *inputs, 7, seed=3) != more
