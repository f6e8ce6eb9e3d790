"""What the Triton kernels have in common: GELU, products, the tokens of a tile, and sums in a fixed order.

Tokens lie in memory as (B, S, S, C): an image in torch's channels_last. A tile is R whole lines of S tokens, rows or
columns, padded to M tokens. Programs add nothing in memory that another one adds to: each writes its part of a sum, and
the parts are added in their order, so that results are the same bits in every run.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gelu(v):
    """The exact GELU, in float32."""
    return 0.5 * v * (1.0 + tl.erf(v * 0.7071067811865476))


@triton.jit
def gelu_gradient(v):
    """The derivative of GELU at `v`, in float32."""
    return 0.5 * (1.0 + tl.erf(v * 0.7071067811865476)) + v * tl.exp(-0.5 * v * v) * 0.3989422804014327


@triton.jit
def add_product(a, b, total, PRECISION: tl.constexpr):
    """Return `total` + a b in float32. PRECISION is that of `tl.dot`, or "widened": on float32 copies of a and b."""
    if PRECISION == "widened":
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision="ieee")
    else:
        return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def line_tokens(tile, lines, S: tl.constexpr, R: tl.constexpr, M: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the numbers (M,) of the tokens of a tile, by row or by column of the images, and which of them exist."""
    place = tl.arange(0, M)
    line = tile * R + place // S
    if COLUMNS:
        token = (line // S) * S * S + (place % S) * S + line % S
    else:
        token = line * S + place % S
    return token.to(tl.int64), (place < R * S) & (line < lines)


@triton.jit
def line_matrix(matrix, S: tl.constexpr, R: tl.constexpr, M: tl.constexpr):
    """Return the (M, M) matrix that applies the (S, S) `matrix` to each line of a tile: kron(I_R, matrix), padded."""
    row, column = tl.arange(0, M)[:, None], tl.arange(0, M)[None, :]
    is_inside = (row // S == column // S) & (row < R * S) & (column < R * S)
    return tl.load(matrix + (row % S) * S + column % S, mask=is_inside, other=0.0)


@triton.jit
def norm_factors(mean, variance, gamma, beta, channel, eps, C: tl.constexpr):
    """Return a, b (channels,) in float32 with batch_norm(x) = a x + b."""
    is_inside = channel < C
    a = tl.load(gamma + channel, mask=is_inside, other=0.0).to(tl.float32)
    a = a * tl.rsqrt(tl.load(variance + channel, mask=is_inside, other=1.0) + eps)
    b = tl.load(beta + channel, mask=is_inside, other=0.0).to(tl.float32)
    return a, b - tl.load(mean + channel, mask=is_inside, other=0.0) * a
