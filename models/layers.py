"""Layers and methods that the families of models share."""

from __future__ import annotations

import sys
from typing import Any, Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from runtime.autocast import dtype_of_autocast
from runtime.compat import DropPath, feature_getter, register_model
from runtime.names import IMAGENET_MEAN, IMAGENET_STD


class ImageModel(nn.Module):
    """A classifier (B, in_chans, S, S) -> (B, num_classes) with timm's methods.

    A subclass defines the attributes below, `block_of`, and the parts of its computation: `embed`, `run_stage`,
    `normalise` and `forward_head`. It calls its blocks through `apply_block`, which a compiled function may replace.
    With `num_classes=0` the output is the pooled features (B, num_features).
    """

    num_classes: int
    num_features: int
    depths: tuple[int, ...]  # blocks of each stage
    patch_size: int
    head: nn.Module
    apply_block: Callable[..., Tensor]
    # The layers that models.resampling fits to another image size, by the last part of their names: 1x1 convolutions
    # over the tokens of a row or column, and MLPs (fc1, fc2) over all tokens of an image.
    line_mixers: tuple[str, ...] = ()
    token_mlps: tuple[str, ...] = ()

    def embed(self, x: Tensor) -> Tensor:
        """Return the input of the first stage for images (B, in_chans, S, S)."""
        raise NotImplementedError

    def run_stage(self, x: Tensor, stage: int) -> Tensor:
        """Return the output of a stage for its input."""
        raise NotImplementedError

    def normalise(self, x: Tensor) -> Tensor:
        """Return the output of the last stage after the final norm."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits (B, num_classes), or with `pre_logits` the pooled features."""
        raise NotImplementedError

    def block_of(self, name: str) -> int | None:
        """Return the number of the block of the parameter `name`: -1 for the stem, None after the last block."""
        raise NotImplementedError

    def set_config(self, image_size: int, in_chans: int, first_conv: str, classifier: str) -> None:
        """Set timm's `pretrained_cfg`, from which it derives the evaluation transform of images of `image_size`."""
        self.default_cfg: dict[str, Any] = {
            "input_size": (in_chans, image_size, image_size),
            "num_classes": self.num_classes,
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
            "crop_pct": 224 / 256,
            "interpolation": "bicubic",
            "first_conv": first_conv,
            "classifier": classifier,
        }
        self.pretrained_cfg = self.default_cfg

    def make_classifier(self, num_classes: int) -> nn.Module:
        """Return a Linear layer, or Identity for no classes."""
        return nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer by a new one of `num_classes` outputs."""
        self.num_classes = num_classes
        self.head = self.make_classifier(num_classes)

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Return a function from a parameter's name to the number of its layer, for layer decay.

        It is 0 for the stem, 1 for the first block (with `coarse` for the first stage), and so on; the last one for the
        norm and the head. A downsampling layer belongs to the block after it.
        """
        last = [sum(self.depths[: stage + 1]) for stage in range(len(self.depths))]

        def layer_of(name: str) -> int:
            block = self.block_of(name)
            if block is None:
                return 1 + (len(self.depths) if coarse else last[-1])
            return 1 + (sum(block >= end for end in last) if coarse and block >= 0 else block)

        return layer_of

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """timm's description of each stage's output: its channels, its stride in pixels, its name."""
        last = len(self.depths) - 1
        return [
            {
                "num_chs": self.num_features // 2 ** (last - stage),
                "reduction": self.patch_size * 2**stage,
                "module": "stage%d" % stage,
            }
            for stage in range(last + 1)
        ]

    def as_image(self, x: Tensor) -> Tensor:
        """Return the output of a stage as (B, C, H, W)."""
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the output of the last stage, normalised."""
        x = self.embed(x)
        for stage in range(len(self.depths)):
            x = self.run_stage(x, stage)
        return self.normalise(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Return (features, [outputs of stages, each (B, C, H, W)]), or the list alone if `intermediates_only`.

        `indices` are None for all stages, a number for so many last ones, or the stages' numbers; with `norm` the last
        stage's output is normalised. ValueError for a stage that does not exist, and for a format other than NCHW.
        """
        if output_fmt != "NCHW":
            raise ValueError("output_fmt %r: there is only NCHW" % (output_fmt,))
        stages = range(len(self.depths))
        wanted = _stages_of(indices, len(stages))
        found, x = {}, self.embed(x)
        for stage in range(max(wanted) + 1) if stop_early and intermediates_only else stages:
            x = self.run_stage(x, stage)
            found[stage] = self.normalise(x) if norm and stage == stages[-1] else x
        intermediates = [self.as_image(found[stage]) for stage in wanted]
        return intermediates if intermediates_only else (self.normalise(x), intermediates)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def _stages_of(indices: int | Sequence[int] | None, count: int) -> list[int]:
    """Return the numbers of the stages that timm's `indices` mean."""
    if indices is None:
        return list(range(count))
    numbers = list(range(-indices, 0)) if isinstance(indices, int) else list(indices)
    if not numbers or any(not -count <= number < count for number in numbers):
        raise ValueError("indices %s: there are %d stages" % (indices, count))
    return [number % count for number in numbers]


