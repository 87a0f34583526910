"""Glow for sequences: the invertible layers of the flow prior, conditioned on the source.

`forward(z, ...) -> (eps, log_abs_det)` is the density direction, `inverse` the sampling one; every
log_abs_det has shape [batch], in nats, and counts real positions only. Both directions cost the
same: a coupling computes shift and scale from the half that it leaves alone.
Source: Kingma and Dhariwal (2018); Ma et al. (2019), FlowSeq; Lee et al. (2020), 2.3 and 4.3.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lib.affine import affine, put_together, split_off, take_apart
from lib.layers import (
    DecoderLayer,
    KeysValues,
    SourceKeysValues,
    WeightNormLinear,
    mask_bias,
    masked_moments,
    positions,
)
from lib.norm import Norm

__all__ = ["ActNorm", "Condition", "Coupling", "Glow", "InvertibleLinear", "squeeze", "unsqueeze"]

HEAD = 32  # channels of one head of the invertible 1x1 convolution


@dataclass(frozen=True)
class Condition:
    """What a coupling may look at besides its own half: source keys and values, and the masks."""

    source: KeysValues | None
    source_bias: Tensor | None
    mask: Tensor | None  # [batch, length] of this level, True = real, None = all real
    bias: Tensor | None  # the same as an additive attention bias


class ActNorm(nn.Module):
    """eps = (z + b) * exp(log_scale), a channel at a time (Kingma and Dhariwal 2018, 3.1)."""

    def __init__(self, channels: int):
        super().__init__()
        self.b = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))

    @torch.no_grad()
    def initialise(self, z: Float[Tensor, "batch length channels"],
                   mask: Bool[Tensor, "batch length"] | None) -> None:
        """Set b and log_scale so that real positions come out with mean 0 and variance 1."""
        mean, variance = masked_moments(z, mask)
        self.b.copy_(-mean)
        self.log_scale.copy_(-0.5 * torch.log(variance + 1e-6))

    def forward(self, z: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """Density direction."""
        eps = (z + self.b) * self.log_scale.exp()
        return eps, self.log_scale.sum() * _lengths(z, condition.mask)

    def inverse(self, eps: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """Sampling direction."""
        z = eps * (-self.log_scale).exp() - self.b
        return z, -self.log_scale.sum() * _lengths(eps, condition.mask)


class InvertibleLinear(nn.Module):
    """Multi-head invertible 1x1 convolution, W = P L U in every head of 32 channels.

    P is a fixed permutation, L lower triangular with unit diagonal, U upper triangular with the
    diagonal sign(s) exp(log_s), so log|det W| = sum(log_s). Before a split into halves the heads
    interleave, before a split into alternate channels they are contiguous, as in the released code.
    """

    def __init__(self, channels: int, interleaved: bool):
        super().__init__()
        self.interleaved = interleaved
        heads = channels // HEAD
        rotation = torch.linalg.qr(torch.randn(heads, HEAD, HEAD, dtype=torch.float64))[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        s = upper.diagonal(dim1=-2, dim2=-1)
        dtype = torch.get_default_dtype()
        self.register_buffer("permutation", permutation.to(dtype))
        self.register_buffer("sign", s.sign().to(dtype))
        self.lower = nn.Parameter(lower.tril(-1).to(dtype))
        self.upper = nn.Parameter(upper.triu(1).to(dtype))
        self.log_s = nn.Parameter(s.abs().log().to(dtype))
        self._kept: tuple = (None, None)

    def matrix(self) -> Float[Tensor, "channels channels"]:
        """The whole W, so that eps = z W."""
        return _dense(_heads([self]), self.interleaved)[0]

    def inverse_matrix(self) -> Float[Tensor, "channels channels"]:
        """W^-1, inverted once per set of weights (without gradients).

        The weights are compared by value: fused optimisers don't raise a tensor's version.
        """
        heads = _heads([self])
        if torch.is_grad_enabled():
            return _dense(torch.linalg.inv(heads), self.interleaved)[0]
        kept = self._kept[0]
        if (kept is None or (kept.device, kept.dtype) != (heads.device, heads.dtype)
                or not torch.equal(kept, heads)):
            self._kept = (heads, _dense(torch.linalg.inv(heads), self.interleaved)[0])
        return self._kept[1]

    def forward(self, z: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """Density direction."""
        with torch.autocast(z.device.type, enabled=False):
            return z @ self.matrix(), self.log_s.sum() * _lengths(z, condition.mask)

    def inverse(self, eps: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """Sampling direction."""
        with torch.autocast(eps.device.type, enabled=False):
            z = eps @ self.inverse_matrix()
        return z, -self.log_s.sum() * _lengths(eps, condition.mask)


def _heads(layers: list[InvertibleLinear]) -> Float[Tensor, "layers heads 32 32"]:
    """W of every head of several layers, in three batched products."""
    def all_of(name: str) -> Tensor:
        return torch.stack([getattr(layer, name) for layer in layers])

    lower, upper = all_of("lower").tril(-1), all_of("upper").triu(1)
    eye = torch.eye(HEAD, dtype=lower.dtype, device=lower.device)
    diagonal = torch.diag_embed(all_of("sign") * all_of("log_s").exp())
    return all_of("permutation") @ (lower + eye) @ (upper + diagonal)


def _dense(heads: Float[Tensor, "layers heads 32 32"],
           interleaved: bool) -> Float[Tensor, "layers channels channels"]:
    """All heads of a layer as one matrix."""
    layers, count = heads.shape[:2]
    eye = torch.eye(count, dtype=heads.dtype, device=heads.device)
    if interleaved:  # [layer, in, head, out, head]
        full = heads.permute(0, 2, 1, 3)[..., None] * eye[:, None, :]
    else:  # [layer, head, in, head, out]
        full = heads[:, :, :, None] * eye[:, None, :, None]
    return full.reshape(layers, HEAD * count, HEAD * count)


class Coupling(nn.Module):
    """Affine coupling (Lee et al. 2020, equation 4): eps_a = z_a, eps_b = (z_b + shift(z_a)) *
    scale(z_a), with scale = sigmoid(raw + 2); computed in `lib.affine`.

    Shift and raw scale come from one Transformer decoder layer as wide as z_a that reads the
    source, and a weight-normalised linear layer that starts at zero. `split` is c (halves of the
    channels), a (alternate channels) or t (even and odd times).
    """

    compiled = "_states"

    def __init__(self, channels: int, split: str, heads: int, d_filter: int):
        super().__init__()
        self.split = split
        self.width = channels if split == "t" else channels // 2
        self.layer = DecoderLayer(self.width, d_filter, heads, dropout=0.0)
        self.norm = Norm(self.width)
        self.out = WeightNormLinear(self.width, 2 * self.width)

    def _network(self, x: Tensor, condition: Condition) -> Tensor:
        """Shift and raw scale side by side, from the half that stays with positions added."""
        bias = condition.bias
        if self.split == "t" and bias is not None:
            bias = bias[..., ::2]
        return self._states(x, bias, condition.source, condition.source_bias)

    def _states(self, x: Tensor, bias: Tensor | None, source: KeysValues,
                source_bias: Tensor | None) -> Tensor:
        return self.out(self.norm(self.layer(x, bias, source, source_bias)))

    def _positions(self, z: Tensor) -> Tensor:
        rows = z.shape[1] // 2 if self.split == "t" else z.shape[1]
        return positions(rows, self.width, z.device, z.dtype)

    def _moved_mask(self, condition: Condition) -> Tensor | None:
        """The mask of the positions that are moved."""
        mask = condition.mask
        return mask if mask is None or self.split != "t" else mask[:, ::2]

    def forward(self, z: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """Density direction."""
        x, z = split_off(z, self.split, self._positions(z))
        out = self._network(x, condition)
        return affine(z, out, self._moved_mask(condition), self.split)

    def inverse(self, eps: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """Sampling direction."""
        kept, moved = take_apart(eps, self.split)
        out = self._network(kept + self._positions(eps), condition).to(eps.dtype)
        shift, raw = out.chunk(2, -1)
        log_scale = F.logsigmoid(raw + 2.0)
        z = put_together(kept, moved * (-log_scale).exp() - shift, self.split)
        mask = self._moved_mask(condition)
        if mask is not None:
            log_scale = log_scale * mask[..., None]
        return z, -log_scale.sum((1, 2))


class Glow(nn.Module):
    """Three levels of flow steps; between them half of the channels leave, the rest is squeezed.

    Level l works at 1/2^l of the length with the same number of channels. One step is, for each
    letter of the level's plan: actnorm, invertible 1x1 convolution (not before t), coupling. Before
    channels leave, one more coupling acts on them. Lengths must be multiples of 2^(levels - 1).
    """

    def __init__(self, channels: int, d_source: int, steps: tuple[int, ...],
                 plans: tuple[str, ...], heads: int, d_filter: int):
        super().__init__()
        self.levels = nn.ModuleList()
        for level, (count, plan) in enumerate(zip(steps, plans, strict=True)):
            layers = []
            for split in plan * count:
                layers.append(ActNorm(channels))
                if split != "t":
                    layers.append(InvertibleLinear(channels, interleaved=split == "c"))
                layers.append(Coupling(channels, split, heads, d_filter))
            if level < len(steps) - 1:
                layers.append(Coupling(channels, "c", heads, d_filter))
            self.levels.append(nn.ModuleList(layers))
        widths = [c.width for c in self.couplings()]
        self.source = SourceKeysValues(d_source, widths, heads)

    def couplings(self) -> list[Coupling]:
        """All couplings in the order of the density direction."""
        return [m for level in self.levels for m in level if isinstance(m, Coupling)]

    def conditions(self, sources: list[KeysValues], source_mask: Tensor | None,
                   mask: Bool[Tensor, "batch length"] | None) -> list[list[Condition]]:
        """For every layer of every level what it may look at.

        `sources` is `self.source(states)`, computed once for all samples of a sentence.
        """
        sources = iter(sources)
        source_bias = mask_bias(source_mask)
        result = []
        for level, layers in enumerate(self.levels):
            here = mask if mask is None else mask[:, ::2**level]
            bias = mask_bias(here)
            result.append([Condition(next(sources) if isinstance(layer, Coupling) else None,
                                     source_bias, here, bias) for layer in layers])
        return result

    def forward(self, z: Float[Tensor, "batch length channels"], conditions,
                initialise: bool = False) -> tuple[list[Tensor], Float[Tensor, " batch"]]:
        """Base noise of each level, [batch, length / 2^l, channels / 2] (last: all channels).

        With `initialise` every actnorm is first set from what reaches it. Otherwise an actnorm and
        the 1x1 convolution after it are one product.
        """
        noise, total = [], z.new_zeros(z.shape[0])
        products = None if initialise else self._products()
        for level, (layers, given) in enumerate(zip(self.levels, conditions, strict=True)):
            if level:
                z, leaving = z.chunk(2, -1)
                noise.append(leaving)
                z = squeeze(z)
            if products is None:
                z, log_abs_det = self._initialised(z, layers, given)
            else:
                z, log_abs_det = self._moved(z, layers, given, products)
            total = total + log_abs_det
        return [*noise, z], total

    def _initialised(self, z: Tensor, layers, conditions) -> tuple[Tensor, Tensor]:
        """A level's layers one by one, each actnorm set from what reaches it."""
        total = z.new_zeros(z.shape[0])
        for layer, condition in zip(layers, conditions, strict=True):
            if isinstance(layer, ActNorm):
                layer.initialise(z, condition.mask)
            z, log_abs_det = layer(z, condition)
            total = total + log_abs_det
        return z, total

    def _moved(self, z: Tensor, layers, conditions, products: dict) -> tuple[Tensor, Tensor]:
        """A level's layers, actnorms and 1x1 convolutions as products that are ready."""
        total, linear = z.new_zeros(z.shape[0]), []
        for layer, condition in zip(layers, conditions, strict=True):
            if isinstance(layer, Coupling):
                z, log_abs_det = layer(z, condition)
                total = total + log_abs_det
            elif layer in products:
                weight, shift = products[layer]
                with torch.autocast(z.device.type, enabled=False):
                    z = (F.linear(z, weight.T, shift) if weight.dim() == 2
                         else torch.addcmul(shift, z, weight))
            if not isinstance(layer, Coupling):
                linear.append(layer.log_scale if isinstance(layer, ActNorm) else
                              layer.log_s.flatten())
        return z, total + torch.cat(linear).sum() * _lengths(z, conditions[0].mask)

    def _products(self) -> dict[ActNorm, tuple[Tensor, Tensor]]:
        """Weight and shift of each actnorm with the 1x1 convolution after it, all made together.

        ((z + b) s) W = z (s W) + (b s) W; without a convolution the weight is s, a vector.
        """
        followed = [(layer, after) for level in self.levels for layer, after in pairwise(level)
                    if isinstance(layer, ActNorm)]
        norms = [norm for norm, _ in followed]
        scale = torch.stack([norm.log_scale for norm in norms]).exp()
        shift = torch.stack([norm.b for norm in norms]) * scale
        products = dict(zip(norms, zip(scale, shift, strict=True), strict=True))
        for interleaved in (False, True):
            here = [place for place, (_, after) in enumerate(followed)
                    if isinstance(after, InvertibleLinear) and after.interleaved == interleaved]
            if not here:
                continue
            with torch.autocast(scale.device.type, enabled=False):
                dense = _dense(_heads([followed[place][1] for place in here]), interleaved)
                weights = torch.stack([scale[place] for place in here])[..., None] * dense
                shifts = torch.stack([shift[place] for place in here])[:, None] @ dense
            products |= zip([norms[place] for place in here],
                            zip(weights, shifts[:, 0], strict=True), strict=True)
        return products

    def inverse(self, noise: list[Tensor],
                conditions) -> tuple[Float[Tensor, "batch length channels"], Tensor]:
        """The latent variable that the noise of all levels stands for."""
        z, total = noise[-1], noise[-1].new_zeros(noise[-1].shape[0])
        for level in reversed(range(len(self.levels))):
            pairs = list(zip(self.levels[level], conditions[level], strict=True))
            for layer, condition in reversed(pairs):
                z, log_abs_det = layer.inverse(z, condition)
                total = total + log_abs_det
            if level:
                z = torch.cat([unsqueeze(z), noise[level - 1]], -1)
        return z, total

    def noise_shapes(self, batch: int, length: int, channels: int) -> list[tuple[int, int, int]]:
        """Shapes of the base noise of each level."""
        last = len(self.levels) - 1
        return [(batch, length >> level, channels if level == last else channels // 2)
                for level in range(last + 1)]


def squeeze(z: Float[Tensor, "batch length channels"]) -> Tensor:
    """Two neighbouring times become one with twice the channels, neighbours side by side."""
    return z.unflatten(1, (-1, 2)).transpose(2, 3).flatten(2)


def unsqueeze(z: Float[Tensor, "batch half twice"]) -> Tensor:
    """The inverse of `squeeze`."""
    return z.unflatten(2, (-1, 2)).transpose(2, 3).flatten(1, 2)


def _lengths(z: Tensor, mask: Tensor | None) -> Tensor:
    """Real positions of each sentence, [batch], in z's dtype."""
    if mask is None:
        return z.new_full((z.shape[0],), z.shape[1])
    return mask.sum(1).to(z.dtype)
