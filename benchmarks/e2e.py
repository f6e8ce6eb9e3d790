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

    from options.parsing import Options
    from training.protocols import TrainBatches
    from training.run import Run


def run(options: argparse.Namespace) -> list[Row]:
    """Return the rows of an epoch on images, and of the loop on batches that are ready."""
    workload = runs.workload_of(options)
    with tempfile.TemporaryDirectory() as made:
        if not options.data_path:
            photos.write_photos(made, train=workload.batch_size * options.steps, val=3)
        words = ["--loader=" + options.loader, "--data-path=" + (options.data_path or made)]
        if options.num_workers is not None:
            words.append("--num-workers=%d" % options.num_workers)
        run_options, run = runs.make_run(workload.words(*words))
        batch = workload.batch(run.device.memory_format)
        return _waiting(run_options, run, options.steps) + _overhead(run, batch, options.steps, options.rounds)


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


def _waiting(run_options: Options, run: Run, steps: int) -> list[Row]:
    """Return rows of the second epoch, whose loader processes have started already."""
    batches = WatchedBatches(datasets.build_loaders(run_options, run.ranks).train, steps)
    engine.train_one_epoch(run, batches, 0)
    batches.waited = 0.0
    started = time.perf_counter()
    engine.train_one_epoch(run, batches, 1)
    seconds = time.perf_counter() - started
    return [
        Row("waiting for data, including the first batch", "% of the epoch", 100 * batches.waited / seconds, "%"),
        Row("epoch on JPEGs", "images/s", len(batches) * batches.batch_size / seconds, "images/s"),
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
