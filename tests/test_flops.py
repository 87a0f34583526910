"""FLOPs of training: against products worked by hand, and 6 for each parameter and position."""

from dataclasses import replace

import pytest
import torch
from tiny import AUTOREGRESSIVE, EVERY, FLOW, tokenised

from lib.batching import training_batches
from lib.config import load_config
from lib.flops import matrix_flops, tokens_a_step, training_flops

SOURCE, TARGET, VOCABULARY = 7, 3, 50  # with EOS 8 and 4: nothing is padded
DATA = tokenised([([3] * SOURCE, [4] * TARGET)] * 200)


def config_of(architecture):
    config = load_config({"dag": "da_b", "ctc": "ct_b"}.get(architecture.family, "tr_s"))
    return replace(config, architecture=architecture, training=replace(
        config.training, kl_start=3, accumulate=2, batch_tokens=100))


def test_a_product_by_hand():
    a, b = torch.randn(3, 5, requires_grad=True), torch.randn(5, 7)
    assert matrix_flops(lambda: a @ b) == 2 * 3 * 5 * 7
    assert matrix_flops(lambda: (a @ b).sum().backward()) == 2 * (2 * 3 * 5 * 7)


def test_a_transformer_by_hand():
    a, s, t = AUTOREGRESSIVE, SOURCE + 1, TARGET + 1
    d, f = a.d_model, a.d_filter
    encoder = a.encoder_layers * s * (2 * (4 * d * d + 2 * d * f) + 4 * s * d)
    # self-attention, queries and outputs of that over the source, whose keys are the source's
    decoder = a.decoder_layers * (t * (2 * (6 * d * d + 2 * d * f) + 4 * t * d + 4 * s * d)
                                  + s * 4 * d * d)
    by_hand = 3 * (encoder + decoder + t * 2 * d * VOCABULARY) / t
    assert training_flops(config_of(a), DATA, VOCABULARY) == pytest.approx(by_hand, rel=0.02)


@EVERY
def test_every_family_is_counted_and_draws_nothing(architecture):
    config, before = config_of(architecture), torch.get_rng_state()
    found = training_flops(config, DATA, VOCABULARY)
    assert found == training_flops(config, DATA, VOCABULARY) > 0
    assert torch.equal(before, torch.get_rng_state())


def test_priors_cost():
    costs = [training_flops(config_of(a), DATA, VOCABULARY)
             for a in (FLOW, replace(FLOW, flow_steps=(2, 1, 1)))]
    assert costs[0] < costs[1]


def test_tokens_of_a_step():
    config = config_of(AUTOREGRESSIVE)
    groups = training_batches(DATA, 100, 1, config.seed, 0)
    assert tokens_a_step(config, DATA) == pytest.approx(200 * 4 / len(groups) * 2)
