"""SPACH: one framework for mixing tokens by convolution, attention or an MLP (Zhao et al., arXiv 2108.13002).

Parameter names equal the published code's (microsoft/SPACH, models/spach), so that weights move in both directions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers import (
    ImageModel,
    branch_scale,
    check_image_size,
    depthwise,
    left_product,
    make_drop_path,
    register,
    rising_rates,
    scaled,
    stage_sides,
)
from models.norms import GroupNorm, LayerNorm
from runtime.compat import attention

STEM_TYPES = ("conv1", "conv4")
_STEM_WIDTH = 64  # of conv4's inner convolutions
_GAMMA = 1e-4  # the first value of a spatial function's scale


class SpatialAttention(nn.Module):
    """Multi-head self-attention over the tokens: (B, N, C) -> (B, N, C)."""

    def __init__(self, dim, num_heads):
        super().__init__()
        if dim % num_heads:
            raise ValueError("%d channels cannot be shared by %d heads" % (dim, num_heads))
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.num_heads, dim // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(attention(query, key, value).transpose(1, 2).reshape(x.shape))


class SpatialMLP(nn.Module):
    """Two linear layers over the tokens: (B, N, C) -> (B, N, C)."""

    def __init__(self, tokens, hidden, drop_rate):
        super().__init__()
        self.fc1 = nn.Linear(tokens, hidden)
        self.fc2 = nn.Linear(hidden, tokens)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(functional.gelu(left_product(self.fc1, x)))
        return self.drop(left_product(self.fc2, x))


class ChannelMLP(nn.Module):
    """Two linear layers over the channels: (B, N, C) -> (B, N, C)."""

    def __init__(self, dim, hidden, drop_rate):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(functional.gelu(self.fc1(x)))))


class PositionalConv(nn.Module):
    """A depthwise 3x3 convolution over the tokens as an image: (B, side * side, C) -> the same."""

    def __init__(self, dim, side):
        super().__init__()
        self.side = side
        self.net = nn.ModuleDict({"1": nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)})

    def forward(self, x: Tensor) -> Tensor:
        return to_tokens(depthwise(self.net["1"], to_image(x, self.side)))


class Downsample(nn.Module):
    """A 2x2 convolution between stages: (B, 4 N, C) -> (B, N, 2 C), normalised over all of an image."""

    def __init__(self, dim, side):
        super().__init__()
        self.side = side
        conv = nn.Conv2d(dim // 2, dim, kernel_size=2, stride=2, bias=False)
        self.net = nn.ModuleDict({"1": nn.Sequential(conv, GroupNorm(1, dim))})

    def forward(self, x: Tensor) -> Tensor:
        return to_tokens(self.net["1"](to_image(x, 2 * self.side)))


class MixingBlock(nn.Module):
    """Mix the tokens by `spatial_func`, where there is one, and by a convolution; then the channels."""

    def __init__(self, dim, side, spatial_func, channel_ratio, rates):
        super().__init__()
        drop_rate, drop_path_rate = rates
        if spatial_func is not None:
            self.gamma_1 = nn.Parameter(torch.full((1, 1, dim), _GAMMA))
            self.spatial_func = spatial_func
            self.norm1 = LayerNorm(dim, eps=1e-6)
        self.channel_func = ChannelMLP(dim, int(dim * channel_ratio), drop_rate)
        self.norm2 = LayerNorm(dim, eps=1e-6)
        self.drop_path = make_drop_path(drop_path_rate)
        self.cpe_net = PositionalConv(dim, side)

    def forward(self, x: Tensor, spatial_scale: Tensor | None = None, channel_scale: Tensor | None = None) -> Tensor:
        mixed = x
        if hasattr(self, "spatial_func"):
            mixed = x + scaled(self.gamma_1 * self.spatial_func(self.norm1(x)), spatial_scale)
        mixed = mixed + self.cpe_net(x)
        return mixed + scaled(self.channel_func(self.norm2(mixed)), channel_scale)


class Spach(ImageModel):
    """A stem, mixing blocks over (B, N, hidden_dim) tokens, and the mean of the tokens for the classifier.

    `stages` holds for each stage its ("mlp" | "attn" | "pass", depth) pairs: one stage keeps its tokens and a constant
    `drop_path_rate`; of several, each halves the tokens a side and doubles the channels, and the rate rises linearly
    from 0 to the last block. `token_ratio` and `channel_ratio` are the MLPs' expansions. `stem_type` is
    "conv1" or "conv4". With `shared_spatial_func` the blocks of a stage share one spatial function, but for the first
    of several stages. ValueError for what cannot be built, TypeError for an unknown keyword.
    """

    token_mlps = ("spatial_func",)

    def __init__(
        self,
        stages,
        hidden_dim=384,
        num_heads=12,
        channel_ratio=2.0,
        token_ratio=0.5,
        patch_size=16,
        image_size=224,
        in_chans=3,
        num_classes=1000,
        drop_rate=0.0,
        drop_path_rate=0.1,
        stem_type="conv1",
        shared_spatial_func=False,
    ):
        super().__init__()
        if stem_type not in STEM_TYPES:
            raise ValueError("stem_type %r: choose from %s" % (stem_type, ", ".join(STEM_TYPES)))
        self.image_size, self.patch_size = image_size, patch_size
        self.num_classes, self.num_heads = num_classes, num_heads
        self.token_ratio, self.channel_ratio, self.drop_rate = token_ratio, channel_ratio, drop_rate
        self.num_features = hidden_dim * 2 ** (len(stages) - 1)
        self.depths = tuple(sum(depth for _, depth in stage) for stage in stages)
        sides = stage_sides(image_size, patch_size, len(stages))
        self.stem = nn.Module()
        self.stem.proj = _stem(stem_type, in_chans, hidden_dim, patch_size)
        self.norm1 = LayerNorm(hidden_dim, eps=1e-6)
        rates = iter(_drop_path_rates(stages, drop_path_rate))
        self.stage_names = ["blocks"] if len(stages) == 1 else ["layer%d" % (stage + 1) for stage in range(len(stages))]
        for number, (name, stage) in enumerate(zip(self.stage_names, stages)):
            is_shared = shared_spatial_func and (number > 0 or len(stages) == 1)
            blocks = self._make_blocks(stage, hidden_dim * 2**number, sides[number], rates, is_shared)
            self.add_module(name, nn.ModuleList(blocks))
            if number:
                getattr(self, name).insert(0, Downsample(hidden_dim * 2**number, sides[number]))
        self.norm2 = LayerNorm(self.num_features, eps=1e-6)
        self.apply(_initialise)
        self.head = self.make_classifier(num_classes)
        self.set_config(image_size, in_chans, "stem.proj" if stem_type == "conv1" else "stem.proj.0", "head")
        self.apply_block = _apply_block

    def _make_blocks(self, stage, dim, side, rates, is_shared):
        if is_shared and (len(stage) > 1 or stage[0][0] == "pass"):
            raise ValueError("shared_spatial_func: a stage of %s has no function to share" % " and ".join(dict(stage)))
        shared = self._spatial_func(stage[0][0], dim, side) if is_shared else None
        return [
            MixingBlock(
                dim,
                side,
                shared or self._spatial_func(function, dim, side),
                self.channel_ratio,
                (self.drop_rate, next(rates)),
            )
            for function, depth in stage
            for _ in range(depth)
        ]

    def _spatial_func(self, function, dim, side):
        if function == "attn":
            return SpatialAttention(dim, self.num_heads)
        if function == "mlp":
            return SpatialMLP(side * side, int(side * side * self.token_ratio), self.drop_rate)
        return None

    def block_of(self, name: str) -> int | None:
        first, second = name.split(".")[:2]
        if first in ("stem", "norm1"):
            return -1
        if first not in self.stage_names:
            return None
        stage = self.stage_names.index(first)
        return sum(self.depths[:stage]) + max(int(second) - (stage > 0), 0)

    def make_classifier(self, num_classes: int) -> nn.Module:
        """Return a Linear layer with weights 0, or Identity for no classes."""
        head = super().make_classifier(num_classes)
        for parameter in head.parameters():
            nn.init.zeros_(parameter)
        return head

    def embed(self, x: Tensor) -> Tensor:
        """(B, in_chans, S, S) -> (B, N, hidden_dim), normalised; ValueError where S is not `image_size`."""
        check_image_size(x, self.image_size)
        return self.norm1(to_tokens(self.stem.proj(x)))

    def run_stage(self, x: Tensor, stage: int) -> Tensor:
        """(B, N, C) -> the same, after the first stage (B, N / 4, 2 C)."""
        for block in getattr(self, self.stage_names[stage]):
            if isinstance(block, Downsample):
                x = block(x)
                continue
            scales = [branch_scale(block.drop_path, x, self.training) for _ in range(2)]
            x = self.apply_block(x, block, *scales)
        return x

    def normalise(self, x: Tensor) -> Tensor:
        return self.norm2(x)

    def as_image(self, x: Tensor) -> Tensor:
        """(B, side * side, C) -> (B, C, side, side)."""
        return to_image(x, round(x.shape[1] ** 0.5))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean(dim=1)
        return x if pre_logits else self.head(x)


def _apply_block(x, block, spatial_scale, channel_scale):
    return block(x, spatial_scale, channel_scale)


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H W, C)."""
    x = x.permute(0, 2, 3, 1)
    return x.reshape(x.shape[0], -1, x.shape[3])  # torch 1.5 writes the batch of `flatten` into ONNX as a constant


