"""Convert one kind of checkpoint to another: `python tools/convert.py IN OUT [--to KIND] [--ema] [--force]`.

IN is a checkpoint of this project, of the authors, of the Ascend port, a dictionary of weights, or a .safetensors file.
KIND is "ours" (for --resume with --eval: no optimizer), "authors" (options as an argparse.Namespace), "weights" (a
dictionary of tensors), or "safetensors", the default for a name that ends in .safetensors. What is found is printed:
the model, its classes and size, the token layout, the epoch. OUT is kept only if the model computes the same logits
from it, bit by bit.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any, Sequence

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from options.command_line import FileParser
from runtime.errors import RunError, UserError, shown
from runtime.names import TOKEN_LAYOUTS
from runtime.programs import run_program, slow_imports
from utils import check_target, replacing

if TYPE_CHECKING:
    from torch import Tensor

    from checkpoints.weights import WeightsInfo

KINDS = ("ours", "authors", "weights", "safetensors")


def run(argv: Sequence[str]) -> int:
    """Do what the command line `argv` asks for, and return the exit status."""
    parser = FileParser("convert.py", description="Convert one kind of checkpoint to another.", allow_abbrev=False)
    parser.add_argument("source", metavar="IN", help="a checkpoint of any kind")
    parser.add_argument("target", metavar="OUT", help="the file to write")
    parser.add_argument("--to", choices=KINDS, help="(default: safetensors for such a name, else ours)")
    parser.add_argument("--ema", action="store_true", help="convert the EMA weights")
    parser.add_argument("--token-layout", choices=TOKEN_LAYOUTS, help="where IN does not record it")
    parser.add_argument("--force", action="store_true", help="replace OUT")
    convert(parser.parse_args(argv))
    return 0


def convert(options: argparse.Namespace) -> None:
    """Convert as the options ask; UserError where IN or OUT cannot be used."""
    kind = options.to or ("safetensors" if options.target.endswith(".safetensors") else "ours")
    check_target(options.target, options.force)
    with slow_imports():
        from checkpoints import loading, store, weights
    checkpoint = loading.load(options.source)
    info = weights.identify(options.source, checkpoint, options.token_layout)
    print("found    " + weights.describe(info, checkpoint))
    selected = weights.select_weights(options.source, checkpoint, options.ema)
    for line in weights.caveats(info, options.ema):
        print("note     " + line)
    with replacing(options.target, options.force) as staged:
        try:
            write(staged, kind, selected, info, checkpoint)
        except store.SaveError as error:
            raise RunError(str(error)) from None
        check_same(options.source, info, selected, loading.load(staged)["model"])
    words = (shown(options.target), kind, shown(options.source))
    print("written  %s as %s; its logits are those of %s, bit by bit" % words)


def write(path: str, kind: str, selected: dict[str, Tensor], info: WeightsInfo, checkpoint: dict[str, Any]) -> None:
    """Write the selected weights and their metadata as a file of this kind."""
    from checkpoints import safetensors_files, store, weights

    metadata = weights.metadata_of(info, checkpoint)
    selected = weights.clone(selected)
    if kind == "safetensors":
        safetensors_files.write(path, selected, metadata)
        return
    if kind == "authors":
        metadata["args"] = argparse.Namespace(**metadata["args"])
    if kind == "ours":
        metadata["format"] = store.FORMAT
    store.save_as(selected if kind == "weights" else dict(metadata, model=selected), path)


def check_same(path: str, info: WeightsInfo, first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Raise UserError unless the model gives the same logits with both weights, those of `path` and others."""
    import torch

    from checkpoints import loading
    from runtime.compat import create_model

    logits = []
    torch.manual_seed(0)
    images = torch.randn(2, 3, info.image_size, info.image_size)
    for weights in (first, second):
        model = create_model(info.model, **info.keywords).eval()
        loading.fill(path, model, weights)
        with torch.no_grad():
            logits.append(model(images))
    if not ((logits[0] == logits[1]) | (torch.isnan(logits[0]) & torch.isnan(logits[1]))).all():
        raise UserError("the logits from what was written differ by %g" % (logits[0] - logits[1]).abs().max())


def main(argv: Sequence[str] | None = None) -> int:
    """Run and return the exit status: 0; 1 where OUT cannot be written; 2 for bad input; 130 after Ctrl-C."""
    return run_program("convert.py", run, argv)


if __name__ == "__main__":
    sys.exit(main())
