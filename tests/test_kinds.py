"""Kinds of pairs: every two families have one, whichever comes first."""

import itertools

import pytest

from analysis.kinds import KINDS, pair_kind
from lib.config import FAMILIES


@pytest.mark.parametrize(("first", "second", "kind"), [
    ("autoregressive", "flow", "autoregressive, latent"), ("gaussian", "flow", "Gaussian, flow"),
    ("dag", "autoregressive", "autoregressive, factorised"),
    ("independent", "gaussian", "factorised, latent"), ("ctc", "dag", "factorised, factorised"),
    ("masked", "autoregressive", "masked, others"), ("flow", "flow", "within families"),
])
def test_kinds_by_hand(first, second, kind):
    assert pair_kind(first, second) == pair_kind(second, first) == kind
    assert pair_kind(first, second, same_text=False) == "raw, distilled"


def test_any_two_families_have_a_kind_and_every_kind_occurs():
    found = {pair_kind(*two) for two in itertools.product(FAMILIES.values(), repeat=2)}
    assert found | {"raw, distilled"} == set(KINDS)
