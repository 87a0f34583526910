"""Attention over sentences on a GPU: a program a sentence and head, all of it in registers.

Fused kernels for long sequences cut queries and keys into blocks of 64 and more, keep sums beside
the result, and need several kernels to go back. For sentences a block is all there is: one kernel
in each direction, which works the weights out again. Heads may have any width up to `WIDEST`.
Without Triton `fits` is False, and nothing else here may be called.
"""

import inspect
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from lib import kernels
from lib.kernels import Pair, power, tl, triton, wave

__all__ = ["attention", "fits", "self_attention"]

LONGEST = 64  # queries and keys
WIDEST = 128  # channels of a head


def fits(where: torch.device, queries: int, keys: int, width: int) -> bool:
    """Whether attention of these sizes comes here: to be differentiated, on a GPU."""
    return (queries <= LONGEST and keys <= LONGEST and width <= WIDEST
            and torch.is_grad_enabled() and kernels.available(where, attention_trial))


def attention_trial(where: torch.device) -> Iterator[Pair]:
    """Ragged keys, and a head whose width is no power of two; without dropout and with; in bf16."""
    dtype = torch.bfloat16
    query, key, value, above = (wave(2, 3, 5, 20, where=where, dtype=dtype) * factor
                                for factor in (1.0, 0.8, -0.6, 0.5))
    bias = torch.zeros(2, 5, device=where)
    bias[1, 3:] = -1e30
    weights = (query.float() @ key.float().transpose(2, 3) * 20**-0.5 + bias[:, None, None])
    weights = weights.softmax(-1)
    yield _forward(query, key, value, bias, None, False, 0.0).transpose(1, 2), \
        weights @ value.float()
    gradients = _backward(above.transpose(1, 2), query, key, value, bias, None, False, 0.0)
    slope = above.float() @ value.float().transpose(2, 3)
    slope = weights * (slope - (weights * slope).sum(-1, keepdim=True)) * 20**-0.5
    yield gradients[0], slope @ key.float()
    yield gradients[1], slope.transpose(2, 3) @ query.float()
    yield gradients[2], weights.transpose(2, 3) @ above.float()
    qkv = torch.stack([query, key, value]).permute(1, 3, 0, 2, 4).contiguous()
    seed = torch.ones(1, dtype=torch.long, device=where)
    eye = torch.eye(20, dtype=dtype, device=where)[:5].expand(2, 3, 5, 20)
    kept = _forward(query, key, eye, None, seed, True, 0.5).transpose(1, 2)[..., :5]
    hidden = torch.ones(5, 5, dtype=torch.bool, device=where).triu(1)
    weights = (query.float() @ key.float().transpose(2, 3) * 20**-0.5).masked_fill(
        hidden, -torch.inf).softmax(-1)
    yield kept, 2 * weights * (kept > 0)
    whole = 2 * (weights * (kept > 0)) @ value.float()
    yield _self_forward(qkv, None, seed, True, 0.5).transpose(1, 2), whole
    gradients = _self_backward(above.transpose(1, 2), qkv, None, seed, True, 0.5)
    yield gradients[:, :, 2].transpose(1, 2), \
        2 * (weights * (kept > 0)).transpose(2, 3) @ above.float()


def attention(query: Float[Tensor, "batch heads queries width"],
              key: Float[Tensor, "batch heads keys width"],
              value: Float[Tensor, "batch heads keys width"], bias: Tensor | None, causal: bool,
              rate: float) -> Float[Tensor, "batch queries heads width"]:
    """softmax(query key^T / sqrt(width) + bias) value, weights dropped out at `rate`.

    bias: [batch, 1, 1, keys]. The last dimension of all must lie side by side in memory.
    """
    return torch.ops.discrepancy.attention(query, key, value, *_rest(query, bias, causal, rate))


def self_attention(qkv: Float[Tensor, "batch length 3 heads width"], bias: Tensor | None,
                   causal: bool, rate: float) -> Float[Tensor, "batch length heads width"]:
    """The same of a sequence to itself, from queries, keys and values side by side."""
    return torch.ops.discrepancy.self_attention(qkv, *_rest(qkv, bias, causal, rate))


def _rest(like: Tensor, bias: Tensor | None, causal: bool, rate: float) -> tuple:
    """What both kinds are given besides: with dropout a seed from the device's own generator."""
    if bias is not None:
        bias = bias.reshape(len(bias), bias.shape[-1]).contiguous()
    seed = torch.randint(2**31 - 1, (1,), device=like.device) if rate else None
    return bias, seed, causal, rate


def _parts(qkv: Tensor) -> list[Tensor]:
    """Queries, keys and values [batch, heads, length, width] where they lie."""
    return [part.transpose(1, 2) for part in qkv.unbind(2)]


# ---- the operators: torch.compile takes them as they are ----

