"""Image files: found below folders, opened safely, decoded as the reference decodes them."""

from __future__ import annotations

import ctypes
import os
import warnings
from typing import BinaryIO, Callable, Iterator

import PIL
from PIL import Image
from torchvision import transforms

from pipeline.decoding import LONGEST_SIGN, load_plugin, plugin_for
from pipeline.layout import contains, is_hidden, unlistable
from runtime.errors import UserError, printable, reason, shown
from storage import remote
from storage.remote import is_url
from utils import open_regular

TIMELESS = (0, 0)  # the stamp of a folder at a URL

# Pillow warns of palettes with transparency, odd EXIF data and large pictures, in every loader process, naming no file.
# None of it changes the pixels that come out; a picture that is too large to decode is an error of its own.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# torchvision 0.9 to 0.12 warns of Pillow's numbers for interpolation, which every torchvision takes.
warnings.filterwarnings("ignore", message="Argument interpolation should be of type InterpolationMode")
try:  # Pillow's libtiff writes lines about "tempfile.tif" on stderr, beside the exception that follows
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)
except (AttributeError, OSError):  # Pillow without libtiff, or one that hides it
    pass


def walk(
    top: str, passed_over: Callable[[str], object] = lambda inner: None
) -> Iterator[tuple[str, tuple[int, int], list[str]]]:
    """Yield (path relative to `top`, time stamp, names of its files) of the folder `top` and of each folder below it.

    Links are followed. Hidden folders below `top` are not: `passed_over` is called with the path of each. UserError for
    a folder that cannot be listed, and for links that lead back to where they are. `top` may be a URL.
    """
    if is_url(top):
        yield from _walk_remote(top, passed_over)
    if not os.path.isdir(top):
        return
    _check_link(top)
    waiting = [""]
    while waiting:
        inner = waiting.pop()
        path = os.path.join(top, inner) if inner else top
        stamp, folders, files = _list(path)
        for name in folders:
            if is_hidden(name):
                passed_over(os.path.join(inner, name))
            else:
                waiting.append(os.path.join(inner, name))
        yield inner, stamp, files


def _walk_remote(top: str, passed_over: Callable[[str], object]) -> Iterator[tuple[str, tuple[int, int], list[str]]]:
    hidden = set()
    for inner, files in remote.walk(top):
        parts = inner.split("/") if inner else []
        first = next((number for number, part in enumerate(parts) if is_hidden(part)), None)
        if first is None:
            yield inner, TIMELESS, files
        else:
            hidden.add("/".join(parts[: first + 1]))
    for folder in sorted(hidden):
        passed_over(folder)


def _list(path: str) -> tuple[tuple[int, int], list[str], list[str]]:
    """Return (time stamp from before, names of folders, names of all else) of the folder `path`."""
    folders, files = [], []
    try:
        stamp = stamp_of(path)
        with os.scandir(path) as entries:
            for entry in entries:
                if not _is_folder(entry):
                    files.append(entry.name)
                    continue
                if entry.is_symlink() and not is_hidden(entry.name):
                    _check_link(entry.path)
                folders.append(entry.name)
    except OSError as error:
        raise unlistable(error) from None
    return stamp, folders, files


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, say
        return False


def stamp_of(folder: str) -> tuple[int, int]:
    """Return what changes with the names in `folder`: its two times in ns, of which an unpacker resets only one.

    TIMELESS for a URL.
    """
    if is_url(folder):
        return TIMELESS
    status = os.stat(folder)
    return status.st_mtime_ns, status.st_ctime_ns


def _check_link(path: str) -> None:
    if not os.path.islink(path):
        return
    target = os.path.realpath(path)
    if any(contains(target, folder) for folder in _real_ancestors(os.path.dirname(path))):
        raise UserError("%s is a link back to %s: remove it" % (shown(path), shown(target)))


def _real_ancestors(path: str) -> set[str]:
    """Return the real paths of `path` and of the folders above it, every link on the way resolved."""
    found = {os.path.realpath(path)}
    while os.path.dirname(path) not in ("", path):
        path = os.path.dirname(path)
        found.add(os.path.realpath(path))
    return found


def read_image(path: str, exif_transpose: bool = False) -> Image.Image:
    """Return the RGB image in the file `path`, as of `decode`."""
    with open_regular(path) as file:
        return decode(file, exif_transpose)


def decode(file: BinaryIO, exif_transpose: bool = False) -> Image.Image:
    """Return the RGB image in an open file: its first frame, as of `to_rgb`."""
    return to_rgb(open_image(file), exif_transpose)


def to_rgb(image: Image.Image, exif_transpose: bool = False) -> Image.Image:
    """Return `image` in RGB, transparency dropped; with `exif_transpose` rotated as its EXIF orientation says."""
    converted = image.convert("RGB")
    return transpose(converted, orientation_of(image)) if exif_transpose else converted


UPRIGHT = 1  # the EXIF orientation of most images
_TRANSPOSITIONS = {
    2: Image.FLIP_LEFT_RIGHT,
    3: Image.ROTATE_180,
    4: Image.FLIP_TOP_BOTTOM,
    5: Image.TRANSPOSE,
    6: Image.ROTATE_270,
    7: Image.TRANSVERSE,
    8: Image.ROTATE_90,
}


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8, of an image; 1 for a TIFF, whose orientation Pillow itself obeys."""
    if image.format == "TIFF":
        return UPRIGHT
    try:
        value = image.getexif().get(0x112)
    except Exception:  # damaged EXIF data raise nearly anything
        return UPRIGHT
    return value if isinstance(value, int) and value in _TRANSPOSITIONS else UPRIGHT


def transpose(image: Image.Image, orientation: int) -> Image.Image:
    """Return the image of that EXIF orientation upright."""
    return image if orientation == UPRIGHT else image.transpose(_TRANSPOSITIONS[orientation])


def open_image(file: BinaryIO) -> Image.Image:
    """Return the image in an open file, its pixels not decoded yet."""
    try:
        image = Image.open(file)
    except OSError:
        file.seek(0)
        plugin = plugin_for(file.read(LONGEST_SIGN))
        if plugin is None:
            raise
        load_plugin(plugin)
        file.seek(0)
        image = Image.open(file)
    if image.format == "EPS":  # Pillow hands it to Ghostscript: a program, which may never end
        raise ValueError("PostScript is not read")
    return image


class BoundedResize(transforms.Resize):
    """Resize, but not to more pixels than Pillow decodes: an image of 10 x 30,000 would become one of gigabytes."""

    def __call__(self, image: Image.Image) -> Image.Image:
        self.goal(*image.size)
        return super().__call__(image)

    def goal(self, width: int, height: int) -> tuple[int, int]:
        """Return (width, height) after the resize; ValueError where they are too much."""
        shorter, longer = sorted((width, height))
        pixels = self.size * self.size * longer // max(shorter, 1)
        if Image.MAX_IMAGE_PIXELS and pixels > 2 * Image.MAX_IMAGE_PIXELS:
            raise ValueError("%d x %d pixels would be resized to %d in all" % (width, height, pixels))
        length = int(self.size * longer / shorter)
        return (self.size, length) if width < height else (length, self.size)


def failure_of(error: Exception) -> str:
    """Return why an image cannot be decoded, in a few words."""
    if isinstance(error, getattr(PIL, "UnidentifiedImageError", ())):
        return "no known image format"
    text = reason(error)
    is_plain = isinstance(error, (OSError, ValueError, SyntaxError, Image.DecompressionBombError))
    if not is_plain and text != type(error).__name__:
        text = "%s: %s" % (type(error).__name__, text)
    return printable(text)
