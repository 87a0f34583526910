"""Decoding through CUDA graphs: small batches of shapes that come again, without the host.

A few sentences are too little work for a GPU: eager decoding waits for the host to launch hundreds
of small kernels a step. A CUDA graph launches all kernels of a stage at once, but its shapes are
fixed and it can't ask the host anything. So sources are padded to a multiple of `BUCKET`, batches
to a power of two (a sentence alone is not padded: masks would cost it a seventh of its kernels);
every shape has graphs of its own, captured when it first occurs, and the host is asked only between
them:

    k<steps>       one graph encodes and predicts the lengths, which the host reads; another goes
                   from the prior's mean through all refinement steps. `lib.decoding.refinement`
                   stops when an output stays; taking the remaining steps repeats it.
    greedy, beam4  one graph encodes; one makes each next few steps of `lib.decoding.search.Beams`,
                   after which the host reads whether all sentences are done.

Large batches gain nothing: the GPU is busy, and `hypotheses` lets finished sentences leave. Models
must be frozen (`lib.decoding.frozen.freeze`): their inverse 1x1 convolutions are worked out
beforehand, while a trainable flow compares its weights with the last ones, on the host.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from lib import runtime
from lib.batching import padded_length
from lib.decoding import DEFAULTS, Options, Procedure
from lib.decoding.refinement import strip
from lib.decoding.search import Beams, longest_target, source_sizes
from lib.errors import ConfigError
from lib.layers import LONGEST, SourceIds, SourceMask, length_mask
from lib.protocol import Model
from lib.subword import EOS, PAD

__all__ = ["GraphedDecoder", "can_be_graphed"]

BUCKET = 8  # source positions, with EOS: the fewer the more graphs, the more the more padding
STEPS, STEPS_ALONE = 8, 2  # of a search in one graph, even; of one sentence, that ends any time
WARM_UP = 1  # runs before a capture: tables, workspaces and kernels are then in place


def can_be_graphed(model: Model, setting: str) -> bool:
    """Whether a decoding setting of a frozen model has stages of fixed shapes."""
    procedure = Procedure.parse(setting)
    if model.decoding == "stepwise":
        return procedure.search in ("greedy", "beam")
    return model.latents and procedure.plain


class GraphedDecoder:
    """Hypotheses of a frozen model, of batches of few shapes; on a CPU by plain calls.

    They are those of `lib.decoding.hypotheses` as far as a padded product rounds as an unpadded one
    does: exactly in high precision, nearly always in bf16. Not for two threads at once.
    """

    def __init__(self, model: Model, setting: str, options: Options = DEFAULTS,
                 graphs: bool | None = None):
        """`setting`: greedy, beam<width> or k<steps>. `graphs`: by default on a GPU.

        Errors: ConfigError for another setting, a model that isn't frozen or of the other family,
        and for graphs on a CPU.
        """
        self.procedure = Procedure.parse(setting)
        self.procedure.check(model, vocabulary=options.vocabulary)
        if model.output is None or model.decoding not in ("stepwise", "parallel"):
            raise ConfigError("only a frozen Transformer or latent model can go through CUDA "
                              "graphs: give freeze(model)")
        if not can_be_graphed(model, setting):
            raise ConfigError(f"setting '{setting}' can't go through CUDA graphs: greedy, "
                              "beam<width> or k<steps>")
        self.model, self.options = model, options
        self.where = model.embedding.weight.device
        if graphs and self.where.type != "cuda":
            raise ConfigError(f"there are no CUDA graphs on {self.where}: leave graphs out")
        self.pool = self.stream = None
        if self.where.type == "cuda" and graphs is not False:
            self.pool, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(self.where)
        self.captured = 0  # graphs so far
        self._kind = _Refined if model.latents else _Searched
        self._buckets: dict[tuple[int, ...], _Refined | _Searched] = {}

    @torch.inference_mode(False)  # what is made under it could not be written on elsewhere
    @torch.no_grad()
    def __call__(self, source: SourceIds, mask: SourceMask = None,
                 length: int = 0) -> list[list[int]]:
        """The hypotheses, without EOS, of sources with one EOS.

        `length`: subwords, with EOS, that each is made to have (a latent model's is padded); 0:
        what the model decides.
        """
        rows, longest = source.shape
        sizes = source_sizes(source, mask)
        if max(sizes) <= 1:
            return [[] for _ in sizes]  # nothing but EOS
        if rows == 1:
            longest = sizes[0]
            source = source[:, :longest]
        bucket = 1 if rows == 1 else BUCKET
        width = max(longest, min(-(-longest // bucket) * bucket, LONGEST))
        shape = 1 << (rows - 1).bit_length(), width, max(length, longest_target(width))
        if shape not in self._buckets:
            self._buckets[shape] = self._kind(self, *shape)
        here = self._buckets[shape]
        here.source[:rows].copy_(F.pad(source, (0, width - longest), value=PAD))
        here.source[rows:] = here.nothing
        decoded = here.decode(sizes, length)
        return [row if size > 1 else [] for row, size in zip(decoded, sizes, strict=True)]


class _Stage:
    """A function of tensors that stay in their places: captured once and replayed, or called.

    It reads nothing on the host. Graphs of one pool share memory: one never writes on the results
    of those captured before it, and may read no others. `writes` are the tensors that the function
    changes, put back after it was warmed up.
    """

    def __init__(self, function: Callable[[], Any], decoder: GraphedDecoder,
                 writes: Sequence[Tensor] = ()):
        self.function, self.graph, self.result = function, None, None
        if decoder.pool is None:
            return
        before = [tensor.clone() for tensor in writes]
        decoder.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(decoder.stream):
            for _ in range(WARM_UP):
                function()
            for tensor, value in zip(writes, before, strict=True):
                tensor.copy_(value)
            decoder.stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with runtime.no_collection():
                graph.capture_begin(pool=decoder.pool, capture_error_mode="thread_local")
                try:
                    self.result = function()
                finally:
                    graph.capture_end()
        torch.cuda.current_stream().wait_stream(decoder.stream)
        self.graph = graph
        decoder.captured += 1

    def __call__(self) -> Any:
        """The function's result; with a graph always the same tensors, with new values."""
        if self.graph is None:
            self.result = self.function()
        else:
            self.graph.replay()
        return self.result


class _Bucket:
    """Stages for batches of one shape; rows that a batch lacks hold an empty source."""

    def __init__(self, decoder: GraphedDecoder, rows: int, width: int, longest: int):
        self.decoder, self.model, self.longest = decoder, decoder.model, longest
        self.nothing = torch.full((width,), PAD, device=decoder.where)
        self.nothing[0] = EOS
        self.source = self.nothing.repeat(rows, 1)

    @property
    def mask(self) -> Bool[Tensor, "rows width"] | None:
        """True at real subwords; None for a sentence alone."""
        return None if len(self.source) == 1 else self.source != PAD


class _Refined(_Bucket):
    """A latent model's stages."""

    def __init__(self, decoder: GraphedDecoder, rows: int, width: int, longest: int):
        super().__init__(decoder, rows, width, longest)
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=decoder.where)
        self.encode = _Stage(self._encode, decoder)
        self.refine: dict[tuple[int, bool], _Stage] = {}  # by target length, padded or not

    def decode(self, sizes: list[int], length: int) -> list[list[int]]:
        """Hypotheses of the sources, of `sizes` subwords, that the first rows hold."""
        self.encode()
        if length:
            self.lengths.fill_(padded_length(length - 1, self.model.multiple))
        lengths = self.lengths[:len(sizes)].tolist()
        longest = max(lengths)
        key = longest, min(lengths) < longest
        if key not in self.refine:
            self.refine[key] = _Stage(lambda: self._refine(*key), self.decoder)
        return strip(self.refine[key]()[:len(sizes)])

    def _encode(self):
        memory = self.model.encode(self.source, self.mask)
        self.lengths.copy_(self.model.length_predictor.predict(memory))
        return memory

    def _refine(self, length: int, padded: bool) -> Int[Tensor, "rows length"]:
        """argmax p(y|z, x) after all steps."""
        memory = self.encode.result
        real = length_mask(self.lengths, length) if padded else None
        z = self.model.prior(memory, length, real).mean
        y = self._decode(z, memory, real)
        for _ in range(self.decoder.procedure.steps):
            z = self.model.posterior(memory, y, real).mean
            y = self._decode(z, memory, real)
        return y

    def _decode(self, z: Tensor, memory, real: Tensor | None) -> Tensor:
        y = self.model.decode(z, memory, real).argmax()
        return y if real is None else y.masked_fill(~real, PAD)


