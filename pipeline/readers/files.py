"""Images in files of their own, by their paths."""

from __future__ import annotations

import io
from typing import BinaryIO, Sequence

from pipeline.readers.base import Reader
from storage.files import DEFAULT, Storage
from storage.remote import is_url, read_ranges


class FileReader(Reader):
    """Opens files; a key is a path or a URL."""

    def __init__(self, storage: Storage = DEFAULT) -> None:
        self.storage = storage
        self._ready: dict[str, bytes | OSError] = {}

    def prefetch(self, keys: Sequence[str]) -> None:
        urls = [key for key in dict.fromkeys(keys) if is_url(key)]
        if urls:
            self._ready = dict(zip(urls, read_ranges([(url, 0, None) for url in urls], self.storage.patience_s)))

    def open(self, key: str) -> BinaryIO:
        data = self._ready.pop(key, None)
        if isinstance(data, OSError):
            raise data
        return self.storage.open(key) if data is None else io.BytesIO(data)

    def name(self, key: str) -> str:
        return key
