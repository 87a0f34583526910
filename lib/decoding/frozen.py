"""Frozen models: the same networks with weights made ready once, for decoding; not trainable.

A frozen model answers everything that search asks of a model. What makes it faster on a CPU:
weights are cast once and laid out for the processor's own products, weight normalisation is worked
out, an actnorm and the inverse 1x1 convolution before it are one product, rectifiers are part of
theirs, and log-determinants that sampling doesn't need are left out. The residual stream, norms,
probabilities and the state of a flow stay in fp32, as they do under autocast.
"""

import copy
import warnings

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lib import runtime
from lib.affine import put_together, take_apart
from lib.decoding import fused
from lib.errors import ConfigError
from lib.flows import ActNorm, Coupling, Glow, InvertibleLinear, unsqueeze
from lib.layers import (
    DecoderLayer,
    EncoderLayer,
    KeysValues,
    SourceKeysValues,
    WeightNormLinear,
    positions,
    taken,
)
from lib.priors import FlowPrior
from lib.protocol import Model

__all__ = ["WEIGHTS", "Product", "freeze"]

WEIGHTS = ("auto", "fp32", "bf16", "int8")
FUSED_BATCH = 8  # sentences up to which fused bf16 attention beats plain products on a CPU
ROWS = 16  # rows of the product that packed weights are laid out for: a sentence


def freeze(model: Model, weights: str = "auto") -> Model:
    """A copy of a model for decoding only; the model itself stays as it is.

    Length predictors and a graph's transitions stay in the model's own precision.

    `weights`: auto (bf16 where the hardware multiplies it, else fp32), fp32 (the precision that the
    model has), bf16, or int8 (one scale an output channel, activations rounded to int8 as they
    come; CPU only).

    Errors: ConfigError for other weights, or int8 on a GPU.
    """
    where = model.device
    if weights not in WEIGHTS:
        raise ConfigError(f"unknown weights '{weights}': {', '.join(WEIGHTS)}")
    if weights == "int8" and where.type != "cpu":
        raise ConfigError("int8 weights run on a CPU only: use bf16 on a GPU")
    if weights == "auto":
        weights = "bf16" if runtime.has_fast_bf16(where) else "fp32"
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    with torch.no_grad():
        for stack in (frozen.encoder, frozen.decoder):
            _freeze_stack(stack, weights)
        if frozen.latents:
            _freeze_latents(frozen, weights)
        frozen.output = Product(frozen.embedding.weight, None, weights)
    return frozen.eval()


class Product(nn.Module):
    """y = x W^T + b with weights in the layout that is fastest; `relu` is applied where asked."""

    def __init__(self, weight: Float[Tensor, "outputs inputs"], bias: Tensor | None,
                 weights: str, relu: bool = False):
        super().__init__()
        self.relu = relu
        self.dtype = torch.bfloat16 if weights == "bf16" else weight.dtype
        self.register_buffer("bias", None if bias is None else bias.detach().to(self.dtype))
        weight = weight.detach().contiguous()
        if weights == "int8":
            self.kind, self.packed = "int8", _quantised(weight, bias)
        elif weight.is_cpu and weights == "bf16" and torch.backends.mkldnn.is_available():
            pack = torch.ops.mkldnn._reorder_linear_weight
            self.kind, self.packed = "packed", pack(weight.to(self.dtype), ROWS)
        else:
            self.kind = "plain"
            self.register_buffer("weight", weight.to(self.dtype))

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """The product, in the weights' precision (int8: fp32)."""
        if self.kind == "packed":
            return torch.ops.mkldnn._linear_pointwise(
                x.to(self.dtype), self.packed, self.bias, "relu" if self.relu else "none", [], "")
        if self.kind == "int8":
            form = torch.ops.quantized
            product = form.linear_relu_dynamic if self.relu else form.linear_dynamic
            return product(x.float(), self.packed).to(x.dtype)
        y = F.linear(x.to(self.dtype), self.weight, self.bias)
        return F.relu(y) if self.relu else y


