"""Class names and probabilities of images: `python predict.py CKPT IMAGE|FOLDER|- [...]`, see --help.

A line an image: its path and, from the likeliest on, classes and their probabilities, separated by tabs. An image that
cannot be read is said on stderr, and the exit status is then 1. The probabilities are those of `main.py --eval --amp
none`, in float32.
"""

import csv
import json
import os
import sys
from argparse import Namespace
from collections import namedtuple

import torch
from torch.utils.data import DataLoader
from torchvision.datasets.folder import IMG_EXTENSIONS

import datasets
import engine
import models
from checkpoints import weights
from options.command_line import FileParser, number
from pipeline import batch_bytes, batches, contact_sheet
from pipeline.reading import walk
from runtime.binding import usable_cores
from runtime.compat import inference_mode
from runtime.device import select_device
from runtime.errors import RunError, UserError, printable, reason, shown
from runtime.names import DEVICE_KINDS
from runtime.programs import run_program
from runtime.stops import leave_to_parent
from utils import check_target, replacing

# Of one image: (class, probability) from the likeliest on, or what went wrong (the other is None).
Result = namedtuple("Result", "path top error")


def parse(argv):
    """The options in `argv`; UserError where they are wrong."""
    parser = FileParser("predict.py", description="Class names and probabilities of images.", allow_abbrev=False)
    parser.add_argument("checkpoint", metavar="CKPT", help=".pth, .safetensors, or the output folder of a run")
    parser.add_argument(
        "images",
        metavar="IMAGE|FOLDER|-",
        nargs="+",
        help="-: paths on stdin, one a line, or separated by null characters",
    )
    parser.add_argument("--top", type=number(int, low=1), default=5, metavar="N", help="classes shown (default: 5)")
    style = parser.add_mutually_exclusive_group()
    style.add_argument("--json", action="store_true", help="one JSON object a line")
    style.add_argument("--csv", action="store_true", help="CSV with a header")
    parser.add_argument("--device", choices=["auto", *DEVICE_KINDS], default="auto", help="(default: auto)")
    parser.add_argument(
        "--batch-size", type=number(int, low=1, high=65536), default=64, metavar="N", help="(default: 64)"
    )
    parser.add_argument(
        "--num-workers",
        type=number(int, high=1024),
        metavar="N",
        help="processes that read images (default: 10, or the cores; none for a single batch)",
    )
    parser.add_argument("--ema", action="store_true", help="with the average of the weights")
    parser.add_argument("--token-layout", choices=models.TOKEN_LAYOUTS, help="where CKPT does not record it")
    parser.add_argument(
        "--plot", metavar="SHEET.png", help="a contact sheet of the first %d images" % contact_sheet.MOST
    )
    parser.add_argument("--force", action="store_true", help="replace SHEET.png")
    options = parser.parse_args(argv)
    if options.plot is not None:
        if not options.plot.lower().endswith(".png"):
            raise UserError("--plot %s: the name must end in .png" % options.plot)
        check_target(options.plot, options.force)
    return options


def run(argv):
    """Do what the command line `argv` asks for; the exit status: 1 where an image failed, else 0."""
    options = parse(argv)
    device = select_device(options.device)
    device.compute_float32_in_full()
    network = weights.load(options.checkpoint, options.ema, options.token_layout)
    say(weights.describe(network.found, network.loaded))
    for note in weights.notes_on(network.found, options.ema, network.has_names):
        say(note)
    paths = find_images(options.images)
    write = writer_for(options, min(options.top, len(network.classes)))
    failed, sheet = 0, []
    for result in classify(network, device, paths, options):
        write(result)
        if result.error is not None:
            failed += 1
            say("error: %s: %s" % (shown(result.path), result.error))
        elif len(sheet) < contact_sheet.MOST:
            sheet.append((result.path, (printable(result.top[0][0]), "%.1f %%" % (100 * result.top[0][1]))))
    if options.plot is not None:
        plot(sheet, len(paths) - failed, options)
    if failed:
        say("%d of %d images failed" % (failed, len(paths)))
    return 1 if failed else 0


def say(text):
    """One line on stderr."""
    sys.stderr.write("predict.py: %s\n" % printable(text))
    sys.stderr.flush()  # Python before 3.9 keeps it back where stderr is no terminal


def find_images(words):
    """The paths that the words of the command line mean, in their order, those of a folder sorted."""
    paths = []
    for word in words:
        for path in paths_on_stdin() if word == "-" else [word]:
            paths += images_below(path) if os.path.isdir(path) else [path]
    if not paths:
        raise UserError("no image is named on stdin")
    return paths


def paths_on_stdin():
    """The paths on stdin, which may be of any bytes: separated by null characters if there are any, else one a line."""
    content = sys.stdin.buffer.read()
    parts = content.split(b"\0" if b"\0" in content else b"\n")
    return [os.fsdecode(part) for part in parts if part]


