"""sMLPNet: image classification with a sparse MLP for token mixing (Tang et al., arXiv 2109.05422).

Parameter names equal the published code's (microsoft/SPACH, models/smlp.py), the misspelt `proh_w` included, so that
weights move in both directions.
"""

from __future__ import annotations

from typing import Any, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers import (
    ImageModel,
    branch_scale,
    check_image_size,
    depthwise,
    left_product,
    make,
    make_drop_path,
    rising_rates,
    scaled,
    stage_sides,
)
from runtime.compat import register_model
from runtime.names import TOKEN_LAYOUTS


def recorded_layout(recorded: Mapping[str, Any]) -> str:
    """Return the token layout of the program that recorded these options: only the Ascend port has an option `npu`."""
    return recorded.get("token_layout") or ("reshape" if "npu" in recorded else "permute")


class DepthwiseUnit(nn.Module):
    """BatchNorm, GELU, 3x3 depthwise convolution: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, dim):
        super().__init__()
        self.conv_merge = nn.Module()
        self.conv_merge.BN = nn.BatchNorm2d(dim)
        self.conv_merge.Conv = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return depthwise(self.conv_merge.Conv, functional.gelu(self.conv_merge.BN(x)))


class SparseMLP(nn.Module):
    """Mix the tokens of each row and of each column, and fuse both with the input (paper, section 3.2).

    (B, C, S, S) -> (B, C, S, S). `token_layout` "permute" is the paper's function. "reshape" is what the Ascend port
    computes with the same weights: it reads the buffer as (B, W, C, H) and (B, H, C, W) without moving an axis.
    """

    def __init__(self, side, dim, token_layout="permute"):
        super().__init__()
        self.BN = nn.BatchNorm2d(dim)
        self.proj_h = nn.Conv2d(side, side, kernel_size=1)  # mixes along the last axis, whatever its name says
        self.proh_w = nn.Conv2d(side, side, kernel_size=1)  # mixes along axis 2
        self.fuse = nn.Conv2d(3 * dim, dim, kernel_size=1, bias=False)
        self.token_layout = token_layout

    def forward(self, x: Tensor) -> Tensor:
        x = functional.gelu(self.BN(x))
        if self.token_layout == "reshape":
            row_mixed, column_mixed = self._mix_reshaped(x)
        elif x.is_contiguous(memory_format=torch.channels_last):
            return self._mix_channels_last(x)
        else:
            row_mixed, column_mixed = self._mix_permuted(x)
        return self.fuse(torch.cat([x, row_mixed, column_mixed], dim=1))

    def _mix_permuted(self, x):
        """A 1x1 convolution over an axis is a product with its matrix: no permutation is needed."""
        batch, dim, height, width = x.shape
        row_mixed = functional.linear(x, self.proj_h.weight.flatten(1), self.proj_h.bias)
        column_mixed = left_product(self.proh_w, x.reshape(batch * dim, height, width)).view(x.shape)
        return row_mixed, column_mixed

    def _mix_channels_last(self, x):
        """Mix and fuse where `x` is channels_last: products alone, without a permuting copy."""
        tokens = x.permute(0, 2, 3, 1)
        batch, height, width, dim = tokens.shape
        rows, columns = tokens.reshape(batch * height, width, dim), tokens.reshape(batch, height, width * dim)
        row_mixed = left_product(self.proj_h, rows).view(tokens.shape)
        column_mixed = left_product(self.proh_w, columns).view(tokens.shape)
        together = torch.cat([tokens, row_mixed, column_mixed], dim=3)
        return functional.linear(together, self.fuse.weight.flatten(1)).permute(0, 3, 1, 2)

    def _mix_reshaped(self, x):
        batch, dim, height, width = x.shape
        row_mixed = self.proj_h(x.reshape(batch, width, dim, height)).permute(0, 2, 3, 1)
        column_mixed = self.proh_w(x.reshape(batch, height, dim, width)).permute(0, 2, 1, 3)
        return row_mixed, column_mixed


class FeedForward(nn.Module):
    """Two linear layers over the last axis: (..., C) -> (..., C)."""

    def __init__(self, dim, hidden_dim, drop_rate):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, hidden_dim),
            nn.GELU(),
            nn.Dropout(drop_rate),
            nn.Linear(hidden_dim, dim),
            nn.Dropout(drop_rate),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class ChannelsLast(nn.Module):
    """(B, C, H, W) -> (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class ChannelsFirst(nn.Module):
    """(B, H, W, C) -> (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


class sMLPNet(ImageModel):  # noqa: N801 - the published name
    """Four stages of sparse-MLP blocks over (B, in_chans, image_size, image_size), giving (B, num_classes) logits.

    `dim` is the first stage's width, doubled at each later stage; `depths` the blocks of each stage; `alpha` the
    channel MLP's expansion. `drop_path_rate` is the last block's rate, rising linearly from 0. `num_classes=0`
    leaves the pooled features (B, num_features). A size that the stages cannot halve is a ValueError, an unknown
    keyword a TypeError.
    """

    line_mixers = ("proj_h", "proh_w")

    def __init__(
        self,
        dim=80,
        depths=(2, 8, 14, 2),
        alpha=3,
        patch_size=4,
        image_size=224,
        in_chans=3,
        num_classes=1000,
        drop_rate=0.0,
        drop_path_rate=0.0,
        token_layout="permute",
    ):
        super().__init__()
        sides = stage_sides(image_size, patch_size, len(depths))
        if token_layout not in TOKEN_LAYOUTS:
            raise ValueError("token_layout %r: choose from %s" % (token_layout, ", ".join(TOKEN_LAYOUTS)))
        self.depths, self.patch_size, self.token_layout = tuple(depths), patch_size, token_layout
        self.image_size, self.num_classes = image_size, num_classes
        self.num_features = dim * 2 ** (len(depths) - 1)
        self.to_patch_embedding = nn.ModuleList()
        self.token_mix = nn.ModuleList()
        self.channel_mix = nn.ModuleList()
        self.drop_path = nn.ModuleList()
        for stage, side in enumerate(sides):
            width = dim * 2**stage
            stride = patch_size if stage == 0 else 2
            incoming = in_chans if stage == 0 else width // 2
            self.to_patch_embedding.append(nn.Sequential(nn.Conv2d(incoming, width, stride, stride, bias=False)))
            for _ in range(depths[stage]):
                self._add_block(side, width, alpha, drop_rate, token_layout)
        self._set_drop_path(drop_path_rate)
        self.batch_norm = nn.BatchNorm2d(self.num_features)
        self.mlp_head = nn.Sequential(self.make_classifier(num_classes))
        self.set_config(image_size, in_chans, "to_patch_embedding.0.0", "mlp_head.0")
        self.apply_block = apply_block

    def _add_block(self, side, dim, alpha, drop_rate, token_layout):
        self.token_mix.append(nn.Sequential(DepthwiseUnit(dim), SparseMLP(side, dim, token_layout)))
        self.channel_mix.append(
            nn.Sequential(ChannelsLast(), nn.LayerNorm(dim), FeedForward(dim, alpha * dim, drop_rate), ChannelsFirst())
        )

    def _set_drop_path(self, last_rate):
        """Give each block one rate; its two branches share it and sample independently."""
        for rate in rising_rates(last_rate, len(self.token_mix)):
            self.drop_path.append(make_drop_path(rate))

    def block_of(self, name: str) -> int | None:
        kind, number = name.split(".")[:2]
        if kind == "to_patch_embedding":
            return sum(self.depths[: int(number)]) if int(number) else -1
        return int(number) if kind in ("token_mix", "channel_mix") else None

    def get_classifier(self) -> nn.Module:
        return self.mlp_head[0]

    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.mlp_head[0] = self.make_classifier(num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Return `x`, since each stage has an embedding of its own; ValueError for images of another size."""
        check_image_size(x, self.image_size)
        return x

    def run_stage(self, x: Tensor, stage: int) -> Tensor:
        """(B, C, H, W) -> (B, dim * 2**stage, H / 2, W / 2), in the first stage H / patch_size."""
        x = self.to_patch_embedding[stage](x)
        first = sum(self.depths[:stage])
        for block in range(first, first + self.depths[stage]):
            scales = [branch_scale(self.drop_path[block], x, self.training) for _ in range(2)]
            x = self.apply_block(x, self.token_mix[block], self.channel_mix[block], *scales)
        return x

    def normalise(self, x: Tensor) -> Tensor:
        return self.batch_norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean(dim=(2, 3))
        return x if pre_logits else self.mlp_head(x)


def apply_block(
    x: Tensor, token_mix: nn.Module, channel_mix: nn.Module, token_scale: Tensor | None, channel_scale: Tensor | None
) -> Tensor:
    """One block, (B, C, H, W) -> (B, C, H, W); a model calls it as its `apply_block`, which may be a compiled one."""
    x = x + scaled(token_mix(x), token_scale)
    return x + scaled(channel_mix(x), channel_scale)


def _build(defaults, kwargs):
    return make(sMLPNet, defaults, kwargs)


@register_model
def smlpnet_tiny(**kwargs: Any) -> nn.Module:
    """sMLPNet-T: 24.1 M parameters, 5.0 GFLOPs at 224x224, 81.9 % on ImageNet (published)."""
    return _build({"dim": 80, "depths": (2, 8, 14, 2), "drop_path_rate": 0.0}, kwargs)


@register_model
def smlpnet_small(**kwargs: Any) -> nn.Module:
    """sMLPNet-S: 48.6 M parameters, 10.3 GFLOPs at 224x224, 83.1 % on ImageNet (published)."""
    return _build({"dim": 96, "depths": (2, 10, 24, 2), "drop_path_rate": 0.2}, kwargs)


@register_model
def smlpnet_base(**kwargs: Any) -> nn.Module:
    """sMLPNet-B: 65.9 M parameters, 14.0 GFLOPs at 224x224, 83.4 % on ImageNet (published)."""
    return _build({"dim": 112, "depths": (2, 10, 24, 2), "drop_path_rate": 0.3}, kwargs)


MODEL_NAMES = ("smlpnet_tiny", "smlpnet_small", "smlpnet_base")
