"""Is a data set fit for training? `python tools/check_data.py DATA [--input-size N] [--num-workers N] [--json FILE]`

Decodes every image of DATA/train and DATA/val as a training would, and changes nothing. It reports unreadable files,
equal images (in both train/ and val/: a leak; in two classes: a contradiction), images that decode to white or black,
classes that are empty, alone, too deep or in only one of the two, sizes, modes and EXIF orientations, and what a
training passes over: files that are not images, hidden folders. Each finding ends with its remedy. Exit status 0: fit;
1: something would harm a training; 2: wrong use.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Sequence

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from options.command_line import FileParser, add_switch, extension, number
from pipeline.layout import check_classes, check_parts, contains, list_top
from runtime.affinity import usable_cores
from runtime.errors import UserError, shown
from runtime.programs import run_program, slow_imports
from utils import write_json

if TYPE_CHECKING:
    from pipeline.decoding import Decoding
    from pipeline.findings import Part

PARTS = ("train", "val")


def run(argv: Sequence[str]) -> int:
    """Do what the command line `argv` asks for, and return the exit status."""
    parser = FileParser("check_data.py", description="Is a data set fit for training?", allow_abbrev=False)
    parser.add_argument("data", metavar="DATA", help="the folder that holds train/ and val/")
    size, count = number(int, low=1, high=8192), number(int, high=1000)
    parser.add_argument("--input-size", type=size, default=224, metavar="PIXELS", help="of the training (default: 224)")
    parser.add_argument("--num-workers", type=count, metavar="N", help="loader processes (default: the cores)")
    text = "read files of these extensions too, such as .gif .avif (default: none)"
    parser.add_argument("--extensions", type=extension, nargs="+", metavar="EXTENSION", help=text)
    add_switch(parser.add_argument, "exif-transpose", False, "rotate an image as its EXIF orientation says")
    parser.add_argument("--json", metavar="FILE", help="write the findings there, too")
    return check(parser.parse_args(argv))


def check(options: argparse.Namespace) -> int:
    """Print the findings, and return 1 where one would harm a training, else 0; UserError where DATA is no data set."""
    _check_options(options)
    with slow_imports():
        from pipeline import decoding, findings, findings_text
    chosen = decoding.choose(options.extensions, options.exif_transpose, {})
    workers = usable_cores() if options.num_workers is None else options.num_workers
    parts = {name: inspect_part(options.data, name, options.input_size, workers, chosen) for name in PARTS}
    found = findings.findings_of(parts, options.input_size, chosen)
    for line in findings_text.lines_of(found):
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
    check_parts(shown(options.data), options.data, PARTS)
    for name in PARTS:
        if options.json and contains(
            os.path.realpath(os.path.join(options.data, name)), os.path.realpath(options.json)
        ):
            raise UserError("--json %s lies among the images: name another file" % shown(options.json))
    if options.json and not os.path.isdir(os.path.dirname(os.path.abspath(options.json))):
        raise UserError("--json %s: its folder does not exist" % shown(options.json))


def inspect_part(data: str, name: str, input_size: int, workers: int, decoding: Decoding) -> Part:
    """Inspect every image of the folder train/ or val/ of `data`, called `name`."""
    from pipeline.findings import Part, Sample
    from pipeline.index import list_images
    from pipeline.inspection import inspect_images
    from pipeline.reading import walk

    strangers, closed = Sample(), {}
    folder = os.path.join(data, name)
    classes = check_classes(folder)
    strangers.add_all("", list_top(folder)[1], decoding)
    for class_name in classes:
        try:
            for inner, _, files in walk(os.path.join(folder, class_name)):
                strangers.add_all(os.path.join(class_name, inner), files, decoding)
        except UserError as error:
            closed[class_name] = str(error)
    readable = [class_name for class_name in classes if class_name not in closed]
    images = list_images(folder, readable, decoding=decoding)
    return Part(images, inspect_images(images, input_size, name == "train", workers, name), strangers, closed)


def main(argv: Sequence[str] | None = None) -> int:
    """Run and return the exit status: 0; 1 where something would harm a training; 2 for bad input."""
    return run_program("check_data.py", run, argv, interrupted="interrupted: the data set is not checked")


if __name__ == "__main__":
    sys.exit(main())
