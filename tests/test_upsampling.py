"""What Da and Ct share: slots by the source's own length, impossible pairs, and the loss."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import CTC, DAG, batch_of, model_of, tokenised, training

from lib.ctc import CtcModel
from lib.dag import DagModel
from lib.errors import ConfigError
from lib.layers import LONGEST

pytestmark = pytest.mark.usefixtures("float64")

# the third needs 9 vertices or 8 frames of the 6 that there are, by its repeats alone
PAIRS = [([3, 4], [5, 3, 4]), ([5, 4, 3], [3, 3]), ([4], [4, 4, 4, 4]), ([3], [])]
GRAPH, FRAMES = replace(DAG, upsampling=2), replace(CTC, upsampling=2)
BOTH = pytest.mark.parametrize("architecture", [GRAPH, FRAMES], ids=lambda a: a.family)
MARGINAL = training(objective="marginal")


@BOTH
def test_a_sentence_has_its_own_slots_whatever_the_padding(architecture):
    model, batch = model_of(architecture, 6), batch_of(PAIRS)
    count, real = model.slots(model.encode(batch.source, batch.source_mask))
    assert count.tolist() == real.sum(1).tolist() == [2 * (len(source) + 1) for source, _ in PAIRS]
    together = model.log_prob_terms(batch).log_p_y[0]
    for row, pair in enumerate(PAIRS):
        torch.testing.assert_close(model.log_prob_terms(batch_of([pair])).log_p_y[0, 0],
                                   together[row])


@BOTH
def test_there_are_no_more_slots_than_positions(architecture):
    model = model_of(replace(architecture, upsampling=300), 6)
    count, real = model.slots(model.encode(*(batch_of([([3] * 5, [3])]).source, None)))
    assert count.tolist() == [LONGEST] and real.shape[1] == LONGEST


@BOTH
def test_a_slot_sees_its_own_source_subword_and_position(architecture):
    """Without any layer between: input of slot j is the state of subword j // lambda."""
    model, batch = model_of(architecture, 6), batch_of(PAIRS)
    memory = model.encode(batch.source, batch.source_mask)
    _, real = model.slots(memory)
    model.decoder.forward = lambda x, *rest: x
    found = model.slot_states(memory, real)
    plain = model.embedding(torch.full(real.shape, 1))
    for slot in range(real.shape[1]):
        torch.testing.assert_close(found[:, slot] - plain[:, slot], memory.states[:, slot // 2])


@BOTH
def test_the_loss_leaves_impossible_pairs_out_and_counts_them(architecture):
    model, batch = model_of(architecture, 6), batch_of(PAIRS)
    found = model.log_prob_terms(batch)
    assert (found.log_p_y[0] == -math.inf).tolist() == [False, False, True, False]
    assert not found.log_p_length.any()
    terms = model.loss_terms(batch, MARGINAL, 1.0)
    torch.testing.assert_close(terms["loss"], -found.log_p_y[0, [0, 1, 3]].sum())
    torch.testing.assert_close(terms["nll"], terms["loss"])
    assert int(terms["impossible"]) == 1 and int(terms["tokens"]) == 13
    terms["loss"].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("architecture", "objective"), [
    (GRAPH, "marginal"), (GRAPH, "best_path"), (FRAMES, "marginal"),
], ids=["dag", "dag best path", "ctc"])
def test_gradients_are_numerical_ones(architecture, objective):
    model, batch = model_of(architecture, 6), batch_of(PAIRS)
    settings = training(objective=objective)
    model.loss_terms(batch, settings, 1.0)["loss"].backward()
    for name, parameter in model.named_parameters():
        direction = torch.randn_like(parameter)
        values = []
        with torch.no_grad():
            for step in (1e-6, -2e-6):
                parameter += step * direction
                values.append(float(model.loss_terms(batch, settings, 1.0)["loss"]))
            parameter += 1e-6 * direction
        expected = float((parameter.grad * direction).sum())
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(expected, rel=1e-4,
                                                               abs=1e-5), name


def test_the_best_path_is_no_more_probable_than_all():
    model, batch = model_of(GRAPH, 6), batch_of(PAIRS)
    marginal = model.loss_terms(batch, MARGINAL, 1.0)
    log_prob = model.path_sums(model.encode(batch.source, batch.source_mask), batch)
    best, every = log_prob(best=True), log_prob()
    possible = every > -math.inf
    assert ((best > -math.inf) == possible).all()
    assert (best[possible] <= every[possible] + 1e-12).all()
    for weight in (1.0, torch.tensor(1.0)):
        found = model.loss_terms(batch, training(objective="best_path"), weight)
        torch.testing.assert_close(found["loss"], -best[possible].sum())
        torch.testing.assert_close(found["nll"], marginal["nll"])
        assert float(found["kl"]) > 0.1


def test_the_weight_of_its_kl_goes_from_all_paths_to_the_best_one():
    """It is the ELBO of a delta posterior: log p(y) - weight KL[q || p(path|y)]."""
    model, batch = model_of(GRAPH, 6), batch_of(PAIRS)
    settings = training(objective="best_path")
    none, half, full = (model.loss_terms(batch, settings, weight) for weight in (0.0, 0.5, 1.0))
    torch.testing.assert_close(none, model.loss_terms(batch, MARGINAL, 0.7))
    assert "kl" not in none
    torch.testing.assert_close(half["loss"], (none["loss"] + full["loss"]) / 2)


@BOTH
def test_the_sum_is_in_fp64_where_no_gradient_is_taken(architecture):
    model, batch = model_of(architecture, 6).float(), batch_of(PAIRS[:2])
    assert model.log_prob_terms(batch).log_p_y.dtype == torch.float64
    assert model.loss_terms(batch, MARGINAL, 1.0)["loss"].dtype == torch.float32


# Corpora -------------------------------------------------------------------------------------

def test_needed_slots_by_hand():
    data = tokenised([([3], []), ([3], [4, 4, 5, 5, 5]), ([3], [5]), ([3], [5, 4])])
    assert DagModel.needed(data).tolist() == [2, 7, 3, 4]
    assert CtcModel.needed(data).tolist() == [0, 8, 1, 2]  # [5], [5, 4]: no repeat across pairs
    assert CtcModel.needed(tokenised([([3], []), ([3], [])])).tolist() == [0, 0]


@BOTH
def test_impossible_pairs_of_a_corpus_are_counted_or_refused(architecture):
    model = model_of(architecture, 6)
    fine, bad = ([3, 4, 5], [4, 3, 5]), ([3], [4, 5] * 3)  # 8 slots; 4, where 8 or 6 are needed
    assert model.impossible(tokenised([fine] * 50)) == 0
    assert model.impossible(tokenised([fine] * 2000 + [bad])) == 1
    with pytest.raises(ConfigError) as caught:
        model.impossible(tokenised([fine] * 90 + [bad] * 10))
    assert str(caught.value) == (
        f"upsampling = 2: 10 of 100 training pairs (10.0%) have no path through their "
        f"{model.slot}, 2 a source subword and EOS, 1,024 at most: raise upsampling, or lower "
        "max_tokens")
    long = [([3] * 600, [4] * (LONGEST + 5))] * 5  # 1,202 slots, were there no limit
    with pytest.raises(ConfigError, match="5 of 5 training pairs"):
        model.impossible(tokenised(long))


def test_counting_agrees_with_the_model():
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(3, 6, rng.integers(1, 4)).tolist(),
              rng.integers(3, 5, rng.integers(0, 9)).tolist()) for _ in range(60)]
    for architecture in (GRAPH, FRAMES):
        model, data = model_of(architecture, 6), tokenised(pairs)
        never = model.log_prob_terms(batch_of(pairs)).log_p_y[0] == -math.inf
        slots = 2 * (data.source_lengths + 1)
        assert (model.needed(data) > slots).tolist() == never.tolist()
        assert 0 < int(never.sum()) < 60
