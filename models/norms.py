"""Norms that stay in the half precision of autocast.

On GPUs and NPUs torch's autocast computes these norms in float32: it casts their input, and their output is cast back
by the layer behind. torch's kernels for half precision add up in float32 as well; what they round is the weights and
the output.
"""

from __future__ import annotations

from typing import Callable

from torch import Tensor, nn
from torch.nn import functional

from runtime.autocast import dtype_of_autocast, without_autocast


class LayerNorm(nn.LayerNorm):
    """torch's LayerNorm, which within autocast returns an input in half precision in that precision."""

    def forward(self, x: Tensor) -> Tensor:
        if not _is_half_of_autocast(x):
            return super().forward(x)

        def norm(weight: Tensor, bias: Tensor) -> Tensor:
            return functional.layer_norm(x, self.normalized_shape, weight, bias, self.eps)

        return _in_half(norm, self, x)


class GroupNorm(nn.GroupNorm):
    """torch's GroupNorm, which within autocast returns an input in half precision in that precision."""

    def forward(self, x: Tensor) -> Tensor:
        if not _is_half_of_autocast(x):
            return super().forward(x)

        def norm(weight: Tensor, bias: Tensor) -> Tensor:
            return functional.group_norm(x, self.num_groups, weight, bias, self.eps)

        return _in_half(norm, self, x)


def _is_half_of_autocast(x: Tensor) -> bool:
    return x.dtype == dtype_of_autocast(x.device.type)


def _in_half(norm: Callable[[Tensor, Tensor], Tensor], module: nn.LayerNorm | nn.GroupNorm, x: Tensor) -> Tensor:
    """Return `norm` of the module's weight and bias in the precision of `x`, outside of autocast."""
    with without_autocast(x.device.type):
        return norm(module.weight.to(x.dtype), module.bias.to(x.dtype))