def _forward(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, seed: Tensor | None,
             causal: bool, rate: float) -> Tensor:
    out = _shape_of(query)
    _launch(_attend, (query, key, value, out.transpose(1, 2)), (), bias, seed, causal, rate)
    return out


def _backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None,
              seed: Tensor | None, causal: bool, rate: float) -> tuple[Tensor, Tensor, Tensor]:
    gradients = _shapes_of(grad, query, key, value)
    _launch(_attend_backward, (query, key, value, grad.contiguous().transpose(1, 2)), gradients,
            bias, seed, causal, rate)
    return gradients


def _self_forward(qkv: Tensor, bias: Tensor | None, seed: Tensor | None, causal: bool,
                  rate: float) -> Tensor:
    return _forward(*_parts(qkv), bias, seed, causal, rate)


def _self_backward(grad: Tensor, qkv: Tensor, bias: Tensor | None, seed: Tensor | None,
                   causal: bool, rate: float) -> Tensor:
    gradient = _self_shape_back(grad, qkv)
    _launch(_attend_backward, (*_parts(qkv), grad.contiguous().transpose(1, 2)), _parts(gradient),
            bias, seed, causal, rate)
    return gradient


def _shape_of(query, *_):
    batch, heads, queries, width = query.shape
    return query.new_empty(batch, queries, heads, width)


def _shapes_of(_, query, key, value, *__):
    """Laid out as [batch, length, heads, width]: the products that they go to read them so."""
    return tuple(_shape_of(x).transpose(1, 2) for x in (query, key, value))


def _self_shape_of(qkv, *_):
    return qkv.new_empty(*qkv.shape[:2], *qkv.shape[3:])


def _self_shape_back(_, qkv, *__):
    return torch.empty_like(qkv, memory_format=torch.contiguous_format)


def _launch(kernel, inputs, outputs, bias, seed, causal, rate) -> None:
    """A kernel on [batch, heads, length, width] tensors, a program a sentence and head."""
    query, key = inputs[:2]
    batch, heads, queries, width = query.shape
    keys, block = key.shape[2], [max(16, power(n)) for n in (queries, key.shape[2], width)]
    strides = [stride for x in (*inputs, *outputs) for stride in x.stride()[:3]]
    kernel[(batch * heads,)](
        *inputs, *outputs, query if bias is None else bias, query if seed is None else seed,
        *strides, heads, queries, keys, width, width**-0.5, rate, CAUSAL=causal,
        BIAS=bias is not None, DROPOUT=seed is not None, QUERIES=block[0], KEYS=block[1],
        WIDTH=block[2],
        num_warps=4 if max(block[:2]) * block[2] >= 2048 else 2)


