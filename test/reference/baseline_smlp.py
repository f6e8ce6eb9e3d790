"""The baseline of sMLPNet: the paper's formulas in the steps of the published code, one module an operation.

Tests compare models/smlp.py with it, and the benchmarks measure against it. Nothing is rearranged, fused or skipped.
The parameters have the same names, so weights can be loaded in both directions.
"""

import torch
from torch import nn

from runtime.compat import DropPath

WIDTHS_AND_DEPTHS = {
    "smlpnet_tiny": {"dim": 80, "depths": (2, 8, 14, 2), "drop_path_rate": 0.0},
    "smlpnet_small": {"dim": 96, "depths": (2, 10, 24, 2), "drop_path_rate": 0.2},
    "smlpnet_base": {"dim": 112, "depths": (2, 10, 24, 2), "drop_path_rate": 0.3},
}


class BaselineDepthwise(nn.Module):
    """BatchNorm2d, GELU, depthwise Conv2d 3x3: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, dim):
        super().__init__()
        self.conv_merge = nn.Module()
        self.conv_merge.BN = nn.BatchNorm2d(dim)
        self.conv_merge.Conv = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim, bias=False)
        self.activation = nn.GELU()

    def forward(self, x):
        x = self.conv_merge.BN(x)
        x = self.activation(x)
        return self.conv_merge.Conv(x)


class BaselineSparseMLP(nn.Module):
    """Tokens of each row, tokens of each column, and the input, fused (paper, section 3.2)."""

    def __init__(self, side, dim):
        super().__init__()
        self.BN = nn.BatchNorm2d(dim)
        self.activation = nn.GELU()
        self.proj_h = nn.Conv2d(side, side, kernel_size=1)
        self.proh_w = nn.Conv2d(side, side, kernel_size=1)
        self.fuse = nn.Conv2d(3 * dim, dim, kernel_size=1, bias=False)

    def forward(self, x):
        x = self.BN(x)
        x = self.activation(x)
        rows = x.permute(0, 3, 1, 2)  # (B, W, C, H): a 1x1 convolution mixes along axis 1
        rows = self.proj_h(rows)
        rows = rows.permute(0, 2, 3, 1)
        columns = x.permute(0, 2, 1, 3)  # (B, H, C, W)
        columns = self.proh_w(columns)
        columns = columns.permute(0, 2, 1, 3)
        return self.fuse(torch.cat([x, rows, columns], dim=1))


class BaselineFeedForward(nn.Module):
    """Linear, GELU, dropout, Linear, dropout over the last axis."""

    def __init__(self, dim, hidden_dim, drop_rate):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, hidden_dim),
            nn.GELU(),
            nn.Dropout(drop_rate),
            nn.Linear(hidden_dim, dim),
            nn.Dropout(drop_rate),
        )

    def forward(self, x):
        return self.net(x)


class Permuted(nn.Module):
    """Permute the axes of x."""

    def __init__(self, *axes):
        super().__init__()
        self.axes = axes

    def forward(self, x):
        return x.permute(*self.axes)


class BaselineSMLPNet(nn.Module):
    """(B, 3, image_size, image_size) -> (B, num_classes); the arguments are as for models.smlp.sMLPNet."""

    def __init__(
        self,
        dim=80,
        depths=(2, 8, 14, 2),
        alpha=3,
        patch_size=4,
        image_size=224,
        num_classes=1000,
        drop_rate=0.0,
        drop_path_rate=0.0,
    ):
        super().__init__()
        self.depths = tuple(depths)
        self.to_patch_embedding, self.token_mix, self.channel_mix, self.drop_path = [nn.ModuleList() for _ in range(4)]
        last = max(sum(depths) - 1, 1)
        side, width, incoming, stride = image_size // patch_size, dim, 3, patch_size
        for depth in depths:
            embedding = nn.Conv2d(incoming, width, kernel_size=stride, stride=stride, bias=False)
            self.to_patch_embedding.append(nn.Sequential(embedding))
            for _ in range(depth):
                self.token_mix.append(nn.Sequential(BaselineDepthwise(width), BaselineSparseMLP(side, width)))
                self.channel_mix.append(
                    nn.Sequential(
                        Permuted(0, 2, 3, 1),
                        nn.LayerNorm(width),
                        BaselineFeedForward(width, alpha * width, drop_rate),
                        Permuted(0, 3, 1, 2),
                    )
                )
                self.drop_path.append(DropPath(drop_path_rate * len(self.drop_path) / last))
            side, incoming, width, stride = side // 2, width, 2 * width, 2
        self.batch_norm = nn.BatchNorm2d(incoming)
        self.mlp_head = nn.Sequential(nn.Linear(incoming, num_classes))

    def forward(self, x):
        block = 0
        for embedding, depth in zip(self.to_patch_embedding, self.depths):
            x = embedding(x)
            for _ in range(depth):
                x = x + self.drop_path[block](self.token_mix[block](x))
                x = x + self.drop_path[block](self.channel_mix[block](x))
                block += 1
        x = self.batch_norm(x)
        return self.mlp_head(x.mean(dim=(2, 3)))


def baseline_model(name, **kwargs):
    """Return the baseline of the sMLPNet `name`; KeyError for an unknown name."""
    return BaselineSMLPNet(**dict(WIDTHS_AND_DEPTHS[name], **kwargs))
