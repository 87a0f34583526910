"""Noise of sentences: the same in any company and in any portions, normal, and apart."""

import numpy as np
import pytest
import torch
from tiny import sources_of

from lib import noise
from lib.decoding.search import source_rows
from lib.noise import BLOCK, Noise, normal, sentence_generator
from lib.subword import EOS

PORTIONS = ([40], [16, 24], [7, 1, 20, 12], [1] * 40)


def test_a_generator_belongs_to_its_sentence():
    (short, long), = [source_rows(*sources_of([[3, 4], [3, 4, 5, 6]]))]
    assert short.tolist() == [3, 4, EOS]
    assert source_rows(*sources_of([[3, 4]]))[0].tolist() == short.tolist()
    first = sentence_generator(short, 0).random()
    assert sentence_generator(short.astype(np.int32), 0).random() == first
    others = [sentence_generator(*of).random() for of in ((long, 0), (short, 1), (short, 0, 4))]
    assert len({first, *others}) == 4


def generators(rows, where="cpu"):
    return [torch.Generator(where).manual_seed(100 + row) for row in rows]


def drawn(rows, portions, length=6, channels=32, blocks=False, where="cpu"):
    """[rows, samples, length, channels], drawn portion by portion."""
    own = Noise(torch.zeros(len(rows), length, channels, device=where), generators(rows, where))
    if blocks:  # what a GPU does
        own.blocks = True
    return torch.cat([own.draw(n).view(len(rows), n, length, channels) for n in portions], 1)


@pytest.mark.parametrize("channels", [32, 3])
def test_on_a_cpu_samples_come_one_after_the_other(channels):
    expected = torch.stack([torch.stack([torch.randn(6, channels, generator=own)
                                         for _ in range(40)]) for own in generators([5, 3])])
    for portions in PORTIONS:
        assert torch.equal(drawn([5, 3], portions, channels=channels), expected)


def test_one_generator_for_a_batch_draws_sample_after_sample():
    like, own = torch.zeros(3, 4, 8), torch.Generator().manual_seed(9)
    expected = torch.stack([torch.randn(3, 4, 8, generator=own) for _ in range(5)], 1)
    found = Noise(like, torch.Generator().manual_seed(9))
    parts = [found.draw(n).view(3, n, 4, 8) for n in (2, 3)]
    assert torch.equal(torch.cat(parts, 1), expected)


@pytest.mark.parametrize("where", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_blocks_are_the_same_in_any_company_and_in_any_portions(where):
    whole = drawn([5, 3, 8], [40], blocks=True, where=where)
    for portions in PORTIONS:
        assert torch.equal(drawn([3], portions, blocks=True, where=where)[0], whole[1])
        assert torch.equal(drawn([8, 5], portions, blocks=True, where=where), whole[[2, 0]])
    assert torch.equal(drawn([5], [3], blocks=True, where=where)[0], whole[0, :3])
    assert len(whole.flatten(0, 1).flatten(1)[:, 0].unique()) == 3 * 40


@pytest.mark.parametrize("where", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_blocks_by_key_are_the_same_in_any_company(where):
    """Rows of their own lengths; fewer samples are the first of more."""
    words = source_rows(*sources_of([[3, 4], [5], [6, 7, 3]]))

    def rows(which, samples, block=BLOCK):
        own = [sentence_generator(words[row], 1) for row in which]
        lengths = [(4, 8, 12)[row] for row in which]
        eps = torch.zeros(len(which), samples, max(lengths), 32, device=where)
        return noise._in_blocks(own, lengths, eps, block)

    whole = rows([0, 1, 2], 2 * BLOCK + 3)
    assert whole.shape == (3, 35, 12, 32)
    assert not whole[0, :, 4:].any() and not whole[1, :, 8:].any()
    assert torch.equal(rows([1], 35)[0], whole[1, :, :8])
    assert torch.equal(rows([2, 0], 5), whole[[2, 0], :5])
    assert torch.equal(rows([0], 2, block=1), rows([0], 9, block=1)[:, :2])
    real = torch.cat([whole[0, :, :4].flatten(), whole[1, :, :8].flatten(), whole[2].flatten()])
    assert abs(float(real.mean())) < 4 / len(real)**0.5
    assert abs(float(real.std()) - 1) < 4 / (2 * len(real))**0.5


def test_normal_numbers_are_the_generators_own_times_their_deviation():
    words = source_rows(*sources_of([[3, 4], [5]]))
    like = torch.zeros(0, dtype=torch.float64)
    found = normal([sentence_generator(w, 2, 7) for w in words], 3, [4, 8], like, 5, scale=0.5)
    for row, w, length in zip(found, words, (4, 8), strict=True):
        expected = 0.5 * sentence_generator(w, 2, 7).standard_normal((3, length, 5))
        np.testing.assert_array_equal(row[:, :length].numpy(), expected)
        assert not row[:, length:].any()