if triton is not None:
    def _weights(q, k, bias, seed, batch, place, queries, keys, scale, rate, CAUSAL: tl.constexpr,
                 BIAS: tl.constexpr, DROPOUT: tl.constexpr, QUERIES: tl.constexpr,
                 KEYS: tl.constexpr):
        """The softmax, and the factor that dropout has for each weight."""
        row = tl.arange(0, QUERIES)[:, None]
        column = tl.arange(0, KEYS)[None, :]
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if BIAS:
            scores += tl.load(bias + batch * keys + column, mask=column < keys,
                              other=0.0).to(tl.float32)
        there = column < keys
        if CAUSAL:
            there = there & (column <= row)
        scores = tl.where(there, scores, float("-inf"))
        weights = tl.exp(scores - tl.max(scores, 1)[:, None])
        weights = weights / tl.sum(weights, 1)[:, None]
        factor = tl.where(there, 1.0, 0.0)
        if DROPOUT:
            drawn = tl.rand(tl.load(seed), (place * QUERIES + row) * KEYS + column)
            factor = tl.where(drawn >= rate, factor / (1.0 - rate), 0.0)
        return weights, factor

    def _attend(query, key, value, out, bias, seed, qb, qh, qt, kb, kh, kt, vb, vh, vt, ob, oh, ot,
                heads, queries, keys, width, scale, rate, CAUSAL: tl.constexpr, BIAS: tl.constexpr,
                DROPOUT: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
                WIDTH: tl.constexpr):
        """All queries of one sentence and head."""
        place = tl.program_id(0)
        batch, head = (place // heads).to(tl.int64), place % heads
        row, column = tl.arange(0, QUERIES)[:, None], tl.arange(0, KEYS)[:, None]
        channel = tl.arange(0, WIDTH)[None, :]
        q_real = (row < queries) & (channel < width)
        k_real = (column < keys) & (channel < width)
        q = tl.load(query + batch * qb + head * qh + row * qt + channel, mask=q_real, other=0.0)
        k = tl.load(key + batch * kb + head * kh + column * kt + channel, mask=k_real, other=0.0)
        v = tl.load(value + batch * vb + head * vh + column * vt + channel, mask=k_real, other=0.0)
        weights, factor = _weights(q, k, bias, seed, batch, place, queries, keys, scale, rate,
                                   CAUSAL, BIAS, DROPOUT, QUERIES, KEYS)
        mixed = tl.dot((weights * factor).to(v.dtype), v, input_precision="ieee")
        tl.store(out + batch * ob + head * oh + row * ot + channel, mixed.to(v.dtype), mask=q_real)

    def _attend_backward(query, key, value, grad, by_query, by_key, by_value, bias, seed,
                         qb, qh, qt, kb, kh, kt, vb, vh, vt, gb, gh, gt, xb, xh, xt, yb, yh, yt,
                         zb, zh, zt, heads, queries, keys, width, scale, rate,
                         CAUSAL: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr,
                         QUERIES: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr):
        """The same sentence and head."""
        place = tl.program_id(0)
        batch, head = (place // heads).to(tl.int64), place % heads
        row, column = tl.arange(0, QUERIES)[:, None], tl.arange(0, KEYS)[:, None]
        channel = tl.arange(0, WIDTH)[None, :]
        q_real = (row < queries) & (channel < width)
        k_real = (column < keys) & (channel < width)
        q = tl.load(query + batch * qb + head * qh + row * qt + channel, mask=q_real, other=0.0)
        k = tl.load(key + batch * kb + head * kh + column * kt + channel, mask=k_real, other=0.0)
        v = tl.load(value + batch * vb + head * vh + column * vt + channel, mask=k_real, other=0.0)
        above = tl.load(grad + batch * gb + head * gh + row * gt + channel, mask=q_real, other=0.0)
        weights, factor = _weights(q, k, bias, seed, batch, place, queries, keys, scale, rate,
                                   CAUSAL, BIAS, DROPOUT, QUERIES, KEYS)
        dropped = (weights * factor).to(v.dtype)
        by_v = tl.dot(tl.trans(dropped), above, input_precision="ieee")
        tl.store(by_value + batch * zb + head * zh + column * zt + channel, by_v.to(v.dtype),
                 mask=k_real)
        slope = tl.dot(above, tl.trans(v), input_precision="ieee") * factor
        slope = weights * (slope - tl.sum(weights * slope, 1)[:, None]) * scale
        slope = slope.to(v.dtype)
        by_q = tl.dot(slope, k, input_precision="ieee")
        tl.store(by_query + batch * xb + head * xh + row * xt + channel, by_q.to(v.dtype),
                 mask=q_real)
        by_k = tl.dot(tl.trans(slope), q, input_precision="ieee")
        tl.store(by_key + batch * yb + head * yh + column * yt + channel, by_k.to(v.dtype),
                 mask=k_real)

    _weights, _attend, _attend_backward = (
        triton.jit(inspect.unwrap(function))  # of its own code, not of a check around it
        for function in (_weights, _attend, _attend_backward))

    _LIBRARY = torch.library.Library("discrepancy", "DEF")
    _REST = "Tensor? bias, Tensor? seed, bool causal, float rate"
    _QKV = "Tensor query, Tensor key, Tensor value"
    _LIBRARY.define(f"attention({_QKV}, {_REST}) -> Tensor")
    _LIBRARY.define(f"attention_backward(Tensor grad, {_QKV}, {_REST}) -> (Tensor, Tensor, Tensor)")
    _LIBRARY.define(f"self_attention(Tensor qkv, {_REST}) -> Tensor")
    _LIBRARY.define(f"self_attention_backward(Tensor grad, Tensor qkv, {_REST}) -> Tensor")
    for _name, _function in (("attention", _forward), ("attention_backward", _backward),
                             ("self_attention", _self_forward),
                             ("self_attention_backward", _self_backward)):
        _LIBRARY.impl(_name, _function, "CUDA")

    for _name, _function in (("attention", _shape_of), ("attention_backward", _shapes_of),
                             ("self_attention", _self_shape_of),
                             ("self_attention_backward", _self_shape_back)):
        torch.library.register_fake(f"discrepancy::{_name}", _function, lib=_LIBRARY)

    def _keep(ctx, inputs, output):
        *tensors, ctx.causal, ctx.rate = inputs
        ctx.save_for_backward(*tensors)

    def _gradients(ctx, grad):
        rest = ctx.causal, ctx.rate
        return (*torch.ops.discrepancy.attention_backward(grad, *ctx.saved_tensors, *rest),
                None, None, None, None)

    def _self_gradients(ctx, grad):
        rest = ctx.causal, ctx.rate
        return (torch.ops.discrepancy.self_attention_backward(grad, *ctx.saved_tensors, *rest),
                None, None, None, None)

    for _name, _function in (("attention", _gradients), ("self_attention", _self_gradients)):
        torch.library.register_autograd(f"discrepancy::{_name}", _function, setup_context=_keep,
                                        lib=_LIBRARY)
