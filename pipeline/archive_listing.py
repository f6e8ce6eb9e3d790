"""The index of the images in archives: of class folders, WebDataset shards, tars of tars, flat ones beside a list."""

from __future__ import annotations

import collections.abc
import os
import time
import zlib
from typing import Callable, Sequence

import numpy

from pipeline import imagenet_labels, lists
from pipeline.archive_contents import Contents, read_all
from pipeline.class_numbers import numbers_of, row_order, stranger_error
from pipeline.decoding import AS_PUBLISHED, Decoding
from pipeline.image_index import ArchiveIndex, header_of, lasting, pack, stamp_if_there, stamps_of
from pipeline.passed_over import PassedOver
from pipeline.sources import Source
from runtime.errors import UserError, shown


def list_archives(
    source: Source,
    classes: Sequence[str] | None,
    tick: Callable[[], object] = lambda: None,
    decoding: Decoding = AS_PUBLISHED,
) -> ArchiveIndex:
    """Return the index of the archives of `source`, of which several processes read several at once.

    UserError for one that is damaged or compressed, and where the classes of the images cannot be told.
    """
    began = time.time_ns()
    beside = lists.class_names_path(source.paths[0])
    stamps = [stamp_if_there(path) for path in (source.labels, beside) if path]
    files = stamps_of(source)
    found = list(read_all(source.paths, decoding, tick, storage=source.storage))
    passed_over = PassedOver()
    for contents in found:
        passed_over.add(contents.passed_over)
    rows = _Rows(found)
    names, targets, inner_names = _classes_of(source, rows, classes, passed_over)
    order = row_order(targets, inner_names)
    if not len(order) and passed_over.loose:
        text = (
            "%s: its %d images lie neither in class folders, nor have they labels (KEY.cls or KEY.json beside KEY.jpg)"
        )
        raise UserError(text % (source.name, passed_over.loose))
    ordered = [inner_names[row] for row in order.tolist()]
    nested = sum("/" in name for name in ordered) if rows.labels is None else 0
    header = header_of(source, names, classes, decoding, passed_over, nested)
    header["stamps"] = lasting(stamps, began, files)
    header["has_labels"] = bool(source.labels) or rows.labels is not None
    header.update(images=len(order), names=zlib.crc32(os.fsencode("\0".join(ordered))), files=files)
    arrays = [rows.offsets, targets.astype(numpy.int32), rows.shards, rows.sizes]
    return ArchiveIndex(pack(header, [array[order] for array in arrays]), source)


class _Rows:
    """The images of all archives, one after the other; `labels` is None where none has any."""

    def __init__(self, found: Sequence[Contents]) -> None:
        counts = [len(contents.names) for contents in found]
        self.names = [name for contents in found for name in contents.names]
        self.shards = numpy.repeat(numpy.arange(len(found), dtype=numpy.int32), counts)
        self.offsets = numpy.concatenate([contents.offsets for contents in found])
        self.sizes = numpy.concatenate([contents.sizes for contents in found])
        labels = [label for contents in found for label in contents.labels]
        self.labels = labels if any(label is not None for label in labels) else None


def _classes_of(
    source: Source, rows: _Rows, classes: Sequence[str] | None, passed_over: PassedOver
) -> tuple[list[str], numpy.ndarray, list[str]]:
    """Return (names of the classes, the number of each image, the name of each image within its class).

    The number is -1 for an image without a class, which is counted in `passed_over`.
    """
    if source.labels:
        labels: list[str | None] = _labels_from_file(source, rows.names)
    elif rows.labels is not None:
        labels = rows.labels
    else:
        return _classes_by_folder(source, rows.names, classes, passed_over)
    has_label = [number for number, label in enumerate(labels) if label is not None]
    for name, label in zip(rows.names, labels):
        if label is None:
            passed_over.add_odd(name, "an image without a label")

    own = lists.read_class_names(source.paths[0])
    told = [labels[at] or "" for at in has_label]
    names, numbers = numbers_of(told, _Places(source, rows, has_label), source.title, own, classes)
    targets = numpy.full(len(labels), -1, numpy.int64)
    targets[has_label] = numbers
    return names, targets, rows.names


class _Places(collections.abc.Sequence):
    """The names of the `chosen` rows for a message, of which hardly any is asked for."""

    def __init__(self, source: Source, rows: _Rows, chosen: Sequence[int]) -> None:
        self.source, self.rows, self.chosen = source, rows, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, number: int) -> str:  # type: ignore[override]
        row = self.chosen[number]
        return shown("%s:%s" % (self.source.paths[self.rows.shards[row]], self.rows.names[row]))


def _labels_from_file(source: Source, names: Sequence[str]) -> list[str | None]:
    """Return the label of each image of a flat archive, from the list or devkit `source.labels`."""
    path = source.labels
    rows = _labels_in_list(path) if lists.is_list(path) else imagenet_labels.read_devkit(path)
    labels = [rows.get(os.path.basename(name)) for name in names]
    missing = [name for name, label in zip(names, labels) if label is None]
    if missing:
        text = "%s tells no class for %d image(s) of %s, such as %s"
        raise UserError(text % (shown(path), len(missing), shown(source.paths[0]), shown(missing[0])))
    return list(labels)


def _labels_in_list(path: str) -> dict[str, str]:
    """Return {file name: label} of a list; UserError where a name has two labels."""
    labels: dict[str, str] = {}
    for row in lists.read_rows(path):
        name = os.path.basename(row.path)
        if labels.setdefault(name, row.label) != row.label:
            raise UserError(
                "%s line %d: %s has another label before: remove one" % (shown(path), row.line, shown(name))
            )
    return labels


def _classes_by_folder(
    source: Source, names: Sequence[str], classes: Sequence[str] | None, passed_over: PassedOver
) -> tuple[list[str], numpy.ndarray, list[str]]:
    names = _without_folder_around(names)
    tops = {name.partition("/")[0] for name in names}
    if {"train", "val"} <= tops:
        text = "%s holds train/ and val/, but an archive is one part: unpack it, and name its folder by --data-path"
        raise UserError(text % source.name)
    parts = [name.partition("/") for name in names]
    found = sorted({folder for folder, slash, _ in parts if slash})
    known = list(classes) if classes is not None else found
    strangers = sorted(set(found) - set(known))
    if strangers:
        raise stranger_error(source.name, strangers[0], known)
    numbers = {name: number for number, name in enumerate(known)}
    targets = numpy.array([numbers[folder] if slash else -1 for folder, slash, _ in parts], dtype=numpy.int64)
    passed_over.loose += int((targets < 0).sum())
    return known, targets, [inner for _, _, inner in parts]


def _without_folder_around(names: Sequence[str]) -> Sequence[str]:
    """Return the names without a folder that lies around the class folders of all images."""
    around = names[0].partition("/")[0] + "/" if names else ""
    if around and all(name.startswith(around) and "/" in name[len(around) :] for name in names):
        return [name[len(around) :] for name in names]
    return names
