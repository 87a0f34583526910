"""The autoregressive Transformer: causal, independent of padding, and a probability."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from tiny import AUTOREGRESSIVE, batch_of, model_of, ragged, sources_of

from lib.batching import Batch
from lib.config import load_config
from lib.subword import BOS, EOS

VOCABULARY = 9

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def model():
    return model_of(AUTOREGRESSIVE, VOCABULARY)


@torch.no_grad()
def log_prob(model, batch: Batch) -> torch.Tensor:
    return model.log_prob_terms(batch).log_p_y[0]


def single_steps(model, pairs) -> torch.Tensor:
    """log p of each pair, summed from cached steps of all pairs together."""
    batch = batch_of(pairs)
    with torch.no_grad():
        memory = model.encode(batch.source, batch.source_mask)
        state = model.start(memory, 1, batch.target.shape[1])
        last, total = torch.full((len(pairs),), BOS), torch.zeros(len(pairs))
        for at in range(batch.target.shape[1]):
            log_probs = model.step(state, last)
            last = batch.target[:, at]
            term = log_probs.gather(1, last[:, None])[:, 0]
            real = True if batch.target_mask is None else batch.target_mask[:, at]
            total += term * real
    return total


def test_a_later_token_changes_no_earlier_log_prob(model):
    full = batch_of([([4, 5, 6], [3, 4, 5, 6, 7, 8])])
    length = full.target.shape[1]

    def prefixes(target: torch.Tensor) -> list[float]:
        """log p of the first 1, 2, ... tokens: the mask ends there, the tokens behind stay."""
        masks = [torch.arange(length)[None] < n for n in range(1, length + 1)]
        return [float(log_prob(model, replace(full, target=target, target_mask=m))) for m in masks]

    before = prefixes(full.target)
    for place in range(length):
        other = full.target.clone()
        other[0, place] = 3 if other[0, place] != 3 else 8
        after = prefixes(other)
        assert after[:place] == before[:place], f"position {place} is seen by an earlier one"
        assert all(abs(a - b) > 1e-6 for a, b in zip(after[place:], before[place:], strict=True))


def test_padding_changes_nothing(model):
    pairs = ragged(12, VOCABULARY)
    together = log_prob(model, batch_of(pairs))
    alone = torch.cat([log_prob(model, batch_of([pair])) for pair in pairs])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_what_lies_under_the_padding_changes_nothing(model):
    batch = batch_of([([4, 5, 6], [3, 4]), ([7], [3, 4, 5, 6])])
    noisy = replace(
        batch,
        source=batch.source.masked_fill(~batch.source_mask, 8),
        target=batch.target.masked_fill(~batch.target_mask, 8))
    assert torch.equal(log_prob(model, batch), log_prob(model, noisy))


def test_log_prob_is_the_sum_of_single_steps(model):
    pairs = ragged(12, VOCABULARY)
    torch.testing.assert_close(log_prob(model, batch_of(pairs)), single_steps(model, pairs),
                               rtol=0, atol=1e-12)


def test_a_step_gives_the_distribution_that_the_whole_pass_gives(model):
    source, prefix = [4, 5, 6], [3, 7, 5]
    with torch.no_grad():
        state = model.start(model.encode(*sources_of([source])), 1, 5)
        for token in [BOS, *prefix]:
            stepped = model.step(state, torch.tensor([token]))
    target = torch.tensor([[*prefix, v] for v in range(VOCABULARY)])
    batch = Batch(sources_of([source])[0].expand(VOCABULARY, -1), None, target, None,
                  torch.full((VOCABULARY,), 4), torch.arange(VOCABULARY))
    before = log_prob(model, replace(batch, target=target[:, :-1]))
    torch.testing.assert_close(stepped[0], log_prob(model, batch) - before, rtol=0, atol=1e-12)
    assert stepped.exp().sum() == pytest.approx(1, abs=1e-12)


def test_state_follows_its_hypotheses(model):
    """Reordering and dropping cached hypotheses is the same as decoding the others afresh."""
    sources, tokens = sources_of([[4, 5, 6], [7]]), torch.tensor([[3, 4], [5, 6], [7, 8], [8, 3]])

    def decode(rows, sentences, hypotheses):
        source, mask = sources[0][sentences], sources[1][sentences]
        state = model.start(model.encode(source, mask), hypotheses, 6)
        for at in range(2):
            log_probs = model.step(state, tokens[rows, at])
        return state, log_probs

    with torch.no_grad():
        state, _ = decode(torch.arange(4), torch.arange(2), 2)
        state.reorder(torch.tensor([1, 1, 3, 2]))
        state.keep(torch.tensor([1]), torch.tensor([2, 3]))
        left = model.step(state, torch.tensor([5, 5]))
        fresh, _ = decode(torch.tensor([3, 2]), torch.tensor([1]), 2)
        right = model.step(fresh, torch.tensor([5, 5]))
    torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("longest", [1, 3])
def test_probabilities_of_all_strings_sum_to_one(longest):
    """Strings that end within `longest` tokens, and all beginnings that don't: together 1."""
    vocabulary = 5
    model = model_of(AUTOREGRESSIVE, vocabulary)
    others = [v for v in range(vocabulary) if v != EOS]
    ended = sum(
        total_prob(model, [(*words, EOS) for words in product(others, repeat=length)])
        for length in range(longest))
    going_on = total_prob(model, list(product(others, repeat=longest)))
    assert 0 < ended < 1
    assert ended + going_on == pytest.approx(1, abs=1e-12)


