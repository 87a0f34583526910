"""Candidates and their scores, each recomputed alone and apart; draws against probabilities."""

import numpy as np
import pytest
import torch
from tiny import (
    AUTOREGRESSIVE,
    FLOW,
    GAUSSIAN,
    LATENT,
    VOCABULARY,
    batch_of,
    drawn_as_often,
    model_of,
    sources_of,
)

from lib.decoding import candidates
from lib.decoding.refinement import refine, trace
from lib.decoding.search import length_normaliser
from lib.noise import sentence_generator
from lib.subword import BOS, EOS, PAD

pytestmark = pytest.mark.usefixtures("float64")


def proposed(model, sources, **how):
    source, mask = sources_of(sources)
    with torch.no_grad():
        memory = model.encode(source, mask)
    return memory, candidates.propose(model, source, mask, memory, **how)


def by_length(model, source: list[int]) -> dict[int, float]:
    """log p(padded length|x) of every length that could matter."""
    with torch.no_grad():
        memory = model.encode(*sources_of([source]))
        return {n: float(model.length_predictor.log_prob(memory, torch.tensor([n])))
                for n in range(4, 4 * 40, 4)}


# ---- lengths ----

@pytest.mark.parametrize("spread", [0.2, 2.0])
def test_the_most_probable_lengths_are_enumerated(sources, spread):
    model = model_of(GAUSSIAN, VOCABULARY)
    with torch.no_grad():
        model.length_predictor.outer.bias.add_(spread * torch.randn(61))
        memory = model.encode(*sources_of(sources))
        lengths, log_probs = model.length_predictor.most_probable(memory, 5)
    for row, source in enumerate(sources):
        expected = sorted(by_length(model, source).items(), key=lambda item: -item[1])[:5]
        assert lengths[row].tolist() == [n for n, _ in expected]
        assert log_probs[row].tolist() == pytest.approx([p for _, p in expected])


def test_the_lengths_probabilities_sum_to_one(sources):
    model = model_of(GAUSSIAN, VOCABULARY)
    with torch.no_grad():
        _, log_probs = model.length_predictor.table(model.encode(*sources_of(sources)), beyond=12)
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(len(sources)))


@LATENT
def test_a_length_gives_what_refinement_gives_at_that_length(architecture, sources):
    model = model_of(architecture, VOCABULARY)
    _, found = proposed(model, sources, steps=2, lengths=3)
    assert found.lengths.shape == (len(sources), 3)
    for rank in range(3):
        expected = refine(model, *sources_of(sources), [2], found.lengths[:, rank])[2]
        assert [row[rank] for row in found.strings] == expected


def test_without_lengths_and_samples_it_is_refinement(sources):
    model = model_of(FLOW, VOCABULARY)
    _, found = proposed(model, sources, steps=1)
    assert [row[0] for row in found.strings] == refine(model, *sources_of(sources), [1])[1]


# ---- prior samples ----

@LATENT
def test_at_temperature_nearly_zero_samples_are_the_mean(architecture, sources):
    model = model_of(architecture, VOCABULARY)
    _, still = proposed(model, sources, samples=2, temperature=1e-12)
    _, mean = proposed(model, sources)
    assert still.strings == [row * 2 for row in mean.strings]
    _, apart = proposed(model, sources, samples=2)
    assert not torch.allclose(apart.z[0], apart.z[1], atol=0.1)


@LATENT
def test_samples_are_the_prior_at_its_noise(architecture, sources):
    """One sentence alone, its noise from its own generator, scaled by the temperature."""
    model = model_of(architecture, VOCABULARY)
    _, found = proposed(model, sources, samples=3, temperature=0.7, seed=4)
    source, mask = sources_of([sources[1]])
    length = int(found.lengths[1, 0])
    eps = torch.from_numpy(sentence_generator(source[0].numpy(), 4, length).standard_normal(
        (3, length, 32)))
    with torch.no_grad():
        prior = model.prior(model.encode(source, mask), length, None)
        if architecture is GAUSSIAN:
            expected = prior.loc + 0.7 * eps * prior.scale
        else:
            expected = prior.from_noise(0.7 * eps)
            noise, _ = model.prior.glow(expected, prior._conditions(3))  # the other direction
            assert sum(float(part.square().sum()) for part in noise) == pytest.approx(
                float((0.7 * eps).square().sum()))
    torch.testing.assert_close(found.z[3:6, :length], expected)


