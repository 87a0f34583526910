"""What training costs: FLOPs of matrix products and attention, as torch counts them."""

from collections.abc import Callable

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from lib.batching import Tokenised, collate, training_batches
from lib.config import Config
from lib.models import build, model_class

__all__ = ["matrix_flops", "tokens_a_step", "training_flops"]

POSITIONS = 512  # of the batch that is counted: its padding and attention are a training's


def matrix_flops(compute: Callable[[], object]) -> int:
    """FLOPs of products and attention in this thread, backward passes and padding included."""
    with FlopCounterMode(display=False) as counter:
        compute()
    return counter.get_total_flops()


def training_flops(config: Config, data: Tokenised, vocabulary: int) -> float:
    """FLOPs that training a model takes for each target token, one EOS a sentence counted.

    Counted on one batch of the training text, that of the median length, with the KL term in: an
    approximation, as longer sentences take more attention, and the first steps of a latent model
    no prior. About 6 FLOPs for each parameter and position that it is used at; the couplings of a
    flow's upper levels are used at fewer positions.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of such small products more would wait for each other
    try:
        with torch.random.fork_rng(devices=[]):
            return _counted(config, data, vocabulary)
    finally:
        torch.set_num_threads(threads)


def _counted(config: Config, data: Tokenised, vocabulary: int) -> float:
    torch.manual_seed(0)
    model = build(config.architecture, vocabulary, config.training.dropout).train()
    groups = training_batches(data, POSITIONS, model.multiple, 0, 0)
    order = np.argsort([data.target_lengths[rows].mean() for rows in groups], kind="stable")
    batch = collate(data, groups[order[len(groups) // 2]], model.multiple)
    with torch.no_grad():
        for step in (1, config.training.kl_start + 1):
            for what in model.initialisations(step, config.training):
                model.initialise(batch, what)
    losses = model.loss_terms
    flops = matrix_flops(lambda: losses(batch, config.training, 1.0)["loss"].backward())
    return flops / int(batch.target_tokens.sum())


def tokens_a_step(config: Config, data: Tokenised) -> float:
    """Mean target tokens of an optimiser step, one EOS a sentence counted."""
    groups = training_batches(data, config.training.batch_tokens,
                              model_class(config.architecture).multiple, config.seed, 0)
    return (data.target_lengths + 1).sum() / len(groups) * config.training.accumulate
