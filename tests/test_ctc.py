"""Ct: a distribution over strings, the blank in EOS's place, and its own scan against torch's."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from tiny import CTC, batch_of, model_of, strings

from lib.ctc import BLANK
from lib.subword import EOS

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize(("source", "upsampling"), [([3], 1), ([3], 2), ([4, 5], 2), ([], 3)])
def test_all_strings_sum_to_one_and_repeats_take_a_frame_more(source, upsampling):
    model = model_of(replace(CTC, upsampling=upsampling), 6, spread=0.3)
    frames = upsampling * (len(source) + 1)
    every = strings([3, 4, 5], 0, frames + 1)
    found = model.log_prob_terms(batch_of([(source, string) for string in every])).log_p_y[0]
    assert float(found.exp().sum()) == pytest.approx(1, abs=1e-9)
    needed = [len(string) + sum(a == b for a, b in pairwise(string))
              for string in every]
    assert (found > -math.inf).tolist() == [count <= frames for count in needed]


def test_it_is_the_loss_of_torch_where_that_is_right():
    """Values through a full log_softmax in float64; the blank is the first column here."""
    pairs = [([3, 4], [5, 5, 4]), ([5], [3]), ([4, 4, 3], [4, 5, 3, 3])]
    model, batch = model_of(replace(CTC, upsampling=3), 6), batch_of(pairs)
    memory = model.encode(batch.source, batch.source_mask)
    frames = model.frames(memory)
    logits = (frames.emissions.states @ model.embedding.weight.T)[..., BLANK:]
    expected = -F.ctc_loss(logits.log_softmax(-1).transpose(0, 1), batch.target - BLANK,
                           frames.count, batch.target_tokens - 1, blank=0, reduction="none")
    torch.testing.assert_close(model.path_sums(memory, batch)(), expected)


def test_no_frame_emits_padding_or_a_start():
    assert BLANK == EOS
    model, batch = model_of(CTC, 6), batch_of([([3, 4], [5])])
    log_probs, ids = model.frames(model.encode(batch.source, None)).emissions.top(6)
    assert (log_probs[ids < BLANK] == -math.inf).all()
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones_like(log_probs[..., 0]))