@LATENT
def test_more_candidates_leave_the_first_as_they_are(architecture, sources):
    model = model_of(architecture, VOCABULARY)
    _, few = proposed(model, sources, steps=1, lengths=2, samples=2)
    _, more = proposed(model, sources, steps=1, lengths=3, samples=4)
    for row, other in zip(few.strings, more.strings, strict=True):
        assert row == other[0:2] + other[4:6]


# ---- scores ----

@torch.no_grad()
def peak(model, source: list[int], y: list[int], length: int) -> float:
    """log q(z|y, x) at its mean, by hand: the deviations alone count there."""
    q = model.posterior(model.encode(*sources_of([source])), torch.tensor([y[:length]]), None)
    return float(-(q.scale.log() + 0.5 * np.log(2 * np.pi)).sum())


def outputs(found, each: int) -> list[list[list[int]]]:
    """Every candidate's y, by sentence."""
    return found.y.view(-1, each, found.y.shape[1]).tolist()


@LATENT
def test_the_bound_of_a_candidate_is_that_of_refinement_less_a_peak(architecture, sources):
    model = model_of(architecture, VOCABULARY)
    memory, found = proposed(model, sources, steps=2, lengths=3)
    scores = candidates.bound_scores(model, memory, found)
    for rank in range(3):
        alone = trace(model, *sources_of(sources), 2, found.lengths[:, rank])
        peaks = [peak(model, source, row[rank], int(n)) for source, row, n in
                 zip(sources, outputs(found, 3), found.lengths[:, rank], strict=True)]
        torch.testing.assert_close(scores[:, rank], alone.bound[-1] + alone.log_p_length
                                   - torch.tensor(peaks))


@LATENT
@torch.no_grad()
def test_the_bound_of_a_sample_is_that_of_its_end(architecture, sources):
    model = model_of(architecture, VOCABULARY)
    memory, found = proposed(model, sources, steps=1, lengths=2, samples=3)
    scores = candidates.bound_scores(model, memory, found).flatten()
    for row in (0, 4, 17, 29):
        sentence, length = row // 6, int(found.lengths[row // 6, row % 6 // 3])
        own = model.encode(*sources_of([sources[sentence]]))
        z, y = found.z[row:row + 1, :length], found.y[row:row + 1, :length]
        logits = model.decode(z, own, None).states @ model.embedding.weight.T
        expected = (logits.log_softmax(-1).gather(-1, y[..., None]).sum()
                    + model.prior(own, length, None).log_prob(z)[0]
                    + model.length_predictor.log_prob(own, torch.tensor([length]))[0])
        expected -= peak(model, sources[sentence], y[0].tolist(), length)
        assert float(scores[row]) == pytest.approx(float(expected))
        assert torch.equal(logits.argmax(-1), y)


STRINGS = [[[3], [3, 4, 5, 6], [3], []], [[7, 7], [7, 7], [7, 7], [7, 7]],
           [[4, 4, 4, 4, 4, 4, 4, 4], [5], [6, 6], [3, 3, 3]]]


