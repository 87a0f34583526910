"""The toy task: translation between made-up languages whose p(y|x) is known exactly.

A source is a sentence of concepts. Its target is drawn in four steps, each a kind of multimodality
that non-autoregressive models find hard:

1. a mode m for the whole sentence, with probability `modes[m]`;
2. the mode's word order: as the source, reversed, halves swapped, or each half reversed;
3. a word for each concept: one of its `synonyms`, the main one more often. `varied` concepts have
   words of their own in every mode, the other concepts the same words in all modes;
4. after the words of some concepts a particle with probability `insertion`, which changes the
   length.

A source begins with a varied concept, so a target shows its mode, and the entropy is a sum of the
entropies of the choices. By the same token log p(y|x) = logsumexp_m log p(m) p(y|m,x), the sum that
`ToyTask.log_prob` computes, has one finite term.
"""

import itertools
import math
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64

from lib.config import build
from lib.errors import ConfigError, DataError, check_range

__all__ = ["ToyTask"]

CONSONANTS, VOWELS, ENDINGS = "bdfgklmnprstvz", "aeiou", "lnrs"
SYLLABLES = [c + v for c in CONSONANTS for v in VOWELS]
LEXICON, HELD_OUT, TRAIN, TARGETS = range(4)  # independent random streams of one seed


def _entropy(probabilities) -> float:
    """Entropy in nats."""
    return -sum(p * math.log(p) for p in probabilities if p > 0)


def _log(p: float) -> float:
    return math.log(p) if p > 0 else -math.inf


def _reorder(concepts: list[int], mode: int) -> list[int]:
    """The concepts in the word order of a mode; four orders, taken in turn."""
    half = len(concepts) // 2
    left, right = concepts[:half], concepts[half:]
    return [concepts, concepts[::-1], right + left, left[::-1] + right[::-1]][mode % 4]


