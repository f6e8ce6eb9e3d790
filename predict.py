"""Class names and probabilities of images: `python predict.py CKPT IMAGE|SOURCE|- [...]`, see --help; or from Python:

    from predict import load
    classifier = load("output/photos")   # any checkpoint, or the output folder of a run
    classifier("a.jpg", top=3)           # [("cat", 0.98), ("dog", 0.01), ("cow", 0.01)]

SOURCE is a folder, a list, an archive, a Parquet file, or a pattern of archives or Parquet files. The command prints a
line for each image: its path, ARCHIVE:MEMBER or FILE:row N, then the classes from the likeliest on with their
probabilities, separated by tabs. Unreadable images are reported on stderr, and the exit status is then 1. The
probabilities are those of `main.py --eval --amp none`, in float32.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from typing import TYPE_CHECKING, Any, Callable, Sequence

if __name__ == "__main__":  # the path of a program that imports this module is its own
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # python -P leaves it out

from options.command_line import FileParser, add_switch, extension, number
from runtime.errors import UserError, printable, shown
from runtime.names import DEVICE_KINDS, TOKEN_LAYOUTS
from runtime.programs import report, run_program, slow_imports
from utils import check_target, replacing, to_json

if TYPE_CHECKING:
    from commands.classify import Classifier, Prediction
    from pipeline.decoding import Decoding
    from pipeline.readers.named import NamedImages

MOST_ON_SHEET = 100


def load(
    path: str | os.PathLike[str], device: str = "auto", ema: bool = False, token_layout: str | None = None
) -> Classifier:
    """Return the Classifier of a checkpoint, a run's output folder (its best checkpoint) or an exported ONNX file.

    `device` is "auto", "npu", "cuda" or "cpu"; `ema` selects the EMA weights; `token_layout` overrides what the file
    records. ValueError where the file holds no model.
    """
    from commands.classify import Classifier, load_trained

    return Classifier(load_trained(os.fspath(path), device, ema, token_layout), device)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options in `argv`; UserError where they are wrong."""
    parser = FileParser("predict.py", description="Class names and probabilities of images.", allow_abbrev=False)
    parser.add_argument("checkpoint", metavar="CKPT", help=".pth, .safetensors, .onnx, or the output folder of a run")
    parser.add_argument(
        "images",
        metavar="IMAGE|SOURCE|-",
        nargs="+",
        help="SOURCE: a folder, list (.csv .tsv .jsonl), archive, Parquet file or pattern of these two; -: paths on "
        "stdin, one a line, or separated by null characters",
    )
    text = "folder of the images that a list names (default: the list's)"
    parser.add_argument("--image-root", default="", metavar="DIR", help=text)
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
        help="processes that read images (default: 10, or the number of cores; none for a single batch)",
    )
    parser.add_argument("--ema", action="store_true", help="use the EMA weights")
    text = "read files of these extensions in a SOURCE too, such as .gif .avif (default: the checkpoint's, else none)"
    parser.add_argument("--extensions", type=extension, nargs="+", metavar="EXTENSION", help=text)
    add_switch(parser.add_argument, "exif-transpose", None, "rotate an image as its EXIF orientation says")
    parser.add_argument("--token-layout", choices=TOKEN_LAYOUTS, help="where CKPT does not record it")
    parser.add_argument("--plot", metavar="SHEET.png", help="a contact sheet of the first %d images" % MOST_ON_SHEET)
    parser.add_argument("--force", action="store_true", help="replace SHEET.png")
    options = parser.parse_args(argv)
    if options.plot is not None:
        if not options.plot.lower().endswith(".png"):
            raise UserError("--plot %s: the name must end in .png" % options.plot)
        check_target(options.plot, options.force)
    return options


