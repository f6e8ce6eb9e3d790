"""The images that a command line names: files, folders, lists, archives, Parquet files, and patterns of the latter."""

from __future__ import annotations

import os
from typing import Sequence

from pipeline import lists, sources
from pipeline.archive_contents import read_all
from pipeline.decoding import Decoding
from pipeline.image_index import sure_stamps
from pipeline.parquet_listing import list_rows
from pipeline.passed_over import PassedOver, list_images_below
from pipeline.patterns import expand
from pipeline.readers.named import NamedImages
from runtime.errors import UserError, shown
from storage.files import exists, is_folder, join
from storage.remote import check_url, is_url


def add_source(images: NamedImages, word: str, image_root: str, decoding: Decoding) -> list[str]:
    """Append the images that `word` means, and return lines on what is passed over.

    The paths of a list's images are relative to `image_root`, or to the list. UserError for a list, an archive or a
    Parquet file that cannot be read, and where there are no images.
    """
    if is_url(word):
        check_url(word, shown(word))
    if is_folder(word):
        return add_path(images, word, decoding)
    paths = [] if exists(word) else expand(word)
    if any(path.lower().endswith(sources.PARQUET) for path in paths or [word]):
        return _add_parquet(images, word, paths or [word])
    if paths and all(path.lower().endswith(sources.ARCHIVES) for path in paths):
        return _add_archives(images, word, paths, decoding)
    if word.lower().endswith(sources.ARCHIVES):
        return _add_archives(images, word, [word], decoding)
    if lists.is_list(word) and not word.lower().endswith(".txt"):  # a text file among images is often some other
        root = image_root or os.path.dirname(word)
        images.add_files(join(root, row.path) for row in lists.read_rows(word))
        return []
    return add_path(images, word, decoding)


def add_path(images: NamedImages, path: str, decoding: Decoding) -> list[str]:
    """Append the image in the file `path`, or those in a folder and in those below it, sorted; lines as above."""
    if not is_folder(path):
        images.add_files([path])
        return []
    found, passed_over = list_images_below(path, decoding)
    images.add_files(found)
    return _lines(path, len(found), passed_over, decoding)


def _add_archives(images: NamedImages, word: str, paths: Sequence[str], decoding: Decoding) -> list[str]:
    """Append the images in archives, in each by their names."""
    before, passed_over = len(images), PassedOver()
    stamps = sure_stamps(paths)
    for path, stamp, contents in zip(paths, stamps, read_all(paths, decoding, with_labels=False)):
        rows = zip(contents.names, contents.offsets.tolist(), contents.sizes.tolist())
        images.add_archive(path, stamp, sorted(rows))
        passed_over.add(contents.passed_over)
    return _lines(word, len(images) - before, passed_over, decoding)


def _add_parquet(images: NamedImages, word: str, paths: Sequence[str]) -> list[str]:
    """Append the rows of Parquet files."""
    others = [path for path in paths if not path.lower().endswith(sources.PARQUET)]
    if others:
        text = "%s: it names Parquet files and others, such as %s: pass them apart"
        raise UserError(text % (shown(word), shown(others[0])))
    before = len(images)
    images.add_parquet(list_rows(paths))
    if len(images) == before:
        raise UserError("%s holds no rows" % shown(word))
    return []


def _lines(name: str, count: int, passed_over: PassedOver, decoding: Decoding) -> list[str]:
    """Return the lines on what is passed over in a folder or archives; UserError where there are no images."""
    lines = passed_over.lines()
    if not count:
        text = "%s holds no image (%s)" % (shown(name), ", ".join(decoding.endings))
        raise UserError("; ".join([text, *lines]))
    return ["%s: %s" % (shown(name), line) for line in lines]
