"""Parquet files as pyarrow, an optional package, reads them: their columns image and label, in row groups."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, BinaryIO

from runtime.errors import UserError, one_line, reason, shown
from storage.files import DEFAULT, Storage
from storage.remote import NetworkLost, Stamp
from utils import parse_json

IMAGE, LABEL = "image", "label"


def load_parquet() -> Any:
    """Return the module pyarrow.parquet; UserError where it is not installed, or too old to be safe."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        text = "Parquet files are read by pyarrow (%s): pip install pyarrow"
        raise UserError(text % one_line(reason(error))) from None
    if "page_checksum_verification" not in inspect.signature(parquet.ParquetFile).parameters:  # before version 15
        # and before 14.0.1 it runs code that a file may hold (CVE-2023-47248)
        raise UserError("this pyarrow is too old to read Parquet files safely: pip install 'pyarrow>=15' (Python 3.8)")
    return parquet


def open_parquet(path: str, storage: Storage = DEFAULT) -> tuple[BinaryIO, Any, Stamp]:
    """Return (the open file, its pyarrow ParquetFile, which starts no threads, its Stamp)."""
    parquet = load_parquet()
    file, stamp = storage.open_stream(path)
    try:
        return file, parquet.ParquetFile(file, pre_buffer=False, page_checksum_verification=True), stamp
    except BaseException:
        file.close()
        raise


def failure_text(error: BaseException) -> str:
    """Return why pyarrow could not read something, as a short line."""
    return one_line(reason(error), 300)


@dataclass
class FileFacts:
    """What a file tells without its images.

    `column` is the one that holds the bytes, `names` the classes of a ClassLabel of Hugging Face, `rows` and `sizes`
    the rows of each row group and the bytes of its images, decompressed; `labels` is pyarrow's column, or None.
    """

    column: str
    names: list[str] | None
    rows: list[int]
    sizes: list[int]
    labels: Any


def read_facts(path: str, storage: Storage = DEFAULT, with_labels: bool = True) -> FileFacts:
    """Return the FileFacts of the file `path`; UserError where it is damaged or has other columns.

    Without labels it needs no column of them.
    """
    try:
        file, opened, _ = open_parquet(path, storage)
        with file:
            return _facts_of(path, opened, with_labels)
    except (UserError, NetworkLost):
        raise
    except Exception as error:  # pyarrow raises nearly anything for a damaged file
        text = "%s cannot be read as Parquet: %s; restore the file"
        raise UserError(text % (shown(path), failure_text(error))) from None


def _facts_of(path: str, opened: Any, with_labels: bool) -> FileFacts:
    schema, metadata = opened.schema_arrow, opened.metadata
    needed = (IMAGE, LABEL) if with_labels else (IMAGE,)
    if any(schema.names.count(name) != 1 for name in needed):
        found = one_line(", ".join(shown(other) for other in schema.names), 300)
        text = "%s has the columns %s, and needs %s: write it anew so"
        raise UserError(text % (shown(path), found, " and ".join("one named " + name for name in needed)))
    column = _image_column(path, schema.field(IMAGE).type)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    sizes = [_size_of(group, column) for group in groups]
    rows = [group.num_rows for group in groups]
    if min(rows, default=0) < 0:
        raise ValueError("its row groups have %d rows" % min(rows))
    if not with_labels:
        return FileFacts(column, None, rows, sizes, None)
    labels = opened.read(columns=[LABEL], use_threads=False).column(LABEL)
    if sum(rows) != len(labels):
        raise ValueError("its row groups have %d rows and %d labels" % (sum(rows), len(labels)))
    return FileFacts(column, _class_names(schema), rows, sizes, labels)


def _image_column(path: str, kind: Any) -> str:
    """Return the name of the column that holds the bytes of the images, by the type of the column image."""
    from pyarrow import types

    place = kind.get_field_index("bytes") if types.is_struct(kind) else -1
    if place >= 0 and _is_binary(kind.field(place).type):
        return IMAGE + ".bytes"
    if _is_binary(kind):
        return IMAGE
    text = "%s: the column image is of type %s: it must hold the encoded images, as binary or struct<bytes: binary>"
    raise UserError(text % (shown(path), one_line(str(kind), 300)))


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)


def _size_of(group: Any, column: str) -> int:
    columns = [group.column(number) for number in range(group.num_columns)]
    return sum(part.total_uncompressed_size for part in columns if part.path_in_schema == column)


def _class_names(schema: Any) -> list[str] | None:
    """Return the names of a ClassLabel, as the datasets library of Hugging Face keeps them; None without them."""
    try:
        kept = parse_json((schema.metadata or {})[b"huggingface"].decode("utf-8"))
        feature = kept["info"]["features"][LABEL]
        names = feature["names"] if feature["_type"] == "ClassLabel" else None
    except (ValueError, LookupError, TypeError):  # of another library, or of other features
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        return None
    return names if names and len(set(names)) == len(names) else None


def row_name(path: str, row: int) -> str:
    """Return the name of the image in the row `row` of a file, counted from 0."""
    return "%s:row %d" % (path, row)
