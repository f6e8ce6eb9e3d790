"""Images a second of the loaders: on one core, as each of a loader's processes works, and through N processes.

The baseline is the published pipeline: Pillow and timm to a normalised float32 tensor, torch's collate, every image
decoded for each of its three repetitions.
"""

import itertools
import math
import tempfile

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

import datasets
from benchmarks import photos, timing
from options import parsing
from pipeline import index, reading
from pipeline.batches import collate
from pipeline.samplers import Position, PositionBatches, RASampler
from runtime.errors import UserError
from runtime.seeding import position_seed, seed_host

MOST_COMPARED = 300  # images for the PSNR


def add_arguments(parser):
    parser.add_argument("--data-path", metavar="DIR", help="with train/ and val/ (default: 300 photos made here)")
    parser.add_argument("--batch-size", type=int, default=56)
    parser.add_argument("--input-size", type=int, default=224)
    parser.add_argument("--num-workers", type=int, default=2, help="of the second table (default: 2; 0 leaves it out)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each setting in a round (default: 2)")


def run(args):
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        if not args.data_path:
            photos.write_photos(made)
        root = args.data_path or made
        rows = _rates(args, root, is_train=True) + _rates(args, root, is_train=False)
        return rows + _closeness(args, root)


class Published(Dataset):
    """The published pipeline over the same images."""

    def __init__(self, images, transform):
        self.images, self.transform = images, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, position):
        number, key = position if isinstance(position, tuple) else (position, None)
        path, target = self.images[number]
        picture = reading.read_image(path)
        if key is not None:
            seed_host(position_seed("sample", *key))
        return self.transform(picture), target


def _options(args, root, *words):
    words = ["--data-path=" + root, "--input-size=%d" % args.input_size, "--num-workers=0", *words]
    return parsing.parse(words)


def _images(root, part):
    folder = "%s/%s" % (root, part)
    return index.list_images(folder, reading.list_classes(folder))


def _rates(args, root, is_train):
    name, images = ("train", _images(root, "train")) if is_train else ("eval", _images(root, "val"))
    if len(images) < args.batch_size:
        raise UserError("--batch-size %d: %s/ has only %d images" % (args.batch_size, name, len(images)))
    fast = _options(args, root, "--loader=fast")
    exact = datasets.build_transform(fast, is_train)
    sets = {
        "published": (Published(images, exact), default_collate, 1),
        "exact": (datasets.image_folder(images, _options(args, root), is_train), collate, 1),
        "fast": (datasets.image_folder(images, fast, is_train), collate, 1),
    }
    if is_train:
        for loader in ("exact", "fast"):
            sets[loader + ", decoded once for three"] = sets[loader][:2] + (3,)
    works = {key: _one_core(args, *value) for key, value in sets.items()}
    rows = _rows(works, args, name + " on one core")
    if args.num_workers:
        works = {key: _processes(args, *value) for key, value in sets.items()}
        rows += _rows(works, args, "%s through %d processes" % (name, args.num_workers))
    return rows


def _rows(works, args, name):
    rates = timing.summary(timing.alternate(works, args.rounds, args.seconds), "published")
    return [timing.row("%s: %s" % (name, key), "images/s", values) for key, values in rates.items()]


class Endless:
    """Batch after batch of what a sampler asks for, epoch after epoch."""

    def __init__(self, args, dataset, repeats):
        self.batches = PositionBatches([RASampler(dataset, repeats=repeats)], args.batch_size)

    def __iter__(self):
        for epoch in itertools.count():
            self.batches.set_epoch(epoch)
            yield from self.batches


def _one_core(args, dataset, join_batch, repeats):
    orders = iter(Endless(args, dataset, repeats))

    def work():
        join_batch([dataset[position] for position in next(orders)])
        return args.batch_size

    return work


def _processes(args, dataset, join_batch, repeats):
    """What the training process gets, as a stream of batches that never ends."""
    options = {"collate_fn": join_batch, "num_workers": args.num_workers}
    loader = iter(DataLoader(dataset, batch_sampler=Endless(args, dataset, repeats), **options))

    def work():
        next(loader)
        return args.batch_size

    return work


def _closeness(args, root):
    """Rows: how near the fast loader's pixels come to the exact one's, over the training and the validation images."""
    rows = []
    for part, is_train in (("train", True), ("val", False)):
        images = _images(root, part)
        exact, fast = (
            datasets.image_folder(images, _options(args, root, "--loader=" + loader), is_train)
            for loader in ("exact", "fast")
        )
        places = [Position(number, (0, 0, 0, number)) for number in range(min(len(images), MOST_COMPARED))]
        values = sorted(_psnr(exact[place], fast[place]) for place in places)
        for share, label in ((0.5, "median"), (0.05, "5 % are worse")):
            value = values[int(share * (len(values) - 1))]
            name = "fast beside exact, %s, %s" % (part, label)
            rows.append({"setting": name, "measure": "PSNR", "value": value, "unit": "dB", "ratio": None})
    return rows


def _psnr(one, other):
    """The peak signal-to-noise ratio of two Samples' bytes, in dB; 100 where they are equal."""
    error = (one.pixels.bytes.float() - other.pixels.bytes.float()).pow(2).mean().item()
    return 10 * math.log10(255**2 / error) if error else 100.0
