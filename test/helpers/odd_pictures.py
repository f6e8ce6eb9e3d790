"""Small files that are odd pictures, or none: contents by file name, and odd names."""

import io
import os
import struct
import zlib

import numpy
from PIL import Image, features


def pixels(width=24, height=20, seed=0):
    """A picture of noise."""
    return Image.fromarray(numpy.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype("uint8"))


def encoded(picture, kind, **options):
    """The bytes of a file of that kind."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def animated(kind):
    return encoded(pixels(), kind, save_all=True, append_images=[pixels(seed=1), pixels(seed=2)])


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, depth, color, rows, before=b""):
    """A PNG written by hand; `color` 0 is grey, 2 RGB; `before` are chunks ahead of the rows."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def rows_16_bit(width, height, channels):
    noise = numpy.random.RandomState(3)
    return b"".join(b"\0" + noise.bytes(2 * channels * width) for _ in range(height))


def rotated():
    exif = Image.Exif()
    exif[0x112] = 6
    return exif.tobytes()


def palette(transparency):
    return encoded(pixels().convert("P"), "PNG", transparency=transparency)


def decodable():
    """{file name: content} of what has a picture."""
    files = {
        "plain.jpg": encoded(pixels(), "JPEG"),
        "capitals.JPEG": encoded(pixels(), "JPEG"),
        "cmyk.jpg": encoded(pixels().convert("CMYK"), "JPEG"),
        "rotated.jpg": encoded(pixels(), "JPEG", exif=rotated()),
        "cut_exif.jpg": encoded(pixels(), "JPEG", exif=rotated()[:-6]),
        "wild_exif.jpg": encoded(pixels(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + 12 * b"\1"),
        "two_frames.jpg": encoded(pixels(), "MPO", save_all=True, append_images=[pixels(seed=1)]),
        "grey_16_bit.png": png(24, 20, 16, 0, rows_16_bit(24, 20, 1)),
        "rgb_16_bit.png": png(24, 20, 16, 2, rows_16_bit(24, 20, 3)),
        "palette_of_bytes.png": palette(bytes(range(256))),
        "palette_with_one.png": palette(3),
        "grey_alpha.png": encoded(pixels().convert("LA"), "PNG"),
        "rgba.png": encoded(pixels().convert("RGBA"), "PNG"),
        "one_bit.png": encoded(pixels().convert("1"), "PNG"),
        "gif_in_disguise.png": animated("GIF"),
        "frames.png": animated("PNG"),
        "float.tif": encoded(Image.fromarray(numpy.linspace(0, 255, 480).reshape(20, 24).astype("float32")), "TIFF"),
        "lab.tiff": encoded(Image.new("LAB", (24, 20), (100, 20, 30)), "TIFF"),
        "grey.pgm": encoded(pixels().convert("L"), "PPM"),
        "grey.bmp": encoded(pixels().convert("L"), "BMP"),
        "dot.png": encoded(Image.new("RGB", (1, 1), (10, 200, 30)), "PNG"),
        "right_size.png": encoded(pixels(32, 32), "PNG"),
    }
    if features.check("webp"):
        files["frames.webp"] = animated("WEBP")
    return files


def strips():
    """{file name: content}: decodable, but at 224 pixels the resized picture would be huge."""
    return {
        "wide.png": encoded(Image.new("RGB", (30000, 10), (10, 200, 30)), "PNG"),
        "tall.png": encoded(Image.new("RGB", (10, 30000), (10, 200, 30)), "PNG"),
    }


def undecodable():
    """{file name: content} of what has no picture."""
    jpeg, whole = encoded(pixels(60, 60), "JPEG"), encoded(pixels(), "PNG")
    tiff = encoded(pixels(), "TIFF", compression="tiff_lzw") if features.check("libtiff") else b""
    text_bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2000000)))
    return {
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "cut_header.jpg": jpeg[:20],
        "cut.png": whole[: len(whole) // 2],
        "cut_header.png": whole[:20],
        "flipped.png": whole[:100] + bytes([whole[100] ^ 255]) + whole[101:],
        "cut.bmp": encoded(pixels(), "BMP")[:500],
        "cut.ppm": encoded(pixels(), "PPM")[:500],
        "header.ppm": b"P6\n" + 50 * b"1" + b" 3 255\n",
        "wild.tif": tiff[:300] + 200 * b"\xff" + tiff[500:],
        "empty.jpg": b"",
        "text.jpg": b"this is no picture\n",
        "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n{} loop\n",
        "bomb.png": png(50000, 50000, 8, 2, b""),
        "text_bomb.png": png(24, 20, 16, 0, rows_16_bit(24, 20, 1), text_bomb),
    }


ODD_NAMES = [
    b"new\nline",
    b"\xff\xfe not UTF-8 \xc3",
    b"-rf",
    b'it\'s "quoted" \\ `odd`',
    b"$(touch harm) ; & | * ?",
    b"escape \x1b[31m\x07",
    "\u2028 \u00a0 \u0085 \U000e0001".encode(),
    "\u732b \u00fc".encode(),
    b" blanks ",
]


def odd_names():
    """The odd names that this system can store, as Python shows them."""
    return [os.fsdecode(name) for name in ODD_NAMES]


def write(folder, files):
    """Write {file name: content} into a folder, which is made; its path."""
    os.makedirs(str(folder), exist_ok=True)
    for name, content in files.items():
        with open(os.path.join(str(folder), name), "wb") as file:
            file.write(content)
    return str(folder)
