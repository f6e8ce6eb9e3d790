"""Is a data set fit for training? `python tools/check_data.py DATA [--input-size N] [--num-workers N] [--json FILE]`

Decodes every image of DATA/train and DATA/val as a training would, and changes nothing. It reports unreadable files,
equal files (in both train/ and val/: a leak), classes that are empty or in only one of the two, sizes and modes, and
files that are not images. Exit status 0: fit; 1: something would harm a training; 2: wrong use.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Sequence

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from options.command_line import FileParser, number
from pipeline.layout import contains, list_classes
from runtime.affinity import usable_cores
from runtime.errors import UserError, shown
from runtime.programs import run_program, slow_imports
from utils import write_json

if TYPE_CHECKING:
    from pipeline.findings import Part

PARTS = ("train", "val")


def run(argv: Sequence[str]) -> int:
    """Do what the command line `argv` asks for, and return the exit status."""
    parser = FileParser("check_data.py", description="Is a data set fit for training?", allow_abbrev=False)
    parser.add_argument("data", metavar="DATA", help="the folder that holds train/ and val/")
    size, count = number(int, low=1, high=8192), number(int, high=1000)
    parser.add_argument("--input-size", type=size, default=224, metavar="PIXELS", help="of the training (default: 224)")
    parser.add_argument("--num-workers", type=count, metavar="N", help="loader processes (default: the cores)")
    parser.add_argument("--json", metavar="FILE", help="write the findings there, too")
    return check(parser.parse_args(argv))


def check(options: argparse.Namespace) -> int:
    """Print the findings, and return 1 where one would harm a training, else 0; UserError where DATA is no data set."""
    _check_options(options)
    with slow_imports():
        from pipeline import findings
    workers = usable_cores() if options.num_workers is None else options.num_workers
    parts = {name: inspect_part(os.path.join(options.data, name), name, options.input_size, workers) for name in PARTS}
    found = findings.findings_of(parts, options.input_size)
    for line in findings.lines_of(found):
        print(line)
    if options.json:
        try:
            write_json(options.json, found)
        except OSError as error:
            raise UserError("--json %s cannot be written: %s" % (shown(options.json), error.strerror)) from None
    return 1 if found["harmful"] else 0


def _check_options(options: argparse.Namespace) -> None:
    if not os.path.isdir(options.data):
        raise UserError("%s: no such folder" % shown(options.data))
    for name in PARTS:
        if not os.path.isdir(os.path.join(options.data, name)):
            raise UserError("%s has no folder %s/" % (shown(options.data), name))
        if options.json and contains(
            os.path.realpath(os.path.join(options.data, name)), os.path.realpath(options.json)
        ):
            raise UserError("--json %s lies among the images: name another file" % shown(options.json))
    if options.json and not os.path.isdir(os.path.dirname(os.path.abspath(options.json))):
        raise UserError("--json %s: its folder does not exist" % shown(options.json))


def inspect_part(folder: str, name: str, input_size: int, workers: int) -> Part:
    """Inspect every image of the folder train/ or val/, called `name`."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    from pipeline.findings import Part, Sample
    from pipeline.index import list_images
    from pipeline.inspection import inspect_images
    from pipeline.reading import walk

    strangers, closed = Sample(), {}
    classes = list_classes(folder)
    if not classes:
        raise UserError("%s has no class folders: it must hold a folder of images for each class" % shown(folder))
    with os.scandir(folder) as entries:
        for stranger in sorted({entry.name for entry in entries} - set(classes)):
            strangers.add(stranger)
    for class_name in classes:
        try:
            for inner, _, files in walk(os.path.join(folder, class_name)):
                for file in files:
                    if not file.lower().endswith(IMG_EXTENSIONS):
                        strangers.add(os.path.join(class_name, inner, file))
        except UserError as error:
            closed[class_name] = str(error)
    images = list_images(folder, [class_name for class_name in classes if class_name not in closed])
    return Part(images, inspect_images(images, input_size, name == "train", workers, name), strangers, closed)


def main(argv: Sequence[str] | None = None) -> int:
    """Run and return the exit status: 0; 1 where something would harm a training; 2 for bad input."""
    return run_program("check_data.py", run, argv, interrupted="interrupted: the data set is not checked")


if __name__ == "__main__":
    sys.exit(main())
