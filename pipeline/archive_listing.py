"""The index of the images in archives: of class folders, WebDataset shards, tars of tars, flat ones beside a list."""

from __future__ import annotations

import os
import time
import zlib
from typing import Callable, Iterator, NamedTuple, Sequence

import numpy
from torch.utils.data import Dataset

from pipeline import imagenet_labels, lists
from pipeline.archives.members import ArchiveError, Member, list_members
from pipeline.class_numbers import numbers_of
from pipeline.decoding import AS_PUBLISHED, Decoding
from pipeline.image_index import ArchiveIndex, header_of, is_racy, pack, row_order, size_and_time, stamp_if_there
from pipeline.layout import is_hidden
from pipeline.loader import Loader, LostProcess
from pipeline.passed_over import PassedOver
from pipeline.readers.archives import ArchiveReader
from pipeline.samplers import EvalShard, ShardBatches
from pipeline.sources import LISTS, Source
from runtime.affinity import usable_cores
from runtime.errors import RunError, UserError, did_you_mean, reason, shown
from utils import parse_json

_LABEL_ENDINGS = (".cls", ".json")  # of WebDataset, beside an image of the same name
_LABEL_KEYS = ("label", "cls")
_LONGEST_LABEL = 2**20  # bytes
_LARGEST = 2**32 - 1  # bytes of an image
_TICK = 1000  # members


class Contents(NamedTuple):
    """What an archive holds: names, places, and for shards the label of each image (None where it has none)."""

    names: list[str]
    offsets: numpy.ndarray
    sizes: numpy.ndarray
    labels: list[str | None]
    passed_over: PassedOver


def list_archives(
    source: Source,
    classes: Sequence[str] | None,
    tick: Callable[[], object] = lambda: None,
    decoding: Decoding = AS_PUBLISHED,
) -> ArchiveIndex:
    """Return the index of the archives of `source`, of which several processes read several at once.

    UserError for one that is damaged or compressed, and where the classes of the images cannot be told.
    """
    began = time.time_ns()
    beside = os.path.join(os.path.dirname(source.paths[0]), lists.CLASS_NAMES)
    stamps = [stamp_if_there(path) for path in (source.labels, beside) if path]
    shards = [size_and_time(path) for path in source.paths]
    found = list(read_all(source.paths, decoding, tick))
    passed_over = PassedOver()
    for contents in found:
        passed_over.add(contents.passed_over)
    rows = _Rows(found)
    names, targets, inner_names = _classes_of(source, rows, classes, passed_over)
    order = row_order(targets, inner_names)
    if not len(order) and passed_over.loose:
        text = (
            "%s: its %d images lie neither in class folders, nor have they labels (KEY.cls or KEY.json beside KEY.jpg)"
        )
        raise UserError(text % (source.name, passed_over.loose))
    ordered = [inner_names[row] for row in order.tolist()]
    nested = sum("/" in name for name in ordered) if rows.labels is None else 0
    header = header_of(source, names, classes, decoding, passed_over, nested)
    header["stamps"] = None if is_racy([*stamps, *(("", shard[1:]) for shard in shards)], began) else stamps
    header["has_labels"] = bool(source.labels) or rows.labels is not None
    header.update(images=len(order), names=zlib.crc32(os.fsencode("\0".join(ordered))), shards=shards)
    arrays = [rows.offsets, targets.astype(numpy.int32), rows.shards, rows.sizes]
    return ArchiveIndex(pack(header, [array[order] for array in arrays]), source)


class _Rows:
    """The images of all archives, one after the other; `labels` is None where none has any."""

    def __init__(self, found: Sequence[Contents]) -> None:
        counts = [len(contents.names) for contents in found]
        self.names = [name for contents in found for name in contents.names]
        self.shards = numpy.repeat(numpy.arange(len(found), dtype=numpy.int32), counts)
        self.offsets = numpy.concatenate([contents.offsets for contents in found])
        self.sizes = numpy.concatenate([contents.sizes for contents in found])
        labels = [label for contents in found for label in contents.labels]
        self.labels = labels if any(label is not None for label in labels) else None


