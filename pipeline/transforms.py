"""The reference's transforms of an image: for training, and for evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Sequence

from PIL import Image
from torchvision import transforms

from pipeline.reading import BoundedResize
from runtime.compat import create_transform
from runtime.errors import UserError
from runtime.names import IMAGENET_MEAN, IMAGENET_STD

SMALL_SIZE = 32  # up to this size an image of just the size is not resized, and cropped after padding in training


@dataclass(frozen=True)
class Augmentation:
    """The settings of the training transform, as timm's create_transform takes them."""

    color_jitter: float
    auto_augment: str | None  # timm's name of a policy
    interpolation: str
    hflip: float
    vflip: float
    scale: Sequence[float] | None  # of a crop's area, and its ratio of sides: (least, most); None for timm's own
    ratio: Sequence[float] | None
    re_prob: float  # of random erasing, like the next two
    re_mode: str
    re_count: int


def train_transform(input_size: int, augmentation: Augmentation) -> transforms.Compose:
    """Return the reference's transform of a PIL image to a normalised (3, input_size, input_size) float32 tensor.

    UserError where timm knows no such policy.
    """
    try:
        transform = create_transform(input_size=input_size, is_training=True, **vars(augmentation))
    except (AssertionError, ValueError, KeyError, IndexError, TypeError, NotImplementedError) as error:
        raise UserError("--aa %s is not a policy that works: %s" % (augmentation.auto_augment, error)) from None
    if input_size <= SMALL_SIZE and not (augmentation.scale or augmentation.ratio):
        transform.transforms[0] = transforms.RandomCrop(input_size, padding=4)
        transform.transforms[0:0] = _resize_and_crop(input_size)
    return transform


def eval_transform(input_size: int) -> transforms.Compose:
    """Return the reference's transform of a PIL image to a normalised (3, input_size, input_size) float32 tensor."""
    normalize = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    return transforms.Compose([*_resize_and_crop(input_size), *normalize])


class UnlessSized:
    """Apply `transform` to an image unless it is `size` x `size` already."""

    def __init__(self, size: int, transform: Callable[[Image.Image], Image.Image]) -> None:
        self.size, self.transform = size, transform

    def __call__(self, image: Image.Image) -> Image.Image:
        return image if image.size == (self.size, self.size) else self.transform(image)

    def __repr__(self) -> str:
        return "UnlessSized(%d, %r)" % (self.size, self.transform)


def _resize_and_crop(size: int) -> list[Any]:
    """Return the steps that resize to 256/224 of the size and crop the centre."""
    steps = [BoundedResize(int(256 / 224 * size), interpolation=Image.BICUBIC), transforms.CenterCrop(size)]
    return steps if size > SMALL_SIZE else [UnlessSized(size, transforms.Compose(steps))]
