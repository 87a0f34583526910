"""The decoder that fills in subwords: what it sees."""

from dataclasses import replace

import pytest
import torch
from tiny import INDEPENDENT, MASKED, batch_of, model_of

from lib.decoding.frozen import freeze
from lib.filling import UNKNOWN, real_positions, unknown_places
from lib.layers import length_mask

pytestmark = pytest.mark.usefixtures("float64")


def test_the_decoder_sees_every_known_subword_from_every_position():
    model, batch = model_of(MASKED, 9), batch_of([([3, 4], [5, 6, 7])], 4)
    memory = model.encode(batch.source, None)
    ids = torch.full((1, 4), UNKNOWN)
    nothing = model.fill(ids, memory, None)
    for at in range(4):
        told = ids.clone()
        told[0, at] = 8
        assert ((model.fill(told, memory, None) - nothing).abs().amax(-1) > 1e-6).all()


@torch.no_grad()
def test_states_of_some_positions_are_those_of_all():
    model, batch = model_of(MASKED, 9), batch_of([([3, 4], [5]), ([3], [6])], 4)
    ids, at = torch.randint(3, 9, (6, 7)), torch.randint(3, (6, 2))  # three rows a sentence
    for each in (model, freeze(model)):
        memory = each.encode(batch.source, batch.source_mask)
        given = ids, memory, length_mask(torch.tensor([7, 3, 5, 4, 7, 6]))
        every, some = each.fill(*given), each.fill(*given, at)
        torch.testing.assert_close(some, every.take_along_dim(at[..., None], 1))


def test_its_decoder_is_as_wide_as_it_is_told():
    plain, wide = (model_of(replace(INDEPENDENT, decoder_d_filter=width), 9) for width in (0, 48))
    assert plain.decoder.layers[0].feed_forward.inner.weight.shape[0] == INDEPENDENT.d_filter
    assert wide.decoder.layers[0].feed_forward.inner.weight.shape[0] == 48
    assert wide.encoder.layers[0].feed_forward.inner.weight.shape[0] == INDEPENDENT.d_filter


def test_real_positions_of_a_batch_with_and_without_a_mask():
    even, ragged = batch_of([([3], [4]), ([3], [5])], 4), batch_of([([3], [4]), ([3], [5] * 5)], 4)
    assert even.target_mask is None and real_positions(even).all()
    assert real_positions(ragged).sum(1).tolist() == [4, 8]


def test_unknown_places_are_first_and_in_order():
    real = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    known = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0]]).bool()
    places, unknown = unknown_places(known, real, 3)
    assert places.tolist() == [[0, 2, 3], [1, 0, 2]]
    assert unknown.tolist() == [[True, True, True], [True, False, False]]