def _classes_of(
    source: Source, rows: _Rows, classes: Sequence[str] | None, passed_over: PassedOver
) -> tuple[list[str], numpy.ndarray, list[str]]:
    """Return (names of the classes, the number of each image, the name of each image within its class).

    The number is -1 for an image without a class, which is counted in `passed_over`.
    """
    if source.labels:
        labels: list[str | None] = _labels_from_file(source, rows.names)
    elif rows.labels is not None:
        labels = rows.labels
    else:
        return _classes_by_folder(source, rows.names, classes, passed_over)
    has_label = [number for number, label in enumerate(labels) if label is not None]
    passed_over.loose += len(labels) - len(has_label)

    own = lists.read_class_names(source.paths[0])
    told = [labels[at] or "" for at in has_label]
    names, numbers = numbers_of(told, has_label, source.title, own, classes)
    targets = numpy.full(len(labels), -1, numpy.int64)
    targets[has_label] = numbers
    return names, targets, rows.names


def _labels_from_file(source: Source, names: Sequence[str]) -> list[str | None]:
    """Return the label of each image of a flat archive, from the list or devkit `source.labels`."""
    path = source.labels
    if path.lower().endswith(LISTS):
        rows = {os.path.basename(row.path): row.label for row in lists.read_rows(path)}
    else:
        rows = imagenet_labels.read_devkit(path)
    labels = [rows.get(os.path.basename(name)) for name in names]
    missing = [name for name, label in zip(names, labels) if label is None]
    if missing:
        text = "%s tells no class for %d image(s) of %s, such as %s"
        raise UserError(text % (shown(path), len(missing), shown(source.paths[0]), shown(missing[0])))
    return list(labels)


def _classes_by_folder(
    source: Source, names: Sequence[str], classes: Sequence[str] | None, passed_over: PassedOver
) -> tuple[list[str], numpy.ndarray, list[str]]:
    names = _without_folder_around(names)
    parts = [name.partition("/") for name in names]
    found = sorted({folder for folder, slash, _ in parts if slash})
    known = list(classes) if classes is not None else found
    strangers = sorted(set(found) - set(known))
    if strangers:
        text = "%s: the class %s is not among the training classes%s"
        raise UserError(text % (source.name, shown(strangers[0]), did_you_mean(strangers[0], known)))
    numbers = {name: number for number, name in enumerate(known)}
    targets = numpy.array([numbers[folder] if slash else -1 for folder, slash, _ in parts], dtype=numpy.int64)
    passed_over.loose += int((targets < 0).sum())
    return known, targets, [inner for _, _, inner in parts]


def _without_folder_around(names: Sequence[str]) -> Sequence[str]:
    """Return the names without a folder that lies around the class folders of all images."""
    around = names[0].partition("/")[0] + "/" if names else ""
    if around and all(name.startswith(around) and "/" in name[len(around) :] for name in names):
        return [name[len(around) :] for name in names]
    return names


def read_all(
    paths: Sequence[str],
    decoding: Decoding,
    tick: Callable[[], object] = lambda: None,
    with_labels: bool = True,
) -> Iterator[Contents]:
    """Yield the Contents of each archive, read by as many processes as help; UserError for one that is damaged."""
    workers = min(usable_cores(), len(paths)) if len(paths) > 1 else 0
    shards = _Shards(paths, decoding, tick if not workers else None, with_labels)
    loader = Loader(shards, ShardBatches(EvalShard(len(paths)), 1), list, workers, hands_over=False)
    try:
        for path, (contents,) in zip(paths, loader.items()):
            tick()
            if not isinstance(contents, Contents):
                raise UserError("%s: %s" % (shown(path), contents))
            yield contents
    except LostProcess as lost:
        raise RunError("a process was lost while it listed archives (%s)" % lost) from None
    finally:
        loader.end()


