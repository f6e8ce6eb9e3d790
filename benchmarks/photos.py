"""JPEG files like photographs, for benchmarks that have no data set at hand."""

import os

import numpy
from PIL import Image

WIDTH, HEIGHT, QUALITY = 500, 375, 96  # files of about 120 KB, as ImageNet's


def photo(seed):
    """A picture of noise of several sizes, the finer the weaker, as in photographs."""
    noise, sums = numpy.random.RandomState(seed), numpy.zeros((HEIGHT, WIDTH, 3))
    for cells, weight in ((4, 1.0), (16, 0.5), (60, 0.25), (250, 0.35)):
        small = Image.fromarray(noise.randint(0, 256, (cells, cells, 3)).astype("uint8"))
        sums += weight * numpy.asarray(small.resize((WIDTH, HEIGHT), Image.BICUBIC), float)
    return Image.fromarray((sums / sums.max() * 255).astype("uint8"))


def write_photos(folder, train=240, val=60, classes=3):
    """An image folder of `train` and `val` photos in `folder`."""
    for part, count in (("train", train), ("val", val)):
        for number in range(count):
            place = os.path.join(folder, part, "class%d" % (number % classes))
            os.makedirs(place, exist_ok=True)
            seed = number if part == "train" else 10**6 + number
            photo(seed).save(os.path.join(place, "%05d.jpg" % number), quality=QUALITY)


def size_of(folder):
    """KB a file, on average."""
    sizes = [os.path.getsize(os.path.join(parent, name)) for parent, _, files in os.walk(folder) for name in files]
    return sum(sizes) / len(sizes) / 1000