@LATENT
@torch.no_grad()
def test_importance_scores_by_hand(architecture):
    model, sources = model_of(architecture, VOCABULARY), [[3, 4], [5], [6, 7, 3, 4, 5]]
    source, mask = sources_of(sources)
    memory = model.encode(source, mask)
    scores = candidates.importance_scores(model, source, mask, memory, STRINGS, 5, seed=2)
    for sentence, row in enumerate(STRINGS):
        own = model.encode(*sources_of([sources[sentence]]))
        for place, ids in enumerate(row):
            length = 4 * (len(ids) // 4 + 1)
            y = torch.tensor([ids + [EOS] * (length - len(ids))])
            generator = sentence_generator(np.array([*sources[sentence], EOS]), 2, 1, *ids)
            q, p = model.posterior(own, y, None), model.prior(own, length, None)
            weights = []
            for eps in torch.from_numpy(generator.standard_normal((5, length, 32))):
                z = q.loc + eps * q.scale
                log_q = torch.distributions.Normal(q.loc, q.scale).log_prob(z).sum()
                weights.append(model.decode(z, own, None).log_prob(y, None) + p.log_prob(z) - log_q)
            expected = (torch.cat(weights).logsumexp(0) - np.log(5)
                        + model.length_predictor.log_prob(own, torch.tensor([length])))
            assert float(scores[sentence, place]) == pytest.approx(float(expected)), (sentence, ids)


def test_own_terms_are_those_of_the_corpus():
    """The same quantity that evaluation reports, up to the draws."""
    pairs = [([3, 4], [5, 6, 7]), ([6, 7, 3], [3, 4, 5, 6, 7])]
    model, batch = model_of(GAUSSIAN, VOCABULARY, spread=0.05), batch_of(pairs, 4)
    source, mask = batch.source, batch.source_mask
    with torch.no_grad():
        memory = model.encode(source, mask)
    ours = candidates.own_terms(model, source, mask, memory, [[t] for _, t in pairs], 1000)
    theirs = model.log_prob_terms(batch, 1000)
    torch.testing.assert_close(ours.log_p_length, theirs.log_p_length)
    weights = [t.log_p_y + t.log_p_z - t.log_q_z for t in (ours, theirs)]
    error = torch.stack(weights).std(1).square().sum(0).sqrt() / 1000**0.5
    assert ((weights[0].mean(0) - weights[1].mean(0)).abs() < 4 * error).all()


@pytest.mark.parametrize("penalty", [0.0, 0.6])
def test_teacher_scores_are_its_beam_scores(penalty):
    teacher, sources = model_of(AUTOREGRESSIVE, VOCABULARY), [[3, 4], [5], [6, 7, 3, 4, 5]]
    scores = candidates.teacher_scores(teacher, *sources_of(sources), STRINGS, penalty)
    with torch.no_grad():
        for sentence, row in enumerate(STRINGS):
            for place, ids in enumerate(row):
                exact = teacher.log_prob_terms(batch_of([(sources[sentence], ids)])).log_p_y[0, 0]
                expected = float(exact) / length_normaliser(len(ids) + 1, penalty)
                assert float(scores[sentence, place]) == pytest.approx(expected)


def test_of_equal_scores_the_first_is_best():
    scores = torch.tensor([[1.0, 3.0, 3.0, 0.0], [-torch.inf, -2.0, -1.0, -1.0]])
    assert candidates.best(STRINGS[:2], scores) == [[3, 4, 5, 6], [7, 7]]


# ---- draws from the model's own distribution ----

def only_words(architecture=GAUSSIAN, vocabulary=6) -> torch.nn.Module:
    """A model whose output doesn't depend on z, and whose sentences never end before length T."""
    model = model_of(architecture, vocabulary, spread=0.4)
    with torch.no_grad():
        model.latent.weight.zero_()
        model.decoder.norm.bias[0] = 20.0
        model.embedding.weight[:, 0] = 0.0
        model.embedding.weight[[PAD, BOS, EOS], 0] = -4.0
    return model


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@torch.no_grad()
def test_lengths_and_subwords_are_drawn_by_their_probabilities(temperature):
    model, source = only_words(), [3, 4]
    with torch.no_grad():
        model.length_predictor.outer.bias[40:] -= 8.0  # short sentences, for speed
    rows = candidates.ancestral(model, *sources_of([source]), 3000, temperature)[0]
    log_p_length = torch.tensor(list(by_length(model, source).values()))
    lengths = [len(row) for row in rows]
    expected = len(rows) * (log_p_length / temperature).softmax(0)
    drawn_as_often(np.bincount([n // 4 - 1 for n in lengths], minlength=len(expected)), expected,
                   classes=2)
    memory = model.encode(*sources_of([source]))
    states = model.decode(torch.zeros(1, 4, 32), memory, None).states
    probs = ((states @ model.embedding.weight.T)[0] / temperature).softmax(-1)
    short = [row for row in rows if len(row) == 4]
    assert len(short) > 500
    pairs = len(short) * (probs[1][:, None] * probs[3]).flatten()  # independent given z
    drawn_as_often(np.bincount([row[1] * 6 + row[3] for row in short], minlength=len(pairs)), pairs)


@LATENT
def test_the_first_draws_of_more_are_the_same(architecture, sources):
    model, inputs = model_of(architecture, VOCABULARY), sources_of(sources)
    some, more = (candidates.ancestral(model, *inputs, count, seed=2) for count in (3, 5))
    assert [rows[:3] for rows in more] == some
