"""The Transformer's parts, shared by all models: attention, feed-forward, embeddings, norms.

Layer normalisation comes before each block (the released code's order), dropout follows it.
Padding never enters: keys are masked by an additive bias, and padded queries are ignored later.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lib import attention
from lib.errors import DataError
from lib.norm import Norm

__all__ = [
    "Decoder", "Dropout", "Embedding", "Encoder", "KeysValues", "Memory", "SourceIds",
    "SourceKeysValues", "SourceMask", "WeightNormLinear", "attend", "compile_layers", "length_mask",
    "mask_bias", "masked_moments", "positions", "taken",
]

LONGEST = 1024  # positions that a model can encode
NOTHING = -1.0e30  # bias of a masked key: its weight is 0

# cuDNN's attention, torch's first choice on Hopper and Blackwell, builds a plan for every new shape
# (0.1 to 0.5 s): sentences and search steps have hundreds. The other fused forms need none.
torch.backends.cuda.enable_cudnn_sdp(False)

SourceIds = Int[Tensor, "batch source"]  # subwords with one EOS, padded
SourceMask = Bool[Tensor, "batch source"] | None  # True at real ones; None: all are
KeysValues = tuple[Tensor, Tensor]  # keys and values, each [batch, heads, length, width]


@dataclass(frozen=True)
class Memory:
    """Encoded source: `states` [batch, source, d_model] and `mask` [batch, source] or None."""

    states: Tensor
    mask: Tensor | None

    def of(self, rows: Tensor) -> "Memory":
        """The memory of some sentences, by their places or by a mask."""
        return Memory(self.states[rows], None if self.mask is None else self.mask[rows])


def mask_bias(mask: Bool[Tensor, "batch length"] | None) -> Tensor | None:
    """Additive attention bias [batch, 1, 1, length]: 0 for real keys, NOTHING for padding.

    A row without any real key (a filler of `batching.Batch`) has 0 everywhere: were all its scores
    near NOTHING, a fused kernel's backward pass would subtract them and lose every digit.
    """
    if mask is None:
        return None
    kind = mask.device.type
    dtype = (torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind)
             else torch.get_default_dtype())  # of the scores
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    hidden = ~mask & mask.any(-1, keepdim=True)
    return bias.masked_fill_(hidden, NOTHING)[:, None, None, :]


def length_mask(lengths: Int[Tensor, " rows"], width: int = 0) -> Bool[Tensor, "rows width"]:
    """True at the first `lengths` of `width` positions, by default as many as the longest has."""
    return torch.arange(width or int(lengths.max()), device=lengths.device) < lengths[:, None]


def taken(x: Float[Tensor, "rows length width"], at: Int[Tensor, "rows places"] | None,
          ) -> Float[Tensor, "rows places width"]:
    """Some positions of each row; all of them where `at` is None."""
    return x if at is None else x.gather(1, at[..., None].expand(-1, -1, x.shape[2]))


def masked_moments(x: Float[Tensor, "batch length channels"],
                   mask: Bool[Tensor, "batch length"] | None) -> tuple[Tensor, Tensor]:
    """Mean and variance [channels] over the real positions of a batch."""
    rows = x.flatten(0, 1) if mask is None else x[mask]
    return rows.mean(0), rows.var(0, unbiased=False)


def attend(query: Float[Tensor, "batch heads queries width"],
           key: Float[Tensor, "batch heads keys width"],
           value: Float[Tensor, "batch heads keys width"], bias: Tensor | None = None,
           causal: bool = False, dropout: "Dropout | None" = None) -> Tensor:
    """Scaled dot-product attention, in whichever form is faster for the shape and device.

    A fused kernel wins on a GPU and for long sequences; for sentences on a CPU its products are
    too small, and plain batched products do 1.6 times the work a CPU-second.
    """
    width = query.shape[-1]
    if query.is_cuda or query.shape[-2] * key.shape[-2] > 256 * 256:
        rate = 0.0 if dropout is None else dropout.active
        if causal and bias is not None:
            bias = bias + _causal_bias(query.shape[-2], bias)
            causal = False
        if bias is not None:
            bias = bias.to(query.dtype)
        if query.is_cuda and width % 8:  # the fused kernels take no other widths
            query, key, value = (F.pad(x, (0, -width % 8)) for x in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value, bias, rate, causal,
                                              scale=width**-0.5)[..., :width]
    scores = (query * width**-0.5) @ key.transpose(-2, -1)
    if causal:
        scores = scores + _causal_bias(query.shape[-2], scores)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    weights = scores.softmax(-1)
    if dropout is not None:
        weights = dropout(weights)
    return weights @ value


def _causal_bias(length: int, like: Tensor) -> Tensor:
    full = torch.full((length, length), -math.inf, dtype=like.dtype, device=like.device)
    return full.triu_(1)


_POOLS: dict[tuple, Tensor] = {}


class Dropout(nn.Module):
    """Dropout whose masks on a CPU are windows at random places of a pool drawn once.

    Drawing a fresh mask costs as much there as the layers. The place comes from torch's global
    generator, so that a restored generator state repeats a run exactly.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    @property
    def active(self) -> float:
        """The rate in training, 0 in evaluation."""
        return self.rate if self.training else 0.0

    def forward(self, x: Tensor) -> Tensor:
        """`x` with a share `rate` of its elements zeroed and the others scaled up, in training."""
        if not self.active:
            return x
        if x.is_cuda:
            return F.dropout(x, self.rate)
        return x * self._window(x)

    def _window(self, x: Tensor) -> Tensor:
        size = 1 << max(21, (2 * x.numel() - 1).bit_length())
        key = (self.rate, x.dtype, size)
        if key not in _POOLS:
            draws = torch.rand(size, generator=torch.Generator().manual_seed(size))
            _POOLS[key] = ((draws >= self.rate) / (1 - self.rate)).to(x.dtype)
        places = (size - x.numel()) // 64
        start = 64 * int(torch.randint(places, ()))
        return _POOLS[key][start:start + x.numel()].view(x.shape)


