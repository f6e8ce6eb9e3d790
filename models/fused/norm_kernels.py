"""Batch norm: its sums in two stages of a fixed order, and its gradient added to a residual's.

A part of the statistics is (3, C): the number of its values, their mean, and the sum of squares about that mean. So
nothing cancels, whatever the mean. With 1 for a tensor (B, S, S, C):

    norm_parts        reads x; writes parts     1
    norm_statistics   reads the parts; writes mean and variance
    back_norm         reads g, du, x; writes g + the gradient of batch norm's input    4
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def norm_parts_kernel(
    x,
    parts,
    tokens,
    ROUNDS: tl.constexpr,
    C: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
):
    """Write the statistics of every so many-th tile of BT tokens. Grid: programs, blocks of BC channels."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    pivot = tl.zeros((BT, BC), tl.float32)
    count = tl.zeros((BT, BC), tl.float32)
    first = tl.zeros((BT, BC), tl.float32)
    second = tl.zeros((BT, BC), tl.float32)
    for turn in range(0, ROUNDS):
        token = (program + turn * programs).to(tl.int64) * BT + tl.arange(0, BT)
        mask = (token < tokens)[:, None] & (channel < C)[None, :]
        value = tl.load(x + token[:, None] * C + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        pivot = tl.where(turn == 0, value, pivot)
        centred = tl.where(mask, value - pivot, 0.0)
        count += mask.to(tl.float32)
        first += centred
        second += centred * centred
    store_part(parts + program * (3 * C), count, pivot, first, second, channel, C)


@triton.jit
def store_part(part, count, pivot, first, second, channel, C: tl.constexpr):
    """Write the part of (N, channels) sums of `count` values each, of value - pivot and of its square."""
    counted = tl.maximum(count, 1.0)
    mean = pivot + first / counted
    number = tl.sum(count, axis=0)
    centre = tl.sum(count * mean, axis=0) / tl.maximum(number, 1.0)
    distance = mean - centre[None, :]
    squares = tl.sum(second - first * first / counted + count * distance * distance, axis=0)
    tl.store(part + channel, number, mask=channel < C)
    tl.store(part + C + channel, centre, mask=channel < C)
    tl.store(part + 2 * C + channel, squares, mask=channel < C)


@triton.jit
def norm_statistics_kernel(
    parts,
    mean,
    variance,
    number,
    tokens,
    ROUNDS: tl.constexpr,
    C: tl.constexpr,
    BP: tl.constexpr,
    BC: tl.constexpr,
):
    """Write mean and biased variance of `number` parts. Grid: blocks of BC channels; BP parts are added at a time."""
    channel = tl.program_id(0) * BC + tl.arange(0, BC)
    total = tl.zeros((BC,), tl.float32)
    for turn in range(0, ROUNDS):
        count, own_mean, squares = _load_parts(parts, turn, number, channel, C, BP)
        total += tl.sum(count * own_mean, axis=0)
    centre = total / tokens
    second = tl.zeros((BC,), tl.float32)
    for turn in range(0, ROUNDS):
        count, own_mean, squares = _load_parts(parts, turn, number, channel, C, BP)
        distance = own_mean - centre[None, :]
        second += tl.sum(squares + count * distance * distance, axis=0)
    tl.store(mean + channel, centre, mask=channel < C)
    tl.store(variance + channel, second / tokens, mask=channel < C)


@triton.jit
def _load_parts(parts, turn, number, channel, C: tl.constexpr, BP: tl.constexpr):
    part = turn * BP + tl.arange(0, BP)
    mask = (part < number)[:, None] & (channel < C)[None, :]
    place = parts + part[:, None] * (3 * C) + channel[None, :]
    count = tl.load(place, mask=mask, other=0.0)
    return count, tl.load(place + C, mask=mask, other=0.0), tl.load(place + 2 * C, mask=mask, other=0.0)


@triton.jit
def gradient_factors(mean, variance, gamma, sums, eps, tokens, channel, C: tl.constexpr, TRAINS: tl.constexpr):
    """Return (channels,) a, b, c, m: batch norm's gradient is a du - b (value - m) - c, for `du` of its output.

    `sums` (2, C) are those of du and of du times the normalised input; with fixed statistics they have no effect.
    """
    is_inside = channel < C
    inverse = tl.rsqrt(tl.load(variance + channel, mask=is_inside, other=1.0) + eps)
    a = tl.load(gamma + channel, mask=is_inside, other=0.0).to(tl.float32) * inverse
    centre = tl.load(mean + channel, mask=is_inside, other=0.0)
    if TRAINS:
        first = tl.load(sums + channel, mask=is_inside, other=0.0) / tokens
        second = tl.load(sums + C + channel, mask=is_inside, other=0.0) / tokens
    else:
        first = tl.zeros_like(a)
        second = tl.zeros_like(a)
    return a, a * inverse * second, a * first, centre


@triton.jit
def back_norm_kernel(
    g,
    du,
    x,
    mean,
    variance,
    gamma,
    sums,
    eps,
    out,
    tokens,
    C: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    TRAINS: tl.constexpr,
):
    """Write g + the gradient of batch norm's input. Grid: tiles of BT tokens, blocks of BC channels."""
    token = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    mask = (token < tokens)[:, None] & (channel < C)[None, :]
    place = token[:, None] * C + channel[None, :]
    own = tl.load(du + place, mask=mask, other=0.0).to(tl.float32)
    value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    a, b, c, m = gradient_factors(mean, variance, gamma, sums, eps, tokens, channel, C, TRAINS)
    total = tl.load(g + place, mask=mask, other=0.0).to(tl.float32)
    total += a[None, :] * own - b[None, :] * (value - m[None, :]) - c[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=mask)
