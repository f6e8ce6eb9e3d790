"""Inspection of every image of a data set, decoded by loader processes as a training would, kept in some bytes each."""

from __future__ import annotations

import hashlib
from typing import BinaryIO, NamedTuple

import numpy
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from pipeline.image_index import ImageIndex
from pipeline.loader import Loader, LostProcess
from pipeline.reading import UPRIGHT, BoundedResize, failure_of, open_image, orientation_of, to_rgb
from pipeline.samplers import EvalShard, ShardBatches
from pipeline.transforms import SMALL_SIZE
from runtime.errors import RunError
from runtime.open_files import too_many
from storage.remote import NetworkLost
from utils import digest_of

MOST_NAMED = 1000  # files of a kind that are named; all are counted
_BATCH = 32
_ROWS = 256  # of an image at once
_DIGEST_BYTES = 16


class ImageFacts(NamedTuple):
    """What is known of a file: with a `reason` why a training could not read it, nothing else is."""

    reason: str = ""
    digest: bytes = b""  # equal for equal pixels
    width: int = 0
    height: int = 0
    mode: str = ""  # Pillow's
    is_rotated: bool = False  # by its EXIF orientation
    is_clipped: bool = False  # in the decoded image


class ImageFiles(Dataset):
    """The ImageFacts of each of the `images` for a training at `input_size` pixels."""

    def __init__(self, images: ImageIndex, input_size: int, is_train: bool) -> None:
        self.images, self.reader = images, images.reader()
        is_resized = input_size <= SMALL_SIZE or not is_train  # otherwise a part of it is cropped first
        self.resize = BoundedResize(int(256 / 224 * input_size)) if is_resized else None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> ImageFacts:
        try:
            with self.reader.open(self.images[number][0]) as file:
                image = open_image(file)
                mode, decoded = image.mode, to_rgb(image)
                width, height = decoded.size
                is_rotated = orientation_of(image) != UPRIGHT
                is_clipped = loses_contents(image)
                digest = _digest_of_file(file) if is_clipped else _digest_of_pixels(decoded)
            if self.resize is not None:
                self.resize.goal(width, height)
        except Exception as error:  # decoders raise nearly anything
            if too_many(error) or isinstance(error, NetworkLost):  # no fault of the image
                raise
            return ImageFacts(failure_of(error))
        return ImageFacts("", digest, width, height, mode, is_rotated, is_clipped)


def _digest_of_pixels(image: Image.Image) -> bytes:
    """Return the digest of the pixels, which a copy shares that was saved again without loss."""
    digest = hashlib.blake2b(repr(image.size).encode(), digest_size=_DIGEST_BYTES)
    width, height = image.size
    for top in range(0, height, _ROWS):  # an image may be as large as the memory allows
        digest.update(image.crop((0, top, width, min(height, top + _ROWS))).tobytes())
    return digest.digest()


def _digest_of_file(file: BinaryIO) -> bytes:
    """Return the digest of the file, for an image whose pixels no longer tell it from others."""
    file.seek(0)
    return digest_of(file, hashlib.blake2b(digest_size=_DIGEST_BYTES)).digest()


def loses_contents(image: Image.Image) -> bool:
    """Return whether numbers of more than 8 bits do not fit into those of 0 to 255 to which a decoded image is clipped.

    So do not those of 16 bits that are scaled to 65,535, nor floats that are scaled to 1, which become black.
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return False
    least, most = (image if image.mode == "F" else image.convert("I")).getextrema()
    is_within = least >= 0 and most <= 255
    is_scaled_to_one = image.mode == "F" and least < most <= 1
    return not is_within or is_scaled_to_one


class InspectionResult:
    """What was found in the images of one folder, 24 bytes each.

    `digests` are uint64 (n, 2), `sizes` int32 (n, 2) of width and height, 0 where a file is broken; `broken_count`
    counts those, `first_broken` has the reasons of the first ones by number, `modes` counts Pillow's modes, `rotated`
    and `clipped` the images that ImageFacts calls so, with the numbers of the first ones.
    """

    def __init__(self, count: int) -> None:
        self.digests = numpy.zeros((count, 2), numpy.uint64)
        self.sizes = numpy.zeros((count, 2), numpy.int32)
        self.broken_count = 0
        self.first_broken: dict[int, str] = {}
        self.modes: dict[str, int] = {}
        self.rotated, self.clipped = Numbers(), Numbers()

    def add(self, number: int, facts: ImageFacts) -> None:
        """Record the result of an image."""
        if facts.reason:
            self.broken_count += 1
            if self.broken_count <= MOST_NAMED:
                self.first_broken[number] = facts.reason
            return
        self.digests[number] = numpy.frombuffer(facts.digest, numpy.uint64)
        self.sizes[number] = facts.width, facts.height
        self.modes[facts.mode] = self.modes.get(facts.mode, 0) + 1
        if facts.is_rotated:
            self.rotated.add(number)
        if facts.is_clipped:
            self.clipped.add(number)


class Numbers:
    """The numbers of some images: all are counted, the first MOST_NAMED are kept."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[int] = []

    def add(self, number: int) -> None:
        self.count += 1
        if len(self.first) < MOST_NAMED:
            self.first.append(number)


def inspect_images(images: ImageIndex, input_size: int, is_train: bool, workers: int, name: str) -> InspectionResult:
    """Return the InspectionResult of `images`, with a progress bar called `name` on a terminal.

    RunError where a process is lost.
    """
    found = InspectionResult(len(images))
    order = ShardBatches(EvalShard(len(images)), _BATCH)
    loader = Loader(ImageFiles(images, input_size, is_train), order, list, workers, hands_over=False)
    number = 0
    with tqdm(total=len(images), desc=name, unit="image", disable=None) as bar:
        try:
            for batch in loader.items():
                for facts in batch:
                    found.add(number, facts)
                    number += 1
                bar.update(len(batch))
        except LostProcess as lost:
            message = "a process was lost while it decoded the images of %s from number %d on (%s): lower --num-workers"
            raise RunError(message % (name, number, lost)) from None
        finally:
            loader.end()
    return found
