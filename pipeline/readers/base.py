"""The interface by which a data set gets at its images, wherever they lie."""

from __future__ import annotations

from typing import BinaryIO


class Reader:
    """Opens the images of a data set by their keys, which are strings; loader processes inherit or unpickle it."""

    def open(self, key: str) -> BinaryIO:
        """Return the encoded image as a binary file that can seek; OSError where it cannot be opened."""
        raise NotImplementedError

    def describe(self, key: str) -> str:
        """Return the name of the image for a message, printable on one line."""
        raise NotImplementedError
