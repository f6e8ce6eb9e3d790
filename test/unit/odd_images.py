"""Makers of odd and of broken image files, each for one path."""

import os
import struct
import zlib

import numpy
from PIL import Image


def noise(*shape, dtype="uint8", top=256):
    return numpy.random.RandomState(0).randint(0, top, shape).astype(dtype)


def colours():
    return Image.fromarray(noise(40, 50, 3))


def cmyk(path):
    colours().convert("CMYK").save(path, "JPEG")


def sixteen_bits(path):
    Image.fromarray(noise(40, 50, dtype="uint16", top=65536)).save(path)


def palette_with_transparency(path):
    picture = colours().convert("P")
    picture.info["transparency"] = bytes(range(256))
    picture.save(path, transparency=bytes(range(256)))


def grey_with_alpha(path):
    Image.fromarray(noise(40, 50, 2), "LA").save(path)


def one_bit(path):
    colours().convert("1").save(path)


def animated(path):
    frames = [Image.fromarray(noise(40, 50, 3) // step) for step in (1, 2, 3)]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])


def rotated_by_exif(path):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    colours().save(path, "JPEG", exif=exif)


def one_pixel(path):
    Image.fromarray(noise(1, 1, 3)).save(path)


def plain(path):
    colours().save(path)


def link(path):
    target = path + ".target"
    colours().save(target, "PNG")
    os.symlink(target, path)


ODD = [cmyk, sixteen_bits, palette_with_transparency, grey_with_alpha, one_bit, animated, rotated_by_exif, one_pixel]
ODD += [plain, link]


def empty(path):
    open(path, "w").close()


def text(path):
    with open(path, "w") as file:
        file.write("a cat")


def cut(path):
    colours().save(path, "JPEG", quality=95)
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) // 2)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(path):
    """A PNG that claims 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


def pipe(path):
    os.mkfifo(path)


def broken_link(path):
    os.symlink(path + ".missing", path)


def link_to_itself(path):
    os.symlink(path, path)


def device(path):
    os.symlink("/dev/zero", path)


BROKEN = {
    empty: "no known image format|cannot identify",
    text: "no known image format|cannot identify",
    cut: "truncated|broken",
    bomb: "decompression bomb",
    pipe: "not a regular file",
    broken_link: "No such file",
    link_to_itself: "symbolic links",
    device: "not a regular file",
}
