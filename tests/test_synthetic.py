"""The toy task: its probabilities are probabilities, and the corpus follows them."""

import dataclasses
import itertools
import math
from collections import Counter

import numpy as np
import pytest

from lib.config import load_dataset
from lib.errors import ConfigError, DataError
from lib.synthetic import ToyTask

SMALL = ToyTask(concepts=3, varied=2, min_length=1, max_length=3, modes=(0.7, 0.3), synonyms=2,
                synonym_entropy=0.3, particles=2, insertion=0.25,
                train_pairs=30, dev_pairs=3, test_pairs=4)


def words_of(task):
    """Every word of both languages, once, sorted."""
    source, target, particles = task._lexicon
    return sorted({*source, *particles.values(), *itertools.chain(*itertools.chain(*target))})


def sources(task):
    """Every source sentence of a small task."""
    words = task._lexicon[0]
    for length in range(task.min_length, task.max_length + 1):
        for first, *rest in itertools.product(range(task.concepts), repeat=length):
            if first < task.varied:
                yield " ".join(words[concept] for concept in (first, *rest))


def plain(**changes):
    """Two equally likely modes, no synonyms, no particles: the rest by `changes`."""
    values = {"concepts": 4, "varied": 2, "min_length": 2, "max_length": 4, "modes": (0.5, 0.5),
              "synonyms": 1, "synonym_entropy": 0.0, "particles": 0, "insertion": 0.0,
              "dev_pairs": 2, "test_pairs": 2} | changes
    return ToyTask(**values)


def test_modes_by_hand():
    task = plain(modes=(0.5, 0.25, 0.15, 0.1))
    source, target, _ = task._lexicon
    concepts = [0, 2, 1, 3]
    orders = [[0, 2, 1, 3], [3, 1, 2, 0], [1, 3, 0, 2], [2, 0, 3, 1]]
    text = " ".join(source[c] for c in concepts)
    expected = {" ".join(target[mode][c][0] for c in order): math.log(p)
                for mode, (order, p) in enumerate(zip(orders, task.modes, strict=True))}
    assert dict(task.support(text)) == pytest.approx(expected, abs=1e-15)
    assert task.entropy(text) == pytest.approx(
        0.5 * math.log(2) + 0.25 * math.log(4) + 0.15 * math.log(20 / 3) + 0.1 * math.log(10))
    assert target[0][2] == target[1][2] == target[3][2]
    assert len({target[mode][0][0] for mode in range(4)}) == 4


def test_synonyms_and_particles_by_hand():
    task = plain(synonyms=2, synonym_entropy=math.log(2), particles=4, insertion=0.25)
    assert task.synonym_probs == pytest.approx((0.5, 0.5))
    source, target, particles = task._lexicon
    text = f"{source[1]} {source[2]}"
    main, second, follow = target[0][1][0], target[0][2][1], particles[1]
    # mode 1/2, two words 1/2 each, one particle in (1/4) and one out (3/4)
    expected = math.log(0.5 * 0.5 * 0.5 * 0.25 * 0.75)
    assert task.log_prob(text, f"{main} {follow} {second}") == pytest.approx(expected)
    assert task.log_joint(text, f"{main} {follow} {second}").tolist() == [
        pytest.approx(expected), -math.inf]
    insertion = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    assert task.entropy(text) == pytest.approx(3 * math.log(2) + 2 * insertion)
    assert len(list(task.support(text))) == 2 * 2 * 2 * 2 * 2


@pytest.mark.parametrize("synonyms", [2, 3, 5])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_synonym_entropy_is_the_entropy_of_a_word(synonyms, share):
    nats = share * math.log(synonyms)
    probs = plain(synonyms=synonyms, synonym_entropy=nats).synonym_probs
    assert sum(probs) == pytest.approx(1, abs=1e-12)
    assert -sum(p * math.log(p) for p in probs if p) == pytest.approx(nats, abs=1e-9)
    assert probs[0] == max(probs)
    assert len(set(probs[1:])) == 1


def test_probabilities_over_all_strings_sum_to_one():
    # All strings of target words up to the longest target, not only those that support() lists:
    # so log_prob itself is shown to miss nothing and to count nothing twice.
    task = dataclasses.replace(SMALL, max_length=2, dev_pairs=1, test_pairs=1)
    words = [word for word in words_of(task) if word not in task._lexicon[0]]
    strings = [" ".join(some) for n in range(1, 5) for some in itertools.product(words, repeat=n)]
    first, *_, last = sources(task)
    for source in (first, last):
        inside = {s: p for s in strings if (p := task.log_prob(source, s)) > -math.inf}
        assert math.fsum(map(math.exp, inside.values())) == pytest.approx(1, abs=1e-12)
        assert inside == dict(task.support(source))


@pytest.mark.parametrize("changes", [{}, {"insertion": 0.0}, {"insertion": 1.0},
                                     {"synonym_entropy": 0.0}, {"modes": (1.0,)},
                                     {"modes": (0.4, 0.3, 0.2, 0.1)}])
def test_support_sums_to_one_and_entropy_is_its_sum(changes):
    task = dataclasses.replace(SMALL, **changes)
    for source in sources(task):
        targets, log_probs = zip(*task.support(source), strict=True)
        assert len(set(targets)) == len(targets)
        assert math.fsum(map(math.exp, log_probs)) == pytest.approx(1, abs=1e-12)
        entropy = -math.fsum(math.exp(value) * value for value in log_probs)
        assert task.entropy(source) == pytest.approx(entropy, abs=1e-12)
        assert max(log_probs) == pytest.approx(task.log_prob(source, task.most_likely(source)))


