"""Is a data set fit for training? `python tools/check_data.py DATA [--input-size N] [--num-workers N] [--json FILE]`

DATA is what main.py takes as --data-path; --train-data and --val-data name other places. Decodes every image of train
and val as a training would, and changes nothing. It reports unreadable files,
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
from pipeline import sources
from pipeline.layout import check_classes, contains, list_top
from runtime.affinity import usable_cores
from runtime.errors import UserError, shown
from runtime.programs import run_program, slow_imports
from utils import write_json

if TYPE_CHECKING:
    from pipeline.decoding import Decoding
    from pipeline.findings import Part, Sample

PARTS = ("train", "val")


def run(argv: Sequence[str]) -> int:
    """Do what the command line `argv` asks for, and return the exit status."""
    parser = FileParser("check_data.py", description="Is a data set fit for training?", allow_abbrev=False)
    text = "the folder that holds train/ and val/, or lists or archives of these names"
    parser.add_argument("data", metavar="DATA", nargs="?", default="", help=text)
    for name in ("--train-data", "--val-data"):
        text = "a folder, list, archive or pattern of archives (default: what DATA holds)"
        parser.add_argument(name, default="", metavar="SOURCE", help=text)
    text = "folder of the images that a list names (default: the list's)"
    parser.add_argument("--image-root", default="", metavar="DIR", help=text)
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
    found = _find(options)
    with slow_imports():
        from pipeline import decoding, findings, findings_text
    chosen = decoding.choose(options.extensions, options.exif_transpose, {})
    workers = usable_cores() if options.num_workers is None else options.num_workers
    parts: dict[str, Part] = {}
    for name in PARTS:  # labels of val are those of train, where it has no folders
        known = parts["train"].images.classes if name == "val" else None
        parts[name] = inspect_part(found[name], known, options.input_size, workers, chosen)
    result = findings.findings_of(parts, options.input_size, chosen)
    for line in findings_text.lines_of(result):
        print(line)
    if options.json:
        try:
            write_json(options.json, result)
        except OSError as error:
            raise UserError("--json %s cannot be written: %s" % (shown(options.json), error.strerror)) from None
    return 1 if result["harmful"] else 0


def _find(options: argparse.Namespace) -> dict[str, sources.Source]:
    """Return the Source of train and of val; UserError where one is missing, or --json cannot be written."""
    given = {"train": options.train_data, "val": options.val_data}
    if not options.data and not all(given.values()):
        raise UserError("DATA is missing: name the folder that holds train/ and val/")
    found = sources.find(options.data, PARTS, given, options.image_root)
    path = options.json
    if path and not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise UserError("--json %s: its folder does not exist" % shown(path))
    for source in found.values():
        if not path or source.form != "folder":
            continue
        if contains(os.path.realpath(source.place), os.path.realpath(path)):
            raise UserError("--json %s lies among the images: name another file" % shown(path))
    return found


def inspect_part(
    source: sources.Source, classes: Sequence[str] | None, input_size: int, workers: int, decoding: Decoding
) -> Part:
    """Inspect every image of a part of a data set; those of a list or an archive are of the `classes`, if any."""
    from pipeline.findings import Part, Sample
    from pipeline.inspection import inspect_images
    from pipeline.listing import list_source

    strangers = Sample()
    closed: dict[str, str] = {}
    if source.form == "folder":
        classes = _readable_classes(source.place, strangers, closed, decoding)
    images = list_source(source, classes, decoding=decoding)
    if source.form != "folder":
        strangers.count = sum(images.passed_over.kinds.values())
    return Part(
        images, inspect_images(images, input_size, source.part == "train", workers, source.part), strangers, closed
    )


def _readable_classes(folder: str, strangers: Sample, closed: dict[str, str], decoding: Decoding) -> list[str]:
    """Return the classes in `folder` that can be listed; note the others in `closed`, and what are no images."""
    from pipeline.reading import walk

    classes = check_classes(folder)
    strangers.add_all("", list_top(folder)[1], decoding)
    for class_name in classes:
        try:
            for inner, _, files in walk(os.path.join(folder, class_name)):
                strangers.add_all(os.path.join(class_name, inner), files, decoding)
        except UserError as error:
            closed[class_name] = str(error)
    return [class_name for class_name in classes if class_name not in closed]


def main(argv: Sequence[str] | None = None) -> int:
    """Run and return the exit status: 0; 1 where something would harm a training; 2 for bad input."""
    return run_program("check_data.py", run, argv, interrupted="interrupted: the data set is not checked")


if __name__ == "__main__":
    sys.exit(main())
