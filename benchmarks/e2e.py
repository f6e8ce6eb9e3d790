"""The real epoch loop: how much of it is waiting for data, on real JPEGs, and what it loses between steps when the data
is there.

The second is the ratio of engine.train_one_epoch over batches that are ready to the same steps without the loop.
"""

from __future__ import annotations

import tempfile
import time

import datasets
import engine
from benchmarks import photos, runs, timing
from runtime.errors import UserError


def add_arguments(parser):
    runs.add_model_arguments(parser)
    parser.add_argument("--data-path", metavar="DIR", help="with train/ and val/ (default: photos made here)")
    parser.add_argument("--num-workers", type=int, help="(default: the cores of a process)")
    parser.add_argument("--loader", default="exact", choices=["exact", "fast"])
    parser.add_argument("--steps", type=int, default=12, help="of an epoch (default: 12)")
    parser.add_argument("--rounds", type=int, default=5)


def run(args):
    device = runs.settle(args)
    if args.steps < 2:
        raise UserError("--steps %d: at least 2 are needed" % args.steps)
    with tempfile.TemporaryDirectory() as made:
        if not args.data_path:
            photos.write_photos(made, train=args.batch_size * args.steps, val=3)
        words = ["--loader=" + args.loader, "--data-path=" + (args.data_path or made)]
        if args.num_workers is not None:
            words.append("--num-workers=%d" % args.num_workers)
        options, run = runs.make_run(runs.words_of(args, *words))
        return _waiting(args, options, run) + _lost(args, device, run)


class Watched:
    """The batches of a loader, at most `steps`, with the time that the loop waited for them."""

    def __init__(self, batches, steps):
        self.batches, self.steps, self.waited = batches, min(steps, len(batches)), 0.0
        self.batch_size, self.parts, self.skipped = batches.batch_size, batches.parts, 0

    def __len__(self):
        return self.steps

    def epoch(self, epoch, first_step=0):
        stream = self.batches.epoch(epoch, first_step)
        for _ in range(self.steps):
            started = time.perf_counter()
            batch = next(stream)
            self.waited += time.perf_counter() - started
            yield batch

    def images_of(self, epoch: int, number: int, rank: int) -> list[tuple[int, str]]:
        """Return (index, path) of the images in a batch."""
        return self.batches.images_of(epoch, number, rank)


class Ready:
    """The same batch for every step."""

    def __init__(self, batch, steps):
        self.batch, self.steps = batch, steps
        self.batch_size, self.parts, self.skipped = len(batch[0]), 1, 0

    def __len__(self):
        return self.steps

    def epoch(self, epoch, first_step=0):
        return (self.batch for _ in range(self.steps))

    def images_of(self, epoch: int, number: int, rank: int) -> list[tuple[int, str]]:
        """Return nothing: its images come from no files."""
        return []


def _waiting(args, options, run):
    """Rows of an epoch with loader processes that have begun before."""
    loaders = datasets.build_loaders(options, run.ranks)
    batches = Watched(loaders.train, args.steps)
    engine.train_one_epoch(run, batches, 0)
    batches.waited = 0.0
    started = time.perf_counter()
    engine.train_one_epoch(run, batches, 1)
    seconds = time.perf_counter() - started
    share = batches.waited / seconds
    common = {"unit": "%", "measure": "% of the epoch", "ratio": None}
    rate = {"setting": "epoch on JPEGs", "value": len(batches) * batches.batch_size / seconds, "ratio": None}
    return [
        dict(common, setting="waiting for data, the first batch included", value=100 * share),
        dict(rate, unit="images/s", measure="images/s"),
    ]


def _lost(args, device, run):
    batch = runs.batch_for(device, args, device.memory_format)
    images = args.steps * len(batch[0])

    def steps_alone():
        run.model.train()
        for step in range(args.steps):
            runs.train_step(run, batch, step)
        device.synchronize()
        return images

    def loop():
        engine.train_one_epoch(run, Ready(batch, args.steps), 0)
        return images

    rates = timing.alternate({"steps alone": steps_alone, "epoch loop, data ready": loop}, args.rounds, 0)
    summary = timing.summary(rates, "steps alone")
    return [timing.row(name, "images/s", values) for name, values in summary.items()]
