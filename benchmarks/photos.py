"""JPEG files like photographs, for benchmarks without a data set."""

from __future__ import annotations

import os

import numpy
from PIL import Image

WIDTH, HEIGHT, QUALITY = 500, 375, 96  # files of about 120 KB, as ImageNet's
MOST_PHOTOS = 1500  # of a part: making them takes longer than decoding them


def photo(seed: int) -> Image.Image:
    """Return an image of noise of several sizes, the finer the weaker, as in photographs."""
    noise, sums = numpy.random.RandomState(seed), numpy.zeros((HEIGHT, WIDTH, 3))
    for cells, weight in ((4, 1.0), (16, 0.5), (60, 0.25), (250, 0.35)):
        small = Image.fromarray(noise.randint(0, 256, (cells, cells, 3)).astype("uint8"))
        sums += weight * numpy.asarray(small.resize((WIDTH, HEIGHT), Image.BICUBIC), float)
    return Image.fromarray((sums / sums.max() * 255).astype("uint8"))


def write_photos(folder: str, train: int = 240, val: int = 60, classes: int = 3) -> None:
    """Write an image folder of `train` and `val` photos, of which those above MOST_PHOTOS are links to others."""
    written: dict[int, str] = {}
    for part, count in (("train", train), ("val", val)):
        for number in range(count):
            class_folder = os.path.join(folder, part, "class%d" % (number % classes))
            os.makedirs(class_folder, exist_ok=True)
            path, number = os.path.join(class_folder, "%05d.jpg" % number), number % MOST_PHOTOS
            seed = number if part == "train" else 10**6 + number
            if seed in written:
                os.link(written[seed], path)
                continue
            photo(seed).save(path, quality=QUALITY)
            written[seed] = path
