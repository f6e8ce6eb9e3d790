"""Inspection of every image of a data set, decoded by loader processes as a training would, kept in some bytes each."""

from __future__ import annotations

import hashlib
from typing import Sequence

import numpy
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from pipeline.batches import means_a_lost_process
from pipeline.reading import BoundedResize, failure_of, open_image
from pipeline.transforms import SMALL_SIZE
from runtime.errors import RunError, reason
from runtime.open_files import too_many
from runtime.signals import ignore_stop_signals
from utils import digest_of, open_regular

MOST_NAMED = 1000  # files of a kind that are named; all are counted
_BATCH = 32
_DIGEST_BYTES = 16


class ImageFiles(Dataset):
    """(digest of the file, width, height, mode, "") of each of the `images`, (path, class number).

    Where a training at `input_size` pixels could not read it, the last entry is the reason and the others are empty.
    """

    def __init__(self, images: Sequence[tuple[str, int]], input_size: int, is_train: bool) -> None:
        self.images = images
        is_resized = input_size <= SMALL_SIZE or not is_train  # otherwise a part of it is cropped first
        self.resize = BoundedResize(int(256 / 224 * input_size)) if is_resized else None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[bytes, int, int, str, str]:
        try:
            with open_regular(self.images[number][0]) as file:
                digest = digest_of(file, hashlib.blake2b(digest_size=_DIGEST_BYTES)).digest()
                file.seek(0)
                image = open_image(file)
                mode = image.mode
                width, height = image.convert("RGB").size
            if self.resize is not None:
                self.resize.goal(width, height)
        except Exception as error:  # decoders raise nearly anything
            if too_many(error):  # no fault of the image
                raise
            return b"", 0, 0, "", failure_of(error)
        return digest, width, height, mode, ""


class InspectionResult:
    """What was found in the images of one folder, 24 bytes each.

    `digests` are uint64 (n, 2), `sizes` int32 (n, 2) of width and height, 0 where a file is broken; `broken_count`
    counts those, `first_broken` has the reasons of the first ones by number, `modes` counts Pillow's modes.
    """

    def __init__(self, count: int) -> None:
        self.digests = numpy.zeros((count, 2), numpy.uint64)
        self.sizes = numpy.zeros((count, 2), numpy.int32)
        self.broken_count = 0
        self.first_broken: dict[int, str] = {}
        self.modes: dict[str, int] = {}

    def add(self, number: int, digest: bytes, width: int, height: int, mode: str, reason: str) -> None:
        """Record the result of an image."""
        if reason:
            self.broken_count += 1
            if self.broken_count <= MOST_NAMED:
                self.first_broken[number] = reason
            return
        self.digests[number] = numpy.frombuffer(digest, numpy.uint64)
        self.sizes[number] = width, height
        self.modes[mode] = self.modes.get(mode, 0) + 1


def inspect_images(
    images: Sequence[tuple[str, int]], input_size: int, is_train: bool, workers: int, name: str
) -> InspectionResult:
    """Return the InspectionResult of `images`, with a progress bar called `name` on a terminal.

    RunError where a process is lost.
    """
    found = InspectionResult(len(images))
    loader = DataLoader(
        ImageFiles(images, input_size, is_train),
        batch_size=_BATCH,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=ignore_stop_signals,
    )
    number = 0
    with tqdm(total=len(images), desc=name, unit="image", disable=None) as bar:
        try:
            for batch in loader:
                for result in batch:
                    found.add(number, *result)
                    number += 1
                bar.update(len(batch))
        except (RuntimeError, OSError, EOFError) as error:
            if not means_a_lost_process(error):
                raise
            message = "a process was lost while it decoded the images of %s from number %d on (%s): lower --num-workers"
            raise RunError(message % (name, number, reason(error))) from None
    return found
