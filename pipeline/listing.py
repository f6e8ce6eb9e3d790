"""Lists of the images of a part of a data set: of class folders, of a list, of archives, or of Parquet files."""

from __future__ import annotations

import os
import time
from typing import Callable, Sequence

import numpy

from pipeline import lists
from pipeline.archive_listing import list_archives
from pipeline.class_numbers import numbers_of, row_order
from pipeline.decoding import AS_PUBLISHED, Decoding
from pipeline.image_index import (
    FolderIndex,
    ImageIndex,
    ListIndex,
    header_of,
    lasting,
    pack_names,
    stamp_if_there,
)
from pipeline.layout import is_hidden, list_classes, list_top
from pipeline.parquet_listing import list_parquet
from pipeline.passed_over import PassedOver
from pipeline.reading import stamp_of, walk
from pipeline.sources import Source, folder_source
from storage.files import absolute
from storage.remote import is_url

_TICK = 10**5  # rows


def list_source(
    source: Source,
    classes: Sequence[str] | None,
    tick: Callable[[], object] = lambda: None,
    decoding: Decoding = AS_PUBLISHED,
) -> ImageIndex:
    """Return the index of `source`, whose images are of the `classes` (None: those that it has itself).

    The order is that of torchvision's ImageFolder over the same images as files: by class, folder, name; in Parquet
    files it is that of the rows. `tick` is called now and then. UserError for what cannot be listed, and for images of
    other classes.
    """
    if source.form == "folder":
        return _list_folder(source, classes or list_classes(source.place), classes, tick, decoding)
    make = {"list": list_rows, "archive": list_archives, "parquet": list_parquet}[source.form]
    return make(source, classes, tick, decoding)


def list_images(
    folder: str,
    classes: Sequence[str],
    tick: Callable[[], object] = lambda: None,
    decoding: Decoding = AS_PUBLISHED,
) -> ImageIndex:
    """Return the index of `folder`, which has a folder for each of the `classes`; call `tick()` after each folder.

    UserError for a folder that cannot be listed, and for links that lead back to where they are.
    """
    return list_source(folder_source(folder), classes, tick, decoding)


def _list_folder(
    source: Source,
    classes: Sequence[str],
    asked_classes: Sequence[str] | None,
    tick: Callable[[], object],
    decoding: Decoding,
) -> FolderIndex:
    folder = source.place
    began = time.time_ns()
    stamps, counts, names, nested = [("", stamp_of(folder))], [], [], 0
    passed_over = _passed_over_beside(folder, classes, decoding)
    for name in classes:
        listed = []
        for inner, stamp, files in walk(os.path.join(folder, name), passed_over.adder(name)):
            stamps.append((os.path.join(name, inner), stamp))
            listed.append((inner, passed_over.sift(files, decoding)))
            tick()
        for inner, files in sorted(listed):
            prefix = os.path.join(inner, "")
            names.append(os.fsencode("".join([prefix + file + "\0" for file in sorted(files)])))
            nested += len(files) if inner else 0
        counts.append(sum(len(files) for _, files in listed))
    header = header_of(source, classes, asked_classes, decoding, passed_over, nested)
    header["stamps"] = None if is_url(folder) else lasting(stamps, began)  # folders at URLs have no times
    targets = numpy.repeat(numpy.arange(len(counts), dtype=numpy.int32), counts)
    return FolderIndex(pack_names(header, targets, b"".join(names)), source)


def _passed_over_beside(folder: str, classes: Sequence[str], decoding: Decoding) -> PassedOver:
    """Return what lies in `folder` beside the class folders."""
    passed_over = PassedOver()
    folders, files = list_top(folder)
    for name in sorted(set(folders) - set(classes)):
        if is_hidden(name):
            passed_over.add_folder(name)
    passed_over.loose = len(passed_over.sift(files, decoding))
    return passed_over


def list_rows(
    source: Source,
    classes: Sequence[str] | None,
    tick: Callable[[], object] = lambda: None,
    decoding: Decoding = AS_PUBLISHED,
) -> ListIndex:
    """Return the index of a list; its rows count whatever their extensions."""
    began = time.time_ns()
    path = absolute(source.paths[0])
    stamps = [stamp_if_there(path), stamp_if_there(lists.class_names_path(path))]
    images: list[str] = []
    labels: list[str] = []
    lines: list[int] = []
    for row in lists.read_rows(path, storage=source.storage):
        images.append(row.path)
        labels.append(row.label)
        lines.append(row.line)
        if len(images) % _TICK == 0:
            tick()
    names, targets = numbers_of(labels, lines, path, lists.read_class_names(path), classes)
    order = row_order(targets, images)
    header = header_of(source, names, classes, decoding, PassedOver())
    header["stamps"] = lasting(stamps, began)
    joined = os.fsencode("".join([images[row] + "\0" for row in order.tolist()]))
    return ListIndex(pack_names(header, targets[order], joined), source)
