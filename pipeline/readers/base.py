"""The interface by which a data set gets at its images, wherever they lie."""

from __future__ import annotations

from typing import Any, BinaryIO

from runtime.errors import shown


class Reader:
    """Opens the images of a data set by their keys; loader processes inherit or unpickle it."""

    def open(self, key: Any) -> BinaryIO:
        """Return the encoded image as a binary file that can seek; OSError where it cannot be opened."""
        raise NotImplementedError

    def name(self, key: Any) -> str:
        """Return the name of the image: a path, or ARCHIVE:MEMBER."""
        raise NotImplementedError

    def describe(self, key: Any) -> str:
        """Return the name of the image for a message, printable on one line."""
        return shown(self.name(key))
