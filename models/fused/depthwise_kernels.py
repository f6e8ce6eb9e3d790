"""Batch norm's application, GELU and the depthwise 3x3 convolution, with the sums of the next batch norm.

    z = gelu(batch_norm(x));  y = depthwise(z)

A program goes down a band of an image's rows, for a block of channels. It holds three rows, each at three shifts, so
that a value is loaded and GELU computed three times and not nine. z is never in memory, nor is the gradient of y, which
forms here from du of the next norm. With 1 for a tensor (B, S, S, C):

    depthwise        reads x; writes y, parts of the statistics of y                          2
    back_depthwise   reads du, y, x; writes du of this norm, parts of the kernel's gradient
                     and of this norm's sums                                                  4
"""

from __future__ import annotations

import triton
import triton.language as tl

from models.fused.norm_kernels import gradient_factors, store_part
from models.fused.shared_kernels import gelu, gelu_gradient, norm_factors


@triton.jit
def _place(image, row, column, channel, exists, S: tl.constexpr, C: tl.constexpr):
    """Return the offsets (W, channels) of a row at `column`, and which of them exist; no row does if not `exists`."""
    is_inside = (column >= 0) & (column < S) & (row >= 0) & (row < S) & exists
    token = (image.to(tl.int64) * S + row) * S + column
    return token[:, None] * C + channel[None, :], is_inside[:, None] & (channel < C)[None, :]


@triton.jit
def _activated(x, a, b, image, row, column, channel, exists, S: tl.constexpr, C: tl.constexpr):
    """Return gelu(a x + b) of a row; 0 outside of the image."""
    place, mask = _place(image, row, column, channel, exists, S, C)
    value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    return gelu(tl.where(mask, value * a[None, :] + b[None, :], 0.0))


@triton.jit
def _row(x, a, b, image, row, channel, exists, S: tl.constexpr, W: tl.constexpr, C: tl.constexpr):
    """Return the activated row, shifted to see its left neighbours, itself, and its right neighbours."""
    column = tl.arange(0, W)
    left = _activated(x, a, b, image, row, column - 1, channel, exists, S, C)
    middle = _activated(x, a, b, image, row, column, channel, exists, S, C)
    right = _activated(x, a, b, image, row, column + 1, channel, exists, S, C)
    return left, middle, right


@triton.jit
def _weighted(kernel, channel, left, middle, right, FIRST: tl.constexpr, STEP: tl.constexpr, C: tl.constexpr):
    """Return the sum of a shifted row with three weights of the (C, 9) kernel: FIRST, FIRST + STEP, FIRST + 2 STEP."""
    own = kernel + channel * 9 + FIRST
    total = tl.load(own, mask=channel < C, other=0.0).to(tl.float32)[None, :] * left
    total += tl.load(own + STEP, mask=channel < C, other=0.0).to(tl.float32)[None, :] * middle
    total += tl.load(own + 2 * STEP, mask=channel < C, other=0.0).to(tl.float32)[None, :] * right
    return total