@dataclass(frozen=True)
class ToyTask:
    """A seeded task: its corpus, and the exact log p(y|x) and entropy of every sentence.

    The corpus: dev and test sources occur once, in one split only; training sources may repeat
    (with targets of their own, as in a corpus of several references) but are never dev or test
    sources. All words of a language are made of syllables: sources end in a consonant, targets in
    a vowel, particles are one syllable.

    Errors: ConfigError for a parameter out of range; DataError from what is given a source that
    isn't a sentence of the source language.
    """

    seed: int = 1
    concepts: int = 16  # source words
    varied: int = 8  # concepts whose target words differ between modes, of `concepts`
    min_length: int = 3  # source words a sentence, drawn uniformly
    max_length: int = 6
    modes: tuple[float, ...] = (0.5, 0.3, 0.2)  # probabilities of the global choices
    synonyms: int = 2  # target words a concept and mode
    synonym_entropy: float = 0.5  # nats a word, 0 to log(synonyms)
    particles: int = 6  # concepts that a particle may follow, of `concepts`
    insertion: float = 0.25  # probability that it does
    train_pairs: int = 20_000
    dev_pairs: int = 1_000
    test_pairs: int = 1_000

    def __post_init__(self):
        for name, least, most in (
            ("seed", 0, None), ("concepts", 1, 1_000), ("varied", 1, self.concepts),
            ("min_length", 1, None), ("max_length", self.min_length, None),
            ("synonyms", 1, None), ("particles", 0, min(self.concepts, len(SYLLABLES))),
            ("train_pairs", 1, None), ("dev_pairs", 1, None), ("test_pairs", 1, None),
        ):
            check_range(name, getattr(self, name), least, most)
        self._check_probabilities()
        words = self.synonyms * (self.varied * len(self.modes) + self.concepts - self.varied)
        if words > len(SYLLABLES) ** 2:
            raise ConfigError(f"synonyms = {self.synonyms} with {self.concepts} concepts and "
                              f"{len(self.modes)} modes needs {words} target words, more than the "
                              f"{len(SYLLABLES) ** 2} there are")
        lengths = range(self.min_length, self.max_length + 1)
        sources = sum(self.varied * self.concepts ** (length - 1) for length in lengths)
        if sources < 2 * (self.dev_pairs + self.test_pairs):
            raise ConfigError(f"dev_pairs = {self.dev_pairs} and test_pairs = {self.test_pairs} "
                              f"exceed half of {sources} sources: raise concepts or max_length")

    def _check_probabilities(self) -> None:
        if not all(p > 0 for p in self.modes) or not abs(sum(self.modes) - 1) <= 1e-9:
            raise ConfigError(f"modes = {self.modes} must be probabilities above 0 with sum 1")
        if not 0 <= self.insertion <= 1:
            raise ConfigError(f"insertion = {self.insertion} must be a probability")
        most = math.log(self.synonyms)
        if not 0 <= self.synonym_entropy <= most + 1e-12:
            raise ConfigError(f"synonym_entropy = {self.synonym_entropy} must be from 0 to "
                              f"log({self.synonyms} synonyms) = {most:.4f} nats")

    @classmethod
    def from_options(cls, options: dict) -> "ToyTask":
        """The task that the `options` of a file in params/datasets/ describe; errors of `build`."""
        return build(cls, options, "options of the toy task")

    # ---- the language ---------------------------------------------------------------------------

    @cached_property
    def _lexicon(self) -> tuple[list[str], list[list[list[str]]], dict[int, str]]:
        """Source words [concept], target words [mode][concept][synonym], particles by concept."""
        rng = np.random.default_rng([self.seed, LEXICON])
        pairs = [a + b for a, b in itertools.product(SYLLABLES, SYLLABLES)]
        stems = rng.permutation(pairs)[:self.concepts].tolist()
        source = [stem + rng.choice(list(ENDINGS)) for stem in stems]
        fresh = iter(rng.permutation(pairs).tolist())
        shared = [[next(fresh) for _ in range(self.synonyms)] for _ in range(self.concepts)]
        target = [shared]
        for _ in self.modes[1:]:
            own = [[next(fresh) for _ in range(self.synonyms)] for _ in range(self.varied)]
            target.append(own + shared[self.varied:])
        followed = sorted(rng.permutation(self.concepts)[:self.particles].tolist())
        particles = rng.permutation(SYLLABLES)[:self.particles].tolist()
        return source, target, dict(zip(followed, particles, strict=True))

    @cached_property
    def _concept_of(self) -> dict[str, int]:
        return {word: concept for concept, word in enumerate(self._lexicon[0])}

    @cached_property
    def synonym_probs(self) -> tuple[float, ...]:
        """Probabilities of a concept's words: the main one, then the others alike.

        The main one's, q, solves H(q, (1 - q)/(k - 1), ...) = `synonym_entropy`, by bisection.
        """
        others = self.synonyms - 1
        if not others:
            return (1.0,)
        low, high = 1 / self.synonyms, 1.0
        for _ in range(60):
            q = (low + high) / 2
            if _entropy([q, *[(1 - q) / others] * others]) > self.synonym_entropy:
                low = q
            else:
                high = q
        q = high if self.synonym_entropy else 1.0
        return (q, *[(1 - q) / others] * others)

    def _read(self, source: str) -> list[int] | None:
        """The concepts of a source, or None if it isn't a sentence of the source language."""
        concepts = [self._concept_of.get(word) for word in source.split(" ")]
        if (None in concepts or concepts[0] >= self.varied
                or not self.min_length <= len(concepts) <= self.max_length):
            return None
        return concepts

    def _concepts(self, source: str) -> list[int]:
        concepts = self._read(source)
        if concepts is None:
            raise DataError(f"{source!r} is not a source sentence of this task: {self.min_length} "
                            f"to {self.max_length} source words, the first one of a varied concept")
        return concepts

    # ---- the conditional distribution -----------------------------------------------------------

    def log_joint(self, source: str, target: str) -> Float64[np.ndarray, " modes"]:
        """log p(m, y | x) of every mode m in nats: the finite one shows the mode of `target`.

        -inf for a target outside the support, and everywhere if `source` isn't a sentence of the
        source language. Texts are taken to the letter: words are parted by one space.
        """
        concepts, words = self._read(source), target.split(" ")
        result = np.full(len(self.modes), -math.inf)
        if concepts is not None:
            for mode, p in enumerate(self.modes):
                result[mode] = math.log(p) + self._log_prob_in(mode, concepts, words)
        return result

    def _spoken(self, concepts: list[int], mode: int) -> list[tuple[list[str], str]]:
        """What each concept is said with, in the mode's order: its words, the main one first, and
        the particle that may follow ("": none).
        """
        _, lexicon, particles = self._lexicon
        return [(lexicon[mode][concept], particles.get(concept, ""))
                for concept in _reorder(concepts, mode)]

    def _log_prob_in(self, mode: int, concepts: list[int], words: list[str]) -> float:
        """log p(y | m, x): the words are read from left to right, as no particle is a word."""
        total, place = 0.0, 0
        for choices, particle in self._spoken(concepts, mode):
            if place == len(words) or words[place] not in choices:
                return -math.inf
            total += _log(self.synonym_probs[choices.index(words[place])])
            place += 1
            if particle:
                inserted = words[place:place + 1] == [particle]
                total += _log(self.insertion if inserted else 1 - self.insertion)
                place += inserted
        return total if place == len(words) else -math.inf

    def log_prob(self, source: str, target: str) -> float:
        """log p(y|x) = logsumexp_m log p(m, y|x), exact, in nats; -inf as in `log_joint`."""
        return float(np.logaddexp.reduce(self.log_joint(source, target)))

    def entropy(self, source: str) -> float:
        """Entropy of p(y|x) in nats, exact: modes + words x synonyms + particles x insertions."""
        concepts = self._concepts(source)
        followed = sum(concept in self._lexicon[2] for concept in concepts)
        return (_entropy(self.modes) + len(concepts) * _entropy(self.synonym_probs)
                + followed * _entropy([self.insertion, 1 - self.insertion]))

    def marginals(self, source: str) -> list[dict[str, float]]:
        """p(word at position t | x) at each position that some target reaches, "" standing for
        what lies beyond a target's end; exact, from the chances of every number of particles.
        """
        concepts = self._concepts(source)
        longest = len(concepts) + sum(concept in self._lexicon[2] for concept in concepts)
        chances: list[dict[str, float]] = [{} for _ in range(longest)]

        def add(place: int, word: str, p: float) -> None:
            if p and place < longest:
                chances[place][word] = chances[place].get(word, 0.0) + p

        for mode, p_mode in enumerate(self.modes):
            at = {0: p_mode}  # where the next word stands -> probability
            for choices, particle in self._spoken(concepts, mode):
                for place, p in at.items():
                    for word, p_word in zip(choices, self.synonym_probs, strict=True):
                        add(place, word, p * p_word)
                at = {place + 1: p for place, p in at.items()}
                if particle:
                    for place, p in at.items():
                        add(place, particle, p * self.insertion)
                    moved = {place + 1: p * self.insertion for place, p in at.items()}
                    at = {place: at.get(place, 0.0) * (1 - self.insertion) + moved.get(place, 0.0)
                          for place in {*at, *moved}}
            for end, p in at.items():
                for place in range(end, longest):
                    add(place, "", p)
        return chances

    def total_correlation(self, source: str) -> float:
        """Conditional total correlation of p(y|x) in nats: sum_t H(y_t|x) - H(y|x), exact.

        No decoder of independent positions comes nearer to p than this, in KL(p || model): Huang et
        al. (2022), "On the learning of non-autoregressive Transformers".
        """
        marginals = sum(_entropy(of.values()) for of in self.marginals(source))
        return marginals - self.entropy(source)

    def support(self, source: str) -> Iterator[tuple[str, float]]:
        """Every target with p(y|x) > 0 and its log p(y|x) in nats, each once: modes x
        synonyms^length x 2^particles of them.
        """
        concepts = self._concepts(source)
        for mode in range(len(self.modes)):
            spoken = self._spoken(concepts, mode)
            for words in itertools.product(*itertools.chain.from_iterable(
                    (choices, ["", particle] if particle else [""])
                    for choices, particle in spoken)):
                target = " ".join(filter(None, words))
                log_prob = self.log_prob(source, target)
                if log_prob > -math.inf:
                    yield target, log_prob

    def sample(self, source: str, rng: np.random.Generator) -> str:
        """A target drawn from p(y|x)."""
        concepts = self._concepts(source)
        draws = iter(rng.random(1 + 2 * len(concepts)).tolist())
        mode = _pick(self.modes, next(draws))
        words = []
        for choices, particle in self._spoken(concepts, mode):
            words.append(choices[_pick(self.synonym_probs, next(draws))])
            if next(draws) < self.insertion and particle:
                words.append(particle)
        return " ".join(words)

    def most_likely(self, source: str) -> str:
        """The target with the highest p(y|x): what an exact search would return."""
        words = []
        for choices, particle in self._spoken(self._concepts(source), int(np.argmax(self.modes))):
            words += [choices[0], particle] if self.insertion > 0.5 and particle else [choices[0]]
        return " ".join(words)

    # ---- the corpus -----------------------------------------------------------------------------

    def _sources(self, rng: np.random.Generator) -> Iterator[str]:
        """Source sentences without end."""
        words = self._lexicon[0]
        while True:
            length = rng.integers(self.min_length, self.max_length + 1)
            concepts = [rng.integers(self.varied), *rng.integers(self.concepts, size=length - 1)]
            yield " ".join(words[concept] for concept in concepts)

    @cached_property
    def _held_out(self) -> list[str]:
        """The dev sources, then the test sources, all different."""
        distinct: dict[str, None] = {}
        stream = self._sources(np.random.default_rng([self.seed, HELD_OUT]))
        while len(distinct) < self.dev_pairs + self.test_pairs:
            distinct[next(stream)] = None
        return list(distinct)

    def pairs(self, split: str) -> tuple[list[str], list[str]]:
        """The sources and the targets, line by line, of 'train', 'dev' or 'test'."""
        if split == "train":
            held_out = set(self._held_out)
            stream = self._sources(np.random.default_rng([self.seed, TRAIN]))
            fresh = (source for source in stream if source not in held_out)
            sources = list(itertools.islice(fresh, self.train_pairs))
        elif split == "dev":
            sources = self._held_out[:self.dev_pairs]
        else:
            sources = self._held_out[self.dev_pairs:]
        rng = np.random.default_rng([self.seed, TARGETS, ("train", "dev", "test").index(split)])
        return sources, [self.sample(source, rng) for source in sources]


def _pick(probabilities: tuple[float, ...], draw: float) -> int:
    """The index that a uniform draw from [0, 1) falls on."""
    return bisect(list(itertools.accumulate(probabilities[:-1])), draw)
