"""Image folders, their transforms, and the loaders that feed a rank.

A data set is a folder with train/ and val/, each with one folder of images a class.
"""

import os
from collections import namedtuple

from torch.utils.data import Dataset

from pipeline import fast_reading, index
from pipeline.batch_bytes import ToPixels
from pipeline.batches import Batches
from pipeline.reading import holds, list_classes, read_picture, why
from pipeline.samplers import EvalShard, Position, PositionBatches, RASampler, ShardBatches
from pipeline.transforms import build_transform
from runtime.errors import UserError, shown
from runtime.seeding import position_seed, seed_host

MOST_REPLACED = 1000  # unreadable images in a row before the data set is taken for lost

Loaders = namedtuple("Loaders", "train val classes")
Sample = namedtuple("Sample", "pixels target bad_files")  # the first two are None where nothing could be read


class ImageFolder(Dataset):
    """The `images`, (path, class number), by Position, or by index where nothing is random.

    An unreadable image comes back as a Sample without a picture that names the file; with `replace_bad` the next
    readable image takes its place, if it is among the next MOST_REPLACED. A picture that is asked for several times in
    a row, as repeated augmentation does, is decoded once.
    """

    def __init__(self, images, transform, replace_bad=False, read=read_picture):
        self.images, self.transform, self.replace_bad, self.read = images, transform, replace_bad, read
        self._last = (None, None)  # the path and the picture decoded last, which no transform changes

    def __len__(self):
        return len(self.images)

    def __getitem__(self, position):
        first, key = position if isinstance(position, Position) else (position, None)
        bad_files = []
        for offset in range(min(len(self.images), 1 + MOST_REPLACED) if self.replace_bad else 1):
            path, target = self.images[(first + offset) % len(self.images)]
            try:
                picture = self._read(path)
                if key is not None:
                    seed_host(position_seed("sample", *key))
                return Sample(self.transform(picture), target, bad_files)
            except Exception as error:  # decoders, and transforms of odd pictures, raise nearly anything
                bad_files = bad_files or ["%s (%s)" % (shown(path), why(error))]
        return Sample(None, None, bad_files)

    def _read(self, path):
        if self._last[0] != path:
            self._last = (None, None)  # two pictures at once would take twice the memory
            self._last = (path, self.read(path))
        return self._last[1]


def build_loaders(args, ranks, classes=None):
    """Loaders(train, val, classes) of `--data-path` for this rank; train is None with `--eval` or `--throughput`.

    `classes` are a checkpoint's class names where it has them; otherwise the folder's hold. UserError where a folder
    is missing or empty, or where val/ has a class that is not among them.
    """
    evaluates_only = not args.trains
    train_folder, val_folder = (os.path.join(args.data_path, part) for part in ("train", "val"))
    _check_folders(args.data_path, [val_folder] if evaluates_only else [train_folder, val_folder])
    known = _known_classes(train_folder, val_folder, classes, evaluates_only)
    strangers = sorted(set(list_classes(val_folder)) - set(known))
    if strangers:
        raise UserError("%s: the class %r is not among the training classes" % (shown(val_folder), strangers[0]))
    cache = _cache_of(args)
    val = image_folder(_find_images(val_folder, known, cache, ranks), args, False)
    if not len(val):
        raise UserError("%s holds no images" % shown(val_folder))
    _check_no_class_is_empty(val.images)
    train = None
    if not evaluates_only:
        images = _find_images(train_folder, known, cache, ranks)
        _check_no_class_is_empty(images)
        dataset = image_folder(images, args, True)
        train = _train_batches(args, ranks, dataset)
    return Loaders(train, _val_batches(args, ranks, val), known)


def image_folder(images, args, is_train):
    """The ImageFolder of `images` as `--loader` reads and the transform's options change them."""
    transform, read = build_transform(is_train, args), read_picture
    if args.loader == "fast":
        fast_reading.check()
        transform, read = fast_reading.accelerate(transform), fast_reading.read_pixels
    return ImageFolder(images, ToPixels(transform), is_train and args.skip_bad_images, read)


