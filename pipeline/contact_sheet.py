"""A contact sheet: small images in rows, each with two lines below it, as one PNG."""

from __future__ import annotations

from typing import Any, BinaryIO, Sequence

from PIL import Image, ImageDraw, ImageFont

from pipeline.readers.base import Reader
from pipeline.reading import decode

COLUMNS, SIDE, GAP, LINE = 5, 160, 8, 16  # pixels, but for the columns


def draw(
    entries: Sequence[tuple[Any, tuple[str, str]]], reader: Reader, file: BinaryIO, exif_transpose: bool = False
) -> None:
    """Write the PNG of the `entries`, (key of an image for `reader`, two lines of text), to the open `file`.

    With `exif_transpose` images are rotated as their EXIF orientation says.
    """
    columns = max(1, min(COLUMNS, len(entries)))
    rows = max(1, -(-len(entries) // columns))
    width, height = SIDE + GAP, SIDE + 2 * LINE + GAP
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), "white")
    for number, (key, lines) in enumerate(entries):
        row, column = divmod(number, columns)
        with reader.open(key) as opened:
            image = decode(opened, exif_transpose)
        sheet.paste(_tile(image, lines), (GAP + column * width, GAP + row * height))
    sheet.save(file, "PNG")


def _tile(image: Image.Image, lines: tuple[str, str]) -> Image.Image:
    tile = Image.new("RGB", (SIDE, SIDE + 2 * LINE), "white")
    scale = SIDE / max(image.size)
    image = image.resize([max(1, round(length * scale)) for length in image.size], Image.BICUBIC)
    tile.paste(image, ((SIDE - image.size[0]) // 2, (SIDE - image.size[1]) // 2))
    pen, font = ImageDraw.Draw(tile), ImageFont.load_default()
    for number, text in enumerate(lines):
        pen.text((2, SIDE + number * LINE), _drawable(text, font), fill="black", font=font)
    return tile


def _drawable(text: str, font: Any) -> str:
    """Return `text` as far as the font can show it: before Pillow 10 the default font had Latin letters only."""
    if isinstance(font, ImageFont.ImageFont):
        return text.encode("latin-1", "replace").decode("latin-1")
    return text
