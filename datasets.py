"""Image folders, their transforms, and the loaders that feed a rank.

A data set is a folder with train/ and val/, each with one folder of images a class.
"""

import os
from collections import namedtuple

from PIL import Image
from torch.utils.data import Dataset
from torchvision import transforms

import fast_pictures
import index
from batches import Batches
from pictures import BoundedResize, holds, list_classes, read_picture, why
from pixels import IMAGENET_MEAN, IMAGENET_STD, ToPixels
from runtime.compat import create_transform
from runtime.errors import UserError, shown
from runtime.seeding import position_seed, seed_host
from samplers import EvalShard, Position, PositionBatches, RASampler, ShardBatches

MOST_REPLACED = 1000  # unreadable images in a row before the data set is taken for lost
SMALL_SIZE = 32  # up to this size a picture of just the size is not resized, and cropped after padding in training

Loaders = namedtuple("Loaders", "train val classes")
Sample = namedtuple("Sample", "pixels target bad_files")  # the first two are None where nothing could be read


def build_transform(is_train, args):
    """The reference's transform of a PIL picture to a normalised (3, input_size, input_size) float32 tensor."""
    if not is_train:
        return transforms.Compose([*_fit(args.input_size), *_normalise()])
    try:
        transform = create_transform(
            input_size=args.input_size,
            is_training=True,
            color_jitter=args.color_jitter,
            auto_augment=args.aa or None,
            interpolation=args.train_interpolation,
            hflip=args.hflip,
            re_prob=args.reprob,
            re_mode=args.remode,
            re_count=args.recount,
        )
    except (AssertionError, ValueError, KeyError, IndexError, TypeError, NotImplementedError) as error:
        raise UserError("--aa %s is not a policy that works: %s" % (args.aa, error)) from None
    if args.input_size <= SMALL_SIZE:
        transform.transforms[0] = transforms.RandomCrop(args.input_size, padding=4)
        transform.transforms[0:0] = _fit(args.input_size)
    return transform


class UnlessSized:
    """Apply `transform` to a picture unless it is `size` x `size` already."""

    def __init__(self, size, transform):
        self.size, self.transform = size, transform

    def __call__(self, picture):
        return picture if picture.size == (self.size, self.size) else self.transform(picture)

    def __repr__(self):
        return "UnlessSized(%d, %r)" % (self.size, self.transform)


def _fit(size):
    """Resize to 256/224 of the size and crop the centre."""
    steps = [BoundedResize(int(256 / 224 * size), interpolation=Image.BICUBIC), transforms.CenterCrop(size)]
    return steps if size > SMALL_SIZE else [UnlessSized(size, transforms.Compose(steps))]


def _normalise():
    return [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]


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
    evaluates_only = args.eval or args.throughput
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
        fast_pictures.check()
        transform, read = fast_pictures.accelerate(transform), fast_pictures.read_pixels
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
    cache = args.index_cache or ("" if args.eval or args.throughput else _cache_of(args))
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
