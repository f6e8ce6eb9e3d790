"""The channel MLP of sMLPNet's block as Triton kernels: out = x + scale * mlp(norm(x)) and its gradients.

`x` is tokens (T, C) in memory order. The norm's weight and bias are folded into the first layer beforehand, so that a
kernel standardises its tokens only:

    u = standardised(x) w1 + b1      hidden layer (T, H); w1 (H, C) is low.weight * norm.weight, b1 holds norm.bias
    out = x + scale * (gelu(u) w2 + b2)                                                   w2 is (C, H)

With g the gradient of `out`, and units of one tensor (T, C), of which a tensor (T, H) is three:

    narrow   a program holds whole tokens, and computes the hidden layer anew wherever it is needed
             narrow_forward           reads x, writes out                                 2 units
             narrow_input             reads g, x, writes the gradient of x                3
             narrow_weights           reads g, x, sums the gradients of w1, b1, w2, b2    2
    wide     the hidden layer before its GELU is saved
             wide_hidden              reads x, writes u and each token's mean and 1 / deviation    4
             wide_out                 reads u, x, writes out                              5
             wide_hidden_gradient     reads g, u, writes du and two sums of each token    7
             wide_input               reads du, x, g, writes the gradient of x            6
             wide_weights             reads g, u for w2, b2; du, x for w1, b1             4 each

The gradient of standardisation needs two sums of a token over d = du w1: they are du . (w1 summed over C), and
du . (u - b1), so that wide_hidden_gradient has them without d. Each program writes its sums to a place of its own; who
adds the places does so in their order, which makes the results reproducible bit by bit.

Constants: C channels, H hidden units; tiles of M tokens, of CA + CB channels (powers of two, together at least C), of
BH hidden units; in products of BN columns, with BK summands at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from models.fused.shared_kernels import add_product, gelu, gelu_gradient


@triton.jit
def _matrix(pointer, row, column, ROWS: tl.constexpr, COLUMNS: tl.constexpr, stride_row, stride_column):
    """Return the tile (row, column) of a matrix, 0 outside."""
    inside = (row < ROWS)[:, None] & (column < COLUMNS)[None, :]
    return tl.load(pointer + row[:, None] * stride_row + column[None, :] * stride_column, mask=inside, other=0.0)


@triton.jit
def _product(a, b, PRECISION: tl.constexpr):
    """Return a b in float32, as `add_product`."""
    return add_product(a, b, tl.zeros((a.shape[0], b.shape[1]), tl.float32), PRECISION)


@triton.jit
def _tokens(pointer, row, tokens, column, WIDTH: tl.constexpr):
    """Return the tile (row, column) of tokens (T, width), 0 outside."""
    inside = (row < tokens)[:, None] & (column < WIDTH)[None, :]
    return tl.load(pointer + row[:, None] * WIDTH + column[None, :], mask=inside, other=0.0)


@triton.jit
def _store_tokens(pointer, value, row, tokens, column, WIDTH: tl.constexpr):
    """Write the tile (row, column) of tokens (T, width)."""
    inside = (row < tokens)[:, None] & (column < WIDTH)[None, :]
    place = pointer + row[:, None] * WIDTH + column[None, :]
    tl.store(place, value.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def _store_part(pointer, value, row, column, ROWS: tl.constexpr, COLUMNS: tl.constexpr, stride_row, stride_column):
    """Write the tile (row, column) of a matrix."""
    inside = (row < ROWS)[:, None] & (column < COLUMNS)[None, :]
    tl.store(pointer + row[:, None] * stride_row + column[None, :] * stride_column, value, mask=inside)


@triton.jit
def _vector(pointer, place, length: tl.constexpr):
    """Return a part of a vector in float32, 0 outside."""
    return tl.load(pointer + place, mask=place < length, other=0.0).to(tl.float32)


@triton.jit
def _scale_of(scale, row, tokens, area):
    """Return drop path's factor of each token, which is that of its image of `area` tokens; 1 without drop path."""
    if scale is None:
        return tl.full(row.shape, 1.0, tl.float32)
    else:
        return tl.load(scale + row // area, mask=row < tokens, other=0.0).to(tl.float32)


@triton.jit
def _channels(C: tl.constexpr, CA: tl.constexpr, CB: tl.constexpr):
    """Return the numbers of a token's channels, in its two parts."""
    return tl.arange(0, CA), CA + tl.arange(0, CB)


@triton.jit
def _moments(x, row, tokens, C: tl.constexpr, CA: tl.constexpr, CB: tl.constexpr, eps):
    """Return the mean of each token and 1 / its deviation."""
    first, second = _channels(C, CA, CB)
    a = _tokens(x, row, tokens, first, C).to(tl.float32)
    b = _tokens(x, row, tokens, second, C).to(tl.float32)
    mean = (tl.sum(a, axis=1) + tl.sum(b, axis=1)) / C
    a = tl.where((first < C)[None, :], a - mean[:, None], 0.0)
    b = tl.where((second < C)[None, :], b - mean[:, None], 0.0)
    variance = (tl.sum(a * a, axis=1) + tl.sum(b * b, axis=1)) / C
    return mean, 1.0 / tl.sqrt(variance + eps)


@triton.jit
def _standardised(x, mean, inverse, row, tokens, column, C: tl.constexpr):
    """Return tokens with mean 0 and variance 1; beyond C it is not 0."""
    return (_tokens(x, row, tokens, column, C).to(tl.float32) - mean[:, None]) * inverse[:, None]


@triton.jit
def _scaled(g, scale, row, tokens, area, column, C: tl.constexpr):
    """Return the gradients of the branch's output: those of `out` times drop path's factors, in float32."""
    own = _tokens(g, row, tokens, column, C).to(tl.float32)
    return own * _scale_of(scale, row, tokens, area)[:, None]


@triton.jit
def narrow_forward(
    x, w1, b1, w2, b2, scale, out, tokens, area, eps,
    C: tl.constexpr, H: tl.constexpr, M: tl.constexpr, CA: tl.constexpr, CB: tl.constexpr, BH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Write out. Grid: tiles of M tokens."""
    row = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M)
    first, second = _channels(C, CA, CB)
    low = w1.dtype.element_ty
    mean, inverse = _moments(x, row, tokens, C, CA, CB, eps)
    a = _standardised(x, mean, inverse, row, tokens, first, C).to(low)
    b = _standardised(x, mean, inverse, row, tokens, second, C).to(low)
    total_a = tl.zeros((M, CA), tl.float32)
    total_b = tl.zeros((M, CB), tl.float32)
    for start in range(0, H, BH):
        unit = start + tl.arange(0, BH)
        u = _product(a, _matrix(w1, first, unit, C, H, 1, C), PRECISION)
        u = add_product(b, _matrix(w1, second, unit, C, H, 1, C), u, PRECISION)
        active = gelu(u + _vector(b1, unit, H)[None, :]).to(low)
        total_a = add_product(active, _matrix(w2, unit, first, H, C, 1, H), total_a, PRECISION)
        total_b = add_product(active, _matrix(w2, unit, second, H, C, 1, H), total_b, PRECISION)
    factor = _scale_of(scale, row, tokens, area)[:, None]
    total_a = (total_a + _vector(b2, first, C)[None, :]) * factor
    total_b = (total_b + _vector(b2, second, C)[None, :]) * factor
    _store_tokens(out, _tokens(x, row, tokens, first, C).to(tl.float32) + total_a, row, tokens, first, C)
    _store_tokens(out, _tokens(x, row, tokens, second, C).to(tl.float32) + total_b, row, tokens, second, C)


@triton.jit
def _hidden_and_back(
    g, x, w1, w2, scale, mean, inverse, row, tokens, area, unit,
    C: tl.constexpr, H: tl.constexpr, BH: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return u without its bias, and the gradient of gelu(u), for these tokens and hidden units.

    Both are made of BK channels at a time, from the cache: whole tokens as operands would need too many registers.
    """
    u = tl.zeros((row.shape[0], BH), tl.float32)
    back = tl.zeros((row.shape[0], BH), tl.float32)
    for start in range(0, C, BK):
        channel = start + tl.arange(0, BK)
        standard = _standardised(x, mean, inverse, row, tokens, channel, C)
        weight = _matrix(w1, channel, unit, C, H, 1, C)  # 0 beyond the last channel
        u = add_product(standard.to(weight.dtype), weight, u, PRECISION)
        own = _scaled(g, scale, row, tokens, area, channel, C).to(weight.dtype)
        back = add_product(own, _matrix(w2, channel, unit, C, H, H, 1), back, PRECISION)
    return u, back


@triton.jit
def narrow_input(
    g, x, w1, b1, w2, scale, out, tokens, area, eps,
    C: tl.constexpr, H: tl.constexpr, M: tl.constexpr, CA: tl.constexpr, CB: tl.constexpr, BH: tl.constexpr,
    BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the gradient of x. Grid: tiles of M tokens."""
    row = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M)
    first, second = _channels(C, CA, CB)
    mean, inverse = _moments(x, row, tokens, C, CA, CB, eps)
    d_a = tl.zeros((M, CA), tl.float32)
    d_b = tl.zeros((M, CB), tl.float32)
    for start in range(0, H, BH):
        unit = start + tl.arange(0, BH)
        u, back = _hidden_and_back(g, x, w1, w2, scale, mean, inverse, row, tokens, area, unit, C, H, BH, BK, PRECISION)
        du = (back * gelu_gradient(u + _vector(b1, unit, H)[None, :])).to(w1.dtype.element_ty)
        d_a = add_product(du, _matrix(w1, unit, first, H, C, C, 1), d_a, PRECISION)
        d_b = add_product(du, _matrix(w1, unit, second, H, C, C, 1), d_b, PRECISION)
    a = _standardised(x, mean, inverse, row, tokens, first, C)
    b = _standardised(x, mean, inverse, row, tokens, second, C)
    centre = ((tl.sum(d_a, axis=1) + tl.sum(d_b, axis=1)) / C)[:, None]
    along = ((tl.sum(d_a * a, axis=1) + tl.sum(d_b * b, axis=1)) / C)[:, None]
    d_a = (d_a - centre - a * along) * inverse[:, None] + _tokens(g, row, tokens, first, C).to(tl.float32)
    d_b = (d_b - centre - b * along) * inverse[:, None] + _tokens(g, row, tokens, second, C).to(tl.float32)
    _store_tokens(out, d_a, row, tokens, first, C)
    _store_tokens(out, d_b, row, tokens, second, C)


@triton.jit
def narrow_weights(
    g, x, w1, b1, w2, scale, dw1, db1, dw2, db2, tokens, area, eps,
    C: tl.constexpr, H: tl.constexpr, M: tl.constexpr, CA: tl.constexpr, CB: tl.constexpr, BH: tl.constexpr,
    BK: tl.constexpr, PRECISION: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """Write parts (H, C), (H), (C, H), (C) of the sums. Grid: blocks of BH hidden units, programs sharing the tokens.

    The first block writes db2.
    """
    unit = tl.program_id(0) * BH + tl.arange(0, BH)
    program, programs = tl.program_id(1), tl.num_programs(1)
    first, second = _channels(C, CA, CB)
    low = w1.dtype.element_ty
    dw1_a = tl.zeros((BH, CA), tl.float32)
    dw1_b = tl.zeros((BH, CB), tl.float32)
    dw2_a = tl.zeros((BH, CA), tl.float32)
    dw2_b = tl.zeros((BH, CB), tl.float32)
    bias = tl.zeros((BH,), tl.float32)
    bias_a = tl.zeros((CA,), tl.float32)
    bias_b = tl.zeros((CB,), tl.float32)
    for turn in range(0, ROUNDS):  # what lies beyond the last token has the gradient 0
        row = (program + turn * programs).to(tl.int64) * M + tl.arange(0, M)
        mean, inverse = _moments(x, row, tokens, C, CA, CB, eps)
        u, back = _hidden_and_back(g, x, w1, w2, scale, mean, inverse, row, tokens, area, unit, C, H, BH, BK, PRECISION)
        u += _vector(b1, unit, H)[None, :]
        du = back * gelu_gradient(u)
        bias += tl.sum(du, axis=0)
        du = tl.trans(du.to(low))
        active = tl.trans(gelu(u).to(low))
        own = _scaled(g, scale, row, tokens, area, first, C)
        bias_a += tl.sum(own, axis=0)
        dw2_a = add_product(active, own.to(low), dw2_a, PRECISION)
        own = _scaled(g, scale, row, tokens, area, second, C)
        bias_b += tl.sum(own, axis=0)
        dw2_b = add_product(active, own.to(low), dw2_b, PRECISION)
        standard = _standardised(x, mean, inverse, row, tokens, first, C)
        dw1_a = add_product(du, standard.to(low), dw1_a, PRECISION)
        standard = _standardised(x, mean, inverse, row, tokens, second, C)
        dw1_b = add_product(du, standard.to(low), dw1_b, PRECISION)
    _store_part(dw1 + program * H * C, dw1_a, unit, first, H, C, C, 1)
    _store_part(dw1 + program * H * C, dw1_b, unit, second, H, C, C, 1)
    _store_part(dw2 + program * H * C, dw2_a, unit, first, H, C, 1, H)
    _store_part(dw2 + program * H * C, dw2_b, unit, second, H, C, 1, H)
    tl.store(db1 + program * H + unit, bias, mask=unit < H)
    is_first = tl.program_id(0) == 0
    tl.store(db2 + program * C + first, bias_a, mask=(first < C) & is_first)
    tl.store(db2 + program * C + second, bias_b, mask=(second < C) & is_first)


@triton.jit
def wide_hidden(
    x, w1, b1, u, moments, tokens, eps,
    C: tl.constexpr, H: tl.constexpr, M: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write u, and as moments (2, T) each token's mean and 1 / deviation."""
    unit = tl.program_id(0) * BN + tl.arange(0, BN)
    row = tl.program_id(1).to(tl.int64) * M + tl.arange(0, M)
    mean = tl.zeros((M,), tl.float32)
    for start in range(0, C, BK):
        mean += tl.sum(_tokens(x, row, tokens, start + tl.arange(0, BK), C).to(tl.float32), axis=1) / C
    variance = tl.zeros((M,), tl.float32)
    for start in range(0, C, BK):
        channel = start + tl.arange(0, BK)
        value = _tokens(x, row, tokens, channel, C).to(tl.float32) - mean[:, None]
        variance += tl.sum(tl.where((channel < C)[None, :], value * value, 0.0), axis=1) / C
    inverse = 1.0 / tl.sqrt(variance + eps)
    total = tl.zeros((M, BN), tl.float32)
    for start in range(0, C, BK):
        channel = start + tl.arange(0, BK)
        standard = _standardised(x, mean, inverse, row, tokens, channel, C)
        weight = _matrix(w1, channel, unit, C, H, 1, C)  # 0 beyond the last channel
        total = add_product(standard.to(weight.dtype), weight, total, PRECISION)
    _store_tokens(u, total + _vector(b1, unit, H)[None, :], row, tokens, unit, H)
    is_first = (row < tokens) & (tl.program_id(0) == 0)
    tl.store(moments + row, mean, mask=is_first)
    tl.store(moments + tokens + row, inverse, mask=is_first)


@triton.jit
def wide_out(
    u, x, w2, b2, scale, out, tokens, area,
    C: tl.constexpr, H: tl.constexpr, M: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write out."""
    channel = tl.program_id(0) * BN + tl.arange(0, BN)
    row = tl.program_id(1).to(tl.int64) * M + tl.arange(0, M)
    total = tl.zeros((M, BN), tl.float32)
    for start in range(0, H, BK):
        unit = start + tl.arange(0, BK)
        active = gelu(_tokens(u, row, tokens, unit, H).to(tl.float32)).to(w2.dtype.element_ty)
        total = add_product(active, _matrix(w2, unit, channel, H, C, 1, H), total, PRECISION)
    branch = (total + _vector(b2, channel, C)[None, :]) * _scale_of(scale, row, tokens, area)[:, None]
    _store_tokens(out, _tokens(x, row, tokens, channel, C).to(tl.float32) + branch, row, tokens, channel, C)


@triton.jit
def wide_hidden_gradient(
    g, u, b1, w1_sums, w2, scale, du, sums, tokens, area,
    C: tl.constexpr, H: tl.constexpr, M: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write du, and this block's part of each token's two sums over d to sums (blocks, 2, T)."""
    unit = tl.program_id(0) * BN + tl.arange(0, BN)
    row = tl.program_id(1).to(tl.int64) * M + tl.arange(0, M)
    back = tl.zeros((M, BN), tl.float32)
    for start in range(0, C, BK):
        channel = start + tl.arange(0, BK)
        own = _scaled(g, scale, row, tokens, area, channel, C).to(w2.dtype.element_ty)
        back = add_product(own, _matrix(w2, channel, unit, C, H, H, 1), back, PRECISION)
    hidden = _tokens(u, row, tokens, unit, H).to(tl.float32)
    back *= gelu_gradient(hidden)
    _store_tokens(du, back, row, tokens, unit, H)
    first = tl.sum(back * _vector(w1_sums, unit, H)[None, :], axis=1)
    second = tl.sum(back * (hidden - _vector(b1, unit, H)[None, :]), axis=1)
    place = sums + tl.program_id(0) * 2 * tokens + row
    tl.store(place, first, mask=row < tokens)
    tl.store(place + tokens, second, mask=row < tokens)


@triton.jit
def wide_input(
    du, x, g, w1, moments, sums, out, tokens,
    C: tl.constexpr, H: tl.constexpr, M: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
    BLOCKS: tl.constexpr,
):  # fmt: skip
    """Write the gradient of x."""
    channel = tl.program_id(0) * BN + tl.arange(0, BN)
    row = tl.program_id(1).to(tl.int64) * M + tl.arange(0, M)
    d = tl.zeros((M, BN), tl.float32)
    for start in range(0, H, BK):
        unit = start + tl.arange(0, BK)
        own = _tokens(du, row, tokens, unit, H)
        d = add_product(own, _matrix(w1, unit, channel, H, C, C, 1), d, PRECISION)
    inside = row < tokens
    first = tl.zeros((M,), tl.float32)
    second = tl.zeros((M,), tl.float32)
    for block in range(0, BLOCKS):
        first += tl.load(sums + block * 2 * tokens + row, mask=inside, other=0.0)
        second += tl.load(sums + block * 2 * tokens + tokens + row, mask=inside, other=0.0)
    mean = tl.load(moments + row, mask=inside, other=0.0)
    inverse = tl.load(moments + tokens + row, mask=inside, other=0.0)[:, None]
    standard = (_tokens(x, row, tokens, channel, C).to(tl.float32) - mean[:, None]) * inverse
    dx = (d - (first / C)[:, None] - standard * (second / C)[:, None]) * inverse
    _store_tokens(out, _tokens(g, row, tokens, channel, C).to(tl.float32) + dx, row, tokens, channel, C)


@triton.jit
def wide_weights(
    gradient, value, moments, scale, dw, db, tokens, area,
    OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, FIRST: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    M: tl.constexpr, PRECISION: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """Write parts (outputs, inputs) and (outputs) of a layer's sums: the first's of du and x, the second's of g and u.

    Grid: blocks of BN outputs and of BK inputs, programs sharing the tokens. The first block of inputs writes db.
    """
    output = tl.program_id(0) * BN + tl.arange(0, BN)
    place = tl.program_id(1) * BK + tl.arange(0, BK)
    program, programs = tl.program_id(2), tl.num_programs(2)
    low = gradient.dtype.element_ty if FIRST else value.dtype.element_ty
    total = tl.zeros((BN, BK), tl.float32)
    bias = tl.zeros((BN,), tl.float32)
    for turn in range(0, ROUNDS):  # what lies beyond the last token has the gradient 0
        row = (program + turn * programs).to(tl.int64) * M + tl.arange(0, M)
        given = _tokens(value, row, tokens, place, INPUTS).to(tl.float32)
        if FIRST:
            mean = tl.load(moments + row, mask=row < tokens, other=0.0)
            inverse = tl.load(moments + tokens + row, mask=row < tokens, other=0.0)
            given = (given - mean[:, None]) * inverse[:, None]
            own = _tokens(gradient, row, tokens, output, OUTPUTS).to(tl.float32)
        else:
            given = gelu(given)
            own = _scaled(gradient, scale, row, tokens, area, output, OUTPUTS)
        bias += tl.sum(own, axis=0)
        total = add_product(tl.trans(own.to(low)), given.to(low), total, PRECISION)
    _store_part(dw + program * OUTPUTS * INPUTS, total, output, place, OUTPUTS, INPUTS, INPUTS, 1)
    tl.store(db + program * OUTPUTS + output, bias, mask=(output < OUTPUTS) & (tl.program_id(1) == 0))
