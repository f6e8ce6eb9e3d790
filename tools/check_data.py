"""Is a data set fit for training? `python tools/check_data.py DATA [--input-size N] [--num-workers N] [--json FILE]`

Decodes every image of DATA/train and DATA/val as a training would, and changes nothing. It tells of files that cannot
be read, of equal files (in train/ and val/ both: a leak), of classes that are empty, or in one of the two alone, of
sizes and modes, and of files that are no images. Exit status 0: fit; 1: something would harm a training; 2: wrong use.
"""

import argparse
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from torchvision.datasets.folder import IMG_EXTENSIONS  # noqa: E402 - after the path is set

from pipeline import findings as findings_module  # noqa: E402
from pipeline.index import list_images  # noqa: E402
from pipeline.inspection import inspect_images  # noqa: E402
from pipeline.layout import list_classes  # noqa: E402
from pipeline.reading import contains, walk  # noqa: E402
from runtime.affinity import usable_cores  # noqa: E402
from runtime.errors import UserError, shown  # noqa: E402
from runtime.programs import run_program  # noqa: E402
from utils import write_json  # noqa: E402

PARTS = ("train", "val")


def main(argv=None):
    """Check and return the exit status."""
    parser = argparse.ArgumentParser(description="Is a data set fit for training?")
    parser.add_argument("data", metavar="DATA", help="the folder that holds train/ and val/")
    parser.add_argument("--input-size", type=int, default=224, metavar="PIXELS", help="of the training (default: 224)")
    parser.add_argument("--num-workers", type=int, metavar="N", help="processes (default: the cores)")
    parser.add_argument("--json", metavar="FILE", help="write the findings there, too")
    return run_program(
        "check_data.py",
        lambda words: check(parser.parse_args(words)),
        argv,
        interrupted="interrupted: the data set is not checked",
    )


def check(args):
    """Print the findings; 1 where one would harm a training, else 0. UserError where DATA is no data set."""
    _check_options(args)
    workers = usable_cores() if args.num_workers is None else args.num_workers
    parts = {}
    for name in PARTS:
        images, strangers, closed = list_part(os.path.join(args.data, name))
        found = inspect_images(images, args.input_size, name == "train", workers, name)
        parts[name] = findings_module.Part(images, found, strangers, closed)
    findings = findings_module.findings_of(parts, args.input_size)
    for line in findings_module.lines_of(findings):
        print(line)
    if args.json:
        try:
            write_json(args.json, findings)
        except OSError as error:
            raise UserError("--json %s cannot be written: %s" % (shown(args.json), error.strerror)) from None
    return 1 if findings["harmful"] else 0


def _check_options(args):
    if args.num_workers is not None and not 0 <= args.num_workers <= 1000:
        raise UserError("--num-workers: must be at least 0 and at most 1000, got %d" % args.num_workers)
    if not 1 <= args.input_size <= 8192:
        raise UserError("--input-size: must be at least 1 and at most 8192, got %d" % args.input_size)
    if not os.path.isdir(args.data):
        raise UserError("%s: no such folder" % shown(args.data))
    for name in PARTS:
        if not os.path.isdir(os.path.join(args.data, name)):
            raise UserError("%s has no folder %s/" % (shown(args.data), name))
        if args.json and contains(os.path.realpath(os.path.join(args.data, name)), os.path.realpath(args.json)):
            raise UserError("--json %s lies among the images: name another file" % shown(args.json))
    if args.json and not os.path.isdir(os.path.dirname(os.path.abspath(args.json))):
        raise UserError("--json %s: its folder does not exist" % shown(args.json))


def list_part(folder):
    """(ImageIndex of the classes that can be listed, Sample of the other files, {class: why it cannot be listed})."""
    strangers, closed = findings_module.Sample(), {}
    classes = list_classes(folder)
    if not classes:
        raise UserError("%s has no class folders: it must hold a folder of images for each class" % shown(folder))
    with os.scandir(folder) as entries:
        for name in sorted({entry.name for entry in entries} - set(classes)):
            strangers.add(name)
    for name in classes:
        try:
            for inner, _, files in walk(os.path.join(folder, name)):
                for file in files:
                    if not file.lower().endswith(IMG_EXTENSIONS):
                        strangers.add(os.path.join(name, inner, file))
        except UserError as error:
            closed[name] = str(error)
    return list_images(folder, [name for name in classes if name not in closed]), strangers, closed


if __name__ == "__main__":
    sys.exit(main())
