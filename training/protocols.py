"""What the loops need of their batches: pipeline.batches.Batches, or a stand-in for a dry run, a benchmark or a test.

Only for type checkers: import it under TYPE_CHECKING, since typing.Protocol is newer than Python 3.7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator

if TYPE_CHECKING:
    from typing import Protocol

    from torch import Tensor

    class TrainBatches(Protocol):
        """The batches of training: (images (B, 3, H, W), targets (B,)) on the device, in the order of the epoch."""

        batch_size: int
        parts: int  # batches a step: one for each virtual rank of this process, times --grad-accum-steps
        skipped: int  # unreadable images of the epoch so far

        def __len__(self) -> int:
            """Return the number of steps of an epoch."""

        def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
            """Yield the batches of `epoch` from `first_step` on, `parts` for each step."""

        def images_of(self, epoch: int, number: int, rank: int) -> list[tuple[int, str]]:
            """Return (index, path) of the images in a batch, by its number and virtual rank."""

    class EvalBatches(Protocol):
        """The batches of an evaluation: each image once, on this rank or on one of all."""

        batch_size: int
        skipped: int  # unreadable images so far
        is_sharded: bool  # whether each rank has only its part of the images

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            """Yield the batches (images (B, 3, H, W), targets (B,)) on the device."""
