"""Turn one kind of checkpoint into another: `python tools/convert.py IN OUT [--to KIND] [--ema] [--force]`.

IN is a checkpoint of this project, of the authors, of the Ascend port, a dictionary of weights, or a .safetensors file.
KIND is "ours" (for --resume with --eval: no optimizer), "authors" (options as an argparse.Namespace), "weights" (a
dictionary of tensors), or "safetensors", which is what a name that ends so means. What is found is printed: the model,
its classes and size, the token layout, the epoch. OUT is kept only if the model computes the same logits from it, bit
by bit.
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import torch

import models
from checkpoints import store
from checkpoints import weights as checkpoint_weights
from runtime.compat import create_model
from runtime.errors import UserError, printable
from utils import check_target, replacing

KINDS = ("ours", "authors", "weights", "safetensors")


def main(argv=None):
    parser = argparse.ArgumentParser(description="Turn one kind of checkpoint into another.")
    parser.add_argument("source", metavar="IN")
    parser.add_argument("target", metavar="OUT")
    parser.add_argument("--to", choices=KINDS, help="(default: safetensors for such a name, else ours)")
    parser.add_argument("--ema", action="store_true", help="take the average of the weights as the weights")
    parser.add_argument("--token-layout", choices=models.TOKEN_LAYOUTS, help="where IN does not record it")
    parser.add_argument("--force", action="store_true", help="replace OUT")
    try:
        convert(parser.parse_args(argv))
    except (UserError, store.SaveError) as error:
        sys.stderr.write("convert.py: error: %s\n" % printable(str(error)))
        return 2
    return 0


def convert(args):
    """Do what the options ask for; UserError where it cannot be done."""
    kind = args.to or ("safetensors" if args.target.endswith(".safetensors") else "ours")
    check_target(args.target, args.force)
    loaded = checkpoint_weights.read(args.source)
    found = checkpoint_weights.identify(args.source, loaded, args.token_layout)
    print("found    " + checkpoint_weights.describe(found, loaded))
    weights = checkpoint_weights.choose(args.source, loaded, args.ema)
    for note in checkpoint_weights.notes_on(found, args.ema):
        print("note     " + note)
    with replacing(args.target, args.force) as staged:
        write(staged, kind, weights, found, loaded)
        check_same(found, weights, checkpoint_weights.read(staged)["model"])
    print("written  %s as %s; its logits are those of %s, bit by bit" % (args.target, kind, args.source))


def write(path, kind, weights, found, loaded):
    """Write the weights, and what is known of them, as the kind asks."""
    weights, known = checkpoint_weights.copied(weights), checkpoint_weights.known_of(found, loaded)
    if kind == "safetensors":
        return checkpoint_weights.save_safetensors(path, weights, known)
    if kind == "authors":
        known["args"] = argparse.Namespace(**known["args"])
    if kind == "ours":
        known["format"] = store.FORMAT
    return store.save_as(weights if kind == "weights" else dict(known, model=weights), path)


@torch.no_grad()
def check_same(found, weights, written):
    """UserError unless the model gives the same logits with both, bit by bit."""
    logits = []
    torch.manual_seed(0)
    images = torch.randn(2, 3, found["size"], found["size"])
    for state in (weights, written):
        model = create_model(found["model"], **found["keywords"]).eval()
        model.load_state_dict(state)
        logits.append(model(images))
    first, second = logits
    if not ((first == second) | (torch.isnan(first) & torch.isnan(second))).all():
        raise UserError("the logits from what was written differ by %g" % (first - second).abs().max())


if __name__ == "__main__":
    sys.exit(main())
