"""Pictures as the bytes that they are until they reach the device, where they become normalised floats.

A batch of bytes is a quarter of one of floats: less to copy between processes and to the device. What the published
transform does after its conversion to floats, normalisation and random erasing, is done to the batch, with the same
result to the last bit; only the random draws are made beside the picture.
"""

import functools
from collections import namedtuple

import numpy
import torch

from runtime.names import IMAGENET_MEAN, IMAGENET_STD

# One picture, uint8 (H, W, 3), and its erased boxes: [(top, left, floats (3, h, w))].
ImageBytes = namedtuple("ImageBytes", "bytes boxes")
# uint8 (B, H, W, 3); int64 (B,); all boxes, int64 (n, 5) of (picture, top, left, h, w), and their floats in a row.
ByteBatch = namedtuple("ByteBatch", "bytes targets boxes fills")


class ToBytes:
    """The published `transform` of a picture, split where it leaves the bytes: image -> ImageBytes."""

    def __init__(self, transform):
        names = [type(step).__name__ for step in transform.transforms]
        middle = next(place for place, name in enumerate(names) if name.endswith("ToTensor"))
        if names[middle + 1 :] not in (["Normalize"], ["Normalize", "RandomErasing"]):
            raise ValueError("a transform of other steps than these cannot be split: %s" % names[middle:])
        self.steps = transform.transforms[:middle]
        self.erase = transform.transforms[-1] if names[-1] == "RandomErasing" else None

    def __call__(self, picture):
        for step in self.steps:
            picture = step(picture)
        pixels = torch.from_numpy(numpy.array(picture, numpy.uint8, order="C"))
        boxes = _Boxes(pixels.shape)
        if self.erase is not None:
            self.erase(boxes)
        return ImageBytes(pixels, boxes.found)


class _Boxes:
    """Stands in for the tensor that timm's RandomErasing writes to, and keeps what it would write."""

    dtype = torch.float32

    def __init__(self, shape):
        self.shape, self.found = shape, []

    def size(self):
        height, width, channels = self.shape
        return channels, height, width

    def __setitem__(self, place, values):
        _, rows, columns = place
        height, width = rows.stop - rows.start, columns.stop - columns.start
        self.found.append((rows.start, columns.start, values.expand(-1, height, width)))


def stack(pictures, targets):
    """A ByteBatch of some ImageBytes of one size."""
    boxes = [(number, top, left) + tuple(values.shape[1:]) for number, top, left, values in _boxes_of(pictures)]
    fills = [values.reshape(-1) for _, _, _, values in _boxes_of(pictures)]
    return ByteBatch(
        torch.stack([picture.bytes for picture in pictures]),
        torch.tensor(targets),
        torch.tensor(boxes, dtype=torch.int64).reshape(-1, 5),
        torch.cat(fills) if fills else torch.zeros(0),
    )


def _boxes_of(pictures):
    return [(number,) + box for number, picture in enumerate(pictures) for box in picture.boxes]


def normalize(batch, device):
    """(images (B, 3, H, W), targets (B,)) on the runtime.device.Device: normalised float32, the boxes erased.

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
def _per_channel(values, torch_device):
    return torch.tensor(values, device=torch_device).view(3, 1, 1)
