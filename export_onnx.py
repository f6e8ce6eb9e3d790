"""A checkpoint as ONNX and in other forms: `python export_onnx.py CKPT OUT.onnx`, see --help and docs/DEPLOY.md.

OUT takes a batch of any size. It is kept only if it computes what torch computes, with batches of 1 and of 3 images;
the difference is printed. Its metadata names the model and the classes.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Sequence

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # python -P leaves it out

from options.command_line import FileParser, number
from runtime.errors import UserError, shown
from runtime.names import DYNAMO_OPSET, EXPORT_FORMATS, INT8_OPSET, TOKEN_LAYOUTS, TRACED_OPSET
from runtime.programs import run_program, slow_imports
from utils import check_target, replacing

if TYPE_CHECKING:
    from checkpoints.export import DeployedModel
    from checkpoints.weights import TrainedModel

_ENDINGS = {".onnx": "onnx", ".ts": "torchscript", ".pt2": "exported_program", ".safetensors": "safetensors"}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options in `argv`; UserError where they are wrong."""
    parser = FileParser("export_onnx.py", description="A checkpoint as a file that others run.", allow_abbrev=False)
    parser.add_argument("checkpoint", metavar="CKPT", help=".pth, .safetensors, or the output folder of a run")
    parser.add_argument("target", metavar="OUT", help="the file to write")
    endings = ", ".join("%s for %s" % pair for pair in _ENDINGS.items())
    parser.add_argument("--format", choices=EXPORT_FORMATS, help="(default: what OUT ends with: %s)" % endings)
    parser.add_argument(
        "--with-preprocess",
        action="store_true",
        help="take uint8 RGB images (B, 3, S, S) and normalise them within (default: take normalised float32)",
    )
    parser.add_argument("--softmax", action="store_true", help="give probabilities (default: logits)")
    parser.add_argument(
        "--opset",
        type=number(int, low=7, high=99),
        metavar="N",
        help="of ONNX; below %d torch traces (default: %d, before torch 2.5 %d)"
        % (DYNAMO_OPSET, DYNAMO_OPSET, TRACED_OPSET),
    )
    _add_reduced(parser)
    parser.add_argument("--ema", action="store_true", help="export the EMA weights")
    parser.add_argument("--token-layout", choices=TOKEN_LAYOUTS, help="where CKPT does not record it")
    parser.add_argument("--force", action="store_true", help="replace OUT")
    options = parser.parse_args(argv)
    if options.format is None:
        options.format = _ENDINGS.get(os.path.splitext(options.target)[1].lower())
    if options.format is None:
        raise UserError("%s: its ending does not tell which --format is meant" % options.target)
    _check(options)
    return options


def _add_reduced(parser: argparse.ArgumentParser) -> None:
    """Add the options of ONNX files of fewer bits."""
    kind = parser.add_mutually_exclusive_group()
    text = "ONNX with %s, written only where it is faster on this machine and as accurate"
    for name, what in (("int8", "wide products in int8"), ("half", "all in half precision")):
        kind.add_argument("--" + name, dest="reduced", action="store_const", const=name, help=text % what)
    text = "images for --int8; with class folders and without --validation-data half of them validate"
    parser.add_argument("--calibration-data", metavar="DIR", help=text)
    text = "class folders of images on which the accuracy is compared"
    parser.add_argument("--validation-data", metavar="DIR", help=text)
    text = "least speed beside the faster of torch and onnxruntime in float32 (default: 1.3)"
    parser.add_argument("--min-speedup", type=number(float), default=1.3, metavar="RATIO", help=text)
    text = "most points of accuracy that may be lost (default: 0.5)"
    parser.add_argument("--max-loss", type=number(float, high=100), default=0.5, metavar="POINTS", help=text)
    text = "images in a batch whose speed is measured (default: 1)"
    parser.add_argument("--batch-size", type=number(int, low=1, high=8192), default=1, metavar="N", help=text)


def _check(options: argparse.Namespace) -> None:
    check_target(options.target, options.force)
    if options.format != "onnx" and options.opset is not None:
        raise UserError("--opset %d: only ONNX has one" % options.opset)
    _check_reduced(options)
    for flag, is_set in (("--with-preprocess", options.with_preprocess), ("--softmax", options.softmax)):
        if options.format == "safetensors" and is_set:
            raise UserError("%s: a safetensors file holds weights alone, no computation" % flag)


def _check_reduced(options: argparse.Namespace) -> None:
    if options.reduced is None:
        for name in ("calibration_data", "validation_data"):
            if getattr(options, name) is not None:
                raise UserError("--%s: it is for --int8 and --half" % name.replace("_", "-"))
        return
    if options.format != "onnx":
        raise UserError("--%s: it is for ONNX, and OUT is to be %s" % (options.reduced, options.format))
    if options.reduced == "int8" and options.calibration_data is None:
        raise UserError("--int8 needs --calibration-data: a folder of images like those that it will classify")
    if options.opset is not None and options.opset < INT8_OPSET:
        raise UserError("--opset %d: --%s needs at least %d" % (options.opset, options.reduced, INT8_OPSET))


def run(argv: Sequence[str]) -> int:
    """Do what the command line `argv` asks for, and return the exit status."""
    options = parse(argv)
    with slow_imports():
        from checkpoints import export, weights
        from runtime import exporting
    if options.format == "onnx":
        if options.reduced is not None:
            exporting.require_recent_torch("--" + options.reduced)
        for package in ("onnx", "onnxruntime"):  # reported before minutes are spent
            exporting.require_package(package, "--format onnx")
    network = weights.load_model(options.checkpoint, options.ema, options.token_layout)
    print("found    " + weights.describe(network.info, network.checkpoint))
    for line in weights.caveats(network.info, options.ema, network.has_names):
        print("note     " + line)
    module = export.DeployedModel(network.model, options.with_preprocess, options.softmax).eval()
    if options.reduced is not None:
        _write_reduced(options, network, module)
        return 0
    opset = options.opset or exporting.default_opset()
    with replacing(options.target, options.force) as staged:
        difference = export.write(staged, options.format, network, module, opset)
        size_mb = os.path.getsize(staged) / 1e6
    kind = "onnx, opset %d" % opset if options.format == "onnx" else options.format
    print("written  %s as %s (%.1f MB)" % (shown(options.target), kind, size_mb))
    if difference is None:
        print("checked  its weights are those of %s, bit by bit" % shown(network.path))
    else:
        runs = "onnxruntime" if options.format == "onnx" else "it, read again,"
        sizes = " and ".join(str(size) for size in export.BATCH_SIZES)
        words = (runs, difference.largest, sizes, difference.allowed)
        print("checked  %s differs from torch by at most %.2g with batches of %s (allowed: %.2g)" % words)
    return 0


def _write_reduced(options: argparse.Namespace, network: TrainedModel, module: DeployedModel) -> None:
    """Write the ONNX file of --int8 or --half if it is fast and accurate; RunError if it is not."""
    with slow_imports():
        from benchmarks import gain
    images = gain.find_images(options, network)
    with replacing(options.target, options.force) as staged:
        data = gain.convert(network, module, images, options)
        with open(staged, "wb") as file:
            file.write(data)
    print("written  %s as onnx, %s (%.1f MB)" % (shown(options.target), options.reduced, len(data) / 1e6))


def main(argv: Sequence[str] | None = None) -> int:
    """Run and return the exit status: 0; 1 where OUT does not compute the same; 2 for bad input; 130 after Ctrl-C."""
    return run_program("export_onnx.py", run, argv)


if __name__ == "__main__":
    sys.exit(main())
