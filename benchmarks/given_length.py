"""Untrained models whose outputs are as long as the references: time without a trained run."""

import copy
from functools import partial
from types import SimpleNamespace

import torch
from torch import nn

from lib.batching import padded_length
from lib.decoding import Options, Procedure
from lib.decoding.frozen import freeze
from lib.decoding.graphs import GraphedDecoder
from lib.decoding.refinement import refine
from lib.decoding.search import beam_search
from lib.errors import ConfigError
from lib.evaluation.speed import System, Work
from lib.models import count_parameters
from lib.subword import EOS


def controlled(name: str, model: nn.Module, setting: str, weights: str = "auto",
               graphed: bool | None = None) -> System:
    """An untrained model whose outputs are made as long as the references.

    Random weights know no end. Search runs for exactly the reference's subwords (give a
    `never_ending` model); a latent model gets the reference's padded length, and every refinement
    step is taken: `GraphedDecoder` always does, else outputs are kept from settling. `graphed`: by
    default on a GPU.

    Errors: ConfigError for a setting other than greedy, beam<width>, k<steps>.
    """
    procedure = Procedure.parse(setting)
    if not procedure.plain and procedure.search not in ("greedy", "beam"):
        raise ConfigError(f"setting '{setting}' can't be timed at a given length: greedy, "
                          "beam<width> or k<steps>")
    procedure.check(model)
    frozen = freeze(model, weights)
    system = partial(System, name, setting, weights, count_parameters(model))
    if graphed or (graphed is None and model.device.type == "cuda"):
        decoder = GraphedDecoder(frozen, setting, Options(length_penalty=0.0))
        return system(lambda given: decoder(given.source, given.mask, given.length))
    steps = _keep_moving(frozen) if model.latents else None

    def search(given: Work) -> list[list[int]]:
        return beam_search(frozen, given.source, given.mask, procedure.width, 0.0, given.length)[0]

    def refined(given: Work) -> list[list[int]]:
        padded = padded_length(given.length - 1, frozen.multiple)
        lengths = torch.full((len(given.source),), padded, device=given.source.device)
        before = len(steps) + 1
        decoded = refine(frozen, given.source, given.mask, [procedure.steps], lengths)
        if len(steps) - before != procedure.steps:
            raise ConfigError(f"{name}, {setting}: refinement ended after {len(steps) - before} "
                              "steps; its time would be that of fewer steps")
        return decoded[procedure.steps]

    return system(search if steps is None else refined)


def _keep_moving(model: nn.Module) -> list[int]:
    """Make each step's output differ from the last one's, so that none settles: the number of every
    second output's subwords is raised by one. Returns a list that grows by a decoding.
    """
    decode, vocabulary, steps = model.decode, len(model.embedding.weight), []

    def moving(*given):
        steps.append(len(steps))
        tokens, parity = decode(*given), len(steps) % 2
        return SimpleNamespace(argmax=lambda: (tokens.argmax() + parity) % vocabulary)

    model.decode = moving
    return steps


def never_ending(model: nn.Module) -> nn.Module:
    """A copy of a Transformer that gives EOS hardly any probability, so that a limit ends it."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.decoder.norm.bias[0] = 20.0
        model.embedding.weight[:, 0] = 0.0
        model.embedding.weight[EOS, 0] = -2.0
    return model
