"""Tiny models and batches that several test modules share, and how their numbers are compared."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from lib.batching import Batch, Tokenised, collate
from lib.config import Architecture, Training
from lib.flows import ActNorm
from lib.models import build
from lib.subword import EOS, PAD

AUTOREGRESSIVE = Architecture("autoregressive", d_model=16, d_filter=32, heads=2,
                              encoder_layers=2, decoder_layers=2)
GAUSSIAN = replace(AUTOREGRESSIVE, family="gaussian", d_latent=32, posterior_layers=1)
FLOW = replace(GAUSSIAN, family="flow", flow_steps=(1, 1, 1), flow_d_filter=32, flow_heads=2)
INDEPENDENT = replace(AUTOREGRESSIVE, family="independent", encoder_layers=1, decoder_layers=1)
DAG = replace(INDEPENDENT, family="dag", upsampling=3)
CTC = replace(INDEPENDENT, family="ctc", upsampling=3)
MASKED = replace(INDEPENDENT, family="masked")
VOCABULARY = 8  # of the fixtures `model` and `sources`
FAMILIES = [AUTOREGRESSIVE, GAUSSIAN, FLOW, INDEPENDENT, DAG, CTC, MASKED]
EVERY = pytest.mark.parametrize("architecture", FAMILIES, ids=lambda a: a.family)
LATENT = pytest.mark.parametrize("architecture", [GAUSSIAN, FLOW], ids=lambda a: a.family)


def strings(words: list[int], fewest: int, most: int) -> list[list[int]]:
    """All strings of so many of the words."""
    return [list(string) for count in range(fewest, most + 1)
            for string in product(words, repeat=count)]


def model_of(architecture: Architecture, vocabulary: int, spread: float = 0.2) -> torch.nn.Module:
    """A model in evaluation mode, every weight moved at random away from its zero start."""
    model = build(architecture, vocabulary).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return model


def with_actnorms(architecture: Architecture, vocabulary: int) -> torch.nn.Module:
    """`model_of`, none of its actnorms the identity."""
    model = model_of(architecture, vocabulary)
    for module in model.modules():
        if isinstance(module, ActNorm):
            torch.nn.init.normal_(module.log_scale, std=0.3)
            torch.nn.init.normal_(module.b, std=0.5)
    return model


def training(**changes) -> Training:
    """Settings of a loss: without dropout, smoothing or penalties unless asked for."""
    return Training(steps=1, batch_tokens=1, learning_rate=1.0, warmup_steps=1, dropout=0.0,
                    validate_every=1, **changes)


def near_lengths(model: torch.nn.Module, differences: range = range(-3, 4)) -> torch.nn.Module:
    """The model, its targets' lengths all but certainly so near to the sources'."""
    with torch.no_grad():
        model.length_predictor.outer.weight.zero_()
        model.length_predictor.outer.bias.fill_(-60.0)
        model.length_predictor.outer.bias[[30 + difference for difference in differences]] = 0.0
    return model


class Numbers:
    """A vocabulary whose lines are the subwords' numbers."""

    @staticmethod
    def decode(rows):
        return [" ".join(map(str, row)) for row in rows]

    @staticmethod
    def encode(lines):
        return [[int(word) for word in line.split()] for line in lines]


def tokenised(pairs: list[tuple[list[int], list[int]]]) -> Tokenised:
    """A corpus of the given (source ids, target ids), without EOS."""
    sides = []
    for side in zip(*pairs, strict=True):
        sides += [np.array([i for ids in side for i in ids], np.int32),
                  np.cumsum([0, *map(len, side)])]
    return Tokenised(*sides, np.arange(len(pairs)))


def batch_of(pairs: list[tuple[list[int], list[int]]], multiple: int = 1) -> Batch:
    """All of the given pairs as one batch."""
    return collate(tokenised(pairs), np.arange(len(pairs)), multiple)


def ragged(count: int, vocabulary: int, longest: int = 7) -> list[tuple[list[int], list[int]]]:
    """Random pairs of differing lengths."""
    rng = np.random.default_rng(0)
    return [tuple(rng.integers(3, vocabulary, size=rng.integers(1, longest + 1)).tolist()
                  for _ in range(2)) for _ in range(count)]


def sources_of(rows: list[list[int]], width: int = 0) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Source ids with EOS, padded to at least `width`, and their mask (None if all are real)."""
    width = max(width, max(map(len, rows)) + 1)
    ids = torch.full((len(rows), width), PAD)
    for place, row in enumerate(rows):
        ids[place, :len(row) + 1] = torch.tensor([*row, EOS])
    mask = torch.arange(width) < torch.tensor([len(row) + 1 for row in rows])[:, None]
    return ids, None if bool(mask.all()) else mask


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-9) -> None:
    """Refuse numbers that differ by more."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def mean_and_error(x: torch.Tensor) -> tuple[float, float]:
    """The mean of draws and its standard error."""
    return float(x.mean()), float(x.std() / math.sqrt(x.numel()))


def drawn_as_often(observed: Sequence[int], expected: Sequence[float], classes: int = 3) -> None:
    """Refuse draws whose classes don't come as often as expected (chi-square, p up to 0.001).

    Those that are expected fewer than 5 times are taken together; `classes`: others there must be.
    """
    observed, expected = np.asarray(observed), np.asarray(expected)
    assert not observed[expected == 0].any(), "outside the support"
    common = expected >= 5
    assert common.sum() >= classes, "the test shows little"
    if expected[~common].any():
        observed, expected = (np.append(x[common], x[~common].sum()) for x in (observed, expected))
    assert chisquare(observed[expected > 0], expected[expected > 0]).pvalue > 1e-3
