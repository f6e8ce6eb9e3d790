"""Image files: found below folders, opened safely, decoded as the reference decodes them."""

import os
import stat
import warnings

import PIL
from PIL import Image
from torchvision import transforms
from torchvision.datasets.folder import IMG_EXTENSIONS

from runtime.errors import UserError

# Pillow warns of palettes with transparency, odd EXIF data and large pictures, in every loader process, naming no file.
# None of it changes the pixels that come out; a picture that is too large to decode is an error of its own.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


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
    for parent, folders, files in os.walk(top, followlinks=True, onerror=_raise_unlistable):
        for name in folders:
            path = os.path.join(parent, name)
            if os.path.islink(path) and os.path.realpath(path) in _real_ancestors(parent):
                raise UserError("%s is a link back to %s: remove it" % (shown(path), shown(os.path.realpath(path))))
        yield parent, folders, files


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
    with _open_regular(path) as file:
        return Image.open(file).convert("RGB")


def _open_regular(path):
    """Open a file for reading, without ever waiting for one that is none: a pipe's other end may never come."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError("not a regular file")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


class BoundedResize(transforms.Resize):
    """Resize, but not to more pixels than Pillow decodes: a picture of 10 x 30,000 would become one of gigabytes."""

    def __call__(self, picture):
        shorter, longer = sorted(picture.size)
        pixels = self.size * self.size * longer // max(shorter, 1)
        if Image.MAX_IMAGE_PIXELS and pixels > 2 * Image.MAX_IMAGE_PIXELS:
            raise ValueError("%d x %d pixels would be resized to %d in all" % (picture.size + (pixels,)))
        return super().__call__(picture)


def why(error):
    """The reason of a failed decoding in a few words."""
    if isinstance(error, getattr(PIL, "UnidentifiedImageError", ())):
        return "no known image format"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return shown(" ".join(text.split()))


def shown(text):
    """`text` for a message of one line: as it is where it can be printed, else with escapes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return ascii(text)
    return text if text.isprintable() else repr(text)
