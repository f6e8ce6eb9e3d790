"""The tail of token mixing: batch norm's application, GELU, both mixes, their fusion, and the residual.

    z = gelu(batch_norm(y));  r = rows of z mixed;  c = columns of z mixed;  out = x + scale * fuse [z, r, c]

z and r are never in memory, nor is the concatenation. With 1 for a tensor (B, S, S, C):

    mix_columns      reads y; writes c                                                                  2
    fuse             reads x, y, c; writes out                                                          4
    back (columns)   reads g, y; writes the columns' part of dz, parts of the mix's gradients           3
    back (rows)      reads g, y, that part; writes du = dz gelu', parts of the mix's and norm's sums    4
    fuse_gradient    reads g, y, c; writes parts of the gradient of fuse                                3
"""

from __future__ import annotations

import triton
import triton.language as tl

from models.fused.shared_kernels import add_product, gelu, gelu_gradient, line_matrix, line_tokens, norm_factors


@triton.jit
def _load(tokens, token, exists, channel, C: tl.constexpr):
    """Return (tokens, channels) of `tokens`, and which of its elements exist."""
    mask = exists[:, None] & (channel < C)[None, :]
    return tl.load(tokens + token[:, None] * C + channel[None, :], mask=mask, other=0.0), mask


@triton.jit
def _load_scaled(tokens, scale, token, exists, channel, S: tl.constexpr, C: tl.constexpr, SCALED: tl.constexpr):
    """Return (tokens, channels) of `tokens` times the factor of their image."""
    value, mask = _load(tokens, token, exists, channel, C)
    if SCALED:
        factor = tl.load(scale + token // (S * S), mask=exists, other=0.0).to(tl.float32)
        value = (value.to(tl.float32) * factor[:, None]).to(value.dtype)
    return value


@triton.jit
def _normalised(y, mean, variance, gamma, beta, eps, token, exists, channel, C: tl.constexpr):
    """Return batch_norm(y) in float32, 0 for what does not exist, and its mask."""
    value, mask = _load(y, token, exists, channel, C)
    a, b = norm_factors(mean, variance, gamma, beta, channel, eps, C)
    return tl.where(mask, value.to(tl.float32) * a[None, :] + b[None, :], 0.0), mask


@triton.jit
def _mixed(mixing, bias, z, S: tl.constexpr, M: tl.constexpr, N: tl.constexpr, PRECISION: tl.constexpr):
    """Return the mixed lines (M, N) of z in float32, with their bias."""
    b = tl.load(bias + tl.arange(0, M) % S).to(tl.float32)
    return add_product(mixing, z, tl.zeros((M, N), tl.float32), PRECISION) + b[:, None]


@triton.jit
def mix_columns_kernel(
    y,
    mean,
    variance,
    gamma,
    beta,
    eps,
    matrix,
    bias,
    out,
    lines,
    S: tl.constexpr,
    R: tl.constexpr,
    M: tl.constexpr,
    C: tl.constexpr,
    BC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write the columns of z, mixed. Grid: tiles, blocks of BC channels."""
    token, exists = line_tokens(tl.program_id(0), lines, S, R, M, True)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    v, mask = _normalised(y, mean, variance, gamma, beta, eps, token, exists, channel, C)
    mixing = line_matrix(matrix, S, R, M)
    mixed = _mixed(mixing, bias, gelu(v).to(mixing.dtype), S, M, BC, PRECISION)
    tl.store(out + token[:, None] * C + channel[None, :], mixed.to(out.dtype.element_ty), mask=mask)


@triton.jit
def fuse_kernel(
    x,
    y,
    c,
    scale,
    mean,
    variance,
    gamma,
    beta,
    eps,
    matrix,
    bias,
    fuse,
    out,
    lines,
    S: tl.constexpr,
    R: tl.constexpr,
    M: tl.constexpr,
    C: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    SCALED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write the output. Grid: tiles, blocks of BN output channels; the loop is over the input's."""
    token, exists = line_tokens(tl.program_id(0), lines, S, R, M, False)
    column = tl.program_id(1) * BN + tl.arange(0, BN)
    mixing = line_matrix(matrix, S, R, M)
    total = tl.zeros((M, BN), tl.float32)
    for start in range(0, C, BK):
        channel = start + tl.arange(0, BK)
        v, mask = _normalised(y, mean, variance, gamma, beta, eps, token, exists, channel, C)
        z = gelu(v).to(mixing.dtype)
        row_mixed = _mixed(mixing, bias, z, S, M, BK, PRECISION).to(mixing.dtype)
        column_mixed, mask = _load(c, token, exists, channel, C)
        weight = fuse + column[None, :] * (3 * C) + channel[:, None]  # fuse is (C, 3 C)
        is_inside = (channel < C)[:, None] & (column < C)[None, :]
        total = add_product(z, tl.load(weight, mask=is_inside, other=0.0), total, PRECISION)
        total = add_product(row_mixed, tl.load(weight + C, mask=is_inside, other=0.0), total, PRECISION)
        total = add_product(column_mixed, tl.load(weight + 2 * C, mask=is_inside, other=0.0), total, PRECISION)
    if SCALED:
        factor = tl.load(scale + token // (S * S), mask=exists, other=0.0).to(tl.float32)
        total = total * factor[:, None]
    value, mask = _load(x, token, exists, column, C)
    total += value.to(tl.float32)
    tl.store(out + token[:, None] * C + column[None, :], total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _unfused(
    g,
    scale,
    fuse,
    token,
    exists,
    column,
    S: tl.constexpr,
    M: tl.constexpr,
    C: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    COLUMNS: tl.constexpr,
    SCALED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return the gradients (M, BN) of the mixed columns and 0, or of the mixed rows and of z as it enters fuse."""
    mixed = tl.zeros((M, BN), tl.float32)
    direct = tl.zeros((M, BN), tl.float32)
    for start in range(0, C, BK):
        channel = start + tl.arange(0, BK)
        own = _load_scaled(g, scale, token, exists, channel, S, C, SCALED)
        weight = fuse + channel[:, None] * (3 * C) + column[None, :]
        is_inside = (channel < C)[:, None] & (column < C)[None, :]
        if COLUMNS:
            mixed = add_product(own, tl.load(weight + 2 * C, mask=is_inside, other=0.0), mixed, PRECISION)
        else:
            mixed = add_product(own, tl.load(weight + C, mask=is_inside, other=0.0), mixed, PRECISION)
            direct = add_product(own, tl.load(weight, mask=is_inside, other=0.0), direct, PRECISION)
    return mixed, direct


@triton.jit
def back_kernel(
    g,
    y,
    part,
    scale,
    mean,
    variance,
    gamma,
    beta,
    eps,
    matrix,
    fuse,
    out,
    mix_parts,
    bias_parts,
    norm_parts,
    lines,
    ROUNDS: tl.constexpr,
    S: tl.constexpr,
    R: tl.constexpr,
    M: tl.constexpr,
    C: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    COLUMNS: tl.constexpr,
    SCALED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write the columns' part of dz, or du from it and from the direct and the rows' part.

    Grid: programs, which take every so many-th tile, and blocks of BN channels. The parts are of the gradients of the
    mix's matrix and bias, and of the sums of du and of du times the normalised y.
    """
    program, programs = tl.program_id(0), tl.num_programs(0)
    column = tl.program_id(1) * BN + tl.arange(0, BN)
    mixing = line_matrix(matrix, S, R, M)
    mix_sum = tl.zeros((M, M), tl.float32)
    bias_sum = tl.zeros((M,), tl.float32)
    first_sum = tl.zeros((BN,), tl.float32)
    second_sum = tl.zeros((BN,), tl.float32)
    for turn in range(0, ROUNDS):  # what lies beyond the last line is masked
        token, exists = line_tokens(program + turn * programs, lines, S, R, M, COLUMNS)
        mixed, direct = _unfused(g, scale, fuse, token, exists, column, S, M, C, BN, BK, COLUMNS, SCALED, PRECISION)
        v, mask = _normalised(y, mean, variance, gamma, beta, eps, token, exists, column, C)
        z = gelu(v).to(mixing.dtype)
        bias_sum += tl.sum(mixed, axis=1)
        rounded = mixed.to(mixing.dtype)
        mix_sum = add_product(rounded, tl.trans(z), mix_sum, PRECISION)
        back = add_product(tl.trans(mixing), rounded, direct, PRECISION)
        place = token[:, None] * C + column[None, :]
        if COLUMNS:
            tl.store(out + place, back.to(out.dtype.element_ty), mask=mask)
        else:
            dz = back + tl.load(part + place, mask=mask, other=0.0).to(tl.float32)
            du = tl.where(mask, dz * gelu_gradient(v), 0.0)
            tl.store(out + place, du.to(out.dtype.element_ty), mask=mask)
            centre = tl.load(mean + column, mask=column < C, other=0.0)
            centred = tl.load(y + place, mask=mask, other=0.0).to(tl.float32) - centre[None, :]  # from the cache
            first_sum += tl.sum(du, axis=0)
            second_sum += tl.sum(du * centred, axis=0)
    at = program * tl.num_programs(1) + tl.program_id(1)
    row, across = tl.arange(0, M)[:, None], tl.arange(0, M)[None, :]
    is_inside = (row // S == across // S) & (row < R * S) & (across < R * S)
    tl.store(mix_parts + at * (R * S * S) + row * S + across % S, mix_sum, mask=is_inside)
    tl.store(bias_parts + at * (R * S) + tl.arange(0, M), bias_sum, mask=tl.arange(0, M) < R * S)
    if not COLUMNS:
        inverse = tl.rsqrt(tl.load(variance + column, mask=column < C, other=1.0) + eps)
        parts = norm_parts + program * (2 * C) + column
        tl.store(parts, first_sum, mask=column < C)
        tl.store(parts + C, second_sum * inverse, mask=column < C)


@triton.jit
def fuse_gradient_kernel(
    g,
    y,
    c,
    scale,
    mean,
    variance,
    gamma,
    beta,
    eps,
    matrix,
    bias,
    parts,
    lines,
    ROUNDS: tl.constexpr,
    S: tl.constexpr,
    R: tl.constexpr,
    M: tl.constexpr,
    C: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    SCALED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write parts of the gradient of fuse. Grid: blocks of outputs, blocks of inputs, programs as in `back_kernel`."""
    column = tl.program_id(0) * BN + tl.arange(0, BN)
    channel = tl.program_id(1) * BK + tl.arange(0, BK)
    mixing = line_matrix(matrix, S, R, M)
    first = tl.zeros((BN, BK), tl.float32)
    second = tl.zeros((BN, BK), tl.float32)
    third = tl.zeros((BN, BK), tl.float32)
    for turn in range(0, ROUNDS):
        token, exists = line_tokens(tl.program_id(2) + turn * tl.num_programs(2), lines, S, R, M, False)
        v, mask = _normalised(y, mean, variance, gamma, beta, eps, token, exists, channel, C)
        z = gelu(v).to(mixing.dtype)
        row_mixed = _mixed(mixing, bias, z, S, M, BK, PRECISION).to(mixing.dtype)
        column_mixed, mask = _load(c, token, exists, channel, C)
        own = tl.trans(_load_scaled(g, scale, token, exists, column, S, C, SCALED))
        first = add_product(own, z, first, PRECISION)
        second = add_product(own, row_mixed, second, PRECISION)
        third = add_product(own, column_mixed, third, PRECISION)
    is_inside = (column < C)[:, None] & (channel < C)[None, :]
    place = parts + tl.program_id(2) * (3 * C * C) + column[:, None] * (3 * C) + channel[None, :]
    tl.store(place, first, mask=is_inside)
    tl.store(place + C, second, mask=is_inside)
    tl.store(place + 2 * C, third, mask=is_inside)