def test_frequencies_follow_log_prob():
    source, rng, n = list(sources(SMALL))[-1], np.random.default_rng(0), 40_000
    counts = Counter(SMALL.sample(source, rng) for _ in range(n))
    probs = {target: math.exp(value) for target, value in SMALL.support(source)}
    assert set(counts) <= set(probs)
    chi2 = sum((counts[t] - n * p) ** 2 / (n * p) for t, p in probs.items())
    freedom = len(probs) - 1
    assert abs(chi2 - freedom) < 4 * math.sqrt(2 * freedom)


def test_cross_entropy_of_the_test_set_matches_the_entropy():
    task = ToyTask()
    sources, targets = task.pairs("test")
    log_probs = np.array([task.log_prob(x, y) for x, y in zip(sources, targets, strict=True)])
    gap = -log_probs - np.array([task.entropy(x) for x in sources])
    assert np.isfinite(log_probs).all()
    assert abs(gap.mean()) < 4 * gap.std() / math.sqrt(len(gap))


def test_outside_the_support_is_minus_infinity():
    source = list(sources(SMALL))[-1]
    target = SMALL.most_likely(source)
    assert SMALL.log_prob(source, target) > -math.inf
    outside = [target + " ", " " + target, target.replace(" ", "  "), "", "unknown", source,
               f"{target} {target}", target.rsplit(" ", 1)[0], target.upper()]
    assert {SMALL.log_prob(source, y) for y in outside} == {-math.inf}


def test_without_synonym_entropy_only_the_main_word_is_possible():
    task = dataclasses.replace(SMALL, synonym_entropy=0.0, insertion=0.0)
    words, target, _ = task._lexicon
    main, other = target[1][0]
    assert task.log_prob(words[0], main) == pytest.approx(math.log(0.3))
    assert task.log_prob(words[0], other) == -math.inf


def test_a_source_outside_the_language_has_no_distribution():
    words = SMALL._lexicon[0]
    target = SMALL.most_likely(words[0])
    for source in ("", "unknown", words[2], " ".join([words[0]] * 4), words[0] + " "):
        assert SMALL.log_prob(source, target) == -math.inf
        for method in (SMALL.entropy, SMALL.most_likely, lambda x: list(SMALL.support(x)),
                       lambda x: SMALL.sample(x, np.random.default_rng(0))):
            with pytest.raises(DataError, match="is not a source sentence"):
                method(source)


def test_the_corpus_is_decided_by_the_seed():
    first, again, other = ToyTask(), ToyTask(), ToyTask(seed=2)
    for split in ("dev", "test"):
        assert first.pairs(split) == again.pairs(split)
        assert first.pairs(split)[0] != other.pairs(split)[0]
    assert words_of(first) != words_of(other)


def test_splits_share_no_source():
    task = ToyTask(train_pairs=5_000)
    train, dev, test = (task.pairs(split)[0] for split in ("train", "dev", "test"))
    assert [len(sources) for sources in (train, dev, test)] == [5_000, 1_000, 1_000]
    assert len({*dev, *test}) == 2_000
    assert not {*dev, *test} & set(train)
    lengths = Counter(len(line.split()) for line in train)
    assert set(lengths) == set(range(3, 7))


def test_words_tell_the_languages_apart():
    task = ToyTask()
    source, target, particles = task._lexicon
    words = [*source, *particles.values(), *{w for mode in target for ws in mode for w in ws}]
    assert len(set(words)) == len(words) == len(words_of(task)) == 16 + 6 + 2 * (8 * 3 + 8)
    assert all(word.isascii() and word.isalpha() and word.islower() for word in words)


@pytest.mark.parametrize(("name", "value"), [
    ("concepts", 0), ("concepts", 2.5), ("concepts", True), ("varied", 25), ("varied", 0),
    ("min_length", 0), ("max_length", 2), ("modes", (0.5, 0.6)), ("modes", ()),
    ("modes", (1.5, -0.5)), ("modes", ("half", 0.5)), ("modes", 3), ("modes", (float("nan"),)),
    ("synonyms", 0), ("synonyms", 1000),
    ("synonym_entropy", 0.8), ("synonym_entropy", -0.1), ("synonym_entropy", float("nan")),
    ("particles", 25), ("insertion", 1.1), ("insertion", "often"), ("seed", -1),
    ("train_pairs", 0), ("dev_pairs", 0), ("test_pairs", "many"), ("dev_pairs", 10**13),
])
def test_wrong_values_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        ToyTask.from_options({name: value})


def test_options_come_as_yaml_gives_them():
    assert ToyTask.from_options({"modes": [1], "insertion": 1}) == ToyTask(modes=(1.0,),
                                                                           insertion=1.0)


def test_unknown_options_are_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean synonyms"):
        ToyTask.from_options({"synonym": 2})


def test_the_shipped_dataset_is_the_default_task():
    assert ToyTask.from_options(load_dataset("toy").options) == ToyTask()


def test_marginals_and_total_correlation_are_those_of_the_support():
    for source in list(sources(SMALL))[::3]:
        whole = [(text.split(" "), math.exp(value)) for text, value in SMALL.support(source)]
        marginals = SMALL.marginals(source)
        assert len(marginals) == max(len(words) for words, _ in whole)
        entropies = 0.0
        for place, found in enumerate(marginals):
            expected = Counter()
            for words, p in whole:
                expected[words[place] if place < len(words) else ""] += p
            assert found == pytest.approx(dict(expected), abs=1e-12)
            entropies -= sum(p * math.log(p) for p in expected.values())
        assert SMALL.total_correlation(source) == pytest.approx(
            entropies - SMALL.entropy(source), abs=1e-9)


def test_independent_positions_have_no_total_correlation():
    task = plain(modes=(1.0,), synonyms=2, synonym_entropy=0.5)
    assert task.total_correlation(next(sources(task))) == pytest.approx(0.0, abs=1e-9)
