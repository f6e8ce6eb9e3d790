"""How long a run takes to list its images, and what the list costs in memory, beside torchvision's ImageFolder.

A tar is listed beside tarfile. The folders are in the system's cache. The methods take turns in each round; a value is
the median of the rounds.
"""

from __future__ import annotations

import os
import statistics
import tarfile
import tempfile
import time
from typing import TYPE_CHECKING, Sequence

from torchvision.datasets.folder import ImageFolder

from benchmarks.containers import add_member
from benchmarks.report import Row
from pipeline import index, sources
from pipeline.image_index import RACY_NS, ImageIndex
from pipeline.index_forms import open_index
from pipeline.layout import list_classes
from pipeline.listing import list_images, list_source
from pipeline.sources import folder_source
from runtime.errors import RunError

if TYPE_CHECKING:
    import argparse

CLASSES, ROUNDS = 1000, 5
PEER, FIRST, SECOND = "torchvision ImageFolder", "first start, folders listed", "second start, index read and checked"
MEMBERS = 20000  # of the tar
TAR_PEER, TAR_FIRST = "tarfile", "first start, headers read"
_MEMORY = "/proc/self/smaps_rollup"


def run(options: argparse.Namespace) -> list[Row]:
    """Return rows of the seconds until all paths are known, and of the MiB by which a process grows that reads them."""
    with tempfile.TemporaryDirectory(prefix="start-") as work:
        tree = options.tree or os.path.join(work, "tree")
        if not os.path.isdir(tree) or not os.listdir(tree):
            make_tree(tree, options.files)
        time.sleep(RACY_NS / 1e9 + 0.1)  # an index of folders that have just changed is not kept
        rows = measure(tree, os.path.join(work, "cache"))
        return rows + measure_tar(os.path.join(work, "images.tar"), min(options.files, MEMBERS))


def make_tree(tree: str, files: int) -> None:
    """Make `files` empty files in 1,000 folders, named as ImageNet's are."""
    for number in range(CLASSES):
        name = "n%08d" % number
        os.makedirs(os.path.join(tree, name))
        for image in range(files // CLASSES + (number < files % CLASSES)):
            os.close(os.open(os.path.join(tree, name, "%s_%d.JPEG" % (name, image)), os.O_CREAT | os.O_WRONLY, 0o644))


def measure(tree: str, cache: str) -> list[Row]:
    """Return the rows for an existing tree."""
    seconds: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, start in ((PEER, _peer), (FIRST, _first), (SECOND, _second)):
            began = time.perf_counter()
            images = start(tree, cache)
            seconds.setdefault(name, []).append(time.perf_counter() - began)
            if isinstance(images, ImageIndex):
                index.keep(images, cache)  # for the second start
            if name not in memory:
                memory[name] = [_growth_mib(images)]
            count = len(images)
            del images
    setting = "{:,} files in {:,} folders: %s".format(count, len(list_classes(tree)))
    rows = _rows(setting, "seconds", "s", seconds)
    return rows + (_rows(setting, "memory of a loader process", "MiB", memory) if os.path.exists(_MEMORY) else [])


def measure_tar(path: str, members: int) -> list[Row]:
    """Write a tar of `members` images in 1,000 class folders, and return the rows for it."""
    with tarfile.open(path, "w") as archive:
        for number in range(members):
            name = "n%08d" % (number % CLASSES)
            add_member(archive, "%s/%s_%d.JPEG" % (name, name, number), b"")
    microseconds: dict[str, list[float]] = {TAR_PEER: [], TAR_FIRST: []}
    for _ in range(ROUNDS):
        for name, start in ((TAR_PEER, _tar_peer), (TAR_FIRST, _tar_first)):
            began = time.perf_counter()
            found = start(path)
            microseconds[name].append((time.perf_counter() - began) * 1e6 / found)
    return _rows("a tar of {:,} members: %s".format(members), "time a member", "us", microseconds, TAR_PEER)


def _tar_peer(path: str) -> int:
    with tarfile.open(path) as archive:
        return len(archive.getmembers())


def _tar_first(path: str) -> int:
    return len(list_source(sources.read_source("train", path), None))


def _peer(tree: str, cache: str) -> Sequence[tuple[str, int]]:
    return ImageFolder(tree).samples


def _first(tree: str, cache: str) -> ImageIndex:
    images = list_images(tree, list_classes(tree))
    images.empty_classes()
    return images


def _listed() -> None:
    raise RunError("the index of the first start was not used")


def _second(tree: str, cache: str) -> ImageIndex:
    source = folder_source(tree)
    block = index.find(source, list_classes(tree), cache, _listed)
    images = open_index(block, source)
    images.empty_classes()
    return images


def _rows(setting: str, measure: str, unit: str, values: dict[str, list[float]], baseline: str = PEER) -> list[Row]:
    medians = {name: statistics.median(several) for name, several in values.items()}
    return [
        Row(setting % name, measure, value, unit, medians[baseline] / max(value, 1e-9))
        for name, value in medians.items()
    ]


def _own_kib() -> int:
    """Return the memory that this process shares with no other: changing a reference count unshares a page."""
    with open(_MEMORY) as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_"))


def _growth_mib(images: Sequence[tuple[str, int]]) -> float:
    """Return by how much a forked process grows that reads every path of `images` once."""
    if not os.path.exists(_MEMORY):
        return 0.0
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        before = _own_kib()
        for number in range(len(images)):
            path, target = images[number]  # as a data set does: this touches the tuple and its contents
        os.write(write, b"%d" % max(_own_kib() - before, 0))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        grown = int(pipe.read())
    os.waitpid(child, 0)
    return grown / 1024
