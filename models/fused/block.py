"""A block of sMLPNet by fused kernels; what they do not take, by torch's operators."""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor, nn

from models.fused import mlp_operators
from models.fused.sizes import MOST_SIDE
from models.fused.token_mixing import Settings, TokenMix
from models.layers import scaled
from runtime.amp import DTYPES
from runtime.autocast import dtype_of_autocast

_DTYPES = (torch.float32, *DTYPES.values())


class FusedBlock:
    """A model's `apply_block`: (B, C, S, S) -> (B, C, S, S). `eager` is the function that it stands for."""

    def __init__(self, eager: Callable[..., Tensor]) -> None:
        self.eager = eager

    def __call__(
        self,
        x: Tensor,
        token_mix: Any,
        channel_mix: Any,
        token_scale: Tensor | None,
        channel_scale: Tensor | None,
    ) -> Tensor:
        dtype = dtype_of_autocast(x.device.type) or x.dtype
        if not takes(x, dtype):
            return self.eager(x, token_mix, channel_mix, token_scale, channel_scale)
        tokens = x.permute(0, 2, 3, 1).to(dtype).contiguous()
        tokens = mix_tokens(tokens, token_mix[0], token_mix[1], token_scale)
        if drops(channel_mix[2]):
            image = tokens.permute(0, 3, 1, 2)
            return image + scaled(channel_mix(image), channel_scale)
        return mlp_operators.channel_mix(tokens, channel_mix[1], channel_mix[2], channel_scale).permute(0, 3, 1, 2)


def takes(x: Tensor, dtype: torch.dtype) -> bool:
    """Return whether the kernels take the images `x` (B, C, S, S) in `dtype`; torch refuses one value a channel."""
    return dtype in _DTYPES and x.shape[2] == x.shape[3] and 2 <= x.shape[2] <= MOST_SIDE


def drops(mlp: Any) -> bool:
    """Return whether dropout is at work in a FeedForward; the kernels have none."""
    return any(isinstance(layer, nn.Dropout) and layer.training and layer.p > 0 for layer in mlp.net)


def mix_tokens(tokens: Tensor, unit: Any, mixing: Any, scale: Tensor | None) -> Tensor:
    """Return `tokens` (B, S, S, C) plus `scale` times their DepthwiseUnit and SparseMLP."""
    first, second = unit.conv_merge.BN, mixing.BN
    is_batch = first.training or first.running_mean is None
    known = (first.running_mean, first.running_var, second.running_mean, second.running_var)
    settings = Settings(None if is_batch else known, first.eps, second.eps)
    rows, columns = mixing.proj_h, mixing.proh_w
    found = TokenMix.apply(
        settings, tokens, None if scale is None else scale.flatten(),
        first.weight, first.bias, unit.conv_merge.Conv.weight, second.weight, second.bias,
        rows.weight, rows.bias, columns.weight, columns.bias, mixing.fuse.weight,
    )  # fmt: skip
    if not is_batch:
        return found
    out, mean, variance, mix_mean, mix_variance = found
    count = tokens.numel() // tokens.shape[3]
    _follow(first, mean, variance, count)
    _follow(second, mix_mean, mix_variance, count)
    return out


@torch.no_grad()
def _follow(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Update the running statistics of `norm` as it does itself, from `count` values a channel."""
    if not norm.training or norm.running_mean is None or norm.running_var is None:
        return
    momentum: Any = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if momentum is None:  # the average of all batches
            momentum = 1 / norm.num_batches_tracked.to(mean.dtype)
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_(variance * (count / (count - 1)), momentum)
