"""The baselines of SPACH and ShiftViT: the published formulas in the published order of operations.

The modules and parameters are those of models/spach.py and models/shiftvit.py; their computation is written out here:
no operation is rearranged, fused or skipped. The benchmarks measure against it.
"""

import torch
from torch import nn
from torch.nn import functional

from models import norms, shiftvit, spach
from runtime.compat import create_model


class BaselineSpatialMLP(spach.SpatialMLP):
    """Linear layers over the tokens, which are transposed to the last axis and back."""

    def forward(self, x):
        x = x.transpose(1, 2)
        x = self.drop(functional.gelu(self.fc1(x)))
        x = self.drop(self.fc2(x))
        return x.transpose(1, 2)


class BaselineSpatialAttention(spach.SpatialAttention):
    """softmax(q k^T / sqrt(d)) v for each head (Vaswani et al., arXiv 1706.03762)."""

    def forward(self, x):
        batch, tokens, dim = x.shape
        width = dim // self.num_heads
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, width).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]
        weights = (query @ key.transpose(2, 3) * width**-0.5).softmax(dim=-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(batch, tokens, dim))


class BaselinePositionalConv(spach.PositionalConv):
    """Tokens to an image, a depthwise convolution, and back."""

    def forward(self, x):
        return _to_tokens(self.net["1"](_to_image(x, self.side)))


class BaselineDownsample(spach.Downsample):
    """Tokens to an image, a convolution of stride 2, a norm, and back."""

    def forward(self, x):
        return _to_tokens(self.net["1"](_to_image(x, 2 * self.side)))


class BaselineMixingBlock(spach.MixingBlock):
    """The branches, each with its drop path."""

    def forward(self, x):
        mixed = x
        if hasattr(self, "spatial_func"):
            mixed = mixed + self.drop_path(self.gamma_1 * self.spatial_func(self.norm1(x)))
        mixed = mixed + self.cpe_net(x)
        return mixed + self.drop_path(self.channel_func(self.norm2(mixed)))


class BaselineSpach(spach.Spach):
    """Stem, norm, blocks, norm, mean, head."""

    def forward(self, x):
        x = self.norm1(_to_tokens(self.stem.proj(x)))
        for name in self.stage_names:
            for block in getattr(self, name):
                x = block(x)
        return self.head(self.norm2(x).mean(dim=1))


def _to_tokens(x):
    return x.flatten(2).transpose(1, 2).contiguous()


def _to_image(x, side):
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], side, side)


class BaselineConvMLP(shiftvit.ConvMLP):
    """1x1 convolutions."""

    def forward(self, x):
        x = self.drop(functional.gelu(self.fc1(x)))
        return self.drop(self.fc2(x))


class BaselineShiftBlock(shiftvit.ShiftBlock):
    """A copy into a new image with its channels shifted, then the MLP's branch."""

    def forward(self, x):
        group, moved = self.shifted, torch.zeros_like(x)
        moved[:, :group, :, :-1] = x[:, :group, :, 1:]
        moved[:, group : 2 * group, :, 1:] = x[:, group : 2 * group, :, :-1]
        moved[:, 2 * group : 3 * group, :-1] = x[:, 2 * group : 3 * group, 1:]
        moved[:, 3 * group : 4 * group, 1:] = x[:, 3 * group : 4 * group, :-1]
        moved[:, 4 * group :] = x[:, 4 * group :]
        return moved + self.drop_path(self.mlp(self.norm2(moved)))


class BaselineShiftViT(shiftvit.ShiftViT):
    """Embedding, norm, stages with their downsampling, norm, mean, head."""

    def forward(self, x):
        x = self.pos_drop(self.patch_embed.norm(self.patch_embed.proj(x)))
        for layer in self.layers:
            for block in layer.blocks:
                x = block(x)
            if hasattr(layer, "downsample"):
                x = layer.downsample.reduction(layer.downsample.norm(x))
        return self.head(functional.adaptive_avg_pool2d(self.norm(x), 1).flatten(1))


BASELINE_MODULES = (
    BaselineSpatialMLP,
    BaselineSpatialAttention,
    BaselinePositionalConv,
    BaselineDownsample,
    BaselineMixingBlock,
    BaselineSpach,
    BaselineConvMLP,
    BaselineShiftBlock,
    BaselineShiftViT,
)


def as_baseline(model):
    """Return `model`, a Spach or ShiftViT, changed in place to compute as the baseline does."""
    kinds = {kind.__bases__[0]: kind for kind in BASELINE_MODULES}
    kinds.update({norms.LayerNorm: nn.LayerNorm, norms.GroupNorm: nn.GroupNorm})
    for module in model.modules():
        if type(module) in kinds:
            module.__class__ = kinds[type(module)]
    return model


def baseline_sibling(name, **keywords):
    """Return the baseline of the SPACH or ShiftViT model `name`."""
    return as_baseline(create_model(name, **keywords))
