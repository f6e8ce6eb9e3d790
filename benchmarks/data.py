"""Images a second of the loaders: on one core, as each loader process works, through N processes, from each container.

The baseline is the published pipeline: Pillow and timm to a normalised float32 tensor, torch's collate, every image
decoded for each of its three repetitions.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from typing import TYPE_CHECKING, Any, Callable, Iterator, NamedTuple, Sequence

import torch
from torch.utils.data import Dataset, default_collate

import datasets
from benchmarks import containers, parquet_copies, photos, timing
from benchmarks.report import Row
from options import parsing
from pipeline import layout, reading
from pipeline.batches import collate
from pipeline.block_sampler import samplers_of
from pipeline.image_index import ImageIndex
from pipeline.listing import list_images
from pipeline.loader import Loader
from pipeline.samplers import Position, PositionBatches
from runtime.errors import UserError
from runtime.seeding import position_seed, seed_host

if TYPE_CHECKING:
    import argparse

    from options.parsing import Options

MOST_COMPARED = 300  # images for the PSNR
MOST_PACKED = 300  # images in each container


class Pipeline(NamedTuple):
    """A way from files to batches."""

    dataset: Any
    join_batch: Callable[[list[Any]], Any]
    repeats: int = 1  # how often in a row an image is asked for


class PublishedImages(Dataset):
    """The published pipeline over the same images."""

    def __init__(self, images: Sequence[tuple[str, int]], transform: Callable[[Any], Any]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: Any) -> tuple[Any, int]:
        number, key = position if isinstance(position, tuple) else (position, None)
        path, target = self.images[number]
        image = reading.read_image(path)
        if key is not None:
            seed_host(position_seed("sample", *key))
        return self.transform(image), target


class EndlessBatches:
    """The batches of positions of a sampler, epoch after epoch."""

    def __init__(self, pipeline: Pipeline, batch_size: int) -> None:
        self.batches = PositionBatches(samplers_of(pipeline.dataset, 1, [0], 0, pipeline.repeats), batch_size)

    def __iter__(self) -> Iterator[list[Position]]:
        for epoch in itertools.count():
            self.batches.set_epoch(epoch)
            yield from self.batches


def run(options: argparse.Namespace) -> list[Row]:
    """Return the rows of the loaders in training and evaluation, and of how near the fast one's pixels come."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        if not options.data_path:
            photos.write_photos(made)
        root = options.data_path or made
        rows = _rates(options, root, is_train=True) + _rates(options, root, is_train=False)
        return rows + _by_container(options, root) + _closeness(root, options.input_size)


def _run_options(root: str, input_size: int, loader: str) -> Options:
    words = ["--data-path=" + root, "--input-size=%d" % input_size, "--num-workers=0", "--loader=" + loader]
    return parsing.parse(words)


def _images(root: str, part: str) -> ImageIndex:
    folder = "%s/%s" % (root, part)
    return list_images(folder, layout.list_classes(folder))


def _rates(options: argparse.Namespace, root: str, is_train: bool) -> list[Row]:
    name, part = ("train", "train") if is_train else ("eval", "val")
    images = _images(root, part)
    if len(images) < options.batch_size:
        raise UserError("--batch-size %d: %s/ has only %d images" % (options.batch_size, part, len(images)))
    exact, fast = (_run_options(root, options.input_size, loader) for loader in ("exact", "fast"))
    pipelines = {
        "published": Pipeline(PublishedImages(images, datasets.build_transform(exact, is_train)), default_collate),
        "exact": Pipeline(datasets.image_folder(images, exact, is_train), collate),
        "fast": Pipeline(datasets.image_folder(images, fast, is_train), collate),
    }
    if is_train:
        for loader in ("exact", "fast"):
            pipelines[loader + ", decoded once for three"] = pipelines[loader]._replace(repeats=3)
    works = {key: _one_core(pipeline, options.batch_size) for key, pipeline in pipelines.items()}
    rows = _rows(options, works, name + " on one core")
    if options.num_workers:
        works = {
            key: _processes(pipeline, options.batch_size, options.num_workers) for key, pipeline in pipelines.items()
        }
        rows += _rows(options, works, "%s through %d processes" % (name, options.num_workers))
    return rows


def _by_container(options: argparse.Namespace, root: str) -> list[Row]:
    """Return rows of the exact loader over the same images in each container; the baseline is the folder.

    A line is printed where Parquet is left out.
    """
    exact = _run_options(root, options.input_size, "exact")
    if parquet_copies.missing():
        print("by container: parquet is left out: %s" % parquet_copies.missing())
    with tempfile.TemporaryDirectory() as made:
        packed = containers.pack(_images(root, "val"), max(MOST_PACKED, options.batch_size), made)
        works = {}
        for form, images in packed.items():
            dataset = datasets.image_folder(images, exact, False, images.reader())
            works[form] = _one_core(Pipeline(dataset, collate), options.batch_size)
        return _rows(options, works, "eval on one core, exact, by container", "folder")


def _rows(
    options: argparse.Namespace, works: dict[str, Callable[[], int]], name: str, baseline: str = "published"
) -> list[Row]:
    rates = timing.summarize(timing.alternate(works, options.rounds, options.seconds), baseline)
    return [timing.to_row("%s: %s" % (name, key), "images/s", rate) for key, rate in rates.items()]


def _one_core(pipeline: Pipeline, batch_size: int) -> Callable[[], int]:
    """Return a function that makes one batch in this process."""
    orders = iter(EndlessBatches(pipeline, batch_size))

    def work() -> int:
        pipeline.join_batch([pipeline.dataset[position] for position in next(orders)])
        return batch_size

    return work


def _processes(pipeline: Pipeline, batch_size: int, workers: int) -> Callable[[], int]:
    """Return a function that takes one batch, as the training process does, from loader processes."""
    order = EndlessBatches(pipeline, batch_size)
    hands_over = pipeline.join_batch is collate  # the baseline's batches go through /dev/shm, as torch's do
    batches = Loader(pipeline.dataset, order, pipeline.join_batch, workers, hands_over=hands_over).items()

    def work() -> int:
        next(batches)
        return batch_size

    return work


def _closeness(root: str, input_size: int) -> list[Row]:
    """Return rows of the PSNR of the fast loader's pixels, beside the exact one's, in training and validation."""
    rows = []
    for part, is_train in (("train", True), ("val", False)):
        images = _images(root, part)
        exact, fast = (
            datasets.image_folder(images, _run_options(root, input_size, loader), is_train)
            for loader in ("exact", "fast")
        )
        positions = [Position(number, (0, 0, 0, number)) for number in range(min(len(images), MOST_COMPARED))]
        values = sorted(_psnr(exact[position], fast[position]) for position in positions)
        for quantile, label in ((0.5, "median"), (0.05, "5 % are worse")):
            value = values[int(quantile * (len(values) - 1))]
            rows.append(Row("fast beside exact, %s, %s" % (part, label), "PSNR", value, "dB"))
    return rows


def _psnr(one: datasets.Sample, other: datasets.Sample) -> float:
    """Return the peak signal-to-noise ratio of two samples' bytes, in dB; 100 where they are equal."""
    error = (one.pixels.bytes.float() - other.pixels.bytes.float()).pow(2).mean().item()
    return 10 * math.log10(255**2 / error) if error else 100.0
