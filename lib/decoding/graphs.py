"""Decoding of one sentence at a time through CUDA graphs: what the GPU does without the host.

A sentence alone is too little work for a GPU: eager decoding waits for the host to launch hundreds
of small kernels. A CUDA graph launches all kernels of a stage at once, but its shapes are fixed and
it can't ask the host anything. So sources are padded to a multiple of `BUCKET`, every shape has
graphs of its own, captured when it first occurs, and the host is asked only between them:

    k<steps>  one graph encodes and predicts the length, which the host reads; another goes from the
              prior's mean through all refinement steps. `lib.decoding.refinement` stops when an
              output stays; taking the remaining steps repeats it, so the hypothesis is the same.
    greedy    one graph encodes, and one a target position makes the next subword, which the host
              reads to see whether it is EOS; keys and values lie in a cache of fixed size.

Beam search has no graphs: its beams change places and finish at steps that the host must know.
Models must be frozen (`lib.decoding.frozen.freeze`): their inverse 1x1 convolutions are worked
out beforehand, while a trainable flow compares its weights with the last ones, on the host.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from lib.decoding import Procedure
from lib.decoding.frozen import FrozenLatentModel, FrozenTransformer
from lib.decoding.refinement import strip
from lib.decoding.search import longest_target
from lib.errors import ConfigError
from lib.layers import LONGEST
from lib.subword import BOS, EOS, PAD

__all__ = ["GraphedDecoder"]

BUCKET = 8  # source positions, with EOS: the fewer the more graphs, the more the more padding
WARM_UP = 2  # runs before a capture: tables, workspaces and kernels are then in place


class GraphedDecoder:
    """Hypotheses of a frozen model, one sentence at a time; on a CPU by plain calls.

    They are those of `lib.decoding.hypotheses` as far as a padded product rounds as an unpadded one
    does: exactly in high precision, nearly always in bf16. Not for two threads at once.
    """

    def __init__(self, model: nn.Module, setting: str, graphs: bool | None = None,
                 bucket: int = BUCKET):
        """`setting`: greedy or k<steps>. `graphs`: by default where the model is on a GPU.

        Errors: ConfigError for another setting, a model that isn't frozen or of the other family,
        and for graphs on a CPU.
        """
        procedure = Procedure.parse(setting)
        if str(procedure) not in ("greedy", f"k{procedure.steps}"):
            raise ConfigError(f"setting '{setting}' can't go through CUDA graphs: greedy or "
                              "k<steps>")
        procedure.check(model)
        if not isinstance(model, FrozenTransformer | FrozenLatentModel):
            raise ConfigError("only a frozen model can go through CUDA graphs: give freeze(model)")
        self.model, self.steps, self.bucket = model, procedure.steps, bucket
        self.where = model.embedding.weight.device
        on_gpu = self.where.type == "cuda"
        if graphs and not on_gpu:
            raise ConfigError(f"there are no CUDA graphs on {self.where}: leave graphs out")
        self._pool = torch.cuda.graph_pool_handle() if on_gpu and graphs is not False else None
        self._kind = _Refined if model.latents else _Greedy
        self._buckets: dict[int, _Refined | _Greedy] = {}

    @torch.no_grad()  # not inference mode: tables made under it could never be trained with
    def __call__(self, source: Int[Tensor, "1 source"]) -> list[int]:
        """The hypothesis, without EOS, of a source with one EOS and no padding."""
        length = source.shape[1]
        if length == 1:
            return []  # nothing but EOS
        width = max(length, min(-(-length // self.bucket) * self.bucket, LONGEST))
        if width not in self._buckets:
            self._buckets[width] = self._kind(self, width)
        here = self._buckets[width]
        here.source.copy_(F.pad(source, (0, width - length), value=PAD))
        return here.decode(length)

    @property
    def captured(self) -> int:
        """How many graphs there are so far."""
        return sum(stage.graph is not None for bucket in self._buckets.values()
                   for stage in bucket.stages)

    def _stage(self, function: Callable[[], Any]) -> "_Stage":
        return _Stage(function, self._pool)


class _Stage:
    """A function of tensors that stay in their places: captured once and replayed, or called.

    It reads nothing on the host, and twice in a row it gives the same. Graphs of one pool share
    memory: one never writes on the results of those captured before it, and may read no others.
    """

    def __init__(self, function: Callable[[], Any], pool):
        self.function, self.graph, self.result = function, None, None
        if pool is None:
            return
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                function()
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            self.result = function()

    def __call__(self) -> Any:
        """The function's result; with a graph always the same tensors, with new values."""
        if self.graph is None:
            self.result = self.function()
        else:
            self.graph.replay()
        return self.result


class _Refined:
    """A latent model's stages for sources of one width."""

    def __init__(self, decoder: GraphedDecoder, width: int):
        self.decoder, self.model = decoder, decoder.model
        self.source = torch.full((1, width), EOS, device=decoder.where)
        self.encode = decoder._stage(self._encode)
        self.refine: dict[int, _Stage] = {}  # by target length

    @property
    def stages(self) -> list[_Stage]:
        """All of them so far."""
        return [self.encode, *self.refine.values()]

    def decode(self, length: int) -> list[int]:
        """The hypothesis; the source's own `length` shows in its padding."""
        target = int(self.encode()[1])
        if target not in self.refine:
            self.refine[target] = self.decoder._stage(lambda: self._refine(target))
        return strip(self.refine[target]())[0]

    def _encode(self):
        memory = self.model.encode(self.source, self.source != PAD)
        return memory, self.model.length_predictor.predict(memory)

    def _refine(self, length: int) -> Int[Tensor, "1 length"]:
        """argmax p(y|z, x) after all steps; no target position is padding."""
        memory = self.encode.result[0]
        z = self.model.prior(memory, length, None).mean
        y = self.model.decode(z, memory, None).argmax()
        for _ in range(self.decoder.steps):
            z = self.model.posterior(memory, y, None).mean
            y = self.model.decode(z, memory, None).argmax()
        return y


class _Greedy:
    """A Transformer's stages for sources of one width."""

    def __init__(self, decoder: GraphedDecoder, width: int):
        self.decoder, self.model = decoder, decoder.model
        self.longest = longest_target(width)
        self.first = torch.full((1,), BOS, device=decoder.where)
        self.source = torch.full((1, width), EOS, device=decoder.where)
        self.encode = decoder._stage(self._encode)
        self.step: list[_Stage] = []  # by target position

    @property
    def stages(self) -> list[_Stage]:
        """All of them so far."""
        return [self.encode, *self.step]

    def decode(self, length: int) -> list[int]:
        """The hypothesis; at the limit of a source of `length` subwords it must end."""
        self.encode()
        found: list[int] = []
        for at in range(longest_target(length) - 1):
            if at == len(self.step):
                self.step.append(self.decoder._stage(lambda at=at: self._step(at)))
            token = int(self.step[at]())
            if token == EOS:
                break
            found.append(token)
        return found

    def _encode(self):
        memory = self.model.encode(self.source, self.source != PAD)
        return self.model.start(memory, 1, self.longest)

    def _step(self, at: int) -> Int[Tensor, "1"]:
        """The most probable subword at a position, from the one that the step before has made."""
        state = self.encode.result
        state.at = at
        log_probs = self.model.step(state, self.step[at - 1].result if at else self.first)
        for special in (PAD, BOS):  # one by one: a list of them would come from the host
            log_probs[:, special].fill_(-math.inf)
        return log_probs.argmax(-1)
