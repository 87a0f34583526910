"""Rounded copies of weights: autocast's losses and gradients."""

import numpy as np
import torch
from tiny import EVERY, FAMILIES, model_of, ragged, tokenised

from lib.batching import collate_fixed
from lib.config import load_config
from lib.training.rounding import RoundedWeights

SETTINGS = load_config("ga_b").training


@EVERY
def test_losses_and_gradients_are_those_of_autocast(architecture):
    """Before and after the weights move, with a parameter or two that the loss doesn't need."""
    model, data = model_of(architecture, 11), tokenised(ragged(7, 11, 9))
    [batch] = collate_fixed(data, np.arange(5), model.multiple, 100)
    rounding, plain = (RoundedWeights(model, dtype) for dtype in (torch.bfloat16, None))
    for weight in (0.0, 0.5):
        found = []
        for ours in (rounding, plain):
            torch.manual_seed(3)
            with torch.autocast("cpu", torch.bfloat16):
                losses = ours.losses(batch, SETTINGS, weight)
            found.append((losses, ours.gradients(losses["loss"])))
        (losses, gradients), (expected, g_expected) = found
        for name, value in expected.items():
            torch.testing.assert_close(losses[name], value, rtol=1e-6, atol=0)
        for (name, p), ours, theirs in zip(model.named_parameters(), gradients, g_expected,
                                           strict=True):
            assert (ours is None) == (theirs is None), name
            if ours is not None:
                assert ours.dtype == p.dtype
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
    assert len(rounding._copies) > 5 and not plain._copies


def test_weights_keep_their_places_and_precision():
    model = model_of(FAMILIES[0], 11)
    before = {name: (id(p), p.dtype) for name, p in model.named_parameters()}
    rounding = RoundedWeights(model, torch.bfloat16)
    [batch] = collate_fixed(tokenised(ragged(3, 11, 5)), np.arange(3), 1, 100)
    with torch.autocast("cpu", torch.bfloat16):
        rounding.losses(batch, SETTINGS, 1.0)
    assert {name: (id(p), p.dtype) for name, p in model.named_parameters()} == before