@triton.jit
def depthwise_kernel(
    x,
    mean,
    variance,
    gamma,
    beta,
    eps,
    kernel,
    y,
    parts,
    items,
    ROUNDS: tl.constexpr,
    BANDS: tl.constexpr,
    ROWS: tl.constexpr,
    S: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    BC: tl.constexpr,
    SUMS: tl.constexpr,
):
    """Write y and parts of its statistics. Grid: programs, which take every so many-th band, and blocks of channels."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    a, b = norm_factors(mean, variance, gamma, beta, channel, eps, C)
    pivot = tl.zeros((W, BC), tl.float32)
    count = tl.zeros((W, BC), tl.float32)
    first = tl.zeros((W, BC), tl.float32)
    second = tl.zeros((W, BC), tl.float32)
    for turn in range(0, ROUNDS):
        item = program + turn * programs
        image, top, exists = item // BANDS, (item % BANDS) * ROWS, item < items
        above, above_m, above_r = _row(x, a, b, image, top - 1, channel, exists, S, W, C)
        here, here_m, here_r = _row(x, a, b, image, top, channel, exists, S, W, C)
        for step in range(0, ROWS):
            row = top + step
            below, below_m, below_r = _row(x, a, b, image, row + 1, channel, exists, S, W, C)
            total = _weighted(kernel, channel, above, above_m, above_r, 0, 1, C)
            total += _weighted(kernel, channel, here, here_m, here_r, 3, 1, C)
            total += _weighted(kernel, channel, below, below_m, below_r, 6, 1, C)
            place, mask = _place(image, row, tl.arange(0, W), channel, exists, S, C)
            stored = total.to(y.dtype.element_ty)
            tl.store(y + place, stored, mask=mask)
            if SUMS:
                value = stored.to(tl.float32)
                pivot = tl.where((turn == 0) & (step == 0), value, pivot)
                centred = tl.where(mask, value - pivot, 0.0)
                count += mask.to(tl.float32)
                first += centred
                second += centred * centred
            above, above_m, above_r = here, here_m, here_r
            here, here_m, here_r = below, below_m, below_r
    if SUMS:
        store_part(parts + program * (3 * C), count, pivot, first, second, channel, C)


@triton.jit
def _gradient(du, y, a, b, c, m, image, row, column, channel, exists, S: tl.constexpr, C: tl.constexpr):
    """Return the gradient of y, of a row, from du of the norm after it; 0 outside of the image."""
    place, mask = _place(image, row, column, channel, exists, S, C)
    value = tl.load(y + place, mask=mask, other=0.0).to(tl.float32) - m[None, :]
    own = tl.load(du + place, mask=mask, other=0.0).to(tl.float32)
    return tl.where(mask, a[None, :] * own - b[None, :] * value - c[None, :], 0.0)


@triton.jit
def _gradient_row(du, y, a, b, c, m, image, row, channel, exists, S: tl.constexpr, W: tl.constexpr, C: tl.constexpr):
    """Return the gradient of a row of y, shifted as `_row` shifts."""
    column = tl.arange(0, W)
    left = _gradient(du, y, a, b, c, m, image, row, column - 1, channel, exists, S, C)
    middle = _gradient(du, y, a, b, c, m, image, row, column, channel, exists, S, C)
    right = _gradient(du, y, a, b, c, m, image, row, column + 1, channel, exists, S, C)
    return left, middle, right


@triton.jit
def back_depthwise_kernel(
    du,
    y,
    x,
    y_mean,
    y_variance,
    y_gamma,
    y_sums,
    y_eps,
    mean,
    variance,
    gamma,
    beta,
    eps,
    kernel,
    out,
    parts,
    items,
    tokens,
    ROUNDS: tl.constexpr,
    BANDS: tl.constexpr,
    ROWS: tl.constexpr,
    S: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    BC: tl.constexpr,
    TRAINS: tl.constexpr,
):
    """Write du of the norm before, and parts (11, C): of the kernel's gradient, then of that norm's two sums.

    Grid as `depthwise_kernel`. z at (h, w) meets the gradient at (h + i, w + j) by the kernel's weight (1 - i, 1 - j).
    """
    program, programs = tl.program_id(0), tl.num_programs(0)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    ya, yb, yc, ym = gradient_factors(y_mean, y_variance, y_gamma, y_sums, y_eps, tokens, channel, C, TRAINS)
    a, b = norm_factors(mean, variance, gamma, beta, channel, eps, C)
    centre = tl.load(mean + channel, mask=channel < C, other=0.0)
    k0 = tl.zeros((W, BC), tl.float32)
    k1, k2, k3, k4, k5, k6, k7, k8, first, second = k0, k0, k0, k0, k0, k0, k0, k0, k0, k0
    for turn in range(0, ROUNDS):
        item = program + turn * programs
        image, top, exists = item // BANDS, (item % BANDS) * ROWS, item < items
        above, above_m, above_r = _gradient_row(du, y, ya, yb, yc, ym, image, top - 1, channel, exists, S, W, C)
        here, here_m, here_r = _gradient_row(du, y, ya, yb, yc, ym, image, top, channel, exists, S, W, C)
        for step in range(0, ROWS):
            row = top + step
            below, below_m, below_r = _gradient_row(du, y, ya, yb, yc, ym, image, row + 1, channel, exists, S, W, C)
            place, mask = _place(image, row, tl.arange(0, W), channel, exists, S, C)
            value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
            v = tl.where(mask, value * a[None, :] + b[None, :], 0.0)
            z = gelu(v)
            total = _weighted(kernel, channel, above, above_m, above_r, 8, -1, C)
            total += _weighted(kernel, channel, here, here_m, here_r, 5, -1, C)
            total += _weighted(kernel, channel, below, below_m, below_r, 2, -1, C)
            own = tl.where(mask, total * gelu_gradient(v), 0.0)
            tl.store(out + place, own.to(out.dtype.element_ty), mask=mask)
            first += own
            second += own * (value - centre[None, :])
            k8, k7, k6 = k8 + z * above, k7 + z * above_m, k6 + z * above_r
            k5, k4, k3 = k5 + z * here, k4 + z * here_m, k3 + z * here_r
            k2, k1, k0 = k2 + z * below, k1 + z * below_m, k0 + z * below_r
            above, above_m, above_r = here, here_m, here_r
            here, here_m, here_r = below, below_m, below_r
    part = parts + program * (11 * C)
    _store_three(part, k0, k1, k2, channel, C)
    _store_three(part + 3 * C, k3, k4, k5, channel, C)
    _store_three(part + 6 * C, k6, k7, k8, channel, C)
    inverse = tl.rsqrt(tl.load(variance + channel, mask=channel < C, other=1.0) + eps)
    tl.store(part + 9 * C + channel, tl.sum(first, axis=0), mask=channel < C)
    tl.store(part + 10 * C + channel, tl.sum(second, axis=0) * inverse, mask=channel < C)


@triton.jit
def _store_three(part, first, second, third, channel, C: tl.constexpr):
    tl.store(part + channel, tl.sum(first, axis=0), mask=channel < C)
    tl.store(part + C + channel, tl.sum(second, axis=0), mask=channel < C)
    tl.store(part + 2 * C + channel, tl.sum(third, axis=0), mask=channel < C)
