"""Files of the safetensors format: weights, with plain values as JSON texts in the metadata."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, BinaryIO

from runtime.errors import UserError
from utils import parse_json, to_json

if TYPE_CHECKING:
    from torch import Tensor

_ENTRIES = ("args", "epoch", "classes")  # of the metadata
_LONGEST_HEADER = 2**26  # bytes


def is_one(file: BinaryIO) -> bool:
    """Return whether the open `file` begins like a safetensors file: with the length of a JSON object, and with it."""
    file.seek(0)
    start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    return start[8:] == b"{" and length < min(_LONGEST_HEADER, os.fstat(file.fileno()).st_size)


def read(file: BinaryIO) -> dict[str, Any]:
    """Return {"model": weights} and the metadata's entries; UserError where the package or a right content is missing.

    The library itself opens no path that is not UTF-8, hence the open file.
    """
    library = _library()
    file.seek(0)
    data = file.read()
    try:
        weights = library.torch.load(data)
        header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")].decode())
    except Exception:  # the library raises its own class, which is no exported name in old releases
        raise UserError("it is a damaged safetensors file") from None
    metadata = header.get("__metadata__") or {}
    try:
        checkpoint = {name: parse_json(metadata[name]) for name in _ENTRIES if name in metadata}
    except (ValueError, TypeError):
        raise UserError("its metadata is not JSON") from None
    return dict(checkpoint, model=weights)


def write(path: str, weights: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write the weights, with plain values as JSON in the file's metadata."""
    texts = {name: to_json(value) for name, value in metadata.items()}
    data = _library().torch.save(weights, dict(texts, format="pt"))
    with open(path, "wb") as file:  # the library's own files are readable for their owner alone
        file.write(data)


def _library() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        message = (
            "the package safetensors is not installed: pip install safetensors, or use a .pth file (tools/convert.py)"
        )
        raise UserError(message) from None
    return safetensors
