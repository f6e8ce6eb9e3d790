"""How long a run takes to know its images, and what that costs in memory, beside torchvision's ImageFolder.

All are measured with the folders in the system's cache, one after another in each round; a value is the rounds' median.
"""

import contextlib
import os
import statistics
import tempfile
import time

from torchvision.datasets.folder import ImageFolder

from pipeline import index
from pipeline.reading import list_classes

CLASSES, ROUNDS = 1000, 5
PEER, FIRST, SECOND = "torchvision ImageFolder", "first start, folders listed", "second start, index checked and mapped"


def add_arguments(parser):
    """The options of this benchmark."""
    parser.add_argument("--files", type=int, default=1281167, metavar="N", help="images (default: 1281167)")
    parser.add_argument(
        "--tree", default="", metavar="DIR", help="keep the images there for the next time (default: they are removed)"
    )


def run(args):
    """The rows: seconds until all paths are known, and MiB that a forked process takes by reading each of them once."""
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(tempfile.TemporaryDirectory(prefix="start-"))
        tree = args.tree or os.path.join(work, "tree")
        if not os.path.isdir(tree) or not os.listdir(tree):
            make_tree(tree, args.files)
        time.sleep(index.RACY_NS / 1e9 + 0.1)  # an index of what has just changed is not kept
        return measure(tree, os.path.join(work, "cache"))


def make_tree(tree, files):
    """`files` empty files in 1,000 folders, named as ImageNet's are."""
    for number in range(CLASSES):
        name = "n%08d" % number
        os.makedirs(os.path.join(tree, name))
        for image in range(files // CLASSES + (number < files % CLASSES)):
            os.close(os.open(os.path.join(tree, name, "%s_%d.JPEG" % (name, image)), os.O_CREAT | os.O_WRONLY, 0o644))


def measure(tree, cache):
    """The rows for an existing tree."""
    seconds, memory = {}, {}
    for _ in range(ROUNDS):
        for name, start in ((PEER, _peer), (FIRST, _first), (SECOND, _second)):
            began = time.perf_counter()
            images = start(tree, cache)
            seconds.setdefault(name, []).append(time.perf_counter() - began)
            if name == FIRST:
                index.keep(images, cache)
            if len(memory) < 3:
                memory[name] = [_growth_mib(images)]
            count = len(images)
            del images
    setting = "{:,} files in {:,} folders: %s".format(count, len(list_classes(tree)))
    rows = _rows(setting, "seconds", "s", seconds)
    return rows + (_rows(setting, "memory of a loader process", "MiB", memory) if _has_memory() else [])


def _peer(tree, cache):
    return ImageFolder(tree).samples


def _first(tree, cache):
    images = index.list_images(tree, list_classes(tree))
    images.empty_classes()
    return images


def _second(tree, cache):
    block = index.find(tree, list_classes(tree), cache, tick=None)  # with a tick of None it cannot list
    images = index.ImageIndex(block, tree)
    images.empty_classes()
    return images


def _rows(setting, measure, unit, values):
    medians = {name: statistics.median(several) for name, several in values.items()}
    return [
        {
            "setting": setting % name,
            "measure": measure,
            "value": value,
            "unit": unit,
            "ratio": medians[PEER] / max(value, 1e-9),
        }
        for name, value in medians.items()
    ]


_MEMORY = "/proc/self/smaps_rollup"


def _has_memory():
    return os.path.exists(_MEMORY)


def _own_kib():
    """What this process shares with no other: a page comes to it when a reference count there changes."""
    with open(_MEMORY) as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_"))


def _growth_mib(images):
    """By how much a forked process grows that reads every path of `images` once."""
    if not _has_memory():
        return 0.0
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        before = _own_kib()
        for number in range(len(images)):
            path, target = images[number]  # as a data set does: the tuple is touched, and what it holds
        os.write(write, b"%d" % max(_own_kib() - before, 0))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        grown = int(pipe.read())
    os.waitpid(child, 0)
    return grown / 1024
