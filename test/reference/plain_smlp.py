"""The plain formulation of sMLPNet: the paper's formulas written out one after the other, as the published code is.

It is the oracle for models/smlp.py, and what the benchmarks compare with. Parameters are named as there.
"""

import torch
from torch import nn

CONFIGURATIONS = {
    "smlpnet_tiny": {"dim": 80, "depths": (2, 8, 14, 2)},
    "smlpnet_small": {"dim": 96, "depths": (2, 10, 24, 2)},
    "smlpnet_base": {"dim": 112, "depths": (2, 10, 24, 2)},
}


class PlainDepthwise(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.conv_merge = nn.Module()
        self.conv_merge.BN = nn.BatchNorm2d(dim)
        self.conv_merge.Conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.activation = nn.GELU()

    def forward(self, x):
        return self.conv_merge.Conv(self.activation(self.conv_merge.BN(x)))


class PlainSparseMLP(nn.Module):
    """Section 3.2: rows and columns by 1x1 convolutions over a permuted axis, then a 1x1 convolution of all three."""

    def __init__(self, side, dim):
        super().__init__()
        self.activation = nn.GELU()
        self.BN = nn.BatchNorm2d(dim)
        self.proj_h = nn.Conv2d(side, side, 1)
        self.proh_w = nn.Conv2d(side, side, 1)
        self.fuse = nn.Conv2d(3 * dim, dim, 1, bias=False)

    def forward(self, x):
        x = self.activation(self.BN(x))
        row_mixed = self.proj_h(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        column_mixed = self.proh_w(x.permute(0, 2, 1, 3)).permute(0, 2, 1, 3)
        return self.fuse(torch.cat([x, row_mixed, column_mixed], dim=1))


class PlainChannelMLP(nn.Module):
    def __init__(self, dim, hidden_dim):
        super().__init__()
        # the places 0 and 3 are the axes' permutations of the published code, 2 and 4 in `net` its dropout of rate 0
        self.add_module("1", nn.LayerNorm(dim))
        self.add_module("2", nn.Module())
        net = nn.Sequential(nn.Linear(dim, hidden_dim), nn.GELU(), nn.Dropout(0.0), nn.Linear(hidden_dim, dim))
        self._modules["2"].net = net

    def forward(self, x):
        tokens = x.permute(0, 2, 3, 1)
        tokens = self._modules["2"].net(self._modules["1"](tokens))
        return tokens.permute(0, 3, 1, 2)


class PlainSMLPNet(nn.Module):
    """sMLPNet without drop path and dropout: (B, 3, S, S) -> (B, num_classes)."""

    def __init__(self, dim, depths, image_size=224, num_classes=1000):
        super().__init__()
        self.depths = depths
        self.to_patch_embedding, self.token_mix, self.channel_mix = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        channels, stride, side = 3, 4, image_size // 4
        for depth in depths:
            self.to_patch_embedding.append(nn.Sequential(nn.Conv2d(channels, dim, stride, stride, bias=False)))
            for _ in range(depth):
                self.token_mix.append(nn.Sequential(PlainDepthwise(dim), PlainSparseMLP(side, dim)))
                self.channel_mix.append(PlainChannelMLP(dim, 3 * dim))
            channels, stride, side, dim = dim, 2, side // 2, 2 * dim
        self.batch_norm = nn.BatchNorm2d(channels)
        self.mlp_head = nn.Sequential(nn.Linear(channels, num_classes))

    def forward(self, x):
        block = 0
        for embedding, depth in zip(self.to_patch_embedding, self.depths):
            x = embedding(x)
            for _ in range(depth):
                x = x + self.token_mix[block](x)
                x = x + self.channel_mix[block](x)
                block += 1
        return self.mlp_head(self.batch_norm(x).mean(dim=(2, 3)))


def build_plain(name, **keywords):
    """The plain formulation of the model `name`."""
    return PlainSMLPNet(**dict(CONFIGURATIONS[name], **keywords))