def _quantised(weight: Tensor, bias: Tensor | None):
    """Weights in 8 bits, a scale an output, packed for torch's dynamically quantised product."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantised tensor types are to move to another package
        scale = (weight.abs().amax(1) / 127).clamp(min=1e-8).double()
        zero = torch.zeros(len(weight), dtype=torch.long)
        rounded = torch.quantize_per_channel(weight.float(), scale, zero, 0, torch.qint8)
        return torch.ops.quantized.linear_prepack(rounded, None if bias is None else bias.float())


class FrozenLayer(nn.Module):
    """An encoder or decoder layer; `forward` and `step` are those of `lib.layers`."""

    def __init__(self, layer: EncoderLayer | DecoderLayer, weights: str):
        super().__init__()
        self.norms, self.heads = layer.norms, layer.attention.heads
        d_model = layer.norms[0].normalized_shape[0]
        scale = (d_model // self.heads)**-0.5  # of the queries, part of their weights
        qkv = layer.attention.qkv.weight.clone()
        qkv[:d_model] *= scale
        self.qkv = Product(qkv, None, weights)
        self.out = Product(layer.attention.out.weight, None, weights)
        if isinstance(layer, DecoderLayer):
            self.query = Product(layer.source_attention.query.weight * scale, None, weights)
            self.source_out = Product(layer.source_attention.out.weight, None, weights)
        inner, outer = layer.feed_forward.inner, layer.feed_forward.outer
        self.inner = Product(inner.weight, inner.bias, weights, relu=True)
        self.outer = Product(outer.weight, outer.bias, weights)

    def forward(self, x: Tensor, bias: Tensor | None, source: KeysValues | None = None,
                source_bias: Tensor | None = None, causal: bool = False,
                at: Tensor | None = None) -> Tensor:
        """Shapes [batch, length, d_model] in and out, fp32; out, the positions `at` alone."""
        x, out = self.parts(x, bias, source, source_bias, causal, at)
        return x + out

    def parts(self, x: Tensor, bias: Tensor | None, source: KeysValues | None = None,
              source_bias: Tensor | None = None, causal: bool = False,
              at: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Two tensors whose sum is the layer's output, for a norm that adds them up."""
        qkv = self.qkv(self._norm(0, x)[1]).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if causal:
            hidden = torch.full((x.shape[1],) * 2, -torch.inf, device=x.device).triu_(1)
            bias = hidden if bias is None else bias + hidden
        attended = taken(_attend(q, k, v, bias).transpose(1, 2).flatten(2), at)
        return self._rest(taken(x, at), self.out(attended), source, source_bias)

    def step(self, x: Tensor, cache: Tensor, at: int, source: KeysValues,
             source_bias: Tensor | None) -> Tensor:
        """Position `at` alone, [batch, 1, d_model]."""
        qkv = self.qkv(self._norm(0, x)[1]).view(len(x), 3, self.heads, 1, -1).to(cache.dtype)
        cache[:, :, :, at] = qkv[:, 1:, :, 0].transpose(0, 1)
        key, value = cache[:, :, :, :at + 1].unbind(0)
        attended = F.scaled_dot_product_attention(qkv[:, 0], key, value, scale=1.0)
        x, out = self._rest(x, self.out(attended.view(x.shape)), source, source_bias)
        return x + out

    def _rest(self, x: Tensor, out: Tensor, source: KeysValues | None,
              source_bias: Tensor | None) -> tuple[Tensor, Tensor]:
        if source is not None:
            key, value = source
            x, y = self._norm(1, x, out)
            q = self.query(y).view(key.shape[0], -1, self.heads, key.shape[-1])
            attended = _attend(q.transpose(1, 2), key, value, source_bias)
            out = self.source_out(attended.transpose(1, 2).reshape(x.shape))
        x, y = self._norm(-1, x, out)
        return x, self.outer(self.inner(y))

    def _norm(self, which: int, x: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return _add_norm(x, out, self.norms[which], self.qkv.dtype)


def _add_norm(x: Tensor, out: Tensor | None, norm: nn.LayerNorm,
              dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x + out, and its norm: where there are kernels one of them, in the products' `dtype`."""
    if fused.available(x):
        return fused.add_norm(x, out, norm, dtype)
    x = x if out is None else x + out
    return x, norm(x)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Attention with scaled queries, in the form that is fastest for the shape."""
    if bias is not None:
        bias = bias.to(q.dtype)
    if q.is_cuda or (q.dtype == torch.bfloat16 and len(q) <= FUSED_BATCH):
        return F.scaled_dot_product_attention(q, k, v, bias, scale=1.0)
    scores = q @ k.transpose(-2, -1)
    return (scores if bias is None else scores + bias).softmax(-1) @ v


class FrozenKeysValues(SourceKeysValues):
    """Keys and values of the source for many layers."""

    def __init__(self, source: SourceKeysValues, weights: str):
        nn.Module.__init__(self)
        self.widths, self.heads = source.widths, source.heads
        self.product = Product(source.weight, None, weights)

    def forward(self, states: Float[Tensor, "batch source d_source"]) -> list[KeysValues]:
        """One pair of keys and values [batch, heads, source, width / heads] a layer."""
        return self._by_layer(self.product(states))


def _freeze_stack(stack: nn.Module, weights: str) -> None:
    """Freeze the layers of an encoder or decoder."""
    stack.layers = nn.ModuleList(FrozenLayer(layer, weights) for layer in stack.layers)
    if hasattr(stack, "source"):
        stack.source = FrozenKeysValues(stack.source, weights)


def _freeze_latents(model: Model, weights: str) -> None:
    """Freeze the posterior, the prior, and how z enters the decoder."""
    prior = model.prior
    parts = [(model.posterior_decoder, model.posterior_head)]
    if isinstance(prior, FlowPrior):
        prior.glow = FrozenGlow(prior.glow, weights)
    else:
        parts.append((prior.decoder, prior.head))
    for decoder, head in parts:
        _freeze_stack(decoder, weights)
        head.out = _normalised(head.out, weights)
    model.latent = Product(model.latent.weight, model.latent.bias, weights)


def _normalised(layer: WeightNormLinear, weights: str) -> Product:
    return Product(layer.g[:, None] * F.normalize(layer.v, dim=1), layer.b, weights)


class FrozenGlow(Glow):
    """A flow whose sampling direction is made of few products; it gives no log-determinant.

    The density direction is the flow's own, with the couplings' frozen networks.
    """

    def __init__(self, glow: Glow, weights: str):
        nn.Module.__init__(self)
        self.levels = glow.levels
        self.source = FrozenKeysValues(glow.source, weights)
        for coupling in glow.couplings():
            coupling.layer = FrozenLayer(coupling.layer, weights)
            coupling.out = _normalised(coupling.out, weights)
        self.moves = nn.ModuleList(nn.ModuleList(_moves(list(level))) for level in glow.levels)

    def inverse(self, noise: list[Tensor], conditions) -> tuple[Tensor, Tensor]:
        """The latent variable that the noise stands for; log_abs_det is NaN: not worked out."""
        z = noise[-1]
        for level in reversed(range(len(self.levels))):
            given = [c for c in reversed(conditions[level]) if c.source is not None]
            couplings = iter(given)
            for move in self.moves[level]:
                z = move(z, next(couplings)) if isinstance(move, Uncouple) else move(z)
            if level:
                z = torch.cat([unsqueeze(z), noise[level - 1]], -1)
        return z, z.new_full((len(z),), torch.nan)


class Uncouple(nn.Module):
    """The sampling direction of a coupling."""

    def __init__(self, coupling: Coupling):
        super().__init__()
        self.split, self.width = coupling.split, coupling.width
        self.layer, self.norm, self.out = coupling.layer, coupling.norm, coupling.out

    def forward(self, eps: Tensor, condition) -> Tensor:
        """z with the half that the other half moves put back."""
        kept, moved = take_apart(eps, self.split)
        bias = condition.bias
        if self.split == "t" and bias is not None:
            bias = bias[..., ::2]
        x = kept + positions(kept.shape[1], self.width, kept.device, kept.dtype)
        parts = self.layer.parts(x, bias, condition.source, condition.source_bias)
        out = self.out(_add_norm(*parts, self.norm, self.out.dtype)[1])
        if eps.dtype == torch.float32 and fused.available(eps):
            return fused.affine_inverse(eps, out, self.split)
        shift, raw = out.to(kept.dtype).chunk(2, -1)
        # 1 / sigmoid(raw + 2) = 1 + exp(-raw - 2)
        moved = torch.addcmul(moved, moved, (-2.0 - raw).exp_())
        return put_together(kept, moved - shift, self.split)


class Affine(nn.Module):
    """z = eps W - b: the sampling direction of a 1x1 convolution and the actnorm before it.

    Before a time split there is an actnorm alone, and W is its diagonal.
    """

    def __init__(self, norm: ActNorm, linear: InvertibleLinear | None):
        super().__init__()
        scale = (-norm.log_scale).exp()
        self.dense = linear is not None
        weight = linear.inverse_matrix() * scale if self.dense else scale
        self.register_buffer("weight", weight.T.contiguous() if self.dense else weight)
        self.register_buffer("shift", -norm.b)

    def forward(self, eps: Float[Tensor, "batch length channels"]) -> Tensor:
        """The layers' input from their output, in fp32."""
        if self.dense:
            return F.linear(eps, self.weight, self.shift)
        return torch.addcmul(self.shift, eps, self.weight)


def _moves(layers: list[nn.Module]) -> list[nn.Module]:
    """The sampling direction of one level's layers, in its own order."""
    moves, linear = [], None
    for layer in reversed(layers):
        if isinstance(layer, Coupling):
            moves.append(Uncouple(layer))
        elif isinstance(layer, InvertibleLinear):
            linear = layer
        else:
            moves.append(Affine(layer, linear))
            linear = None
    return moves