class _Shards(Dataset):
    """The Contents of each archive, or the reason why it cannot be listed."""

    def __init__(
        self, paths: Sequence[str], decoding: Decoding, tick: Callable[[], object] | None, with_labels: bool
    ) -> None:
        self.paths, self.decoding, self.tick, self.with_labels = paths, decoding, tick, with_labels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Contents | str:
        try:
            return read_contents(self.paths[number], self.decoding, self.tick, self.with_labels)
        except (ArchiveError, OSError) as error:
            return reason(error)


def read_contents(
    path: str, decoding: Decoding, tick: Callable[[], object] | None = None, with_labels: bool = True
) -> Contents:
    """Return the Contents of an archive; ArchiveError or OSError where it cannot be listed.

    Without `with_labels` the files of labels are not read: they are passed over where they lie beside no image.
    """
    passed_over, endings = PassedOver(), decoding.endings
    names: list[str] = []
    offsets: list[int] = []
    sizes: list[int] = []
    label_files: dict[str, Member] = {}
    others: list[str] = []
    visible: set[str] = {""}
    hidden: set[str] = set()
    for member in list_members(path, passed_over.add_odd):
        name, offset, size, is_deflated = member
        folder = name.rpartition("/")[0]
        if folder not in visible:
            if any(is_hidden(part) for part in folder.split("/")):
                hidden.add(folder)
                continue
            visible.add(folder)
        if name.lower().endswith(endings):
            if size > _LARGEST:
                passed_over.add_odd(name, "larger than 4 GiB")
                continue
            names.append(name)
            offsets.append(~offset if is_deflated else offset)
            sizes.append(size)
            if tick is not None and len(names) % _TICK == 0:
                tick()
        elif name.endswith(_LABEL_ENDINGS):
            label_files[name] = member
        else:
            others.append(name)
    passed_over.add_files(others)
    for folder in sorted(hidden):
        passed_over.add_folder(folder)
    labels: list[str | None] = [None] * len(names)
    if label_files and with_labels:
        labels = _labels_in(path, names, label_files)
    used = set() if with_labels and all(label is None for label in labels) else _label_names(names)
    passed_over.add_files(name for name in label_files if name not in used)
    return Contents(names, numpy.array(offsets, numpy.int64), numpy.array(sizes, numpy.uint32), labels, passed_over)


def _label_names(names: Sequence[str]) -> set[str]:
    return {os.path.splitext(name)[0] + ending for name in names for ending in _LABEL_ENDINGS}


def _labels_in(path: str, names: Sequence[str], label_files: dict[str, Member]) -> list[str | None]:
    """Return the label of each image that the file of its name tells; None where there is none."""
    labels: list[str | None] = []
    reader = ArchiveReader([path], [size_and_time(path)])
    for name in names:
        stem = os.path.splitext(name)[0]
        label = None
        for ending in _LABEL_ENDINGS:
            if label is None and stem + ending in label_files:
                label = _label_of(reader, label_files[stem + ending])
        labels.append(label)
    reader.close()
    return labels


def _label_of(reader: ArchiveReader, member: Member) -> str | None:
    """Return the label in the file KEY.cls, or under a key of KEY.json; None where that has none."""
    if member.size > _LONGEST_LABEL:
        raise ArchiveError("%s is too large for a label" % shown(member.name))
    with reader.open((0, ~member.offset if member.is_deflated else member.offset, member.size)) as file:
        content = file.read()
    try:
        text = content.decode("utf-8").strip()
        if member.name.endswith(".cls"):
            return text or None
        values = parse_json(text)
    except ValueError:
        raise ArchiveError("%s holds no label: it is neither text nor JSON" % shown(member.name)) from None
    if not isinstance(values, dict):
        return None
    for key in _LABEL_KEYS:
        value = values.get(key)
        if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
            return str(value)
    return None
