"""The channel MLP of sMLPNet's block as operators of torch, each of which is one kernel of `mlp_kernels`.

Narrow layers save nothing but their input and compute the hidden layer again in the backward pass. Wide ones save it
before its GELU, since there computing it again would take longer than the memory traffic that it saves. The last
operator of the forward pass takes, beside what its kernel reads, the parameters for which it has gradients.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.library import custom_op

from models.fused import mlp_kernels as kernels
from models.fused.sizes import ceil_div, holds_much, power_of_two, precision_of, program_count


def widest_narrow(x: Tensor) -> int:
    """Return the channels up to which a program's registers hold whole tokens on the device of `x`."""
    return 256 if holds_much(x) else 128


class Layer(NamedTuple):
    """Sizes of an MLP on tokens (B, S, S, C), with the precision of its products."""

    tokens: int
    area: int  # tokens of an image
    C: int
    H: int
    dtype: torch.dtype
    constants: dict[str, Any]  # of all its kernels


def layer_of(x: Tensor, weight: Tensor) -> Layer:
    """Return the sizes for tokens like `x` and the first layer's `weight` (H, C) in the precision of the products."""
    hidden, dim = weight.shape
    area = x.shape[1] * x.shape[2]
    constants = {"C": dim, "H": hidden, "PRECISION": precision_of(weight)}
    return Layer(x.shape[0] * area, area, dim, hidden, weight.dtype, constants)


def channel_mix(x: Tensor, norm: nn.LayerNorm, mlp: Any, scale: Tensor | None) -> Tensor:
    """Return x + scale * mlp(norm(x)) for contiguous tokens `x` (B, S, S, C).

    `mlp` is a models.smlp.FeedForward without dropout, `scale` drop path's factors (B, 1, 1, 1) or None. Products
    are in the precision of autocast where that is on, otherwise in that of `x`.
    """
    first, second = mlp.net[0], mlp.net[3]
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    with torch.autocast(kind, enabled=False):
        weight = first.weight.float() * norm.weight.float()
        bias = torch.mv(first.weight.float(), norm.bias.float()) + first.bias.float()
    low = (weight.detach().to(dtype), second.weight.detach().to(dtype))
    parameters = (weight, bias, second.weight, second.bias, *low, None if scale is None else scale.reshape(-1))
    if x.shape[3] <= widest_narrow(x):
        return narrow_mix(x, *parameters, norm.eps)
    return wide_mix(x, *parameters, *hidden(x.detach(), low[0], bias.detach(), norm.eps))


# The tiles of the kernels: chosen so that nothing spills on compute capability 8.0 and 9.0 (`benchmark.py kernels`).