def run(argv: Sequence[str]) -> int:
    """Do what the command line `argv` asks for, and return the exit status: 1 where an image failed, else 0."""
    options = parse(argv)
    with slow_imports():
        from checkpoints import weights
        from commands.classify import Classifier, load_trained
        from pipeline.decoding import choose
        from runtime import host_memory
    trained = load_trained(options.checkpoint, options.device, options.ema, options.token_layout)
    decoding = choose(options.extensions, options.exif_transpose, trained.info.options)
    classifier = Classifier(trained, options.device, decoding)
    if not classifier.device.is_accelerator:
        host_memory.keep_freed_memory()
    print_note(weights.describe(trained.info, trained.checkpoint))
    for line in weights.caveats(trained.info, options.ema, trained.has_names):
        print_note(line)
    images = find_images(options, decoding)
    write = writer_for(options, min(options.top, len(classifier.class_names)))
    failed = 0
    sheet: list[tuple[int, tuple[str, str]]] = []
    found = classifier.predict_images(images, options.top, options.batch_size, options.num_workers)
    for key, prediction in enumerate(found):
        write(prediction)
        if prediction.top is None:
            failed += 1
            print_note("error: %s: %s" % (shown(prediction.path), prediction.error))
        elif len(sheet) < MOST_ON_SHEET:
            name, probability = prediction.top[0]
            sheet.append((key, (printable(name), "%.1f %%" % (100 * probability))))
    if options.plot is not None:
        plot(sheet, images, len(images) - failed, options, decoding.exif_transpose)
    if failed:
        print_note("%d of %d images failed" % (failed, len(images)))
    return 1 if failed else 0


def print_note(text: str) -> None:
    """Write one line to stderr."""
    report("predict.py", text)


def find_images(options: argparse.Namespace, decoding: Decoding) -> NamedImages:
    """Return the images that the words of the command line mean, in their order.

    A line on stderr counts what is passed over in a folder or an archive; a file that is named is always read.
    """
    from commands.named_images import add_path, add_source
    from pipeline.readers.named import NamedImages

    images = NamedImages()
    for word in options.images:
        if word != "-":
            lines = add_source(images, word, options.image_root, decoding)
        else:
            lines = [line for path in paths_on_stdin() for line in add_path(images, path, decoding)]
        for line in lines:
            print_note(line)
    if not len(images):
        raise UserError("no image is named on stdin")
    return images


def paths_on_stdin() -> list[str]:
    """Return the paths on stdin, of any bytes: separated by null characters if there are any, else one a line."""
    content = sys.stdin.buffer.read()
    parts = content.split(b"\0" if b"\0" in content else b"\n")
    return [os.fsdecode(part) for part in parts if part]


def writer_for(options: argparse.Namespace, count: int) -> Callable[[Prediction], Any]:
    """Return a function that writes a Prediction of `count` classes to stdout in the style of the options."""
    stdout: Any = sys.stdout
    if options.json:
        return write_json
    if not options.csv:
        stdout.reconfigure(errors="backslashreplace")
        return write_line
    stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")  # a file's name may be no text
    rows = csv.writer(stdout)
    columns = [name % rank for rank in range(1, count + 1) for name in ("class_%d", "probability_%d")]
    rows.writerow(["path", *columns, "error"])

    def write_row(prediction: Prediction) -> None:
        pairs: list[Any] = prediction.top or [("", "")] * count
        cells = [cell for pair in pairs for cell in pair]
        rows.writerow([prediction.path, *cells, prediction.error or ""])

    return write_row


def write_json(prediction: Prediction) -> None:
    """Write {"path", "top": [{"class", "probability"}], "error"} as one line; one of the last two is null."""
    top: Any = prediction.top and [{"class": name, "probability": value} for name, value in prediction.top]
    sys.stdout.write(to_json({"path": prediction.path, "top": top, "error": prediction.error}) + "\n")


def write_line(prediction: Prediction) -> None:
    """Write the path, then classes and probabilities from the likeliest on; nothing for an image that failed."""
    if prediction.top is not None:
        cells = [cell for name, value in prediction.top for cell in (printable(name), "%.6f" % value)]
        sys.stdout.write("\t".join([shown(prediction.path), *cells]) + "\n")


def plot(
    sheet: list[tuple[int, tuple[str, str]]],
    images: NamedImages,
    count: int,
    options: argparse.Namespace,
    exif_transpose: bool,
) -> None:
    """Write the contact sheet of --plot, and report how many of the `count` images are not on it."""
    from pipeline import contact_sheet

    if not sheet:
        print_note("--plot: there is nothing to show, so %s is not written" % options.plot)
        return
    with replacing(options.plot, options.force) as staged, open(staged, "wb") as file:
        contact_sheet.draw(sheet, images, file, exif_transpose)
    left = count - len(sheet)
    print_note("%s shows %d images%s" % (options.plot, len(sheet), ", %d more are left out" % left if left else ""))


def main(argv: Sequence[str] | None = None) -> int:
    """Run and return the exit status: 0; 1 where an image failed; 2 for bad input; 130 after Ctrl-C."""
    return run_program("predict.py", run, argv)


if __name__ == "__main__":
    sys.exit(main())
