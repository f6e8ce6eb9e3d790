"""Images of a folder in a Parquet file, read window by window although they are few."""

from __future__ import annotations

import contextlib
import os
from typing import Iterator, Sequence

from pipeline import parquet_listing
from pipeline.image_index import ImageIndex
from pipeline.parquet_files import IMAGE, LABEL, load_parquet, read_facts
from pipeline.sources import PARQUET
from runtime.errors import UserError

ROWS = 10  # of a row group
BLOCKS = 8  # row groups in a window


def missing() -> str:
    """Return why Parquet files cannot be read here; "" where they can."""
    try:
        load_parquet()
    except UserError as error:
        return str(error)
    return ""


def write(images: ImageIndex, path: str, order: Sequence[int]) -> None:
    """Write `images`, with their class numbers, as the rows of a file in the order of their numbers in `order`."""
    parquet = load_parquet()
    import pyarrow

    reader, contents = images.reader(), []
    for number in order:
        with reader.open(images[number][0]) as file:
            contents.append(file.read())
    table = pyarrow.table({IMAGE: pyarrow.array(contents, pyarrow.binary()), LABEL: images.targets[list(order)]})
    parquet.write_table(table, path, row_group_size=ROWS, compression="none")  # images are compressed already


@contextlib.contextmanager
def windows(folder: str) -> Iterator[None]:
    """Let the indexes of Parquet files in `folder` that are made meanwhile have windows of BLOCKS row groups."""
    usual = parquet_listing.WINDOW_BYTES
    paths = [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(PARQUET)]
    parquet_listing.WINDOW_BYTES = BLOCKS * max(max(read_facts(path).sizes) for path in paths)
    try:
        yield
    finally:
        parquet_listing.WINDOW_BYTES = usual
