"""A contact sheet: small pictures in rows, each with two lines below it, as one PNG."""

from PIL import Image, ImageDraw, ImageFont

from pipeline.reading import read_image

COLUMNS, SIDE, GAP, LINE = 5, 160, 8, 16  # pixels, but for the columns


def draw(entries, file):
    """Write the PNG of the `entries`, (path of a picture, two lines of text), to the open `file`."""
    columns = max(1, min(COLUMNS, len(entries)))
    rows = max(1, -(-len(entries) // columns))
    width, height = SIDE + GAP, SIDE + 2 * LINE + GAP
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), "white")
    for number, (path, lines) in enumerate(entries):
        row, column = divmod(number, columns)
        sheet.paste(_tile(path, lines), (GAP + column * width, GAP + row * height))
    sheet.save(file, "PNG")


def _tile(path, lines):
    tile = Image.new("RGB", (SIDE, SIDE + 2 * LINE), "white")
    picture = read_image(path)
    scale = SIDE / max(picture.size)
    picture = picture.resize([max(1, round(length * scale)) for length in picture.size], Image.BICUBIC)
    tile.paste(picture, ((SIDE - picture.size[0]) // 2, (SIDE - picture.size[1]) // 2))
    pen, font = ImageDraw.Draw(tile), ImageFont.load_default()
    for number, text in enumerate(lines):
        pen.text((2, SIDE + number * LINE), _drawable(text, font), fill="black", font=font)
    return tile


def _drawable(text, font):
    """`text` as far as the font can show it: Pillow's own was one of bitmaps, for Latin letters, before Pillow 10."""
    if isinstance(font, ImageFont.ImageFont):
        return text.encode("latin-1", "replace").decode("latin-1")
    return text
