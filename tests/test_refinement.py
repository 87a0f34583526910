"""Refinement against a loop by hand, and the recorded bound against one computed apart."""

import pytest
import torch
from tiny import GAUSSIAN, LATENT, VOCABULARY, model_of, ragged, sources_of

from lib.decoding.refinement import refine, trace
from lib.errors import ConfigError
from lib.priors import GaussianPrior
from lib.subword import BOS, EOS, PAD

pytestmark = pytest.mark.usefixtures("float64")


@torch.no_grad()
def refined_by_hand(model, source: list[int], steps: int, length: int) -> list[list[int]]:
    """Subwords of one sentence before the first EOS, after 0, 1, ... `steps` steps."""
    memory = model.encode(*sources_of([source]))
    z, found = model.prior(memory, length, None).mean, []
    for _ in range(steps + 1):
        states = model.decode(z, memory, None).states
        y = (states @ model.embedding.weight.T).argmax(-1)
        words = y[0].tolist()
        words = words[:words.index(EOS)] if EOS in words else words
        found.append([w for w in words if w not in (PAD, BOS)])
        z = model.posterior(memory, y, None).mean
    return found


@LATENT
def test_refinement_is_the_loop_by_hand(architecture, sources):
    model = model_of(architecture, VOCABULARY)
    steps = [0, 1, 2, 4]
    lengths = torch.tensor([4 * (1 + i % 3) for i in range(len(sources))])
    found = refine(model, *sources_of(sources), steps, lengths)
    assert list(found) == steps
    expected = [refined_by_hand(model, s, 4, int(n))
                for s, n in zip(sources, lengths, strict=True)]
    for k in steps:
        assert found[k] == [rows[k] for rows in expected], f"k = {k}"
    assert found[0] != found[1], "refinement should change something"


@LATENT
def test_the_start_is_the_most_probable_output_at_the_prior_mean(architecture):
    model = model_of(architecture, VOCABULARY)
    memory = model.encode(*sources_of([[3, 4, 5]]))
    length = int(model.length_predictor.predict(memory)[0])
    assert refine(model, *sources_of([[3, 4, 5]]), [0]) == {
        0: [refined_by_hand(model, [3, 4, 5], 0, length)[0]]}


def test_one_pass_serves_all_steps(sources):
    model = model_of(GAUSSIAN, VOCABULARY)
    together = refine(model, *sources_of(sources), [4, 0, 1])
    assert list(together) == [4, 0, 1]
    for k in (0, 1, 4):
        assert refine(model, *sources_of(sources), [k])[k] == together[k]


def test_refinement_ends_when_nothing_changes(sources, monkeypatch):
    model = model_of(GAUSSIAN, VOCABULARY)
    torch.nn.init.zeros_(model.latent.weight)  # the output no longer depends on z
    calls = []
    posterior = type(model).posterior
    monkeypatch.setattr(type(model), "posterior",
                        lambda self, *a: calls.append(1) or posterior(self, *a))
    found = refine(model, *sources_of(sources), [0, 3, 8])
    assert len(calls) == 1
    assert found[0] == found[3] == found[8]


def test_given_lengths_are_used(monkeypatch):
    model = model_of(GAUSSIAN, VOCABULARY)
    with torch.no_grad():  # every position is a word: EOS, PAD and BOS never win
        model.decoder.norm.bias[0] = 20.0
        model.embedding.weight[[PAD, BOS, EOS], 0] = -2.0
    monkeypatch.setattr(model.length_predictor, "predict", None)
    found = refine(model, *sources_of([[3], [4, 5]]), [0, 1], torch.tensor([4, 8]))
    assert [[len(row) for row in rows] for rows in found.values()] == [[4, 8], [4, 8]]


# The proxy bound -----------------------------------------------------------------------------

@torch.no_grad()
def bounds_by_hand(model, source: list[int], steps: int, length: int) -> list[tuple]:
    """(log p(y|z, x), log p(z|x)) of one sentence after 0 ... `steps` steps, never frozen."""
    memory = model.encode(*sources_of([source]))
    prior = model.prior(memory, length, None)
    z, found = prior.mean, []
    for _ in range(steps + 1):
        logits = model.decode(z, memory, None).states @ model.embedding.weight.T
        log_probs = logits.log_softmax(-1)
        if isinstance(model.prior, GaussianPrior):
            log_p_z = torch.distributions.Normal(prior.loc, prior.scale).log_prob(z).sum()
        else:
            log_p_z = prior.log_prob(z)[0]
        found.append((float(log_probs.amax(-1).sum()), float(log_p_z)))
        z = model.posterior(memory, log_probs.argmax(-1), None).mean
    return found


@LATENT
def test_the_recorded_bound_is_the_one_by_hand(architecture, sources):
    model = model_of(architecture, VOCABULARY)
    lengths = torch.tensor([4 * (1 + i % 3) for i in range(len(sources))])
    found = trace(model, *sources_of(sources), 5, lengths)
    assert found.log_p_y.shape == found.changed.shape == (6, len(sources))
    for place, (source, length) in enumerate(zip(sources, lengths.tolist(), strict=True)):
        expected = torch.tensor(bounds_by_hand(model, source, 5, length))
        torch.testing.assert_close(found.log_p_y[:, place], expected[:, 0])
        torch.testing.assert_close(found.log_p_z[:, place], expected[:, 1])
        torch.testing.assert_close(found.bound[:, place], expected.sum(1))
    memory = model.encode(*sources_of(sources))
    torch.testing.assert_close(found.log_p_length,
                               model.length_predictor.log_prob(memory, lengths))


@LATENT
def test_the_trace_says_what_refinement_gives(architecture, sources):
    model = model_of(architecture, VOCABULARY)
    found = trace(model, *sources_of(sources), 4)
    assert found.hypotheses == list(refine(model, *sources_of(sources), [0, 1, 2, 3, 4]).values())
    assert found.changed[0].all()
    for step in range(1, 5):
        for place in range(len(sources)):
            if found.hypotheses[step][place] != found.hypotheses[step - 1][place]:
                assert found.changed[step, place]
            if not found.changed[step, place]:  # a fixed point: nothing changes any more
                assert not found.changed[step:, place].any()
                assert (found.bound[step:, place] == found.bound[step, place]).all()


@LATENT
def test_a_step_that_lowers_the_bound_is_marked(architecture):
    """Refinement may lower its bound; with random weights it does, and says so."""
    sources = [source for source, _ in ragged(40, VOCABULARY)]
    model = model_of(architecture, VOCABULARY, spread=0.4)
    found = trace(model, *sources_of(sources), 3, torch.full((40,), 8))
    fell = found.bound.diff(dim=0) < 0
    assert torch.equal(found.lowered[1:], fell)
    assert not found.lowered[0].any()
    assert fell.any() and not fell.all(), "the test shows nothing"


@LATENT
def test_settled_sentences_leave_the_batch(architecture, sources, monkeypatch):
    model = model_of(architecture, VOCABULARY)
    sizes = []
    posterior = type(model).posterior
    monkeypatch.setattr(type(model), "posterior", lambda self, memory, y, mask: (
        sizes.append(len(y)) or posterior(self, memory, y, mask)))
    found = refine(model, *sources_of(sources), [8])
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == len(sources) > sizes[-1]
    monkeypatch.undo()
    assert found[8] == [refine(model, *sources_of([s]), [8])[8][0] for s in sources]


def test_negative_steps_of_a_trace_are_refused():
    with pytest.raises(ConfigError, match="give 0 or more"):
        trace(model_of(GAUSSIAN, VOCABULARY), *sources_of([[3]]), -1)
