"""One differentiable function for the token mixing of a block: 9 tensors moved forward, 18 backward."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.fused import operators


class Settings(NamedTuple):
    """What has no gradient."""

    statistics: tuple[Tensor, Tensor, Tensor, Tensor] | None  # means and variances of both norms; None: the batch's
    depthwise_eps: float
    mixing_eps: float


class TokenMix(torch.autograd.Function):
    """x + scale * (the token mixing of x), for tokens (B, S, S, C); with the batch's statistics, these as well."""

    @staticmethod
    def forward(
        ctx: Any,
        settings: Settings,
        x: Tensor,
        scale: Tensor | None,
        *parameters: Tensor,
    ) -> Any:
        """Return the output, or (output, mean, variance, mean, variance) with statistics of the batch.

        `parameters`: gamma, beta and kernel of the depthwise unit; gamma, beta, weight and bias of the rows' and of the
        columns' mix, and the weight of fuse.
        """
        gamma, beta, kernel, mix_gamma, mix_beta, rows, rows_bias, columns, columns_bias, fuse = parameters
        rows, columns, fuse = (weight.flatten(1).to(x.dtype) for weight in (rows, columns, fuse))
        is_batch, tokens = settings.statistics is None, x.numel() // x.shape[3]
        if settings.statistics is None:
            mean, variance = operators.norm_statistics(operators.norm_parts(x), tokens)
        else:
            mean, variance, mix_mean, mix_variance = settings.statistics
        norm = (mean, variance, gamma, beta, settings.depthwise_eps)
        y, parts = operators.depthwise(x, *norm, kernel, is_batch)
        if is_batch:
            mix_mean, mix_variance = operators.norm_statistics(parts, tokens)
        mix_norm = (mix_mean, mix_variance, mix_gamma, mix_beta, settings.mixing_eps)
        c = operators.mix_columns(y, *mix_norm, columns, columns_bias)
        out = operators.fuse(x, y, c, scale, *mix_norm, rows, rows_bias, fuse)
        statistics = (mean, variance, mix_mean, mix_variance)
        ctx.save_for_backward(
            x, y, c, scale, *statistics, gamma, beta, kernel, mix_gamma, mix_beta, rows, rows_bias, columns, fuse
        )
        ctx.settings = settings
        if not is_batch:
            return out
        ctx.mark_non_differentiable(*statistics)
        return (out, *statistics)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor, *unused: Any) -> Any:
        """Return the gradients of x and of the parameters."""
        x, y, c, scale, mean, variance, mix_mean, mix_variance, *parameters = ctx.saved_tensors
        gamma, beta, kernel, mix_gamma, mix_beta, rows, rows_bias, columns, fuse = parameters
        is_batch, g, side, dim = ctx.settings.statistics is None, g.contiguous(), x.shape[1], x.shape[3]
        mix_norm = (mix_mean, mix_variance, mix_gamma, mix_beta, ctx.settings.mixing_eps)
        part, column_parts, column_bias_parts = operators.back_columns(g, y, scale, *mix_norm, columns, fuse)
        du, row_parts, row_bias_parts, parts = operators.back_rows(g, y, part, scale, *mix_norm, rows, fuse)
        fuse_parts = operators.fuse_gradient(g, y, c, scale, *mix_norm, rows, rows_bias)
        mix_sums, eps = parts.sum(0), ctx.settings.depthwise_eps
        of_y = (mix_mean, mix_variance, mix_gamma, mix_sums, ctx.settings.mixing_eps)
        du, parts = operators.back_depthwise(du, y, x, *of_y, mean, variance, gamma, beta, eps, kernel, is_batch)
        sums = parts.sum(0)
        dx = operators.back_norm(g, du, x, mean, variance, gamma, sums[9:], eps, is_batch)
        return (
            None,
            dx,
            None,
            sums[10],
            sums[9],
            sums[:9].t().reshape(dim, 1, 3, 3),
            mix_sums[1],
            mix_sums[0],
            row_parts.sum(0).view(side, side, 1, 1),
            row_bias_parts.sum(0),
            column_parts.sum(0).view(side, side, 1, 1),
            column_bias_parts.sum(0),
            fuse_parts.sum(0).view(dim, 3 * dim, 1, 1),
        )
