"""Images of a folder, with the classes that a model gives them, by which a file is calibrated and validated."""

from __future__ import annotations

import os
from typing import Iterator, Sequence

import torch

from pipeline.batch_bytes import ToBytes
from pipeline.decoding import Decoding
from pipeline.passed_over import list_images_below
from pipeline.reading import failure_of, read_image
from pipeline.transforms import eval_transform
from runtime.errors import UserError, shown


class LabelledImages:
    """The images in and below a folder, each with the number of its class, uint8 (3, size, size) and in sorted order.

    The class is the first folder of the image's path; where there is none of the `class_names`, it is None.
    """

    def __init__(self, option: str, folder: str, class_names: Sequence[str], decoding: Decoding, size: int) -> None:
        if not os.path.isdir(folder):
            raise UserError("%s %s: no such folder" % (option, shown(folder)))
        self.option, self.folder, self.decoding = option, folder, decoding
        self.paths, _ = list_images_below(folder, decoding)
        if not self.paths:
            raise UserError("%s %s: there is no image in it" % (option, shown(folder)))
        numbers = {name: number for number, name in enumerate(class_names)}
        self.targets = [numbers.get(os.path.relpath(path, folder).split(os.sep)[0]) for path in self.paths]
        self._transform = ToBytes(eval_transform(size))

    def check_labels(self) -> None:
        """Raise UserError unless each image lies in the folder of a class."""
        for path, target in zip(self.paths, self.targets):
            if target is None:
                text = "%s %s: %s lies in no folder with the name of a class"
                raise UserError(text % (self.option, shown(self.folder), shown(os.path.relpath(path, self.folder))))

    def halves(self) -> tuple[list[int], list[int]]:
        """Return the positions of every other image of each class, and those of the others."""
        order = sorted(range(len(self.paths)), key=lambda position: (self.targets[position], position))
        return order[::2], order[1::2]

    def batches(self, positions: Sequence[int], size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (images, targets) of the `positions`, `size` at a time; UserError for an image that cannot be read."""
        for first in range(0, len(positions), size):
            chosen = positions[first : first + size]
            images = torch.stack([self._read(self.paths[position]) for position in chosen])
            yield images, torch.tensor([self.targets[position] or 0 for position in chosen])

    def _read(self, path: str) -> torch.Tensor:
        try:
            return self._transform(read_image(path, self.decoding.exif_transpose)).bytes.permute(2, 0, 1)
        except Exception as error:  # decoders raise nearly anything
            raise UserError("%s: %s: %s" % (self.option, shown(path), failure_of(error))) from None


def spread(positions: Sequence[int], most: int) -> list[int]:
    """Return at most `most` of the positions, evenly spread."""
    count = min(len(positions), most)
    return [positions[number * len(positions) // count] for number in range(count)]
