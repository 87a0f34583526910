"""torch's own Transformer with our weights says what our greedy search says."""

import pytest
import torch
from tiny import AUTOREGRESSIVE, model_of, ragged, sources_of

from benchmarks.plain import PlainGreedy
from lib.decoding.search import beam_search


@pytest.mark.usefixtures("float64")
def test_the_same_weights_give_the_same_hypotheses():
    torch.manual_seed(0)
    model = model_of(AUTOREGRESSIVE, 8, spread=0.4)
    source, mask = sources_of([source for source, _ in ragged(9, 8)])
    expected = beam_search(model, source, mask, 1, 0.0, 15)[0]
    assert PlainGreedy(model)(source, mask, 15) == expected
    assert len({tuple(row) for row in expected}) > 3, "the model should say more than one thing"
