"""ShiftViT: tokens mixed by shifting a third of the channels by one pixel (Wang et al., arXiv 2201.10801).

Parameter names equal the published code's (microsoft/SPACH, models/shiftvit.py), so that weights move in both
directions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers import (
    ImageModel,
    branch_scale,
    make_drop_path,
    register,
    rising_rates,
    scaled,
    stage_sides,
)
from models.norms import GroupNorm
from runtime.compat import trunc_normal_


class ConvMLP(nn.Module):
    """Two 1x1 convolutions: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, dim, hidden, drop_rate):
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, kernel_size=1)
        self.fc2 = nn.Conv2d(hidden, dim, kernel_size=1)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(functional.gelu(pointwise(self.fc1, x)))
        return self.drop(pointwise(self.fc2, x))


def pointwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Return the 1x1 `conv` of `x`, as a matrix product where `x` is channels_last."""
    if not x.is_contiguous(memory_format=torch.channels_last):
        return conv(x)
    return functional.linear(x.permute(0, 2, 3, 1), conv.weight.flatten(1), conv.bias).permute(0, 3, 1, 2)


class ShiftBlock(nn.Module):
    """Shift, then mix the channels: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, dim, n_div, mlp_ratio, drop_rate, drop_path_rate):
        super().__init__()
        if dim // n_div < 1:
            raise ValueError("n_div %d: there are only %d channels" % (n_div, dim))
        self.shifted = dim // n_div  # channels in each direction
        self.drop_path = make_drop_path(drop_path_rate)
        self.norm2 = GroupNorm(1, dim)
        self.mlp = ConvMLP(dim, int(dim * mlp_ratio), drop_rate)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        x = shift(x, self.shifted)
        return x + scaled(self.mlp(self.norm2(x)), scale)


def shift(x: Tensor, count: int) -> Tensor:
    """Return `x` (B, C, H, W) with its first `count` channels shifted by one pixel to the left, the next ones to the
    right, up and down; zeros fill the edge."""
    left, right, up, down = (x[:, part * count : (part + 1) * count] for part in range(4))
    moved = [
        functional.pad(left[..., 1:], (0, 1)),
        functional.pad(right[..., :-1], (1, 0)),
        functional.pad(up[:, :, 1:], (0, 0, 0, 1)),
        functional.pad(down[:, :, :-1], (0, 0, 1, 0)),
    ]
    return torch.cat([*moved, x[:, 4 * count :]], dim=1)


class ShiftViT(ImageModel):
    """Stages of shift blocks over (B, embed_dim * 2**stage, S / patch_size / 2**stage, the same).

    `depths` are the blocks of each stage, `mlp_ratio` the MLPs' expansion, 4 / `n_div` the fraction of channels
    that are shifted; `drop_path_rate` is the last block's, rising linearly from 0. ValueError for a size that the
    stages cannot halve, TypeError for an unknown keyword.
    """

    def __init__(
        self,
        embed_dim=96,
        depths=(2, 2, 6, 2),
        mlp_ratio=4,
        n_div=12,
        patch_size=4,
        image_size=224,
        in_chans=3,
        num_classes=1000,
        drop_rate=0.0,
        drop_path_rate=0.1,
    ):
        super().__init__()
        stage_sides(image_size, patch_size, len(depths))
        self.num_classes, self.depths, self.patch_size = num_classes, tuple(depths), patch_size
        self.num_features = embed_dim * 2 ** (len(depths) - 1)
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.patch_embed.norm = GroupNorm(1, embed_dim)
        self.pos_drop = nn.Dropout(drop_rate)
        rates = iter(rising_rates(drop_path_rate, sum(depths)))
        self.layers = nn.ModuleList()
        for stage, depth in enumerate(depths):
            dim = embed_dim * 2**stage
            layer = nn.Module()
            blocks = [ShiftBlock(dim, n_div, mlp_ratio, drop_rate, next(rates)) for _ in range(depth)]
            layer.blocks = nn.ModuleList(blocks)
            if stage + 1 < len(depths):
                layer.downsample = nn.Module()
                layer.downsample.reduction = nn.Conv2d(dim, 2 * dim, kernel_size=2, stride=2, bias=False)
                layer.downsample.norm = GroupNorm(1, dim)
            self.layers.append(layer)
        self.norm = GroupNorm(1, self.num_features)
        self.head = self.make_classifier(num_classes)
        self.apply(_initialise)
        self.set_config(image_size, in_chans, "patch_embed.proj", "head")
        self.apply_block = _apply_block

    def block_of(self, name: str) -> int | None:
        words = name.split(".")
        if words[0] != "layers":
            return -1 if words[0] == "patch_embed" else None
        stage = int(words[1])
        if words[2] == "downsample":
            return sum(self.depths[: stage + 1])
        return sum(self.depths[:stage]) + int(words[3])

    def make_classifier(self, num_classes: int) -> nn.Module:
        head = super().make_classifier(num_classes)
        _initialise(head)
        return head

    def embed(self, x: Tensor) -> Tensor:
        """(B, in_chans, S, S) -> (B, embed_dim, S / patch_size, S / patch_size), normalised."""
        return self.pos_drop(self.patch_embed.norm(self.patch_embed.proj(x)))

    def run_stage(self, x: Tensor, stage: int) -> Tensor:
        """(B, C, H, W) -> the same, after the first stage (B, 2 C, H / 2, W / 2)."""
        if stage:
            downsample = self.layers[stage - 1].downsample
            x = downsample.reduction(downsample.norm(x))
        for block in self.layers[stage].blocks:
            x = self.apply_block(x, block, branch_scale(block.drop_path, x, self.training))
        return x

    def normalise(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean(dim=(2, 3))
        return x if pre_logits else self.head(x)


def _apply_block(x, block, scale):
    return block(x, scale)


def _initialise(module):
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _register_all():
    for way, size, depths, drop_path_rate in (
        ("light", "tiny", (2, 2, 6, 2), 0.2),
        ("r4", "tiny", (2, 2, 12, 3), 0.2),
        ("r2", "tiny", (6, 8, 18, 6), 0.2),
        ("light", "small", (2, 2, 18, 2), 0.4),
        ("r4", "small", (2, 6, 24, 4), 0.4),
        ("r2", "small", (10, 18, 36, 10), 0.4),
        ("light", "base", (2, 2, 18, 2), 0.5),
        ("r4", "base", (4, 6, 22, 4), 0.5),
        ("r2", "base", (10, 18, 36, 10), 0.6),
    ):
        is_base = size == "base"
        yield register(
            ShiftViT,
            "shiftvit_%s_%s" % (way, size),
            embed_dim=128 if is_base else 96,
            n_div=16 if is_base else 12,
            depths=depths,
            mlp_ratio=2 if way == "r2" else 4,
            drop_path_rate=drop_path_rate,
        )


MODEL_NAMES = tuple(_register_all())