def _narrow_tile(layer: Layer, tokens: int) -> dict[str, Any]:
    """Return the sizes of a narrow layer's kernels for tiles of so many tokens."""
    first = max(16, power_of_two(layer.C + 1) // 2)  # the channels are two parts: 80 are 64 + 16
    parts = {"CA": first, "CB": max(16, power_of_two(layer.C - first))}
    if layer.dtype == torch.float32:
        return dict(parts, M=16, BH=16, num_warps=4, num_stages=1)
    return dict(parts, M=tokens, BH=64, num_warps=8, num_stages=2)


def _gradient_tile(layer: Layer, tokens: int) -> dict[str, Any]:
    """Return them with the channels of the inner loop, if possible a divisor of all."""
    return dict(_narrow_tile(layer, tokens), BK=32 if layer.C % 32 == 0 else 16)


def _wide_tile(dtype: torch.dtype) -> dict[str, Any]:
    if dtype == torch.float32:
        return {"M": 32, "BN": 32, "BK": 16, "num_warps": 4, "num_stages": 1}
    return {"M": 64, "BN": 128, "BK": 32, "num_warps": 4, "num_stages": 3}


def _weights_tile(dtype: torch.dtype) -> dict[str, Any]:
    if dtype == torch.float32:
        return {"M": 16, "BN": 32, "BK": 32, "num_warps": 4, "num_stages": 1}
    return {"M": 64, "BN": 64, "BK": 64, "num_warps": 8, "num_stages": 2}


def _sums(x: Tensor, splits: int, outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    """Return the places for the parts of the gradients of a layer's weight and bias."""
    sums = x.new_empty([splits, outputs, inputs], dtype=torch.float32)
    return sums, x.new_empty([splits, outputs], dtype=torch.float32)


# Narrow layers.


@custom_op(
    "smlp::narrow_mix",
    mutates_args=(),
    schema="(Tensor x, Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2, Tensor low1, Tensor low2, "
    "Tensor? scale, float eps) -> Tensor",
)
def narrow_mix(x, weight1, bias1, weight2, bias2, low1, low2, scale, eps) -> Tensor:
    layer, out = layer_of(x, low1), torch.empty_like(x)
    tile = _narrow_tile(layer, 64)
    kernels.narrow_forward[(ceil_div(layer.tokens, tile["M"]),)](
        x, low1, bias1, low2, bias2, scale, out, layer.tokens, layer.area, eps, **layer.constants, **tile
    )
    return out


@narrow_mix.register_fake
def _(x, weight1, bias1, weight2, bias2, low1, low2, scale, eps):
    return torch.empty_like(x)


@custom_op(
    "smlp::narrow_input",
    mutates_args=(),
    schema="(Tensor g, Tensor x, Tensor bias1, Tensor low1, Tensor low2, Tensor? scale, float eps) -> Tensor",
)
def narrow_input(g, x, bias1, low1, low2, scale, eps) -> Tensor:
    layer, out = layer_of(x, low1), torch.empty_like(x)
    tile = _gradient_tile(layer, 64)
    kernels.narrow_input[(ceil_div(layer.tokens, tile["M"]),)](
        g, x, low1, bias1, low2, scale, out, layer.tokens, layer.area, eps, **layer.constants, **tile
    )
    return out


@narrow_input.register_fake
def _(g, x, bias1, low1, low2, scale, eps):
    return torch.empty_like(x)


@custom_op(
    "smlp::narrow_weights",
    mutates_args=(),
    schema="(Tensor g, Tensor x, Tensor bias1, Tensor low1, Tensor low2, Tensor? scale, float eps) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
)
def narrow_weights(g, x, bias1, low1, low2, scale, eps) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    layer, sums = layer_of(x, low1), _narrow_sums(x, low1)
    tile, splits = _gradient_tile(layer, 32), len(sums[0])
    constants = dict(layer.constants, **tile, ROUNDS=ceil_div(layer.tokens, tile["M"] * splits))
    kernels.narrow_weights[(ceil_div(layer.H, tile["BH"]), splits)](
        g, x, low1, bias1, low2, scale, *sums, layer.tokens, layer.area, eps, **constants
    )
    return sums


@narrow_weights.register_fake
def _(g, x, bias1, low1, low2, scale, eps):
    return _narrow_sums(x, low1)


def _narrow_sums(x, low1):
    layer = layer_of(x, low1)
    tile = _gradient_tile(layer, 32)
    splits = program_count(x, ceil_div(layer.tokens, tile["M"]), ceil_div(layer.H, tile["BH"]), 2)
    return _sums(x, splits, layer.H, layer.C) + _sums(x, splits, layer.C, layer.H)


def _save_narrow(ctx, inputs, output):
    x, _, bias1, _, _, low1, low2, scale, ctx.eps = inputs
    ctx.save_for_backward(x, bias1, low1, low2, scale)


def _narrow_backward(ctx, g):
    x, *others = ctx.saved_tensors
    g = g.contiguous()
    gradients = [part.sum(0) for part in narrow_weights(g, x, *others, ctx.eps)]
    return (narrow_input(g, x, *others, ctx.eps), *gradients, None, None, None, None)


narrow_mix.register_autograd(_narrow_backward, setup_context=_save_narrow)


# Wide layers.


def _grid(layer: Layer, tile: dict[str, Any], columns: int) -> tuple[int, int]:
    return ceil_div(columns, tile["BN"]), ceil_div(layer.tokens, tile["M"])


@custom_op(
    "smlp::hidden",
    mutates_args=(),
    schema="(Tensor x, Tensor low1, Tensor bias1, float eps) -> (Tensor, Tensor)",
)
def hidden(x, low1, bias1, eps) -> tuple[Tensor, Tensor]:
    layer, tile, (u, moments) = layer_of(x, low1), _wide_tile(low1.dtype), _empty_hidden(x, low1)
    kernels.wide_hidden[_grid(layer, tile, layer.H)](
        x, low1, bias1, u, moments, layer.tokens, eps, **layer.constants, **tile
    )
    return u, moments


@hidden.register_fake
def _(x, low1, bias1, eps):
    return _empty_hidden(x, low1)


def _empty_hidden(x, low1):
    u = x.new_empty([*x.shape[:3], low1.shape[0]], dtype=low1.dtype)
    return u, x.new_empty([2, x.numel() // x.shape[3]], dtype=torch.float32)


@custom_op(
    "smlp::wide_mix",
    mutates_args=(),
    schema="(Tensor x, Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2, Tensor low1, Tensor low2, "
    "Tensor? scale, Tensor u, Tensor moments) -> Tensor",
)
def wide_mix(x, weight1, bias1, weight2, bias2, low1, low2, scale, u, moments) -> Tensor:
    layer, tile, out = layer_of(x, low1), _wide_tile(low1.dtype), torch.empty_like(x)
    kernels.wide_out[_grid(layer, tile, layer.C)](
        u, x, low2, bias2, scale, out, layer.tokens, layer.area, **layer.constants, **tile
    )
    return out


@wide_mix.register_fake
def _(x, weight1, bias1, weight2, bias2, low1, low2, scale, u, moments):
    return torch.empty_like(x)


@custom_op(
    "smlp::hidden_gradient",
    mutates_args=(),
    schema="(Tensor g, Tensor u, Tensor bias1, Tensor row_sums, Tensor low2, Tensor? scale) -> (Tensor, Tensor)",
)
def hidden_gradient(g, u, bias1, row_sums, low2, scale) -> tuple[Tensor, Tensor]:
    layer, tile, (du, sums) = layer_of(g, low2.t()), _wide_tile(low2.dtype), _empty_gradient(g, u)
    kernels.wide_hidden_gradient[_grid(layer, tile, layer.H)](
        g, u, bias1, row_sums, low2, scale, du, sums, layer.tokens, layer.area, **layer.constants, **tile
    )
    return du, sums


@hidden_gradient.register_fake
def _(g, u, bias1, row_sums, low2, scale):
    return _empty_gradient(g, u)


def _empty_gradient(g, u):
    blocks = ceil_div(u.shape[3], _wide_tile(u.dtype)["BN"])
    return torch.empty_like(u), g.new_empty([blocks, 2, g.numel() // g.shape[3]], dtype=torch.float32)


@custom_op(
    "smlp::wide_input",
    mutates_args=(),
    schema="(Tensor g, Tensor x, Tensor du, Tensor low1, Tensor moments, Tensor sums) -> Tensor",
)
def wide_input(g, x, du, low1, moments, sums) -> Tensor:
    layer, tile, out = layer_of(x, low1), _wide_tile(low1.dtype), torch.empty_like(x)
    kernels.wide_input[_grid(layer, tile, layer.C)](
        du, x, g, low1, moments, sums, out, layer.tokens, BLOCKS=len(sums), **layer.constants, **tile
    )
    return out


@wide_input.register_fake
def _(g, x, du, low1, moments, sums):
    return torch.empty_like(x)


@custom_op(
    "smlp::wide_weights",
    mutates_args=(),
    schema="(Tensor gradient, Tensor value, Tensor? moments, Tensor? scale) -> (Tensor, Tensor)",
)
def wide_weights(gradient, value, moments, scale) -> tuple[Tensor, Tensor]:
    """Sum the gradients of the first layer, of du and x with its `moments`; or those of the second, of g and u."""
    sums, dtype = _wide_sums(gradient, value, moments), _lower(gradient, value, moments)
    tile, splits, area = _weights_tile(dtype), len(sums[0]), value.shape[1] * value.shape[2]
    outputs, inputs = gradient.shape[3], value.shape[3]
    constants = dict(tile, OUTPUTS=outputs, INPUTS=inputs, FIRST=moments is not None)
    constants["ROUNDS"] = ceil_div(len(value) * area, tile["M"] * splits)
    constants["PRECISION"] = precision_of(gradient.new_empty(0, dtype=dtype))
    kernels.wide_weights[(ceil_div(outputs, tile["BN"]), ceil_div(inputs, tile["BK"]), splits)](
        gradient, value, moments, scale, *sums, len(value) * area, area, **constants
    )
    return sums


@wide_weights.register_fake
def _(gradient, value, moments, scale):
    return _wide_sums(gradient, value, moments)


def _lower(gradient, value, moments):
    """Return the precision of the products: x and g may have a higher one than du and u."""
    return value.dtype if moments is None else gradient.dtype


def _wide_sums(gradient, value, moments):
    tile, outputs, inputs = _weights_tile(_lower(gradient, value, moments)), gradient.shape[3], value.shape[3]
    blocks = ceil_div(outputs, tile["BN"]) * ceil_div(inputs, tile["BK"])
    splits = program_count(value, ceil_div(value.numel() // inputs, tile["M"]), blocks, 2)
    return _sums(value, splits, outputs, inputs)


def _save_wide(ctx, inputs, output):
    x, _, bias1, _, _, low1, low2, scale, u, moments = inputs
    ctx.save_for_backward(x, bias1, low1, low2, scale, u, moments)


def _wide_backward(ctx, g):
    x, bias1, low1, low2, scale, u, moments = ctx.saved_tensors
    g = g.contiguous()
    second = wide_weights(g, u, None, scale)
    du, sums = hidden_gradient(g, u, bias1, low1.sum(1, dtype=torch.float32), low2, scale)
    dx = wide_input(g, x, du, low1, moments, sums)
    gradients = [part.sum(0) for part in (*wide_weights(du, x, moments, None), *second)]
    return (dx, *gradients, None, None, None, None, None)


wide_mix.register_autograd(_wide_backward, setup_context=_save_wide)