def positions(length: int, width: int, device=None, dtype=None) -> Float[Tensor, "length width"]:
    """Sinusoidal positional encodings (Vaswani et al. 2017, section 3.5), sines then cosines.

    Errors: DataError where `length` is beyond what the models are made for.
    """
    if length > LONGEST:
        raise DataError(f"a sentence has {length} subwords, models take {LONGEST} at most: "
                        "split it")
    dtype = dtype or torch.get_default_dtype()
    key = (length, width, str(device), dtype)
    if key not in _POSITIONS:
        with torch.inference_mode(False):  # kept, so training must be able to use it too
            half = torch.arange((width + 1) // 2, dtype=torch.float64)
            rates = torch.exp(-math.log(10_000.0) * half / max(1, len(half) - 1))
            angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
            table = torch.cat([angles.sin(), angles.cos()], -1)[:, :width]
            _POSITIONS[key] = table.to(device=device, dtype=dtype)
    return _POSITIONS[key]


_POSITIONS: dict[tuple, Tensor] = {}


class Embedding(nn.Module):
    """One matrix for source, target and output (shared embeddings), scaled by sqrt(d_model)."""

    def __init__(self, vocabulary: int, d_model: int, dropout: float):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(vocabulary, d_model) * d_model**-0.5)
        self.dropout = Dropout(dropout)

    def forward(self, ids: Int[Tensor, "batch length"],
                word_dropout: float = 0.0) -> Float[Tensor, "batch length d_model"]:
        """Embedded subwords with positions added; in training without a share of whole words."""
        d_model = self.weight.shape[1]
        x = F.embedding(ids, self.weight) * math.sqrt(d_model)
        if word_dropout:
            x = F.dropout1d(x, word_dropout, self.training)
        return self.dropout(x + positions(ids.shape[1], d_model, x.device, x.dtype))


