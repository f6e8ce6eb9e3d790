"""The index of the images in Parquet files: rows in the order of the files, their labels read once."""

from __future__ import annotations

import os
import time
import zlib
from typing import Any, Callable, NamedTuple, Sequence

import numpy

from pipeline import lists
from pipeline.class_numbers import numbers_of
from pipeline.decoding import AS_PUBLISHED, Decoding
from pipeline.image_index import header_of, lasting, pack, stamp_if_there, stamps_of, sure_stamps
from pipeline.parquet_files import LABEL, FileFacts, load_parquet, read_facts, row_name
from pipeline.parquet_index import ParquetIndex
from pipeline.passed_over import PassedOver
from pipeline.readers.parquet import ParquetReader
from pipeline.sources import Source
from runtime.errors import UserError, reason, shown

WINDOW_BYTES = 2**29  # of decompressed images, which a loader process keeps; part of the identity of a run
_LARGEST_BLOCK = 2**30  # bytes
_REMEDY = (
    "write the file anew with smaller row groups, by pyarrow.parquet.write_table(table, path, row_group_size=100) say"
)


def list_parquet(
    source: Source,
    classes: Sequence[str] | None,
    tick: Callable[[], object] = lambda: None,
    decoding: Decoding = AS_PUBLISHED,
) -> ParquetIndex:
    """Return the index of the Parquet files of `source`; UserError for damage, odd columns, and unknown labels."""
    load_parquet()
    began = time.time_ns()
    stamps = [stamp_if_there(lists.class_names_path(source.paths[0]))]
    files = stamps_of(source)
    found: list[FileFacts] = []
    labels: list[_Labels] = []
    for path in source.paths:
        found.append(read_facts(path, source.storage))
        labels.append(_read_labels(path, found[-1]))
        tick()
    _check_alike(source.paths, found, labels)
    own = lists.read_class_names(source.paths[0])
    names, targets = _classes_of(source, labels, found[0].names if own is None else own, classes)
    header = header_of(source, names, classes, decoding, PassedOver())
    header["stamps"] = lasting(stamps, began, files)
    joined = "".join("%s\0%d\0" % (os.path.basename(path), size) for path, (size, _) in zip(source.paths, files))
    starts = _starts(found)
    header.update(images=len(targets), names=zlib.crc32(os.fsencode(joined)), files=files, column=found[0].column)
    header.update(groups=[len(facts.rows) for facts in found], window=_window(source.paths, found))
    return ParquetIndex(pack(header, [starts, targets.astype(numpy.int32)]), source)


def list_rows(paths: Sequence[str]) -> ParquetReader:
    """Return a reader of the rows of files, for one block at a time; their labels do not matter, nor need they be."""
    stamps = sure_stamps(paths)
    load_parquet()
    found = [read_facts(path, with_labels=False) for path in paths]
    _check_alike(paths, found, [])
    _window(paths, found)
    return ParquetReader(paths, stamps, [len(facts.rows) for facts in found], _starts(found), found[0].column, keep=1)


def _starts(found: Sequence[FileFacts]) -> numpy.ndarray:
    """Return the first row of each row group, and the end of the last."""
    return numpy.cumsum([0, *(rows for facts in found for rows in facts.rows)], dtype=numpy.int64)


class _Labels(NamedTuple):
    """The labels of a file: the distinct ones, the first row of each, and of each row the place of its label there."""

    distinct: list[Any]  # int or str
    rows: list[int]
    places: numpy.ndarray


def _read_labels(path: str, facts: FileFacts) -> _Labels:
    import pyarrow
    from pyarrow import types

    column, kind = facts.labels, facts.labels.type
    facts.labels = None
    if types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    is_text = types.is_string(kind) or types.is_large_string(kind)
    if not is_text and not types.is_integer(kind):
        raise UserError("%s: the column label is of type %s: it must hold integers or strings" % (shown(path), kind))
    if column.null_count:
        empty = int(numpy.flatnonzero(column.is_null().to_numpy())[0])
        raise UserError("%s has no label: give each row one" % shown(row_name(path, empty)))
    if not is_text:
        values = column.to_numpy() if column.num_chunks else numpy.zeros(0, numpy.int64)
        distinct, rows, places = numpy.unique(values, return_index=True, return_inverse=True)
        return _Labels(distinct.tolist(), rows.tolist(), places.reshape(-1))
    try:
        texts = column.to_pylist()
    except (UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise UserError("%s: the column label holds no text: %s" % (shown(path), reason(error))) from None
    numbers: dict[str, int] = {}
    found = numpy.fromiter((numbers.setdefault(text, len(numbers)) for text in texts), numpy.int64, len(texts))
    return _Labels(list(numbers), numpy.unique(found, return_index=True)[1].tolist(), found)


def _check_alike(paths: Sequence[str], found: Sequence[FileFacts], labels: Sequence[_Labels]) -> None:
    """Raise UserError where a file has other kinds of columns than the first, or other names of classes."""
    first = paths[0]
    kinds = {type(label) for one in labels for label in one.distinct[:1]}
    for path, facts in zip(paths, found):
        if facts.column != found[0].column or len(kinds) > 1:
            text = "%s and %s have columns %s and %s of different types: write them alike"
            raise UserError(text % (shown(first), shown(path), "image", LABEL))
        if facts.names != found[0].names:
            text = "%s and %s name their classes differently: they are not of one data set"
            raise UserError(text % (shown(first), shown(path)))


def _classes_of(
    source: Source, labels: Sequence[_Labels], own: Sequence[str] | None, known: Sequence[str] | None
) -> tuple[list[str], numpy.ndarray]:
    """Return (names of the classes, the class number of each row); a number is that of one of the names `own`."""
    texts: list[str] = []
    rows: list[str] = []
    for path, one in zip(source.paths, labels):
        for label, row in zip(one.distinct, one.rows):
            is_number = isinstance(label, int) and 0 <= label < len(own or ())
            texts.append((own or ())[label] if is_number else str(label))
            rows.append(shown(row_name(path, row)))
    names, numbers = numbers_of(texts, rows, source.title, own, known)
    firsts = numpy.cumsum([0, *(len(one.distinct) for one in labels)])
    return names, numpy.concatenate([numbers[first + one.places] for first, one in zip(firsts, labels)])


def _window(paths: Sequence[str], found: Sequence[FileFacts]) -> int:
    """Return how many row groups a window of the shuffle has: as many as WINDOW_BYTES hold, were all like the largest.

    UserError for a row group that no loader process should keep.
    """
    largest = 1
    for path, facts in zip(paths, found):
        largest = max([largest, *facts.sizes])
        if largest > _LARGEST_BLOCK:
            text = "%s: the row group %d has %.1f GB of images, more than a loader process keeps (%.1f GB): %s"
            words = (shown(path), facts.sizes.index(largest), largest / 1e9, _LARGEST_BLOCK / 1e9, _REMEDY)
            raise UserError(text % words)
    return max(1, WINDOW_BYTES // largest)
