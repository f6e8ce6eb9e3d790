"""The real epoch loop: the time it waits for data, on real JPEGs, and what it costs between steps once data is there.

The latter is the ratio of engine.train_one_epoch, over batches that are ready, to the same steps without the loop.
"""

from __future__ import annotations

import tempfile
import time
from typing import TYPE_CHECKING, Iterator

import datasets
import engine
from benchmarks import photos, runs, timing
from benchmarks.report import Row

if TYPE_CHECKING:
    import argparse

    from torch import Tensor

    from training.protocols import TrainBatches
    from training.run import Run


def run(options: argparse.Namespace) -> list[Row]:
    """Return the rows of an epoch on images, and of the loop on batches that are ready."""
    workload = runs.workload_of(options)
    steps = options.steps or (200 if workload.device.is_accelerator else 12)
    with tempfile.TemporaryDirectory() as made:
        if not options.data_path:
            photos.write_photos(made, train=workload.batch_size * steps, val=3)
        words = ["--loader=" + options.loader, "--data-path=" + (options.data_path or made)]
        if options.num_workers is not None:
            words.append("--num-workers=%d" % options.num_workers)
        run_options, run = runs.make_run(workload.words(*words))
        batch = workload.batch(run.device.memory_format)
        batches = WatchedBatches(datasets.build_loaders(run_options, run.ranks).train, steps)
        return waiting(run, batches, options.seconds) + _overhead(run, batch, steps, options.rounds)


class WatchedBatches:
    """At most `steps` batches of a loader; `waited` is how long the loop waited for them, in seconds."""

    def __init__(self, batches: TrainBatches, steps: int) -> None:
        self.batches, self.steps, self.waited = batches, min(steps, len(batches)), 0.0
        self.batch_size, self.parts, self.skipped = batches.batch_size, batches.parts, 0

    def __len__(self) -> int:
        return self.steps

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of `epoch`."""
        stream = self.batches.epoch(epoch, first_step)
        for _ in range(self.steps):
            started = time.perf_counter()
            batch = next(stream)
            self.waited += time.perf_counter() - started
            yield batch

    def images_of(self, epoch: int, number: int, rank: int) -> list[tuple[int, str]]:
        """Return (index, path) of the images in a batch."""
        return self.batches.images_of(epoch, number, rank)


class RepeatedBatch:
    """The same batch for every step."""

    def __init__(self, batch: tuple[Tensor, Tensor], steps: int) -> None:
        self.batch, self.steps = batch, steps
        self.batch_size, self.parts, self.skipped = len(batch[0]), 1, 0

    def __len__(self) -> int:
        return self.steps

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batch for each step."""
        return (self.batch for _ in range(self.steps))

    def images_of(self, epoch: int, number: int, rank: int) -> list[tuple[int, str]]:
        """Return nothing: its images come from no files."""
        return []


def waiting(run: Run, batches: WatchedBatches, least_seconds: float) -> list[Row]:
    """Return rows of epochs of `batches`, as many as take `least_seconds`.

    An epoch before them is not counted: in it loader processes start, blocks are compiled and memory is first used.
    """
    engine.train_one_epoch(run, batches, 0)
    run.device.synchronize()
    batches.waited = 0.0
    epochs, seconds, started = 0, 0.0, time.perf_counter()
    while not epochs or seconds < least_seconds:
        epochs += 1
        engine.train_one_epoch(run, batches, epochs)
        run.device.synchronize()
        seconds = time.perf_counter() - started
    images = epochs * len(batches) * batches.batch_size
    return [
        Row("waiting for data, including the first batch", "% of the epoch", 100 * batches.waited / seconds, "%"),
        Row("epoch on JPEGs", "images/s", images / seconds, "images/s"),
    ]


def _overhead(run: Run, batch: tuple[Tensor, Tensor], steps: int, rounds: int) -> list[Row]:
    """Return rows of `steps` steps, without and with the epoch loop around them."""
    images = steps * len(batch[0])

    def steps_alone() -> int:
        run.model.train()
        for step in range(steps):
            runs.train_step(run, batch, step)
        run.device.synchronize()
        return images

    def loop() -> int:
        engine.train_one_epoch(run, RepeatedBatch(batch, steps), 0)
        return images

    rates = timing.alternate({"steps alone": steps_alone, "epoch loop, data ready": loop}, rounds, 0)
    return [timing.to_row(name, "images/s", rate) for name, rate in timing.summarize(rates, "steps alone").items()]
