"""What archives hold: images, where each lies, and the labels that WebDataset shards have beside them."""

from __future__ import annotations

import collections
import contextlib
import os
from typing import Callable, Iterator, Mapping, NamedTuple, Sequence

import numpy
from torch.utils.data import Dataset

from pipeline.archives.base import ArchiveError, Member, read_exactly
from pipeline.archives.members import members_of
from pipeline.decoding import Decoding
from pipeline.layout import is_hidden
from pipeline.loader import Loader, LostProcess
from pipeline.passed_over import PassedOver
from pipeline.readers.archives import inflate
from pipeline.samplers import EvalShard, ShardBatches
from runtime.affinity import usable_cores
from runtime.errors import RunError, UserError, reason, shown
from storage.files import DEFAULT, LocalFile, RemoteFile, Storage
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


def read_all(
    paths: Sequence[str],
    decoding: Decoding,
    tick: Callable[[], object] = lambda: None,
    with_labels: bool = True,
    storage: Storage = DEFAULT,
) -> Iterator[Contents]:
    """Yield the Contents of each archive, read by as many processes as help; UserError for one that is damaged."""
    workers = min(usable_cores(), len(paths)) if len(paths) > 1 else 0
    shards = _Shards(paths, decoding, tick if not workers else None, with_labels, storage)
    loader = Loader(shards, ShardBatches(EvalShard(len(paths)), 1), list, workers, hands_over=False)
    try:
        for (contents,), path in zip(loader.items(), paths):  # to the end of the items, where torch ends its processes
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
        self,
        paths: Sequence[str],
        decoding: Decoding,
        tick: Callable[[], object] | None,
        with_labels: bool,
        storage: Storage,
    ) -> None:
        self.paths, self.decoding, self.tick, self.with_labels = paths, decoding, tick, with_labels
        self.storage = storage

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Contents | str:
        try:
            return read_contents(self.paths[number], self.decoding, self.tick, self.with_labels, self.storage)
        except (ArchiveError, OSError) as error:
            return reason(error)


def read_contents(
    path: str,
    decoding: Decoding,
    tick: Callable[[], object] | None = None,
    with_labels: bool = True,
    storage: Storage = DEFAULT,
) -> Contents:
    """Return the Contents of an archive; ArchiveError or OSError where it cannot be listed.

    Without `with_labels` the files of labels are not read: they are passed over where they lie beside no image.
    """
    passed_over, endings = PassedOver(), decoding.endings
    names: list[str] = []
    offsets: list[int] = []
    sizes: list[int] = []
    label_files: dict[str, str | ArchiveError | None] = {}
    others: list[str] = []
    visible: set[str] = {""}
    hidden: set[str] = set()
    with contextlib.closing(storage.open_at(path, in_order=True)) as archive:
        for member in members_of(archive, passed_over.add_odd):
            name, offset, size, is_deflated = member
            folder, _, file = name.rpartition("/")
            if folder not in visible:
                if any(is_hidden(part) for part in folder.split("/")):
                    hidden.add(folder)
                    continue
                visible.add(folder)
            if file.startswith("._"):
                passed_over.add_odd(name, "a resource fork of macOS")
            elif name.lower().endswith(endings):
                if size > _LARGEST:
                    passed_over.add_odd(name, "larger than 4 GiB")
                    continue
                names.append(name)
                offsets.append(~offset if is_deflated else offset)
                sizes.append(size)
                if tick is not None and len(names) % _TICK == 0:
                    tick()
            elif name.endswith(_LABEL_ENDINGS):
                label_files[name] = _label_in(archive, member) if with_labels else None
            else:
                others.append(name)
    passed_over.add_files(others)
    for folder in sorted(hidden):
        passed_over.add_folder(folder)
    labels = _labels_of(names, label_files)
    used = set() if with_labels and all(label is None for label in labels) else _label_names(names)
    passed_over.add_files(name for name in label_files if name not in used)
    return Contents(names, numpy.array(offsets, numpy.int64), numpy.array(sizes, numpy.uint32), labels, passed_over)


def _label_names(names: Sequence[str]) -> set[str]:
    keys = {key for name in names for key in (os.path.splitext(name)[0], _first_key(name))}
    return {key + ending for key in keys for ending in _LABEL_ENDINGS}


def _first_key(name: str) -> str:
    """Return the key of a member as WebDataset has it: up to the first dot of the file's name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _labels_of(names: Sequence[str], label_files: Mapping[str, str | ArchiveError | None]) -> list[str | None]:
    """Return the label of each image that a file of its name tells, or of its key, if it alone has that; else None."""
    if not any(label is not None for label in label_files.values()):
        return [None] * len(names)
    counts = collections.Counter(map(_first_key, names))
    labels: list[str | None] = []
    for name in names:
        keys = [os.path.splitext(name)[0], *[key for key in [_first_key(name)] if counts[key] == 1]]
        found = [label_files.get(key + ending) for key in keys for ending in _LABEL_ENDINGS]
        label = next((label for label in found if label is not None), None)
        if isinstance(label, ArchiveError):
            raise label
        labels.append(label)
    return labels


def _label_in(file: LocalFile | RemoteFile, member: Member) -> str | ArchiveError | None:
    """Return the label that a file tells, read now while it is near; what is wrong with it if it tells none."""
    if member.size > _LONGEST_LABEL:
        return ArchiveError("%s is too large for a label" % shown(member.name))
    content = read_exactly(file.read_at, member.size, member.offset)
    try:
        return _label_of(member, inflate(content) if member.is_deflated else content)
    except OSError as error:
        return ArchiveError("%s cannot be read: %s" % (shown(member.name), reason(error)))
    except ArchiveError as error:
        return error


def _label_of(member: Member, content: bytes) -> str | None:
    """Return the label in the file KEY.cls, or under a key of KEY.json; None where that has none."""
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