def total_prob(model, targets: list[tuple[int, ...]]) -> float:
    count = len(targets)
    source, _ = sources_of([[3, 4]])
    target = torch.tensor(targets)
    batch = Batch(source.expand(count, -1), None, target, None,
                  torch.full((count,), target.shape[1]), torch.arange(count))
    return float(log_prob(model, batch).exp().sum())


def test_a_uniform_model_by_hand(model):
    with torch.no_grad():
        model.embedding.weight.zero_()
    found = log_prob(model, batch_of([([4, 5], [3, 4, 5]), ([6], [7])]))
    expected = -torch.tensor([4.0, 2.0]) * torch.tensor(float(VOCABULARY)).log()
    torch.testing.assert_close(found, expected)


def test_the_other_terms_are_zero(model):
    terms = model.log_prob_terms(batch_of(ragged(3, VOCABULARY)))
    assert terms.log_p_y.shape == (1, 3)
    assert not terms.log_p_z.any() and not terms.log_q_z.any() and not terms.log_p_length.any()


def test_label_smoothing_reaches_the_loss_only(model):
    plain = load_config("tr_s", label_smoothing=0.0).training
    smooth = load_config("tr_s", label_smoothing=0.1).training
    pairs = [([4, 5], [3, 4, 5]), ([6], [7])]
    batch = batch_of(pairs)
    before = log_prob(model, batch)
    a, b = model.loss_terms(batch, plain, 1.0), model.loss_terms(batch, smooth, 1.0)
    assert torch.equal(log_prob(model, batch), before)
    assert float(a["nll"]) == float(b["nll"]) == pytest.approx(-float(before.sum()), abs=1e-11)
    assert float(a["loss"].detach()) == float(a["nll"])
    assert int(a["tokens"]) == int(b["tokens"]) == 6
    # by hand: 0.9 nll + 0.1 cross-entropy to the uniform distribution, from single steps
    uniform = 0.0
    for source, target in pairs:
        with torch.no_grad():
            state = model.start(model.encode(*sources_of([source])), 1, 5)
            for token in [BOS, *target]:
                uniform -= float(model.step(state, torch.tensor([token])).mean())
    expected = 0.9 * float(a["nll"]) + 0.1 * uniform
    assert float(b["loss"].detach()) == pytest.approx(expected, abs=1e-11)


def test_gradient_of_the_loss_is_that_of_the_log_prob(model):
    """The output layer takes its gradient in its forward pass; autograd takes it otherwise."""
    training = load_config("tr_s").training
    batch = batch_of(ragged(4, VOCABULARY))
    model.loss_terms(batch, training, 1.0)["loss"].backward()
    fast = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    (-model.log_prob_terms(batch).log_p_y.sum()).backward()
    for one, other in zip(fast, (p.grad for p in model.parameters()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_padding_makes_no_gradient_infinite(model):
    batch = batch_of([([4, 5, 6], [3, 4]), ([7], [3, 4, 5, 6])])
    model.loss_terms(batch, load_config("tr_s").training, 1.0)["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
