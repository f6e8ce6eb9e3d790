"""The kernels as operators of torch, named smlp::*, each of which is one kernel.

torch sees their inputs and outputs: so does whatever works on operators, tensors without contents among them. All
tensors of tokens are (B, S, S, C), contiguous; statistics, gamma and beta are (C,), in float32. `scale` (B,) are the
factors of drop path. The caller adds parts over their first axis: in a fixed order, hence to the same bits.
"""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor

from models.fused import depthwise_kernels, mixing_kernels, norm_kernels
from models.fused.sizes import (
    Tiles,
    ceil_div,
    channel_block,
    holds_much,
    power_of_two,
    precision_of,
    program_count,
    tiles_of,
)

_NORM = "Tensor mean, Tensor variance, Tensor gamma, Tensor beta, float eps"
_NORM_OF_Y = "Tensor y_mean, Tensor y_variance, Tensor y_gamma, Tensor y_sums, float y_eps"


def _operator(arguments: str, results: str) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that registers a function as an operator."""

    def register(function: Callable[..., Any]) -> Any:
        schema = "(%s) -> %s" % (arguments.replace("NORM_OF_Y", _NORM_OF_Y).replace("NORM", _NORM), results)
        return torch.library.custom_op("smlp::" + function.__name__, function, mutates_args=(), schema=schema)

    return register


def _floats(tokens: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=tokens.device)


# Batch norm's sums


def _norm_sizes(x: Tensor) -> tuple[int, int, int, int]:
    """Return tokens and channels of a tile, programs, tokens."""
    tokens, block = x.numel() // x.shape[3], channel_block(x.shape[3], 64)
    rows = 2048 // block
    programs = program_count(x, ceil_div(tokens, rows), ceil_div(x.shape[3], block), 4)
    return rows, block, programs, tokens


@_operator("Tensor x", "Tensor")
def norm_parts(x) -> Tensor:
    rows, block, programs, tokens = _norm_sizes(x)
    parts, dim = _floats(x, programs, 3, x.shape[3]), x.shape[3]
    rounds = ceil_div(ceil_div(tokens, rows), programs)
    grid = (programs, ceil_div(dim, block))
    norm_kernels.norm_parts_kernel[grid](x, parts, tokens, ROUNDS=rounds, C=dim, BT=rows, BC=block)
    return parts


@norm_parts.register_fake
def _(x):
    return _floats(x, _norm_sizes(x)[2], 3, x.shape[3])


@_operator("Tensor parts, int tokens", "(Tensor, Tensor)")
def norm_statistics(parts, tokens) -> tuple[Tensor, Tensor]:
    number, _, dim = parts.shape
    mean, variance = _floats(parts, dim), _floats(parts, dim)
    norm_kernels.norm_statistics_kernel[(ceil_div(dim, 16),)](
        parts, mean, variance, number, tokens, ROUNDS=ceil_div(number, 128), C=dim, BP=128, BC=16
    )
    return mean, variance


@norm_statistics.register_fake
def _(parts, tokens):
    return _floats(parts, parts.shape[2]), _floats(parts, parts.shape[2])


@_operator(
    "Tensor g, Tensor du, Tensor x, Tensor mean, Tensor variance, Tensor gamma, Tensor sums, float eps, bool trains",
    "Tensor",
)
def back_norm(g, du, x, *others) -> Tensor:
    *norm, trains = others
    out, dim = torch.empty_like(x), x.shape[3]
    tokens, block = x.numel() // dim, channel_block(dim, 64)
    rows = 2048 // block
    grid = (ceil_div(tokens, rows), ceil_div(dim, block))
    norm_kernels.back_norm_kernel[grid](g, du, x, *norm, out, tokens, C=dim, BT=rows, BC=block, TRAINS=trains)
    return out


@back_norm.register_fake
def _(g, du, x, *others):
    return torch.empty_like(x)


# Batch norm, GELU and the depthwise convolution


def _band_sizes(x: Tensor, shares: bool = True) -> tuple[dict[str, int], int, int]:
    """Return the constants of the kernels, the number of bands, and the programs of a block of channels.

    Programs that share the bands know the number of their rounds when they are compiled: where nothing is summed, as in
    evaluation, each has one band, and the last batch of an epoch is as good as any other.
    """
    batch, side, _, dim = x.shape
    width = max(2, power_of_two(side))
    block, rows = channel_block(dim, max(16, 1024 // width)), min(side, 14)
    bands = ceil_div(side, rows)
    programs = program_count(x, batch * bands, ceil_div(dim, block), 8) if shares else batch * bands
    sizes = {"ROUNDS": ceil_div(batch * bands, programs), "BANDS": bands, "ROWS": rows}
    return dict(sizes, S=side, W=width, C=dim, BC=block), batch * bands, programs


@_operator("Tensor x, NORM, Tensor kernel, bool with_sums", "(Tensor, Tensor)")
def depthwise(x, *norm_and_kernel) -> tuple[Tensor, Tensor]:
    *others, with_sums = norm_and_kernel
    (sizes, items, programs), (y, parts) = _band_sizes(x, with_sums), _depthwise_outputs(x, with_sums)
    grid = (programs, ceil_div(sizes["C"], sizes["BC"]))
    depthwise_kernels.depthwise_kernel[grid](x, *others, y, parts, items, SUMS=with_sums, num_warps=8, **sizes)
    return y, parts


def _depthwise_outputs(x: Tensor, with_sums: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), _floats(x, _band_sizes(x)[2] if with_sums else 0, 3, x.shape[3])


@depthwise.register_fake
def _(x, *others):
    return _depthwise_outputs(x, others[-1])


@_operator("Tensor du, Tensor y, Tensor x, NORM_OF_Y, NORM, Tensor kernel, bool trains", "(Tensor, Tensor)")
def back_depthwise(du, y, x, *norms_and_kernel) -> tuple[Tensor, Tensor]:
    *others, trains = norms_and_kernel
    sizes, items, programs = _band_sizes(x)
    out, parts = torch.empty_like(x), _floats(x, programs, 11, x.shape[3])
    grid = (programs, ceil_div(sizes["C"], sizes["BC"]))
    depthwise_kernels.back_depthwise_kernel[grid](
        du, y, x, *others, out, parts, items, x.numel() // x.shape[3], TRAINS=trains, num_warps=8, **sizes
    )
    return out, parts


@back_depthwise.register_fake
def _(du, y, x, *others):
    return torch.empty_like(x), _floats(x, _band_sizes(x)[2], 11, x.shape[3])


# The mixes and their fusion


def _line_sizes(tokens: Tensor) -> tuple[Tiles, dict[str, Any]]:
    """Return the tiles and the constants of all kernels of the mixes."""
    tiles = tiles_of(tokens)
    return tiles, {"S": tiles.S, "R": tiles.R, "M": tiles.M, "C": tiles.C, "PRECISION": precision_of(tokens)}


def _back_sizes(tokens: Tensor) -> tuple[int, int, int]:
    """Return the channels of a block, the blocks, and the programs of a block."""
    tiles = tiles_of(tokens)
    block = channel_block(tiles.C, 64 if holds_much(tokens) else 32)
    blocks = ceil_div(tiles.C, block)
    return block, blocks, program_count(tokens, tiles.groups, blocks, 2)


def _back_outputs(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    tiles, (_, blocks, programs) = tiles_of(y), _back_sizes(y)
    count = blocks * programs * tiles.R
    return torch.empty_like(y), _floats(y, count, tiles.S, tiles.S), _floats(y, count, tiles.S)


def _back(g: Tensor, y: Tensor, part: Tensor | None, scale: Tensor | None, *others: Any) -> tuple[Tensor, ...]:
    """Go back through the columns' mix, or with their `part` through the rows' mix and all that is before."""
    tiles, sizes = _line_sizes(y)
    (block, blocks, programs), outputs = _back_sizes(y), _back_outputs(y)
    is_columns, sums = part is None, _floats(y, 0 if part is None else programs, 2, tiles.C)
    mixing_kernels.back_kernel[(programs, blocks)](
        g, y, y if part is None else part, g if scale is None else scale, *others, *outputs, sums, tiles.lines,
        ROUNDS=ceil_div(tiles.groups, programs), BN=block, BK=channel_block(tiles.C, 32), COLUMNS=is_columns,
        SCALED=scale is not None, num_warps=4 if is_columns else 8, **sizes,
    )  # fmt: skip
    return outputs if is_columns else (*outputs, sums)


@_operator("Tensor y, NORM, Tensor matrix, Tensor bias", "Tensor")
def mix_columns(y, *others) -> Tensor:
    tiles, sizes = _line_sizes(y)
    out, block = torch.empty_like(y), channel_block(tiles.C, 64)
    grid = (tiles.groups, ceil_div(tiles.C, block))
    mixing_kernels.mix_columns_kernel[grid](y, *others, out, tiles.lines, BC=block, **sizes)
    return out


@mix_columns.register_fake
def _(y, *others):
    return torch.empty_like(y)


@_operator("Tensor x, Tensor y, Tensor c, Tensor? scale, NORM, Tensor matrix, Tensor bias, Tensor weight", "Tensor")
def fuse(x, y, c, scale, *others) -> Tensor:
    tiles, sizes = _line_sizes(y)
    out, block = torch.empty_like(x), channel_block(tiles.C, 128)
    mixing_kernels.fuse_kernel[(tiles.groups, ceil_div(tiles.C, block))](
        x, y, c, x if scale is None else scale, *others, out, tiles.lines,
        BN=block, BK=channel_block(tiles.C, 32), SCALED=scale is not None, **sizes,
    )  # fmt: skip
    return out


@fuse.register_fake
def _(x, *others):
    return torch.empty_like(x)


@_operator("Tensor g, Tensor y, Tensor? scale, NORM, Tensor matrix, Tensor weight", "(Tensor, Tensor, Tensor)")
def back_columns(g, y, scale, *others) -> tuple[Tensor, ...]:
    return _back(g, y, None, scale, *others)


@back_columns.register_fake
def _(g, y, *others):
    return _back_outputs(y)


@_operator(
    "Tensor g, Tensor y, Tensor part, Tensor? scale, NORM, Tensor matrix, Tensor weight",
    "(Tensor, Tensor, Tensor, Tensor)",
)
def back_rows(g, y, part, scale, *others) -> tuple[Tensor, ...]:
    return _back(g, y, part, scale, *others)


@back_rows.register_fake
def _(g, y, *others):
    return (*_back_outputs(y), _floats(y, _back_sizes(y)[2], 2, y.shape[3]))


def _fuse_sizes(tokens: Tensor) -> tuple[int, int, tuple[int, int, int]]:
    """Return the channels of a block of outputs and of inputs, and the grid: their blocks, and the programs of two."""
    tiles = tiles_of(tokens)
    outputs, inputs = (channel_block(tiles.C, most) for most in (64, 64 if holds_much(tokens) else 32))
    blocks = ceil_div(tiles.C, outputs), ceil_div(tiles.C, inputs)
    return outputs, inputs, (*blocks, program_count(tokens, tiles.groups, blocks[0] * blocks[1], 2))


@_operator("Tensor g, Tensor y, Tensor c, Tensor? scale, NORM, Tensor matrix, Tensor bias", "Tensor")
def fuse_gradient(g, y, c, scale, *others) -> Tensor:
    (tiles, sizes), (outputs, inputs, grid) = _line_sizes(y), _fuse_sizes(y)
    parts = _floats(y, grid[2], tiles.C, 3 * tiles.C)
    mixing_kernels.fuse_gradient_kernel[grid](
        g, y, c, g if scale is None else scale, *others, parts, tiles.lines, ROUNDS=ceil_div(tiles.groups, grid[2]),
        BN=outputs, BK=inputs, SCALED=scale is not None, num_stages=2, num_warps=4 if holds_much(y) else 8, **sizes,
    )  # fmt: skip
    return parts


@fuse_gradient.register_fake
def _(g, y, *others):
    return _floats(y, _fuse_sizes(y)[2][2], y.shape[3], 3 * y.shape[3])
