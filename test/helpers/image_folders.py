"""Folders of small images, as --data-path takes them."""

import os

import numpy
from odd_pictures import encoded, pixels, write
from PIL import Image


def test_picture(width, height):
    """The golden cases' picture: integers from the position alone."""
    x, y = numpy.meshgrid(numpy.arange(width), numpy.arange(height))
    channels = [(3 * x + 5 * y) % 256, (x * y // 7 + 40) % 256, (x * x // 50 + 2 * y) % 256]
    return Image.fromarray(numpy.stack(channels, axis=2).astype(numpy.uint8))


test_picture.__test__ = False


def make_folder(root, train=(("a", 3), ("b", 3)), val=(("a", 1), ("b", 2)), side=32):
    """Write the golden cases' picture as every image of ((class, count), ...); return the folder."""
    for part, classes in (("train", train), ("val", val)):
        for name, count in classes:
            folder = os.path.join(str(root), part, name)
            os.makedirs(folder)
            for number in range(count):
                test_picture(side + number, side).save(os.path.join(folder, "%d.png" % number))
    return str(root)


def write_noise(root, train, val, side=32):
    """Write random pictures, `train` and `val` {class: count}; return the folder."""
    source = numpy.random.RandomState(0)
    for part, classes in (("train", train), ("val", val)):
        for name, count in classes.items():
            folder = os.path.join(root, part, name)
            os.makedirs(folder)
            for number in range(count):
                noise = source.randint(0, 256, (side, side, 3)).astype("uint8")
                Image.fromarray(noise).save(os.path.join(folder, "%02d.png" % number))
    return root


def write_images(root, train=12, val=5, side=32):
    """Write random pictures of two classes: `train` and `val` images of each; return the folder."""
    return write_noise(root, {"cat": train, "dog": train}, {"cat": val, "dog": val}, side)


def make_data(root, train, val):
    """Write train/ and val/ with a class "a" of these files; return the folder."""
    for part, files in (("train", train), ("val", val)):
        write(os.path.join(str(root), part, "a"), files)
    return str(root)


def plain(count):
    """Return `count` ordinary pictures whose names come after those of the others."""
    return {"z%02d.png" % number: encoded(pixels(32, 32, number), "PNG") for number in range(count)}
