"""Image files: found below folders, opened safely, decoded as the reference decodes them."""

import ctypes
import os
import stat
import warnings

import PIL
from PIL import Image
from torchvision import transforms
from torchvision.datasets.folder import IMG_EXTENSIONS

from runtime.errors import UserError, printable, shown

# Pillow warns of palettes with transparency, odd EXIF data and large pictures, in every loader process, naming no file.
# None of it changes the pixels that come out; a picture that is too large to decode is an error of its own.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
try:  # Pillow's libtiff writes lines about "tempfile.tif" on stderr, beside the exception that follows
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)
except (AttributeError, OSError):  # Pillow without libtiff, or one that hides it
    pass

_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_CLOEXEC", 0)


def list_classes(folder):
    """The names of the class folders in `folder`, sorted."""
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except OSError as error:
        raise _unlistable(error) from None


def list_images(folder, classes):
    """(path, class index) of every image below `folder`, in torchvision ImageFolder's order.

    UserError for a folder that cannot be listed, and for links that lead back to where they are.
    """
    images = []
    for index, name in enumerate(classes):
        for parent, _, files in sorted(_walk(os.path.join(folder, name))):
            paths = (os.path.join(parent, file) for file in sorted(files))
            images += [(path, index) for path in paths if path.lower().endswith(IMG_EXTENSIONS)]
    return images


def _walk(top):
    if not os.path.isdir(top):
        return
    _check_link(top)
    for parent, folders, files in os.walk(top, followlinks=True, onerror=_raise_unlistable):
        for name in folders:
            _check_link(os.path.join(parent, name))
        yield parent, folders, files


def _check_link(path):
    if not os.path.islink(path):
        return
    target = os.path.realpath(path)
    if any(_holds(target, folder) for folder in _real_ancestors(os.path.dirname(path))):
        raise UserError("%s is a link back to %s: remove it" % (shown(path), shown(target)))


def _holds(folder, path):
    return os.path.join(path, "").startswith(os.path.join(folder, ""))


def _real_ancestors(path):
    """What `path` and the folders above it really are, every link on the way resolved."""
    found = {os.path.realpath(path)}
    while os.path.dirname(path) not in ("", path):
        path = os.path.dirname(path)
        found.add(os.path.realpath(path))
    return found


def _raise_unlistable(error):
    raise _unlistable(error)


def _unlistable(error):
    return UserError("%s cannot be listed: %s" % (shown(str(error.filename)), error.strerror))


def read_picture(path):
    """The RGB picture in the file `path`: the first frame, not turned by its EXIF data, transparency dropped."""
    with open_regular(path) as file:
        picture = Image.open(file)
        if picture.format == "EPS":  # Pillow hands it to Ghostscript: a program, which may never end
            raise ValueError("PostScript is not read")
        return picture.convert("RGB")


def open_regular(path):
    """Open a file for reading, without ever waiting for one that is none: a pipe's other end may never come."""
    handle = os.open(path, os.O_RDONLY | _AT_ONCE)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError("not a regular file")
        if hasattr(os, "O_NONBLOCK"):
            os.set_blocking(handle, True)  # a file system may have to fetch the file from slower storage first
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


class BoundedResize(transforms.Resize):
    """Resize, but not to more pixels than Pillow decodes: a picture of 10 x 30,000 would become one of gigabytes."""

    def __call__(self, picture):
        self.goal(*picture.size)
        return super().__call__(picture)

    def goal(self, width, height):
        """(width, height) after the resize; ValueError where they are too much."""
        shorter, longer = sorted((width, height))
        pixels = self.size * self.size * longer // max(shorter, 1)
        if Image.MAX_IMAGE_PIXELS and pixels > 2 * Image.MAX_IMAGE_PIXELS:
            raise ValueError("%d x %d pixels would be resized to %d in all" % (width, height, pixels))
        length = int(self.size * longer / shorter)
        return (self.size, length) if width < height else (length, self.size)


def why(error):
    """The reason of a failed decoding in a few words."""
    if isinstance(error, getattr(PIL, "UnidentifiedImageError", ())):
        return "no known image format"
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    if not isinstance(error, (OSError, ValueError, SyntaxError, Image.DecompressionBombError)) or not text:
        text = "%s: %s" % (type(error).__name__, text)
    return printable(text)
