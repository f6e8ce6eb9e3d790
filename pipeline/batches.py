"""Batches from loader processes to the device; a lost loader process is replaced."""

from __future__ import annotations

import functools
import logging
import signal
import threading
from typing import TYPE_CHECKING, Any, Iterator, Sequence

from torch.utils.data import DataLoader

from pipeline import batch_bytes
from runtime.compat import KEEP_WORKERS
from runtime.errors import RunError, UserError, reason
from runtime.signals import ignore_stop_signals

if TYPE_CHECKING:
    from torch import Tensor

    from runtime.device import Device

MOST_LOSSES = 3  # loader processes lost in a row, without a batch in between, before the run gives up


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
        self._make_loader = functools.partial(
            DataLoader,
            dataset,
            batch_sampler=batch_sampler,
            num_workers=workers,
            timeout=timeout_s if workers else 0,
            collate_fn=collate,
            pin_memory=pin_memory,
            worker_init_fn=ignore_stop_signals,
            **(KEEP_WORKERS if workers else {}),
        )
        self._loader = self._make_loader()

    def __len__(self) -> int:
        """Return the number of steps of an epoch."""
        return len(self.batch_sampler) // self.parts

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Return an iterator over the batches of `epoch` from `first_step` on."""
        self.batch_sampler.set_epoch(epoch)
        return self._deliver(first_step * self.parts)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self._deliver(0)

    def images_of(self, epoch: int, number: int, rank: int) -> list[tuple[int, str]]:
        """Return [(index, path)] of the images in the batch `number` of the virtual rank `rank`."""
        self.batch_sampler.set_epoch(epoch)
        return [(index, self.dataset.images[index][0]) for index in self.batch_sampler.indices_of(number, rank)]

    def _deliver(self, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        self.skipped = 0
        losses = 0
        while True:
            self.batch_sampler.first_batch = batch
            try:
                for joined, bad_files in start(self._loader):
                    batch, losses = batch + 1, 0
                    self._count_bad(bad_files, 0 if joined is None else len(joined.targets))
                    if joined is not None:
                        yield batch_bytes.normalize(joined, self.device)
                return
            except (RuntimeError, OSError, EOFError) as error:
                if not means_a_lost_process(error):
                    raise
                losses += 1
                self._replace_loader(error, losses)

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

    def _replace_loader(self, error: Exception, losses: int) -> None:
        """Start new loader processes after some were lost."""
        if losses > MOST_LOSSES:
            raise RunError(
                "loader processes were lost %d times in a row (%s): lower --num-workers, or give the machine more "
                "memory (a container more shared memory, by --shm-size)" % (losses, reason(error)),
                one_rank=True,
            ) from None
        logging.getLogger().warning("a loader process was lost (%s): new ones are started", reason(error))
        self._loader = self._make_loader()


def means_a_lost_process(error: BaseException) -> bool:
    """Return whether a loader raised `error` because one of its processes is gone; errors in a process say "Caught"."""
    if isinstance(error, RuntimeError):
        signs = ("DataLoader worker (pid", "DataLoader timed out", "Pin memory thread", "items of ancdata")
        return any(sign in str(error) for sign in signs)
    lost = (ConnectionError, EOFError, FileNotFoundError)  # its socket, through which it hands over a batch
    return isinstance(error, lost) and "Caught" not in str(error)


def start(loader: DataLoader) -> Iterator[Any]:
    """Return the loader's iterator, without torch's handler of SIGCHLD.

    That raises wherever the main thread happens to be, even in the middle of an update. A lost process is noticed all
    the same, when the next batch does not come.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL
    if getattr(before, "__module__", "").startswith("torch."):  # of a loader that was started otherwise
        before = signal.SIG_DFL
    iterator = iter(loader)
    signal.signal(signal.SIGCHLD, before)
    return iterator
