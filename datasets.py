"""The images of a data set, their transforms, and the loaders that feed a rank.

A data set is a folder with train/ and val/, each with one folder of images a class, or has one of the other forms that
pipeline/sources.py finds.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Callable, Mapping, NamedTuple, Sequence

from torch.utils.data import Dataset

from pipeline import fast_reading, index, sources
from pipeline.batch_bytes import ToBytes
from pipeline.batches import Batches
from pipeline.block_sampler import is_in_blocks, mixing_lines, samplers_of
from pipeline.decoding import AS_PUBLISHED, Decoding, choose
from pipeline.image_index import ImageIndex, same_images
from pipeline.index_forms import open_index
from pipeline.layout import list_classes, only_class_line, shared_folders_line
from pipeline.passed_over import list_images_below
from pipeline.readers.files import FileReader
from pipeline.reading import decode, failure_of
from pipeline.samplers import EvalShard, Position, PositionBatches, ShardBatches
from pipeline.shared_block import share
from pipeline.transforms import Augmentation, eval_transform, train_transform
from runtime.errors import UserError, shown
from runtime.open_files import too_many
from runtime.seeding import position_seed, seed_host
from storage.remote import NetworkLost, is_url

if TYPE_CHECKING:
    from torchvision.transforms import Compose

    from options.parsing import Options
    from pipeline.readers.base import Reader
    from runtime.distributed import Ranks
    from runtime.signals import StopSignals

MOST_WORKERS = 64  # loader processes of a rank, where --num-workers does not say
MOST_REPLACED = 1000  # unreadable images in a row before the data set counts as lost

FILES = FileReader()


@dataclass
class Loaders:
    """The batches of a rank, the names of the classes, and how images are decoded; `train` is None with no training."""

    train: Any  # Batches, or None
    val: Batches
    classes: Sequence[str]
    decoding: Decoding

    def warnings(self) -> list[str]:
        """Return a line for each thing about the folders that may be a mistake, and for what is passed over there."""
        lines = []
        for batches in filter(None, (self.train, self.val)):
            images = batches.dataset.images
            line = None
            if batches is (self.train or self.val):
                line = only_class_line(images.place, self.classes)
            if images.nested == len(images):
                line = line or shared_folders_line(images.place, self.classes)
            lines += [line] if line else []
            lines += ["%s: %s" % (images.source.title, text) for text in images.passed_over.lines()]
        if self.train:
            lines += mixing_lines(self.train.dataset.images)
        return lines

    def obey(self, stop: StopSignals) -> None:
        """Let the signals that `stop` receives end the wait for a batch."""
        for batches in filter(None, (self.train, self.val)):
            batches.stop = stop

    def start_processes(self) -> None:
        """Start all loader processes, those of evaluation too, while this process is small.

        A process that is forked from one that has trained shares all its memory, which the next step then copies.
        """
        for batches in filter(None, (self.train, self.val)):
            batches.start_processes()

    def end(self) -> None:
        """End the loader processes, which have inherited what connects this process with the other ranks."""
        for batches in filter(None, (self.train, self.val)):
            batches.end()


class Sample(NamedTuple):
    """An image as bytes with its class number (both None where nothing could be read), and the unreadable images."""

    pixels: Any  # pipeline.batch_bytes.ImageBytes
    target: Any
    bad_files: list


class ImageFolder(Dataset):
    """The `images`, pairs of (key, class number), by Position, or by index where nothing is random.

    `reader` opens an image by its key, `decode` turns the open file into what `transform` takes. An unreadable image is
    a Sample without bytes that names it; with `replace_bad` the next readable image takes its position, if it is among
    the next MOST_REPLACED. An image that is asked for several times in a row, as repeated augmentation does, is decoded
    once.
    """

    def __init__(
        self,
        images: Sequence[tuple[Any, int]],
        transform: Callable[[Any], Any],
        replace_bad: bool = False,
        decode: Callable[[BinaryIO], Any] = decode,
        reader: Reader = FILES,
    ) -> None:
        self.images, self.transform, self.replace_bad = images, transform, replace_bad
        self.decode, self.reader = decode, reader
        self.is_remote = any(map(is_url, getattr(getattr(images, "source", None), "places", ())))
        self._last: tuple[Any, Any] = (None, None)  # the key and the image decoded last, which no transform changes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: Any) -> Sample:
        first, key = position if isinstance(position, Position) else (position, None)
        bad_files: list[str] = []
        for offset in range(min(len(self.images), 1 + MOST_REPLACED) if self.replace_bad else 1):
            name, target = self.images[(first + offset) % len(self.images)]
            try:
                image = self._read(name)
                if key is not None:
                    seed_host(position_seed("sample", *key))
                return Sample(self.transform(image), target, bad_files)
            except Exception as error:  # decoders, and transforms of odd images, raise nearly anything
                if too_many(error) or isinstance(error, NetworkLost):  # no fault of the image
                    raise
                bad_files = bad_files or ["%s (%s)" % (self.reader.describe(name), failure_of(error))]
        return Sample(None, None, bad_files)

    def __getitems__(self, positions: Sequence[Any]) -> list[Sample]:
        """Return the items of a batch, for torch 2 and newer; what lies on other machines is fetched at once."""
        if self.is_remote:
            numbers = [position[0] if isinstance(position, Position) else position for position in positions]
            self.reader.prefetch([self.images[number % len(self.images)][0] for number in numbers])
        return [self[position] for position in positions]

    def _read(self, name: str) -> Any:
        if self._last[0] != name:
            self._last = (None, None)  # two images at once would take twice the memory
            with self.reader.open(name) as file:
                self._last = (name, self.decode(file))
        return self._last[1]


def build_loaders(
    options: Options,
    ranks: Ranks,
    classes: Sequence[str] | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> Loaders:
    """Return the Loaders of `--data-path` for this rank; train is None with `--eval` or `--throughput`.

    `classes` are the class names of a checkpoint that has them; otherwise those of the folder count. `recorded` are the
    options of the checkpoint. UserError where a folder is missing or empty, or where val/ has a class that is not among
    them.
    """
    parts = ("train", "val") if options.trains else ("val",)
    found = sources.find_for(options)
    decoding = choose(options.extensions, options.exif_transpose, recorded or {})
    find = functools.partial(_find_images, options, ranks, decoding)
    images = {}
    if options.trains:
        images["train"] = find(found["train"], _classes_to_train(found["train"], classes))
        classes = images["train"].classes
    elif classes is None:
        classes = _classes_without_checkpoint(options, found["val"], find)
    _check_val_classes(found, classes)
    images["val"] = find(found["val"], classes)
    for part in parts[::-1]:
        _check_no_class_is_empty(images[part], decoding)
    folders = {
        part: image_folder(images[part], options, part == "train", images[part].reader(), decoding) for part in parts
    }
    train = _train_batches(options, ranks, folders["train"]) if options.trains else None
    return Loaders(train, _val_batches(options, ranks, folders["val"]), images["val"].classes, decoding)


def image_folder(
    images: Sequence[tuple[Any, int]],
    options: Options,
    is_train: bool,
    reader: Reader = FILES,
    decoding: Decoding = AS_PUBLISHED,
) -> ImageFolder:
    """Return the ImageFolder of `images`, decoded as `--loader` asks and transformed as the other options ask."""
    transform, read = build_transform(options, is_train), decode
    if options.loader == "fast":
        fast_reading.check()
        transform, read = fast_reading.accelerate(transform), fast_reading.decode_pixels
    if decoding.exif_transpose:
        read = functools.partial(read, exif_transpose=True)
    return ImageFolder(images, ToBytes(transform), is_train and options.skip_bad_images, read, reader)


def build_transform(options: Options, is_train: bool) -> Compose:
    """Return the transform of an image that the options ask for, in training or in evaluation."""
    if not is_train:
        return eval_transform(options.input_size)
    augmentation = Augmentation(
        color_jitter=options.color_jitter,
        auto_augment=options.aa or None,
        interpolation=options.train_interpolation,
        hflip=options.hflip,
        vflip=options.vflip,
        scale=options.scale,
        ratio=options.ratio,
        re_prob=options.reprob,
        re_mode=options.remode,
        re_count=options.recount,
    )
    return train_transform(options.input_size, augmentation)


def recorded_classes(checkpoint: Mapping[str, Any]) -> Sequence[str] | None:
    """Return the class names of a checkpoint; None where they are mere numbers of a list or an archive.

    The same images in another form may have names: their sorted order is that of the numbers.
    """
    classes = checkpoint.get("classes")
    form = checkpoint.get("train_images", [0, 0, "folder"])[2]
    if classes and form != "folder" and list(classes) == [str(number) for number in range(len(classes))]:
        return None
    return classes


def _classes_to_train(source: sources.Source, recorded: Sequence[str] | None) -> Sequence[str] | None:
    """Return the classes to look for in training data: those of a checkpoint, which `source` must have."""
    if source.form != "folder":
        return recorded
    found = list_classes(source.place, recorded or ())
    if recorded and list(recorded) != found:
        raise UserError(
            "%s has %d classes, the checkpoint %d, or they are named otherwise: train in another --output_dir, or "
            "with --no-auto-resume" % (source.title, len(found), len(recorded))
        )
    return found


def _classes_without_checkpoint(options: Options, val: sources.Source, find: Callable[..., ImageIndex]) -> Any:
    """Return the classes of an evaluation: those of the training data if that is there, else None for its own."""
    train = sources.find_train(options.data_path, options.train_data, options.image_root)
    if train is None:
        return list_classes(val.place) if val.form == "folder" else None
    return list_classes(train.place) if train.form == "folder" else find(train, None).classes


def _check_val_classes(found: Mapping[str, sources.Source], known: Sequence[str] | None) -> None:
    """Raise UserError where the folder of val has a class that is not among the training classes `known`."""
    val = found["val"]
    if val.form != "folder" or known is None:
        return
    names = list_classes(val.place)
    strangers = sorted(set(names) - set(known))
    if not strangers:
        return
    line = "%s: the class %r is not among the training classes" % (val.title, strangers[0])
    hint = only_class_line(val.place, names)
    if not hint and "train" in found:
        hint = only_class_line(found["train"].place, known)
    raise UserError("%s; %s" % (line, hint) if hint else line)


def _find_images(
    options: Options, ranks: Ranks, decoding: Decoding, source: sources.Source, classes: Sequence[str] | None
) -> ImageIndex:
    """Return the index of `source`, which the first rank alone lists, or reads from where indexes are kept."""
    cache = options.index_cache or options.output_dir
    block = share(ranks, lambda tick: index.find(source, classes, cache, tick, decoding))
    images = open_index(block, source)
    if not len(images):
        raise UserError("; ".join(["%s holds no images" % source.title, *images.passed_over.lines()]))
    return images


def check_same_images(batches: Batches, path: str, checkpoint: Mapping[str, Any]) -> None:
    """Raise UserError if the `checkpoint` in the file `path`, of within an epoch, was trained on other images."""
    images = batches.dataset.images
    recorded = checkpoint.get("train_images", images.fingerprint)
    if not same_images(recorded, images.fingerprint):
        raise UserError(
            "%s stopped within an epoch over %d images; %s now holds %d, or others: restore them, or resume from the "
            "end of an epoch, such as best.pth" % (path, recorded[0], images.source.title, len(images))
        )


def keep_indexes(options: Options, loaders: Loaders) -> None:
    """Write the indexes of the images into `--index-cache` or, unless this only evaluates, `--output-dir`."""
    cache = options.index_cache or (options.output_dir if options.trains else "")
    for batches in filter(None, (loaders.train, loaders.val) if cache else ()):
        index.keep(batches.dataset.images, cache)


def _check_no_class_is_empty(images: ImageIndex, decoding: Decoding) -> None:
    """Raise UserError for a class folder without images, and for a class without images in other training data."""
    source = images.source
    for number in images.empty_classes():
        if source.form != "folder" and source.part == "train":
            text = "%s has no image of the class %s, number %d: add some, or leave the class out; numbers begin at 0"
            raise UserError(text % (source.title, shown(images.classes[number]), number))
        folder = os.path.join(source.place, images.classes[number])
        if source.form == "folder" and os.path.isdir(folder):
            lines = list_images_below(folder, decoding)[1].lines()
            raise UserError("; ".join(["%s holds no images: fill or remove this class" % shown(folder), *lines]))


def _train_batches(options, ranks, dataset):
    repeats = 3 if options.repeated_aug else 1
    balance = options.balanced_sampling
    samplers = samplers_of(dataset, ranks.virtual_size, ranks.virtual_ranks, options.seed, repeats, balance)
    batch_size = min(options.batch_size, len(samplers[0]) // 2 * 2)
    if batch_size < 1 or (batch_size == 1 and options.batch_size > 1):
        raise UserError(
            "%d training images are too few for %d processes: batch normalisation needs 2 images on each"
            % (len(dataset), ranks.virtual_size)
        )
    rounds = options.grad_accum_steps
    if batch_size * rounds > len(samplers[0]):
        raise UserError(
            "--grad-accum-steps %d: an epoch holds %d batches of %d images for each of %d process(es)"
            % (rounds, len(samplers[0]) // batch_size, batch_size, ranks.virtual_size)
        )
    batches = PositionBatches(samplers, batch_size, rounds)
    return _batches(options, ranks, dataset, batches, parts=rounds * len(samplers))


def _val_batches(options, ranks, dataset):
    shard = EvalShard(len(dataset))
    if options.dist_eval:
        shard = EvalShard(len(dataset), ranks.world_size, ranks.rank, in_a_row=is_in_blocks(dataset.images))
    batches = _batches(options, ranks, dataset, ShardBatches(shard, int(1.5 * options.batch_size)))
    batches.is_sharded = options.dist_eval
    return batches


def _batches(options, ranks, dataset, batch_sampler, **more):
    return Batches(
        dataset,
        batch_sampler,
        ranks.device,
        workers=min(MOST_WORKERS, ranks.cores) if options.num_workers is None else options.num_workers,
        timeout_s=options.dist_timeout,
        pin_memory=options.pin_mem and ranks.device.is_accelerator,
        skip_bad=options.skip_bad_images,
        **more,
    )
