"""Images in files of their own, by their paths."""

from __future__ import annotations

from typing import BinaryIO

from pipeline.readers.base import Reader
from utils import open_regular


class FileReader(Reader):
    """Opens files; a key is a path."""

    def open(self, key: str) -> BinaryIO:
        return open_regular(key)

    def name(self, key: str) -> str:
        return key
