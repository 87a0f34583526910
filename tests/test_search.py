"""Search with autoregressive models against enumeration, by hand, and by frequencies."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from tiny import AUTOREGRESSIVE, VOCABULARY, drawn_as_often, model_of, sources_of

from benchmarks.given_length import never_ending
from lib.autoregressive import DecoderState
from lib.batching import Batch
from lib.decoding import search as module
from lib.decoding.search import (
    beam_search,
    greedy,
    length_normaliser,
    longest_target,
    sample,
)
from lib.layers import LONGEST
from lib.subword import BOS, EOS, PAD

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def kept(monkeypatch):
    """How many sentences stay in the batch, each time that others leave it."""
    counts, keep = [], DecoderState.keep

    def spy(self, sentences, rows):
        counts.append(len(sentences))
        keep(self, sentences, rows)

    monkeypatch.setattr(DecoderState, "keep", spy)
    return counts


@torch.no_grad()
def log_probs(model, source: list[int], targets: list[list[int]]) -> torch.Tensor:
    """log p of targets of one length, exactly as given (EOS where they have one), without cache."""
    target = torch.tensor(targets)
    count, length = target.shape
    batch = Batch(sources_of([source])[0].expand(count, -1), None, target, None,
                  torch.full((count,), length), torch.arange(count))
    return model.log_prob_terms(batch).log_p_y[0]


def greedy_by_hand(model, source: list[int], longest: int) -> list[int]:
    prefix = []
    while len(prefix) < longest - 1:
        scores = log_probs(model, source, [[*prefix, v] for v in range(VOCABULARY)])
        scores[[PAD, BOS]] = -torch.inf
        best = int(scores.argmax())
        if best == EOS:
            break
        prefix.append(best)
    return prefix


def test_length_normaliser_by_hand():
    assert length_normaliser(7, 1.0) == 2.0  # ((5 + 7) / 6) ** 1
    assert length_normaliser(7, 0.6) == pytest.approx(2**0.6)
    assert length_normaliser(1, 0.6) == length_normaliser(40, 0.0) == 1.0


def test_longest_target_by_hand():
    assert [longest_target(n) for n in (1, 5, 40, 100, 1000)] == [
        12, 20, 90, 150, LONGEST]


def test_greedy_is_the_loop_by_hand(model, sources):
    expected = [greedy_by_hand(model, s, longest_target(len(s) + 1)) for s in sources]
    assert greedy(model, *sources_of(sources)) == expected
    assert len({tuple(e) for e in expected}) > 3, "the model should say more than one thing"


def test_beam_of_one_is_greedy(model, sources):
    for penalty in (0.0, 1.0):
        actual, _ = beam_search(model, *sources_of(sources), width=1, length_penalty=penalty)
        assert actual == greedy(model, *sources_of(sources))


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_wide_beam_is_enumeration(penalty, seed):
    """Vocabulary of three words, at most three words a hypothesis: all 40 are enumerated."""
    torch.manual_seed(seed)
    vocabulary, longest = 6, 4
    model = model_of(AUTOREGRESSIVE, vocabulary, spread=0.3)
    sources = [[3, 4, 5], [4], [5, 5, 3, 4]]
    expected = []
    for source in sources:
        scored = {}
        for length in range(longest):
            strings = [list(words) for words in product((3, 4, 5), repeat=length)]
            actual = log_probs(model, source, [[*words, EOS] for words in strings])
            for words, score in zip(strings, actual.tolist(), strict=True):
                scored[tuple(words)] = score / length_normaliser(length + 1, penalty)
        assert len(scored) == 40
        expected.append(max(scored.items(), key=lambda item: item[1]))
    actual, scores = beam_search(model, *sources_of(sources), width=64, length_penalty=penalty,
                                longest=longest)
    assert actual == [list(words) for words, _ in expected]
    torch.testing.assert_close(scores, torch.tensor([score for _, score in expected]))


def searched_by_hand(model, source: list[int], width: int, penalty: float,
                     longest: int) -> tuple[list[int], float]:
    """Beam search of one sentence by its rules, on lists, without cache and without early end."""
    beam, free, best = [(0.0, [])], width, (-torch.inf, [])
    for at in range(longest):
        totals = torch.stack([log_probs(model, source, [[*words, v] for v in range(VOCABULARY)])
                              for _, words in beam])
        totals[:, [PAD, BOS]] = -torch.inf
        if at + 1 == longest:
            totals[:, [v for v in range(VOCABULARY) if v != EOS]] = -torch.inf
        order = totals.flatten().argsort(descending=True)[:width].tolist()
        extended = [(float(totals.flatten()[i]), [*beam[i // VOCABULARY][1], i % VOCABULARY])
                    for i in order if totals.flatten()[i] > -torch.inf]
        ends = [(total, words) for total, words in extended if words[-1] == EOS]
        free -= len(ends)
        for total, words in ends:
            best = max(best, (total / length_normaliser(at + 1, penalty), words[:-1]))
        beam = [(total, words) for total, words in extended if words[-1] != EOS][:max(0, free)]
        if not beam:
            break
    return best[1], best[0]


@pytest.mark.parametrize("longest", [None, 1, 4])
@pytest.mark.parametrize(("width", "penalty"), [(1, 0.0), (2, 0.6), (4, 0.0), (4, 2.0)])
def test_beam_search_is_its_rules_by_hand(sources, width, penalty, longest):
    """Ragged batches, sentences that end early, limits; another model than elsewhere."""
    torch.manual_seed(4)
    sources = sources[:5]
    model = model_of(AUTOREGRESSIVE, VOCABULARY, spread=0.15)
    expected = [searched_by_hand(model, s, width, penalty, longest or longest_target(len(s) + 1))
                for s in sources]
    actual, scores = beam_search(model, *sources_of(sources), width, penalty, longest)
    assert actual == [words for words, _ in expected]
    torch.testing.assert_close(scores, torch.tensor([score for _, score in expected]))


@pytest.mark.parametrize("every", [3, 8, 100])
def test_it_changes_nothing_how_often_the_host_looks(model, sources, every, monkeypatch):
    """What is done stays as it is while it waits for the next look."""
    def decode_all():
        return (*(beam_search(model, *sources_of(sources), width) for width in (1, 4)),
                sample(model, *sources_of(sources), 3, seed=2))

    expected = decode_all()
    monkeypatch.setattr(module, "LOOK_EVERY", {"cpu": every})
    *beams, drawn = decode_all()
    assert drawn == expected[2]
    for (words, scores), (others, theirs) in zip(beams, expected, strict=False):
        assert words == others
        torch.testing.assert_close(scores, theirs)


def test_maxima_are_the_selection_that_torch_makes():
    values = torch.randn(5, 3, 40)
    best, places = module._maxima(values.clone(), 6)
    expected = values.topk(6, -1)
    assert torch.equal(best, expected.values) and torch.equal(places, expected.indices)


def test_a_length_penalty_lengthens(model, sources):
    """Dividing by a growing number favours long hypotheses: the sum of lengths rises."""
    lengths = [sum(map(len, beam_search(model, *sources_of(sources), width=8,
                                        length_penalty=penalty)[0]))
               for penalty in (0.0, 1.0, 3.0)]
    assert lengths[0] < lengths[1] < lengths[2]


@pytest.mark.parametrize("penalty", [0.0, 0.6])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_scores_are_normalised_log_probs(model, sources, width, penalty):
    actual, scores = beam_search(model, *sources_of(sources), width=width, length_penalty=penalty)
    for source, words, score in zip(sources, actual, scores.tolist(), strict=True):
        exact = float(log_probs(model, source, [[*words, EOS]])[0])
        lp = length_normaliser(len(words) + 1, penalty)
        assert score == pytest.approx(exact / lp, abs=1e-11)


@pytest.mark.parametrize("width", [1, 4])
def test_the_company_of_a_sentence_changes_nothing(model, sources, width, kept):
    """Alone, together, in another order, and padded further; and done sentences leave the batch."""
    def search(rows, padding=0):
        return beam_search(model, *sources_of(rows, padding), width=width)

    alone = [search([s]) for s in sources]
    expected = [words for (words,), _ in alone]
    assert not kept
    actual, scores = search(sources)
    assert kept, "no sentence left the batch: the test shows nothing"
    assert actual == expected
    torch.testing.assert_close(scores, torch.cat([score for _, score in alone]))
    order = torch.randperm(len(sources)).tolist()
    assert search([sources[i] for i in order])[0] == [expected[i] for i in order]
    assert search(sources, padding=30)[0] == expected
    assert search([sources[0]], padding=30)[0] == expected[:1]


def test_a_long_neighbour_lends_no_length():
    """Where the model would never stop, each sentence stops at the limit of its own length."""
    model = endless()
    short, long = [3, 4], [3, 4, 5, 6, 7, 3, 4, 5]
    actual, _ = beam_search(model, *sources_of([short, long]), width=3)
    assert [len(words) + 1 for words in actual] == [longest_target(3), longest_target(9)]
    assert actual[0] == beam_search(model, *sources_of([short]), width=3)[0][0]


def endless() -> torch.nn.Module:
    """A model that gives EOS hardly any probability."""
    return never_ending(model_of(AUTOREGRESSIVE, VOCABULARY))


@pytest.mark.parametrize("width", [1, 4])
def test_the_length_limit_forces_an_end(width):
    model, source = endless(), [3, 4, 5]
    (words,), (score,) = beam_search(model, *sources_of([source]), width=width, longest=6,
                                     length_penalty=0.0)
    assert len(words) == 5
    assert EOS not in words
    exact = float(log_probs(model, source, [[*words, EOS]])[0])
    assert float(score) == pytest.approx(exact, abs=1e-9)
    assert exact < -30


def test_padding_and_beginning_are_never_produced(sources):
    model = model_of(AUTOREGRESSIVE, VOCABULARY)
    with torch.no_grad():
        model.decoder.norm.bias[0] = 20.0
        model.embedding.weight[[PAD, BOS], 0] = 2.0
    for width in (1, 4):
        actual, _ = beam_search(model, *sources_of(sources), width=width)
        assert not any({PAD, BOS, EOS} & set(words) for words in actual)


# Sampling ------------------------------------------------------------------------------------

def undecided() -> torch.nn.Module:
    """A model of six subwords (UNK and two words beside the special ones), none very probable."""
    model = model_of(AUTOREGRESSIVE, 6, spread=0.3)
    with torch.no_grad():
        model.embedding.weight.mul_(0.4)
    return model


def next_probs(model, source, prefix, temperature=1.0, nucleus=1.0) -> np.ndarray:
    """p(next subword | prefix, x) by definition, from log-probabilities of whole strings."""
    scores = log_probs(model, source, [[*prefix, v] for v in range(len(model.embedding.weight))])
    scores[[PAD, BOS]] = -torch.inf
    probs = (scores / temperature).softmax(0).tolist()
    kept, mass = set(), 0.0
    for v in sorted(range(len(probs)), key=lambda v: -probs[v]):
        if mass < nucleus:
            kept.add(v)
        mass += probs[v]
    probs = np.array([p if v in kept else 0.0 for v, p in enumerate(probs)])
    return probs / probs.sum()


def string_probs(model, source, longest, **how) -> dict[tuple, float]:
    """The probability of every string that sampling can end with."""
    closed, open_ = {}, {(): 1.0}
    for _ in range(longest - 1):
        continued = {}
        for prefix, mass in open_.items():
            for v, p in enumerate(next_probs(model, source, prefix, **how)):
                if v == EOS:
                    closed[prefix] = mass * p
                elif p:
                    continued[(*prefix, v)] = mass * p
        open_ = continued
    return closed | open_  # at the limit EOS is certain


@pytest.mark.parametrize("how", [{}, {"temperature": 0.6}, {"nucleus": 0.8},
                                 {"nucleus": 0.6, "temperature": 1.5}], ids=str)
def test_strings_come_as_often_as_their_probability_says(how, monkeypatch):
    model, source, count, longest = undecided(), [3, 4, 5], 4000, 3
    monkeypatch.setattr(module, "longest_target", lambda size: longest)
    expected = string_probs(model, source, longest, **how)
    assert sum(expected.values()) == pytest.approx(1.0)
    rows = sample(model, *sources_of([source]), count, seed=1, **how)[0]
    drawn = Counter(map(tuple, rows))
    assert set(drawn) <= set(expected), "outside the support"
    drawn_as_often([drawn[s] for s in expected], [p * count for p in expected.values()])


def test_a_nucleus_leaves_out_what_is_improbable(monkeypatch):
    model, source = undecided(), [3, 4, 5]
    monkeypatch.setattr(module, "longest_target", lambda size: 3)
    whole, small = (set(string_probs(model, source, 3, nucleus=p)) for p in (1.0, 0.5))
    assert len(small) < len(whole)
    drawn = sample(model, *sources_of([source]), 500, nucleus=0.5)[0]
    assert {tuple(row) for row in drawn} <= small


def test_a_low_temperature_or_a_small_nucleus_is_greedy(model, sources):
    expected = [[words] for words in greedy(model, *sources_of(sources))]
    assert sample(model, *sources_of(sources), temperature=1e-6) == expected
    assert sample(model, *sources_of(sources), nucleus=1e-6) == expected


@pytest.mark.parametrize("nucleus", [1.0, 0.7])
def test_the_company_of_a_sentence_changes_no_draw(model, sources, nucleus, kept):
    def drawn(rows, padding=0):
        return sample(model, *sources_of(rows, padding), 2, nucleus=nucleus, seed=5)

    together = drawn(sources)
    assert kept, "no sentence left the batch: the test shows nothing"
    assert together == [drawn([s])[0] for s in sources] == drawn(sources, 30)
    order = torch.randperm(len(sources)).tolist()
    assert drawn([sources[i] for i in order]) == [together[i] for i in order]
    assert sample(model, *sources_of(sources), 4, nucleus=nucleus, seed=5)[3][:2] == together[3]
    assert sample(model, *sources_of(sources), 2, nucleus=nucleus, seed=6) != together


def test_draws_end_at_the_limit_without_special_subwords():
    rows = sample(endless(), *sources_of([[3, 4, 5], [3]]), 3)
    assert [[len(row) + 1 for row in of] for of in rows] == [[longest_target(4)] * 3,
                                                            [longest_target(2)] * 3]
    assert not {PAD, BOS, EOS} & {word for of in rows for row in of for word in row}