class WeightNormLinear(nn.Module):
    """Linear layer y = g * (v / |v|) x + b (Salimans and Kingma 2016), zero until initialised."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.v = nn.Parameter(torch.randn(outputs, inputs) * 0.05)
        self.g = nn.Parameter(torch.zeros(outputs))
        self.b = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """The layer's output."""
        return F.linear(x, torch._weight_norm(self.v, self.g[:, None], 0), self.b)

    @torch.no_grad()
    def initialise(self, x: Float[Tensor, "batch length inputs"],
                   mask: Bool[Tensor, "batch length"] | None) -> None:
        """Set g and b so that the outputs at real positions have mean 0 and variance 1."""
        dtype = self.v.dtype
        mean, variance = masked_moments(x.to(dtype) @ F.normalize(self.v, dim=1).T, mask)
        self.g.copy_((variance + 1e-10).rsqrt())
        self.b.copy_(-mean * self.g)


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself; queries, keys and values in one product."""

    def __init__(self, d_model: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.qkv = _linear(d_model, 3 * d_model)
        self.out = _linear(d_model, d_model)
        self.dropout = Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch length d_model"], bias: Tensor | None = None,
                causal: bool = False) -> Float[Tensor, "batch length d_model"]:
        """All positions at once; `bias` masks keys, `causal` hides later positions."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        if attention.fits(x.device, x.shape[1], x.shape[1], qkv.shape[-1]):
            out = attention.self_attention(qkv, bias, causal, self.dropout.active)
        else:
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            out = attend(q, k, v, bias, causal, self.dropout).transpose(1, 2)
        return self.out(out.flatten(2))

    def step(self, x: Float[Tensor, "batch 1 d_model"], cache: Tensor,
             at: int) -> Float[Tensor, "batch 1 d_model"]:
        """Position `at` alone; `cache` [2, batch, heads, longest, width] holds keys and values."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        cache[0, :, :, at] = k[:, :, 0]
        cache[1, :, :, at] = v[:, :, 0]
        out = attend(q, cache[0, :, :, :at + 1], cache[1, :, :, :at + 1])
        return self.out(out.transpose(1, 2).flatten(2))


class SourceAttention(nn.Module):
    """Multi-head attention to source states whose keys and values are projected elsewhere.

    The batch of `x` may be a multiple of the source's (samples or hypotheses of one sentence lie
    together): they share keys and values, and are attended from in one product.
    """

    def __init__(self, d_model: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.query = _linear(d_model, d_model)
        self.out = _linear(d_model, d_model)
        self.dropout = Dropout(dropout)

    def forward(self, x: Float[Tensor, "samples length d_model"], source: KeysValues,
                bias: Tensor | None) -> Float[Tensor, "samples length d_model"]:
        """Attention of every position to the source sentence."""
        key, value = source
        q = self.query(x).view(key.shape[0], -1, self.heads, key.shape[-1]).transpose(1, 2)
        if attention.fits(x.device, q.shape[2], key.shape[2], q.shape[3]):
            out = attention.attention(q, key, value, bias, False, self.dropout.active)
        else:
            out = attend(q, key, value, bias, False, self.dropout).transpose(1, 2)
        return self.out(out.reshape(x.shape))


class SourceKeysValues(nn.Module):
    """Keys and values of the source for many attention layers, in one product."""

    def __init__(self, d_source: int, widths: list[int], heads: int):
        super().__init__()
        self.widths, self.heads = widths, heads
        self.weight = nn.Parameter(torch.cat([
            _xavier(torch.empty(width, d_source)) for width in widths for _ in range(2)]))

    def forward(self, states: Float[Tensor, "batch source d_source"]) -> list[KeysValues]:
        """One pair of keys and values [batch, heads, source, width / heads] a layer."""
        return self._by_layer(F.linear(states, self.weight))

    def _by_layer(self, products: Tensor) -> list[KeysValues]:
        parts = products.split([2 * width for width in self.widths], -1)
        split = [p.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4) for p in parts]
        return [p.unbind() for p in split]  # its gradient is one stack, not two sums with zeros


class FeedForward(nn.Module):
    """Two linear layers with a rectifier between."""

    def __init__(self, d_model: int, d_filter: int):
        super().__init__()
        self.inner = _linear(d_model, d_filter)
        self.outer = _linear(d_filter, d_model)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The block's output, without its residual."""
        return self.outer(F.relu(self.inner(x)))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each normalised before and added to its input."""

    compiled = "forward"

    def __init__(self, d_model: int, d_filter: int, heads: int, dropout: float):
        super().__init__()
        self.norms = nn.ModuleList(Norm(d_model) for _ in range(2))
        self.attention = SelfAttention(d_model, heads, dropout)
        self.feed_forward = FeedForward(d_model, d_filter)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Shapes [batch, length, d_model] in and out."""
        x = x + self.dropout(self.attention(self.norms[0](x), bias))
        return x + self.dropout(self.feed_forward(self.norms[1](x)))