def make_drop_path(rate: float) -> nn.Module:
    """Return DropPath, or Identity for rate 0."""
    return DropPath(rate) if rate else nn.Identity()


def rising_rates(last_rate: float, blocks: int) -> list[float]:
    """Return a rate for each block, rising linearly from 0 to `last_rate`."""
    return [last_rate * block / max(blocks - 1, 1) for block in range(blocks)]


def branch_scale(drop_path: nn.Module, x: Tensor, training: bool) -> Tensor | None:
    """Return drop path's factors (B, 1, ...) for a branch of `x` (B, ...); None where nothing is dropped.

    They are sampled outside a block, so that blocks that differ in their rate alone compile to one function.
    """
    if not training or isinstance(drop_path, nn.Identity):
        return None
    return drop_path(x.new_ones([x.shape[0]] + [1] * (x.dim() - 1)))


def scaled(branch: Tensor, scale: Tensor | None) -> Tensor:
    """Return `branch` times the factors of `branch_scale`."""
    return branch if scale is None else branch * scale


def left_product(layer: Any, tokens: Tensor) -> Tensor:
    """Return the linear map of `layer`, a Linear or 1x1 Conv2d, over the middle axis of `tokens` (N, S, features)."""
    weight, dtype = layer.weight.flatten(1), dtype_of_autocast(tokens.device.type)
    if dtype is not None and weight.dtype == torch.float32:
        weight = weight.to(dtype)  # before it is expanded: autocast would write it once for each of N
    return torch.baddbmm(layer.bias.view(1, -1, 1), weight.expand(tokens.shape[0], -1, -1), tokens)


def depthwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Return the depthwise 3x3 `conv` of `x` (B, C, H, W)."""
    kernel = conv.weight
    kernel = kernel.flatten(1).view(kernel.shape)  # so that its gradient has its own strides, as DDP wants it
    return functional.conv2d(x, kernel, conv.bias, padding=1, groups=kernel.shape[0])


def check_image_size(x: Tensor, size: int) -> None:
    """Raise ValueError unless the images `x` (B, C, H, W) are `size` x `size`."""
    if x.shape[2:] != (size, size):
        height, width = x.shape[2:]
        raise ValueError("images of %d x %d pixels: this model was made for %d x %d" % (height, width, size, size))


def stage_sides(image_size: int, patch_size: int, stages: int) -> list[int]:
    """Return the tokens along a side at each stage; ValueError where a stage would have to cut a token in half."""
    divisor = patch_size * 2 ** (stages - 1)
    if image_size < divisor or image_size % divisor:
        raise ValueError("image_size %s is not a multiple of %d" % (image_size, divisor))
    return [image_size // patch_size // 2**stage for stage in range(stages)]


def with_published_names(keywords: dict[str, Any]) -> dict[str, Any]:
    """Return `keywords` with the value of `img_size`, timm's and the published name, as `image_size`."""
    keywords = dict(keywords)
    if "img_size" in keywords:
        keywords["image_size"] = keywords.pop("img_size")
    return keywords


def make(kind: type[ImageModel], defaults: dict[str, Any], keywords: dict[str, Any]) -> nn.Module:
    """Return a model of this kind with these defaults and timm's keywords.

    With `features_only` its output is the list of its stages' outputs, or of those in `out_indices`.
    """
    keywords = dict(defaults, **with_published_names(keywords))
    if not keywords.pop("features_only", False):
        return kind(**keywords)
    indices = keywords.pop("out_indices", None)
    model = kind(**keywords)
    model.reset_classifier(0)
    return feature_getter(model, _stages_of(indices, len(model.depths)))


def register(kind: type[ImageModel], name: str, **defaults: Any) -> str:
    """Register with timm, under `name`, a function that builds this kind of model with these defaults.

    Returns the name.
    """

    def build(**keywords: Any) -> nn.Module:
        return make(kind, defaults, keywords)

    build.__name__ = build.__qualname__ = name
    build.__module__ = kind.__module__
    setattr(sys.modules[kind.__module__], name, register_model(build))
    return name
