"""What the families of models share."""

import sys

import torch
from torch import nn
from torch.nn import functional

from runtime.compat import DropPath, feature_getter, register_model
from runtime.names import IMAGENET_MEAN, IMAGENET_STD


class ImageModel(nn.Module):
    """A classifier (B, in_chans, S, S) -> (B, num_classes) with timm's methods.

    A subclass has the layer `head`, `num_features`, `depths`, `patch_size`, `block_of`, and the parts of its
    computation: `embed`, `run_stage` and `normalise`. It applies its blocks by `apply_block`, in whose place a compiled
    function may be put. `num_classes=0` leaves the pooled features (B, num_features).
    """

    def set_config(self, image_size, in_chans, first_conv, classifier):
        """Set timm's `pretrained_cfg`, from which it derives the evaluation transform of images of `image_size`."""
        self.pretrained_cfg = self.default_cfg = {
            "input_size": (in_chans, image_size, image_size),
            "num_classes": self.num_classes,
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
            "crop_pct": 224 / 256,
            "interpolation": "bicubic",
            "first_conv": first_conv,
            "classifier": classifier,
        }

    def make_classifier(self, num_classes):
        """Linear, or Identity where there are no classes."""
        return nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def get_classifier(self):
        """The last layer."""
        return self.head

    def reset_classifier(self, num_classes):
        """Replace the last layer by a fresh one of `num_classes` outputs."""
        self.num_classes = num_classes
        self.head = self.make_classifier(num_classes)

    def group_matcher(self, coarse=False):
        """A function from a parameter's name to the number of its layer: 0 for the stem, 1 for the first block (with
        `coarse` for the first stage), the last for the norm and the head. What halves the tokens belongs to the block
        after it."""
        last = [sum(self.depths[: stage + 1]) for stage in range(len(self.depths))]

        def layer_of(name):
            block = self.block_of(name)
            if block is None:
                return 1 + (len(self.depths) if coarse else last[-1])
            return 1 + (sum(block >= end for end in last) if coarse and block >= 0 else block)

        return layer_of

    @property
    def feature_info(self):
        """Of each stage's outcome its channels and the pixels a side of one of its places, as timm says it."""
        last = len(self.depths) - 1
        return [
            {
                "num_chs": self.num_features // 2 ** (last - stage),
                "reduction": self.patch_size * 2**stage,
                "module": "stage%d" % stage,
            }
            for stage in range(last + 1)
        ]

    def as_image(self, x):
        """What `run_stage` gives, as (B, C, H, W)."""
        return x

    def forward_features(self, x):
        """The outcome of the last stage, normalised."""
        x = self.embed(x)
        for stage in range(len(self.depths)):
            x = self.run_stage(x, stage)
        return self.normalise(x)

    def forward_intermediates(
        self, x, indices=None, norm=False, stop_early=False, output_fmt="NCHW", intermediates_only=False
    ):
        """The outcomes of the stages `indices` (all; the last so many; or their numbers), each (B, C, H, W), after what
        `forward_features` gives unless `intermediates_only`; with `norm` the last one is normalised.

        ValueError for a stage that there is not, and for another format than NCHW.
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

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


def _stages_of(indices, count):
    """The numbers of the stages that timm's `indices` mean."""
    if indices is None:
        return list(range(count))
    numbers = list(range(-indices, 0)) if isinstance(indices, int) else list(indices)
    if not numbers or any(not -count <= number < count for number in numbers):
        raise ValueError("indices %s: there are %d stages" % (indices, count))
    return [number % count for number in numbers]


def drop_path_of(rate):
    """DropPath, or Identity where nothing is dropped."""
    return DropPath(rate) if rate else nn.Identity()


def rising_rates(last_rate, blocks):
    """A rate for each block, rising linearly from 0 to `last_rate`."""
    return [last_rate * block / max(blocks - 1, 1) for block in range(blocks)]


def branch_scale(drop_path, x, training):
    """Drop path's factors (B, 1, ...) for a branch of `x` (B, ...), None where there are none.

    They are drawn outside a block, so that blocks that differ by their rate alone are one function to compile.
    """
    if not training or isinstance(drop_path, nn.Identity):
        return None
    return drop_path(x.new_ones([x.shape[0]] + [1] * (x.dim() - 1)))


def scaled(branch, scale):
    """`branch` times the factors that `branch_scale` gave."""
    return branch if scale is None else branch * scale


def left_product(layer, tokens):
    """The linear map of `layer`, a Linear or 1x1 Conv2d, over the middle axis of `tokens` (N, S, features)."""
    weight = layer.weight.flatten(1).expand(tokens.shape[0], -1, -1)
    return torch.baddbmm(layer.bias.view(1, -1, 1), weight, tokens)


def depthwise(conv, x):
    """The depthwise 3x3 `conv` of `x` (B, C, H, W)."""
    kernel = conv.weight
    kernel = kernel.flatten(1).view(kernel.shape)  # so that its gradient comes in its own strides, as DDP wants it
    return functional.conv2d(x, kernel, conv.bias, padding=1, groups=kernel.shape[0])


def check_image_size(x, size):
    """Raise ValueError unless the images `x` (B, C, H, W) are `size` x `size`."""
    if x.shape[2:] != (size, size):
        height, width = x.shape[2:]
        raise ValueError("images of %d x %d pixels: this model was made for %d x %d" % (height, width, size, size))


def stage_sides(image_size, patch_size, stages):
    """Tokens a side at each stage; ValueError where a stage would have to cut a token in half."""
    divisor = patch_size * 2 ** (stages - 1)
    if image_size < divisor or image_size % divisor:
        raise ValueError("image_size %s is not a multiple of %d" % (image_size, divisor))
    return [image_size // patch_size // 2**stage for stage in range(stages)]


def with_published_names(keywords):
    """`keywords` with timm's and the published `img_size` under the name `image_size`."""
    keywords = dict(keywords)
    if "img_size" in keywords:
        keywords["image_size"] = keywords.pop("img_size")
    return keywords


def make(kind, defaults, keywords):
    """The `kind` of model with these defaults and timm's keywords; `features_only` leaves its stages' outcomes."""
    keywords = dict(defaults, **with_published_names(keywords))
    if not keywords.pop("features_only", False):
        return kind(**keywords)
    indices = keywords.pop("out_indices", None)
    model = kind(**keywords)
    model.reset_classifier(0)
    return feature_getter(model, _stages_of(indices, len(model.depths)))


def register(kind, name, **defaults):
    """Register with timm, under `name`, the function that builds a `kind` of model with these defaults; the name."""

    def build(**keywords):
        return make(kind, defaults, keywords)

    build.__name__ = build.__qualname__ = name
    build.__module__ = kind.__module__
    setattr(sys.modules[kind.__module__], name, register_model(build))
    return name