def _check_folders(root, folders):
    if not os.path.isdir(root):
        raise UserError("--data-path %s: no such folder" % shown(root))
    for folder in folders:
        if not os.path.isdir(folder):
            raise UserError("--data-path %s: it has no folder %s/" % (shown(root), os.path.basename(folder)))
        if not list_classes(folder):
            raise UserError("%s has no class folders: it must hold a folder of images for each class" % shown(folder))


def _known_classes(train_folder, val_folder, checkpoint_classes, evaluates_only):
    if evaluates_only:
        return checkpoint_classes or list_classes(train_folder if os.path.isdir(train_folder) else val_folder)
    found = list_classes(train_folder)
    if checkpoint_classes and list(checkpoint_classes) != found:
        raise UserError(
            "%s has %d classes, the checkpoint %d, or they are named otherwise: train in another --output_dir, or "
            "with --no-auto-resume" % (shown(train_folder), len(found), len(checkpoint_classes))
        )
    return found


def _find_images(folder, classes, cache, ranks):
    """The ImageIndex of `folder`, which the first rank alone lists, or reads from the folder `cache`."""
    return index.ImageIndex(ranks.from_first(lambda tick: index.find(folder, classes, cache, tick)), folder)


def _cache_of(args):
    """The folder for indexes, "" for none: never among the images, where one would change what it tells of."""
    cache = args.index_cache or args.output_dir
    parts = [os.path.realpath(os.path.join(args.data_path, part)) for part in ("train", "val")]
    if cache and any(holds(part, os.path.realpath(cache)) for part in parts):
        if args.index_cache:
            raise UserError("--index-cache %s lies among the images: name another folder" % shown(cache))
        return ""
    return cache


def keep_indexes(args, loaders):
    """Write the indexes of the images into `--index-cache` or, unless this only evaluates, `--output-dir`."""
    cache = args.index_cache or ("" if not args.trains else _cache_of(args))
    for batches in filter(None, (loaders.train, loaders.val) if cache else ()):
        index.keep(batches.dataset.images, cache)


def _check_no_class_is_empty(images):
    for number in images.empty_classes():
        folder = os.path.join(images.folder, images.classes[number])
        if os.path.isdir(folder):
            raise UserError("%s holds no images: fill or remove this class" % shown(folder))


def _train_batches(args, ranks, dataset):
    repeats = 3 if args.repeated_aug else 1
    samplers = [
        RASampler(dataset, ranks.virtual_size, rank, seed=args.seed, repeats=repeats) for rank in ranks.virtual_ranks
    ]
    batch_size = min(args.batch_size, len(samplers[0]) // 2 * 2)
    if batch_size < 1 or (batch_size == 1 and args.batch_size > 1):
        raise UserError(
            "%d training images are too few for %d processes: batch normalisation needs 2 images on each"
            % (len(dataset), ranks.virtual_size)
        )
    rounds = args.grad_accum_steps
    if batch_size * rounds > len(samplers[0]):
        raise UserError(
            "--grad-accum-steps %d: an epoch holds %d batches of %d images for each of %d process(es)"
            % (rounds, len(samplers[0]) // batch_size, batch_size, ranks.virtual_size)
        )
    batches = PositionBatches(samplers, batch_size, rounds)
    return _batches(args, ranks, dataset, batches, parts=rounds * len(samplers))


def _val_batches(args, ranks, dataset):
    shard = EvalShard(len(dataset), ranks.world_size, ranks.rank) if args.dist_eval else EvalShard(len(dataset))
    batches = _batches(args, ranks, dataset, ShardBatches(shard, int(1.5 * args.batch_size)))
    batches.is_sharded = args.dist_eval
    return batches


def _batches(args, ranks, dataset, batch_sampler, **options):
    return Batches(
        dataset,
        batch_sampler,
        ranks.device,
        workers=min(10, ranks.cores) if args.num_workers is None else args.num_workers,
        timeout_s=args.dist_timeout,
        pin_memory=args.pin_mem and ranks.device.is_accelerator,
        skip_bad=args.skip_bad_images,
        **options,
    )
