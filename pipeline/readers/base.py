"""The interface by which a data set gets at its images, wherever they lie."""

from __future__ import annotations

from typing import Any, BinaryIO, Sequence

from runtime.errors import shown


class Reader:
    """Opens the images of a data set by their keys; loader processes inherit or unpickle it."""

    def open(self, key: Any) -> BinaryIO:
        """Return the encoded image as a binary file that can seek; OSError where it cannot be opened."""
        raise NotImplementedError

    def prefetch(self, keys: Sequence[Any]) -> None:
        """Fetch at once what the next calls of `open` need of other machines."""

    def name(self, key: Any) -> str:
        """Return the name of the image: a path, or ARCHIVE:MEMBER."""
        raise NotImplementedError

    def names(self, keys: Sequence[Any]) -> list[str]:
        """Return the names of several images."""
        return [self.name(key) for key in keys]

    def describe(self, key: Any) -> str:
        """Return the name of the image for a message, printable on one line."""
        return shown(self.name(key))