class DecoderLayer(nn.Module):
    """Self-attention (causal or not), attention to the source, feed-forward."""

    compiled = "forward"

    def __init__(self, d_model: int, d_filter: int, heads: int, dropout: float):
        super().__init__()
        self.norms = nn.ModuleList(Norm(d_model) for _ in range(3))
        self.attention = SelfAttention(d_model, heads, dropout)
        self.source_attention = SourceAttention(d_model, heads, dropout)
        self.feed_forward = FeedForward(d_model, d_filter)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor | None, source: KeysValues,
                source_bias: Tensor | None, causal: bool = False,
                at: Tensor | None = None) -> Tensor:
        """Shapes [batch, length, d_model] in and out; out, the positions `at` alone (`taken`)."""
        x = x + self.dropout(self.attention(self.norms[0](x), bias, causal))
        return self._rest(taken(x, at), source, source_bias)

    def step(self, x: Tensor, cache: Tensor, at: int, source: KeysValues,
             source_bias: Tensor | None) -> Tensor:
        """The same for position `at` alone, [batch, 1, d_model], with cached keys and values."""
        x = x + self.attention.step(self.norms[0](x), cache, at)
        return self._rest(x, source, source_bias)

    def _rest(self, x: Tensor, source: KeysValues, source_bias: Tensor | None) -> Tensor:
        x = x + self.dropout(self.source_attention(self.norms[1](x), source, source_bias))
        return x + self.dropout(self.feed_forward(self.norms[2](x)))


class Encoder(nn.Module):
    """A stack of encoder layers with a last norm."""

    def __init__(self, layers: int, d_model: int, d_filter: int, heads: int, dropout: float):
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(d_model, d_filter, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x: Float[Tensor, "batch source d_model"], mask: SourceMask) -> Memory:
        """The encoded source."""
        bias = mask_bias(mask)
        for layer in self.layers:
            x = layer(x, bias)
        return Memory(self.norm(x), mask)


class Decoder(nn.Module):
    """A stack of decoder layers with a last norm; all of them read the source."""

    def __init__(self, layers: int, d_model: int, d_filter: int, heads: int, dropout: float):
        super().__init__()
        self.source = SourceKeysValues(d_model, [d_model] * layers, heads)
        self.layers = nn.ModuleList(
            DecoderLayer(d_model, d_filter, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x: Float[Tensor, "samples length d_model"], memory: Memory,
                mask: Bool[Tensor, "samples length"] | None = None, causal: bool = False,
                at: Int[Tensor, "samples places"] | None = None,
                ) -> Float[Tensor, "samples places d_model"]:
        """States of all positions, or of those `at` alone, which saves most of the last layer;
        `samples` may be a multiple of the memory's batch.
        """
        bias, source_bias = mask_bias(mask), mask_bias(memory.mask)
        *layers, last = zip(self.layers, self.source(memory.states), strict=True)
        for layer, source in layers:
            x = layer(x, bias, source, source_bias, causal)
        return self.norm(last[0](x, bias, last[1], source_bias, causal, at))


def compile_layers(model: nn.Module) -> None:
    """Let torch compile what a model's modules name as `compiled`; in evaluation all is as it was.

    One function a kind of module, shared by all of its instances and shapes of batch. What can't be
    compiled goes on as it is, with torch's warning.
    """
    torch._dynamo.config.recompile_limit = 64  # widths, dropout rates, masks or none
    torch._dynamo.config.suppress_errors = True
    attention.fits(next(model.parameters()).device, 1, 1, 1)  # tried before anything is traced
    shared: dict[type, Callable] = {}
    for module in model.modules():
        kind = type(module)
        if name := getattr(kind, "compiled", None):
            if kind not in shared:
                shared[kind] = _in_training(getattr(kind, name))
            setattr(module, name, MethodType(shared[kind], module))


def _in_training(plain: Callable) -> Callable:
    fast = torch.compile(plain, dynamic=True)

    def forward(self, *arguments):
        return (fast if self.training else plain)(self, *arguments)

    return forward


def _xavier(weight: Tensor) -> Tensor:
    return nn.init.xavier_uniform_(weight)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer without bias, as in the released code's attention, Xavier-initialised."""
    layer = nn.Linear(inputs, outputs, bias=False)
    _xavier(layer.weight)
    return layer