class _Searched(_Bucket):
    """A Transformer's stages."""

    def __init__(self, decoder: GraphedDecoder, rows: int, width: int, longest: int):
        super().__init__(decoder, rows, width, longest)
        self.at_once = STEPS_ALONE if rows == 1 else STEPS
        self.longest = -(-longest // self.at_once) * self.at_once
        self.limits = torch.ones(rows, dtype=torch.int64, device=decoder.where)
        self.encode = _Stage(self._encode, decoder)
        self.steps: list[_Stage] = []  # by the first of them

    def decode(self, sizes: list[int], length: int) -> list[list[int]]:
        """Hypotheses of the sources that the first rows hold; each must end at its own limit."""
        limits = [length or longest_target(size) for size in sizes]
        self.limits.copy_(torch.tensor(limits + [1] * (len(self.limits) - len(sizes))))
        beams = self.encode()
        for number in range(self.longest // self.at_once):
            if number == len(self.steps):
                first = number * self.at_once
                self.steps.append(_Stage(lambda first=first: self._steps(first), self.decoder,
                                         [*self._places().values(), beams.state.cache]))
            if bool(self.steps[number]()):
                break
        return beams.found()[0][:len(sizes)]

    def _encode(self) -> Beams:
        procedure, penalty = self.decoder.procedure, self.decoder.options.length_penalty
        memory = self.model.encode(self.source, self.mask)
        return Beams(self.model, memory, self.limits, procedure.width,
                     penalty if procedure.search == "beam" else 0.0, self.longest)

    def _places(self) -> dict[str, Tensor]:
        """The tensors that carry a search from one stage to the next."""
        beams = self.encode.result
        return {name: getattr(beams, name) for name in ("last", "done", *beams.carried)}

    def _steps(self, first: int) -> Bool[Tensor, ""]:
        """The next steps, whose last values go to the places of the first; whether all is done.

        Their number is even, so that keys and values end in the memory that they started in.
        """
        beams, places = self.encode.result, self._places()
        beams.state.at = first
        for at in range(first, first + self.at_once):
            beams.step(at)
            beams.move()
        for name, place in places.items():
            if getattr(beams, name) is not place:
                setattr(beams, name, place.copy_(getattr(beams, name)))
        return beams.done.all()
