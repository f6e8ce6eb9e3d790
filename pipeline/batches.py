"""Batches from loader processes to the device; a lost loader process is replaced."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Iterator, Sequence

from pipeline import batch_bytes
from pipeline.loader import Loader, LostProcess
from runtime.errors import RunError, UserError
from runtime.signals import StopSignals

if TYPE_CHECKING:
    from torch import Tensor

    from runtime.device import Device

MOST_LOSSES = 3  # loader processes lost one after the other, before the run gives up
BATCHES_FOR_A_LOSS = 100  # batches that make up for one of them


def collate(samples: Sequence[Any]) -> tuple[batch_bytes.ByteBatch | None, list[str]]:
    """Return a ByteBatch of the readable samples, None where there are none, and the names of the unreadable files."""
    bad_files = [name for sample in samples for name in sample.bad_files]
    good = [sample for sample in samples if sample.pixels is not None]
    if not good:
        return None, bad_files
    return batch_bytes.stack([sample.pixels for sample in good], [sample.target for sample in good]), bad_files


class Batches:
    """Batches of `dataset`, as `batch_sampler` orders them, on the device: (images (B, 3, H, W), targets (B,)).

    `parts` batches, in each round one for each virtual rank of this process, make a step. An unreadable image is a
    UserError; with `skip_bad` it is counted in `skipped`, and a UserError only where nothing can take its place in
    training.
    """

    def __init__(
        self,
        dataset: Any,
        batch_sampler: Any,
        device: Device,
        workers: int = 0,
        timeout_s: float = 0,
        pin_memory: bool = False,
        skip_bad: bool = False,
        parts: int = 1,
    ) -> None:
        self.dataset, self.batch_sampler, self.device = dataset, batch_sampler, device
        self.batch_size, self.image_count = batch_sampler.batch_size, len(dataset)
        self.skip_bad, self.parts, self.workers = skip_bad, parts, workers
        self.is_sharded = False  # whether this rank has only its share of the images
        self.skipped = 0
        self.stop = StopSignals()  # of the run, which obeys it also while no batch comes
        self._patience, self._delivered = MOST_LOSSES, 0
        self._loader = Loader(
            dataset, batch_sampler, collate, workers, timeout_s, pin_memory, stop_signal=lambda: self.stop.number
        )

    def __len__(self) -> int:
        """Return the number of steps of an epoch."""
        return len(self.batch_sampler) // self.parts

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Return an iterator over the batches of `epoch` from `first_step` on."""
        self.batch_sampler.set_epoch(epoch)
        return self._deliver(first_step * self.parts)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self._deliver(0)

    def start_processes(self) -> None:
        """Start the loader processes, which then wait for what is asked of them."""
        self._loader.start_processes()

    def end(self) -> None:
        """End the loader processes."""
        self._loader.end()

    def images_of(self, epoch: int, number: int, rank: int) -> list[tuple[int, str]]:
        """Return [(index, name)] of the images in the batch `number` of the virtual rank `rank`."""
        self.batch_sampler.set_epoch(epoch)
        indices = self.batch_sampler.indices_of(number, rank)
        return list(zip(indices, self.dataset.reader.names([self.dataset.images[index][0] for index in indices])))

    def _deliver(self, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        self.skipped = 0
        while True:
            try:
                for joined, bad_files in self._loader.items(batch):
                    batch += 1
                    self._delivered += 1
                    if self._delivered % BATCHES_FOR_A_LOSS == 0:
                        self._patience = min(self._patience + 1, MOST_LOSSES)
                    self._count_bad(bad_files, 0 if joined is None else len(joined.targets))
                    if joined is not None:
                        yield batch_bytes.normalize(joined, self.device)
                return
            except LostProcess as lost:
                self._bear(lost)

    def _count_bad(self, bad_files: list[str], count: int) -> None:
        if bad_files and not self.skip_bad:
            raise UserError(
                "unreadable image: %s; repair or replace it, or pass --skip-bad-images" % bad_files[0], one_rank=True
            )
        if self.dataset.replace_bad and count < self.batch_size:  # ranks that take another number of steps would hang
            raise UserError(
                "unreadable image: %s, like all that could take its place: is --data-path still there?" % bad_files[-1],
                one_rank=True,
            )
        self.skipped += len(bad_files)

    def _bear(self, lost: LostProcess) -> None:
        """Log that new loader processes take the place of lost ones; RunError where that was tried in vain."""
        if not self._patience:
            raise RunError(
                "loader processes were lost again and again (%s): lower --num-workers, or give the machine more memory"
                % lost,
                one_rank=True,
            ) from None
        self._patience = 0 if lost.is_silent else self._patience - 1
        logging.getLogger().warning("a loader process was lost (%s): new ones are started", lost)