def images_below(folder):
    """The image files in the folder and in those below, sorted; UserError where there is none."""
    found = []
    for inner, _, files in walk(folder):
        names = [name for name in files if name.lower().endswith(IMG_EXTENSIONS)]
        found += [os.path.join(folder, inner, name) for name in names]
    if not found:
        raise UserError("%s holds no image (%s)" % (shown(folder), ", ".join(IMG_EXTENSIONS)))
    return sorted(found)


def classify(network, device, paths, options):
    """Yield the Result of each of `paths`, in their order."""
    transform = datasets.build_transform(False, Namespace(input_size=network.found["size"]))
    dataset = datasets.ImageFolder([(path, place) for place, path in enumerate(paths)], batch_bytes.ToPixels(transform))
    workers = options.num_workers
    if workers is None:
        workers = min(10, usable_cores()) if len(paths) > options.batch_size else 0
    loader = DataLoader(
        dataset,
        options.batch_size,
        num_workers=workers,
        collate_fn=batches.collate,
        worker_init_fn=leave_to_parent,
    )
    model = network.model.to(device.torch_device)
    for first, (joined, bad_files) in zip(range(0, len(paths), options.batch_size), delivered(loader)):
        tops = {} if joined is None else predict(network, model, device, joined, options.top)
        reasons = iter(bad_files)
        for place in range(first, min(first + options.batch_size, len(paths))):
            yield result_of(paths[place], tops.get(place), reasons)


def delivered(loader):
    """What the loader gives; RunError where a process of it is lost."""
    try:
        yield from batches.start(loader)
    except (RuntimeError, OSError, EOFError) as error:
        if not batches.means_a_lost_process(error):
            raise
        message = "a process that reads images was lost (%s): lower --num-workers or --batch-size"
        raise RunError(message % reason(error)) from None


def result_of(path, top, reasons):
    """The Result of the image `path`; where it has no `top` classes, the next of the `reasons` is why."""
    if top is None:  # the dataset says "PATH (WHY)"
        return Result(path, None, next(reasons)[len(shown(path)) + 2 : -1])
    if any(probability != probability for _, probability in top):
        return Result(path, None, "the output of the model is not finite")
    return Result(path, top, None)


@inference_mode()
def predict(network, model, device, joined, count):
    """{place of an image: its `count` likeliest classes with their probabilities} of a PixelBatch."""
    images, places = batch_bytes.to_images(joined, device)
    current = Namespace(device=device, is_compiled=False)
    logits = engine.forward(current, model, images, len(images)).float()
    best = logits.topk(min(count, len(network.classes)), dim=1).indices  # as the accuracy is counted: by logits
    values = torch.softmax(logits, dim=1).gather(1, best)
    return {
        place: [(network.classes[number], value) for number, value in zip(*row)]
        for place, *row in zip(places.tolist(), best.tolist(), values.tolist())
    }


def writer_for(options, count):
    """A function that writes a Result of `count` classes to stdout in the style of the options."""
    if options.json:
        return write_json
    if not options.csv:
        sys.stdout.reconfigure(errors="backslashreplace")
        return write_line
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")  # a file's name may be no text
    rows = csv.writer(sys.stdout)
    columns = [name % place for place in range(1, count + 1) for name in ("class_%d", "probability_%d")]
    rows.writerow(["path", *columns, "error"])

    def write_row(result):
        cells = [cell for pair in result.top or [("", "")] * count for cell in pair]
        rows.writerow([result.path, *cells, result.error or ""])

    return write_row


def write_json(result):
    """{"path", "top": [{"class", "probability"}], "error"} as one line; of the last two one is null."""
    top = result.top and [{"class": name, "probability": value} for name, value in result.top]
    sys.stdout.write(json.dumps({"path": result.path, "top": top, "error": result.error}) + "\n")


def write_line(result):
    """The path and, from the likeliest on, classes and probabilities; nothing for an image that failed."""
    if result.top is not None:
        cells = [cell for name, value in result.top for cell in (printable(name), "%.6f" % value)]
        sys.stdout.write("\t".join([shown(result.path), *cells]) + "\n")


def plot(sheet, count, options):
    """Write the contact sheet of --plot, and say how many of the `count` images are not on it."""
    if not sheet:
        return say("--plot: there is nothing to show, so %s is not written" % options.plot)
    with replacing(options.plot, options.force) as staged, open(staged, "wb") as file:
        contact_sheet.draw(sheet, file)
    left = count - len(sheet)
    return say("%s shows %d images%s" % (options.plot, len(sheet), ", %d more are left out" % left if left else ""))


def main(argv=None):
    """Run and return the exit status: 0; 1 where an image failed; 2 for bad input; 130 after Ctrl-C."""
    return run_program("predict.py", run, argv)


if __name__ == "__main__":
    sys.exit(main())
