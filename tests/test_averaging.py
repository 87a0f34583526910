"""The moving average of weights at its ends, and that the model gets its own weights back."""

import pytest
import torch
from torch import nn

from lib.training.averaging import WeightAverage


@pytest.fixture
def model():
    return nn.BatchNorm1d(3)  # parameters and buffers


def moved(model, by: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by)


def test_no_decay_is_the_weights_and_restart_forgets(model):
    none, slow = WeightAverage(model, 0.0), WeightAverage(model, 0.99)
    moved(model, 2.0)
    none.update(1000)
    slow.update(1000)
    torch.testing.assert_close(none.values["weight"], model.weight.detach())
    assert float(slow.values["weight"][0]) == pytest.approx(1.02)
    slow.restart()
    assert torch.equal(slow.values["weight"], model.weight)


def test_weights_are_a_whole_state(model):
    average = WeightAverage(model, 0.9)
    moved(model, 1.0)
    state = average.weights()
    assert set(state) == set(model.state_dict())
    assert torch.equal(state["running_var"], model.running_var)
    assert not torch.equal(state["weight"], model.weight)


def test_in_use_inside_the_block_only(model):
    average = WeightAverage(model, 0.9)
    moved(model, 1.0)
    with pytest.raises(KeyboardInterrupt), average.in_use():
        assert torch.equal(model.weight, average.values["weight"])
        raise KeyboardInterrupt
    assert model.weight.tolist() == [2.0] * 3
