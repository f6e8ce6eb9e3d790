"""Images as bytes until they reach the device, where they become normalised floats.

A batch of bytes is a quarter of one of floats: less to copy between processes and to the device. What the published
transform does after its conversion to floats, normalisation and random erasing, is done to the batch, with the same
result to the last bit; only the random samples are drawn beside the image.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple, Sequence

import numpy
import torch
from torch import Tensor

from runtime.names import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from runtime.device import Device


class ImageBytes(NamedTuple):
    """One image, uint8 (H, W, 3), and its erased boxes, [(top, left, floats (3, h, w))]."""

    bytes: Tensor
    boxes: list


class ByteBatch(NamedTuple):
    """Images, uint8 (B, H, W, 3), with their targets, int64 (B,), and their erased boxes.

    `boxes` are int64 (n, 5) of (image, top, left, h, w), `fills` the floats in all of them.
    """

    bytes: Tensor
    targets: Tensor
    boxes: Tensor
    fills: Tensor


class ToBytes:
    """The published `transform` of a picture, split where it leaves the bytes: image -> ImageBytes."""

    def __init__(self, transform: Any) -> None:
        names = [type(step).__name__ for step in transform.transforms]
        middle = next(place for place, name in enumerate(names) if name.endswith("ToTensor"))
        if names[middle + 1 :] not in (["Normalize"], ["Normalize", "RandomErasing"]):
            raise ValueError("a transform of other steps than these cannot be split: %s" % names[middle:])
        self.steps = transform.transforms[:middle]
        self.erase = transform.transforms[-1] if names[-1] == "RandomErasing" else None

    def __call__(self, image: Any) -> ImageBytes:
        for step in self.steps:
            image = step(image)
        pixels = torch.from_numpy(numpy.array(image, numpy.uint8, order="C"))
        boxes = _Boxes(pixels.shape)
        if self.erase is not None:
            self.erase(boxes)
        return ImageBytes(pixels, boxes.found)


class _Boxes:
    """Stands in for the tensor that timm's RandomErasing writes to, and keeps what it would write."""

    dtype = torch.float32

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = shape
        self.found: list[tuple[int, int, Tensor]] = []

    def size(self) -> tuple[int, int, int]:
        height, width, channels = self.shape
        return channels, height, width

    def __setitem__(self, key: Any, values: Tensor) -> None:
        _, rows, columns = key
        height, width = rows.stop - rows.start, columns.stop - columns.start
        self.found.append((rows.start, columns.start, values.expand(-1, height, width)))


def stack(images: Sequence[ImageBytes], targets: Sequence[int]) -> ByteBatch:
    """Return the ByteBatch of some ImageBytes of one size."""
    boxes = [(number, top, left) + tuple(values.shape[1:]) for number, top, left, values in _boxes_of(images)]
    fills = [values.reshape(-1) for _, _, _, values in _boxes_of(images)]
    return ByteBatch(
        torch.stack([image.bytes for image in images]),
        torch.tensor(targets),
        torch.tensor(boxes, dtype=torch.int64).reshape(-1, 5),
        torch.cat(fills) if fills else torch.zeros(0),
    )


def _boxes_of(images: Sequence[ImageBytes]) -> list[Any]:
    return [(number,) + box for number, image in enumerate(images) for box in image.boxes]


def normalize(batch: ByteBatch, device: Device) -> tuple[Tensor, Tensor]:
    """Return (images (B, 3, H, W), targets (B,)) on the device: normalised float32, the boxes erased.

    The arithmetic is torchvision's ToTensor and Normalize, in their order: the same bits.
    """
    moved = batch.bytes.to(device.torch_device, non_blocking=True)
    images = moved.permute(0, 3, 1, 2).contiguous(memory_format=device.memory_format).float().div_(255)
    images.sub_(_per_channel(IMAGENET_MEAN, images.device)).div_(_per_channel(IMAGENET_STD, images.device))
    fills, start = batch.fills.to(device.torch_device, non_blocking=True), 0
    for number, top, left, height, width in batch.boxes.tolist():
        values = fills[start : start + 3 * height * width].view(3, height, width)
        images[number, :, top : top + height, left : left + width] = values
        start += values.numel()
    return images, batch.targets.to(device.torch_device, non_blocking=True)


@functools.lru_cache(maxsize=None)  # a copy to the device would wait for it in every step
def _per_channel(values: tuple[float, ...], torch_device: torch.device) -> Tensor:
    return torch.tensor(values, device=torch_device).view(3, 1, 1)