def to_image(x: Tensor, side: int) -> Tensor:
    """(B, side side, C) -> (B, C, side, side)."""
    return x.reshape(x.shape[0], side, side, x.shape[2]).permute(0, 3, 1, 2)


def _stem(stem_type, in_chans, dim, patch_size):
    if stem_type == "conv1":
        return nn.Conv2d(in_chans, dim, kernel_size=patch_size, stride=patch_size)
    layers, width = [], in_chans
    for kernel, stride in ((7, 2), (3, 1), (3, 1)):
        layers.append(nn.Conv2d(width, _STEM_WIDTH, kernel, stride, kernel // 2, bias=False))
        layers += [nn.BatchNorm2d(_STEM_WIDTH), nn.ReLU()]
        width = _STEM_WIDTH
    return nn.Sequential(*layers, nn.Conv2d(width, dim, kernel_size=patch_size // 2, stride=patch_size // 2))


def _drop_path_rates(stages, last_rate):
    """Return a rate for each block: the same in a single stage, else rising linearly from 0."""
    blocks = sum(depth for stage in stages for _, depth in stage)
    if len(stages) == 1:
        return [last_rate] * blocks
    return rising_rates(last_rate, blocks)


def _initialise(module):
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _register_single_stages():
    """p 16: a width, heads and an MLP ratio for each size, and a depth for each way to mix."""
    functions = {"mlp": "mlp", "conv": "pass", "attn": "attn"}
    for size, dim, heads, ratio, depths in (
        ("xxs", 384, 12, 2.0, {"mlp": 12, "conv": 12, "attn": 12}),
        ("xs", 384, 12, 2.0, {"mlp": 24, "conv": 24, "attn": 12}),
        ("s", 512, 16, 3.0, {"mlp": 24, "conv": 24, "attn": 12}),
    ):
        for way, depth in depths.items():
            is_half = (size, way) == ("xxs", "attn")
            yield register(
                Spach,
                "spach_%s_patch16_224_%s" % (size, way),
                stages=[[(functions[way], depth)]],
                hidden_dim=dim // 2 if is_half else dim,
                num_heads=heads // 2 if is_half else heads,
                channel_ratio=ratio,
                patch_size=16,
            )


def _register_multi_stages():
    """p 4: the first stage mixes by convolution alone; with attention the width is that of the next smaller size."""
    deep = (3, 4, 12, 3)
    pure = [
        (size, way, width, ratio, [[("pass", depths[0])]] + [[(function, depth)] for depth in depths[1:]])
        for size, depths, ratio, widths in (
            ("xxs", (2, 2, 6, 2), 2.0, (64, 64, 32)),
            ("xs", deep, 2.0, (96, 96, 64)),
            ("s", deep, 3.0, (128, 128, 96)),
        )
        for (way, function), width in zip((("conv", "pass"), ("mlp", "mlp"), ("attn", "attn")), widths)
    ]
    late = [[("pass", 2), ("attn", 10)], [("pass", 1), ("attn", 2)]]
    hybrid = [
        ("xs", "hybrid", 96, 2.0, [[("pass", 3)], [("pass", 4)]] + late),
        ("s", "hybrid", 128, 3.0, [[("pass", 3)], [("pass", 2), ("attn", 2)]] + late),
    ]
    for size, way, width, ratio, stages in pure + hybrid:
        yield register(
            Spach,
            "spach_ms_%s_patch4_224_%s" % (size, way),
            stages=stages,
            hidden_dim=width,
            num_heads=width // 32,
            channel_ratio=ratio,
            patch_size=4,
        )


MODEL_NAMES = (*_register_single_stages(), *_register_multi_stages())
