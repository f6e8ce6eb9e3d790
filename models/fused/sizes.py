"""Sizes of the kernels' tiles: they follow from shapes and device alone, nothing is timed, so results repeat."""

from __future__ import annotations

import contextlib
import os
from typing import Iterator, NamedTuple

import torch
from torch import Tensor

from runtime.amp import DTYPES

MOST_SIDE = 64  # tokens of a line: a tile of a longer one does not fit into the registers
_capability = 9  # that a CPU stands for, where bytes are counted and kernels compiled ahead
LINE_TOKENS = 56  # of a tile: 1, 2, 4 or 8 lines at the four stages of a 224-pixel image


class Tiles(NamedTuple):
    """The tiles of tokens (B, S, S, C)."""

    lines: int  # B * S
    S: int
    R: int  # lines of a tile
    M: int  # tokens of a tile, padded to a power of two
    C: int
    groups: int  # tiles of all images


def tiles_of(tokens: Tensor) -> Tiles:
    """Return the tiles of `tokens` (B, S, S, C)."""
    batch, side, _, dim = tokens.shape
    lines, together = batch * side, max(1, LINE_TOKENS // side)
    return Tiles(lines, side, together, max(16, power_of_two(together * side)), dim, ceil_div(lines, together))


def power_of_two(number: int) -> int:
    """Return the least power of two that is not below `number`."""
    return 1 << (number - 1).bit_length()


def ceil_div(number: int, divisor: int) -> int:
    """Return `number` / `divisor`, rounded up."""
    return -(-number // divisor)


def channel_block(dim: int, most: int) -> int:
    """Return the channels of a tile, a power of two from 16 to `most`."""
    return max(16, min(power_of_two(dim), most))


def is_interpreted() -> bool:
    """Return whether Triton's interpreter runs the kernels, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def precision_of(tokens: Tensor) -> str:
    """Return the PRECISION of `shared_kernels.add_product` for tensors like `tokens`.

    The interpreter multiplies the bit patterns of bfloat16.
    """
    if tokens.dtype == DTYPES["bfloat16"] and is_interpreted():
        return "widened"
    return "ieee" if tokens.dtype == torch.float32 else "tf32"


@contextlib.contextmanager
def standing_for(capability: int) -> Iterator[None]:
    """Let operators on a CPU launch the kernels of GPUs of this major compute capability."""
    global _capability
    before, _capability = _capability, capability
    try:
        yield
    finally:
        _capability = before


def holds_much(tokens: Tensor) -> bool:
    """Return whether products leave a program's registers to its tiles: before 9.0 their operands lie there too."""
    if tokens.device.type == "cpu":
        return _capability >= 9
    return torch.get_device_module(tokens.device).get_device_capability(tokens.device)[0] >= 9


def program_count(tokens: Tensor, items: int, blocks: int, each: int) -> int:
    """Return how many programs share the `items` tiles of one of `blocks` blocks of channels.

    All blocks together have about `each` programs for a multiprocessor of the device of `tokens`.
    """
    most = 2 if is_interpreted() else each * _processors_of(tokens) // blocks  # 2: so that tests see them share
    return max(1, min(items, most))


def _processors_of(tokens: Tensor) -> int:
    if tokens.device.type == "cpu":
        return 132  # an H100's: bytes are counted without a device
    return torch.get_device_module(tokens.device).get_device_properties(tokens.device).multi_processor_count
