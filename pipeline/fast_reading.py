"""`--loader fast`: the steps that take most of a loader's time, by faster libraries and with nearly the same pixels.

libjpeg-turbo by simplejpeg, torch's resize of bytes, and OpenCV's affine maps take the place of Pillow's. The random
samples are those of the exact steps. What differs is measured by `benchmark.py data`, which prints the PSNR.
"""

from __future__ import annotations

import functools
import io
import math
import random
from typing import Any, BinaryIO, Callable

import numpy
import torch
from PIL import Image
from torch.nn import functional

from pipeline.reading import UPRIGHT, BoundedResize, decode, orientation_of, transpose
from runtime.compat import RandomResizedCropAndInterpolation, augment_operations, resizes_bytes
from runtime.errors import UserError

try:
    import cv2
    import simplejpeg
except ImportError as error:
    MISSING = str(error)
else:
    MISSING = ""
    cv2.setNumThreads(0)  # the loader processes share the cores already

_TORCH_NAMES = {2: "bilinear", 3: "bicubic"}  # of Pillow's filters
_OPENCV_MODES = {0: 0, 2: 1, 3: 2}  # Pillow's nearest, bilinear and bicubic
_PLAIN = ("YCbCr", "Gray", "RGB")  # what libjpeg-turbo turns to RGB as Pillow does


def check() -> None:
    """Raise UserError where a library for `--loader fast` is missing."""
    if MISSING:
        raise UserError("--loader fast: %s: pip install simplejpeg opencv-python-headless" % MISSING)
    if not resizes_bytes():
        raise UserError("--loader fast: this torch cannot resize bytes (torch 2.1 can): leave the option out")


def decode_pixels(file: BinaryIO, exif_transpose: bool = False) -> numpy.ndarray:
    """Return the RGB image in an open file, uint8 (H, W, 3); all but plain JPEG is left to `reading.decode`."""
    data = file.read(2)
    if data == b"\xff\xd8":
        data += file.read()
        try:
            pixels = _decode(data)
            return _upright(pixels, data) if exif_transpose else pixels
        except ValueError:  # Pillow decides what can still be read, and tells why not
            pass
    file.seek(0)
    return numpy.array(decode(file, exif_transpose))


def _decode(data: bytes) -> numpy.ndarray:
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    limit = Image.MAX_IMAGE_PIXELS
    if colours not in _PLAIN or (limit and height * width > limit):
        raise ValueError("left to Pillow")
    return simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False)


def _upright(pixels: numpy.ndarray, data: bytes) -> numpy.ndarray:
    """Return the `pixels` of the JPEG `data` rotated as its EXIF orientation says."""
    orientation = orientation_of(Image.open(io.BytesIO(data)))
    return pixels if orientation == UPRIGHT else numpy.array(transpose(Image.fromarray(pixels), orientation))


def accelerate(transform: Any) -> Any:
    """Return `transform` with its slow steps replaced, for the pixels of `decode_pixels`."""
    first, *others = transform.transforms
    if isinstance(first, RandomResizedCropAndInterpolation):
        first = _RandomCrop(first)
    elif isinstance(first, BoundedResize):
        first, others = _CentreOfResized(first, others[0].size), others[1:]
    else:
        others.insert(0, first)
        first = Image.fromarray
    for operation in augment_operations(transform):
        if operation.aug_fn.__name__.startswith(("rotate", "shear", "translate")):
            operation.aug_fn = _by_opencv(operation.aug_fn)
        elif operation.aug_fn.__name__ == "sharpness":
            operation.aug_fn = _sharpness
    transform.transforms = [first, *others]
    return transform


class _RandomCrop:
    """timm's random resized crop: uint8 (H, W, 3) -> image."""

    def __init__(self, exact: Any) -> None:
        self.exact = exact

    def __call__(self, pixels):
        views = _channels_first(pixels)
        top, left, height, width = self.exact.get_params(views, self.exact.scale, self.exact.ratio)
        modes = self.exact.interpolation
        mode = random.choice(modes) if isinstance(modes, (tuple, list)) else modes
        return Image.fromarray(_resized(views[..., top : top + height, left : left + width], self.exact.size, mode))


class _CentreOfResized:
    """Evaluation's resize of the shorter side, and the centre of it: uint8 (H, W, 3) -> uint8 (S, S, 3)."""

    def __init__(self, exact: Any, size: tuple[int, int]) -> None:
        self.exact, self.size = exact, size

    def __call__(self, pixels):
        width, height = self.exact.goal(pixels.shape[1], pixels.shape[0])
        resized = _resized(_channels_first(pixels), (height, width), self.exact.interpolation)
        # rounded as torchvision's CenterCrop rounds
        top, left = (round((length - own) / 2) for length, own in zip((height, width), self.size))
        return resized[top : top + self.size[0], left : left + self.size[1]]


def _channels_first(pixels):
    return torch.from_numpy(pixels).unsqueeze(0).permute(0, 3, 1, 2)


def _resized(views, size, mode):
    name = getattr(mode, "value", _TORCH_NAMES.get(mode))
    whole = views.contiguous(memory_format=torch.channels_last)  # three times as fast as a part of another
    resized = functional.interpolate(whole, size, mode=name, antialias=True)
    return resized[0].permute(1, 2, 0).contiguous().numpy()


class _Affine:
    """Stands in for the image in timm's functions, which sample and compute the map, and applies it by OpenCV."""

    def __init__(self, image: Image.Image) -> None:
        self.image, self.size = image, image.size

    def transform(
        self, size: tuple[int, int], method: Any, matrix: Any, resample: Any, fillcolor: Any = 0
    ) -> Image.Image:
        """Return the image whose pixel (x, y) is the source's at (a x + b y + c, d x + e y + f), as Pillow counts."""
        a, b, c, d, e, f = matrix
        # Pillow's coordinates are those of pixel corners, OpenCV's of centres
        centred = numpy.array([[a, b, c + (a + b - 1) / 2], [d, e, f + (d + e - 1) / 2]])
        flags = cv2.WARP_INVERSE_MAP | _OPENCV_MODES[int(resample)]
        fill = fillcolor if isinstance(fillcolor, tuple) else (fillcolor,) * 3
        return Image.fromarray(cv2.warpAffine(numpy.asarray(self.image), centred, size, flags=flags, borderValue=fill))

    def rotate(self, degrees: float, resample: Any, fillcolor: Any = 0) -> Image.Image:
        """Return the image rotated about its centre, counter-clockwise."""
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        x, y = self.size[0] / 2, self.size[1] / 2
        matrix = (cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y)
        return self.transform(self.size, Image.AFFINE, matrix, resample, fillcolor)


def _by_opencv(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Return timm's function `apply` of an image, with its affine map by OpenCV."""

    @functools.wraps(apply)
    def faster(image: Any, *levels: Any, **options: Any) -> Any:
        return apply(_Affine(image), *levels, **options)

    return faster


_SMOOTH = numpy.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], numpy.float32) / 13  # Pillow's ImageFilter.SMOOTH


def _sharpness(image: Image.Image, factor: float, **_: Any) -> Image.Image:
    """Return the image as of Pillow's ImageEnhance.Sharpness."""
    pixels = numpy.asarray(image)
    smooth = cv2.filter2D(pixels, -1, _SMOOTH)
    smooth[[0, -1]], smooth[:, [0, -1]] = pixels[[0, -1]], pixels[:, [0, -1]]
    return Image.fromarray(cv2.addWeighted(pixels, factor, smooth, 1 - factor, 0))
