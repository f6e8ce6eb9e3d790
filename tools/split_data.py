"""Make train/ and val/ out of folders of images: `python tools/split_data.py PHOTOS DATA [--val-share 0.2] [--link]`.

PHOTOS holds one folder of images for each class. DATA is new, and holds train/<class>/ and val/<class>/ afterwards;
PHOTOS is left as it is. Which images go to val/ follows from their contents, so that copies of one image end up on the
same side, and the same images are always split in the same way. What is passed over, other files and hidden folders, is
counted.

With --list, DATA holds train.csv, val.csv and classes.txt instead, and no image is copied. PHOTOS may be a list too,
with the columns path and label; --group-column keeps all images of a group, such as a patient, on the same side.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from typing import TYPE_CHECKING, Iterator, Sequence

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from options.command_line import Parser, extension, number
from pipeline.layout import contains, folders_in, list_classes, names_text, shared_folders_line
from pipeline.list_writing import write_lists
from pipeline.lists import ENDINGS, is_list
from pipeline.splitting import Parts, Photos, check_copies, listed_photos, split_photos
from runtime.errors import UserError, shown
from runtime.programs import run_program, slow_imports
from utils import new_folder

if TYPE_CHECKING:
    from pipeline.image_index import ImageIndex


def split(
    photos: str, data: str, val_fraction: float, links: bool = False, extensions: Sequence[str] | None = None
) -> dict[str, tuple[int, int]]:
    """Write `data`, and return {class: (images of train/, images of val/)}; UserError where that is impossible."""
    found, _ = _find(photos, extensions, None, as_copies=True)
    parts_of = split_photos(found, val_fraction)
    _copy(photos, data, parts_of, links)
    return _counts(parts_of)


def _find(
    source: str, extensions: Sequence[str] | None, column: str | None, as_copies: bool
) -> tuple[Photos, list[str]]:
    """Return (the images of the folder or list `source`, lines to print on them)."""
    if is_list(source) and not os.path.isdir(source):
        if extensions:
            raise UserError("--extensions: %s names each image, whatever its extension: leave it out" % shown(source))
        photos = listed_photos(source, column)
        if as_copies:
            with slow_imports():
                from pipeline.decoding import AS_PUBLISHED
            check_copies(photos, AS_PUBLISHED.endings)
        return photos, []
    if column is not None:
        raise UserError("--group-column %s: %s is no list, which has columns" % (shown(column), shown(source)))
    images = list_photos(source, extensions)
    paths_of: dict[str, list[str]] = {name: [] for name in images.classes}
    for path, target in images:
        paths_of[images.classes[target]].append(path)
    return Photos(images.classes, paths_of, {}, images.passed_over.lines()), notes_on(images, as_copies)


def _counts(parts_of: Parts) -> dict[str, tuple[int, int]]:
    return {name: (len(train), len(val)) for name, (train, val) in parts_of.items()}


def _copy(source: str, data: str, parts_of: Parts, links: bool) -> None:
    """Write copies of, or links to, the images into folders of their classes."""
    is_folder = os.path.isdir(source)
    with _new_folder(source, data) as unfinished:
        for name, parts in parts_of.items():
            for part, paths in zip(("train", "val"), parts):
                for path in paths:
                    inner = os.path.relpath(path, os.path.join(source, name)) if is_folder else os.path.basename(path)
                    _put(path, os.path.join(unfinished, part, name, inner), links)


@contextlib.contextmanager
def _new_folder(source: str, data: str) -> Iterator[str]:
    with new_folder(data) as unfinished:
        if os.path.isdir(source) and contains(os.path.realpath(source), os.path.realpath(data)):
            words = (shown(data), shown(source))
            raise UserError("%s lies in %s, which is left as it is: name a folder elsewhere" % words)
        yield unfinished


def _list(photos: Photos, source: str, data: str, parts_of: Parts) -> None:
    """Write lists of the images, in the order in which `source` has those of a class."""
    rows: dict[str, list[tuple[str, str]]] = {"train": [], "val": []}
    for name, (_, val) in parts_of.items():
        is_val = set(val).__contains__
        for path in photos.paths_of[name]:
            rows["val" if is_val(path) else "train"].append((path, name))
    with _new_folder(source, data) as unfinished:
        write_lists(unfinished, data, rows, photos.names)


def list_photos(photos: str, extensions: Sequence[str] | None = None) -> ImageIndex:
    """Return the ImageIndex of `photos`; UserError where it does not hold the folders of two or more classes."""
    with slow_imports():
        from pipeline.decoding import choose
        from pipeline.listing import list_images
    if not os.path.isdir(photos):
        raise UserError("%s is not a folder, nor a list (%s)" % (shown(photos), " ".join(ENDINGS)))
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


def notes_on(images: ImageIndex, as_copies: bool = True) -> list[str]:
    """Return lines on what was passed over, on classes that lie too deep, and on the option that a training needs."""
    lines = ["%s: %s" % (shown(images.place), line) for line in images.passed_over.lines()]
    if images.nested == len(images):
        line = shared_folders_line(images.place, images.classes)
        lines += [line] if line else []
    extensions = images.header["extensions"]
    if extensions and as_copies:  # a list names its images whatever their extensions
        lines.append("train with --extensions " + " ".join(extensions))
    return lines


def _put(source: str, target: str, links: bool) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if links:
        folder, name = os.path.split(source)
        resolve = os.path.realpath if os.pardir in folder.split(os.sep) else os.path.abspath
        os.symlink(os.path.join(resolve(folder), name), target)
    else:
        shutil.copyfile(source, target)


def main(argv: Sequence[str] | None = None) -> int:
    """Run and return the exit status: 0; 2 for bad input; 130 after Ctrl-C."""
    parser = Parser("split_data.py", description="Make train/ and val/ out of folders of images.")
    text = "one folder of images for each class, or a list with the columns path and label (%s)" % " ".join(ENDINGS)
    parser.add_argument("photos", metavar="PHOTOS", help=text)
    parser.add_argument("data", metavar="DATA", help="a new folder")
    parser.add_argument(
        "--val-share", type=number(float, above=0, high=0.9), default=0.2, metavar="X", help="of a class (default: 0.2)"
    )
    text = "take files of these extensions too, such as .gif .avif (default: none)"
    parser.add_argument("--extensions", type=extension, nargs="+", metavar="EXTENSION", help=text)
    parser.add_argument("--link", action="store_true", help="make symbolic links instead of copies")
    parser.add_argument("--list", action="store_true", help="write train.csv and val.csv instead of copies")
    text = "keep the images on one side that have the same value in this column of the list PHOTOS"
    parser.add_argument("--group-column", metavar="COLUMN", help=text)

    def run(words: Sequence[str]) -> int:
        options = parser.parse_args(words)
        if options.list and options.link:
            raise UserError("--link: --list copies no images, of which links could be made instead: leave out one")
        photos, notes = _find(options.photos, options.extensions, options.group_column, not options.list)
        parts_of = split_photos(photos, options.val_share)
        if options.list:
            _list(photos, options.photos, options.data, parts_of)
        else:
            _copy(options.photos, options.data, parts_of, options.link)
        for name, (train, val) in sorted(_counts(parts_of).items()):
            print("%s: %d train, %d val" % (shown(name), train, val))
        for line in notes:
            print(line)
        return 0

    return run_program("split_data.py", run, argv, interrupted="interrupted; nothing is left")


if __name__ == "__main__":
    sys.exit(main())
