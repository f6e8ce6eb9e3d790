"""Make train/ and val/ out of folders of images: `python tools/split_data.py PHOTOS DATA [--val-share 0.2] [--link]`.

PHOTOS holds one folder of images for each class. DATA is new, and holds train/<class>/ and val/<class>/ afterwards;
PHOTOS is left as it is. Which images go to val/ follows from their contents, so that copies of one image end up on the
same side, and the same images are always split in the same way. What is passed over, other files and hidden folders, is
counted.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Sequence

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from options.command_line import Parser, extension, number
from pipeline.layout import contains, folders_in, list_classes, names_text, shared_folders_line
from runtime.errors import UserError, shown
from runtime.programs import run_program, slow_imports
from utils import digest_of, new_folder, open_regular

if TYPE_CHECKING:
    from pipeline.image_index import ImageIndex
    from pipeline.passed_over import PassedOver


def split(
    photos: str, data: str, val_fraction: float, links: bool = False, extensions: Sequence[str] | None = None
) -> dict[str, tuple[int, int]]:
    """Write `data`, and return {class: (images of train/, images of val/)}; UserError where that is impossible."""
    return _split(list_photos(photos, extensions), data, val_fraction, links)


def _split(images: ImageIndex, data: str, val_fraction: float, links: bool) -> dict[str, tuple[int, int]]:
    photos = images.place
    paths_of: dict[str, list[str]] = {name: [] for name in images.classes}
    for path, target in images:
        paths_of[images.classes[target]].append(path)
    parts_of = {name: _split_class(name, paths, val_fraction, images.passed_over) for name, paths in paths_of.items()}
    with new_folder(data) as unfinished:
        if contains(os.path.realpath(photos), os.path.realpath(data)):
            words = (shown(data), shown(photos))
            raise UserError("%s lies in %s, which is left as it is: name a folder elsewhere" % words)
        _fill(unfinished, photos, parts_of, links)
    return {name: (len(train), len(val)) for name, (train, val) in parts_of.items()}


def _fill(folder: str, photos: str, parts_of: dict[str, tuple[list[str], list[str]]], links: bool) -> None:
    for name, parts in parts_of.items():
        for part, paths in zip(("train", "val"), parts):
            for path in paths:
                inner = os.path.relpath(path, os.path.join(photos, name))
                _put(path, os.path.join(folder, part, name, inner), links)


def list_photos(photos: str, extensions: Sequence[str] | None = None) -> ImageIndex:
    """Return the ImageIndex of `photos`; UserError where it does not hold the folders of two or more classes."""
    with slow_imports():
        from pipeline.decoding import choose
        from pipeline.listing import list_images
    if not os.path.isdir(photos):
        raise UserError("%s is not a folder" % shown(photos))
    classes = list_classes(photos)
    if "train" in classes and "val" in classes:
        raise UserError("%s holds train/ and val/ already: give it to --data-path as it is" % shown(photos))
    if len(classes) < 2:
        line = "%s holds %d class folders: it takes two or more" % (shown(photos), len(classes))
        inner = folders_in(os.path.join(photos, classes[0])) if classes else []
        if len(inner) > 1:
            line += "; %s holds %s: name that folder" % (shown(os.path.join(photos, classes[0])), names_text(inner))
        raise UserError(line)
    return list_images(photos, classes, decoding=choose(extensions, None, {}))


def notes_on(images: ImageIndex) -> list[str]:
    """Return lines on what was passed over, on classes that lie too deep, and on the option that a training needs."""
    lines = ["%s: %s" % (shown(images.place), line) for line in images.passed_over.lines()]
    if images.nested == len(images):
        line = shared_folders_line(images.place, images.classes)
        lines += [line] if line else []
    extensions = images.header["extensions"]
    if extensions:
        lines.append("train with --extensions " + " ".join(extensions))
    return lines


def _split_class(
    name: str, paths: list[str], val_fraction: float, passed_over: PassedOver
) -> tuple[list[str], list[str]]:
    """Return (paths for train/, paths for val/) of a class in the order of their contents, equal files together."""
    copies: dict[str, list[str]] = {}
    for path in paths:
        copies.setdefault(_digest(path), []).append(path)
    if len(copies) < 2:
        line = "class %s has %d different images: it takes two or more" % (shown(name), len(copies))
        raise UserError("; ".join([line, *passed_over.lines()]))
    wanted = min(max(1, round(val_fraction * len(copies))), len(copies) - 1)
    digests = sorted(copies)
    train = [path for digest in digests[wanted:] for path in copies[digest]]
    return train, [path for digest in digests[:wanted] for path in copies[digest]]


def _digest(path: str) -> str:
    try:
        with open_regular(path) as file:
            return digest_of(file).hexdigest()
    except OSError as error:
        raise UserError("%s cannot be read: %s" % (shown(path), error.strerror or error)) from None


def _put(source: str, target: str, links: bool) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if links:
        os.symlink(os.path.abspath(source), target)
    else:
        shutil.copyfile(source, target)


def main(argv: Sequence[str] | None = None) -> int:
    """Run and return the exit status: 0; 2 for bad input; 130 after Ctrl-C."""
    parser = Parser("split_data.py", description="Make train/ and val/ out of folders of images.")
    parser.add_argument("photos", metavar="PHOTOS", help="one folder of images for each class")
    parser.add_argument("data", metavar="DATA", help="a new folder")
    parser.add_argument(
        "--val-share", type=number(float, above=0, high=0.9), default=0.2, metavar="X", help="of a class (default: 0.2)"
    )
    text = "take files of these extensions too, such as .gif .avif (default: none)"
    parser.add_argument("--extensions", type=extension, nargs="+", metavar="EXTENSION", help=text)
    parser.add_argument("--link", action="store_true", help="make symbolic links instead of copies")

    def run(words: Sequence[str]) -> int:
        options = parser.parse_args(words)
        images = list_photos(options.photos, options.extensions)
        counts = _split(images, options.data, options.val_share, options.link)
        for name, (train, val) in sorted(counts.items()):
            print("%s: %d train, %d val" % (shown(name), train, val))
        for line in notes_on(images):
            print(line)
        return 0

    return run_program("split_data.py", run, argv, interrupted="interrupted; nothing is left")


if __name__ == "__main__":
    sys.exit(main())
