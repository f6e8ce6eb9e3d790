"""The index of each form of data."""

from __future__ import annotations

import numpy

from pipeline.image_index import ArchiveIndex, FolderIndex, ImageIndex, ListIndex
from pipeline.parquet_index import ParquetIndex
from pipeline.sources import Source

_FORMS = {form.form: form for form in (FolderIndex, ListIndex, ArchiveIndex, ParquetIndex)}


def open_index(block: numpy.ndarray, source: Source) -> ImageIndex:
    """Return the index in `block` of the form that `source` has."""
    return _FORMS[source.form](block, source)
