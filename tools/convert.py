"""Turn one kind of checkpoint into another: `python tools/convert.py IN OUT [--to KIND] [--ema] [--force]`.

IN is a checkpoint of this project, of the authors, of the Ascend port, a dictionary of weights, or a .safetensors file.
KIND is "ours" (for --resume with --eval: no optimizer), "authors" (options as an argparse.Namespace), "weights" (a
dictionary of tensors), or "safetensors", which is what a name that ends so means. What is found is printed: the model,
its classes and size, the token layout, the epoch. OUT is kept only if the model computes the same logits from it, bit
by bit.
"""

import argparse
import json
import os
import sys
import uuid

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import torch

import models
from runtime import checkpoint
from runtime.compat import create_model, without_contents
from runtime.errors import UserError, printable

KINDS = ("ours", "authors", "weights", "safetensors")
# A name that only the models of one family have, and the layer whose rows are the classes.
_FAMILIES = {
    "smlpnet": ("token_mix.0.1.proh_w.weight", "mlp_head.0.weight"),
    "spach": ("norm1.weight", "head.weight"),
    "shiftvit": ("patch_embed.proj.weight", "head.weight"),
}


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
    except (UserError, checkpoint.SaveError) as error:
        sys.stderr.write("convert.py: error: %s\n" % printable(str(error)))
        return 2
    return 0


def convert(args):
    """Do what the options ask for; UserError where it cannot be done."""
    kind = args.to or ("safetensors" if args.target.endswith(".safetensors") else "ours")
    if os.path.exists(args.target) and not args.force:
        raise UserError("%s exists: name another file, or pass --force" % args.target)
    if not os.path.isdir(os.path.dirname(os.path.abspath(args.target))):
        raise UserError("%s: its folder does not exist" % args.target)
    loaded = read(args.source)
    found = identify(args.source, loaded, args.token_layout)
    print("found    " + describe(found, loaded))
    weights = loaded["model"]
    if args.ema:
        weights = loaded.get("model_ema")
        if not weights:
            raise UserError("--ema: %s holds no average of the weights" % args.source)
        if found["options"].get("npu"):
            print("note     the Ascend port never updated this average: it is what its run began with")
    staged = "%s.%s.tmp" % (os.path.abspath(args.target), uuid.uuid4().hex)
    try:
        write(staged, kind, weights, found, loaded)
        check_same(found, weights, read(staged)["model"])
        os.replace(staged, args.target)
    finally:
        if os.path.exists(staged):
            os.unlink(staged)
    print("written  %s as %s; its logits are those of %s, bit by bit" % (args.target, kind, args.source))


def read(path):
    """The checkpoint in a file of any kind, as runtime.checkpoint.load gives it."""
    if not os.path.isfile(path):
        raise UserError("%s: no such file" % path)
    with open(path, "rb") as file:
        is_pickle_or_zip = file.read(2) in (b"PK", b"\x80\x02")
    return checkpoint.load(path) if is_pickle_or_zip else _read_safetensors(path)


def _safetensors():
    try:
        import safetensors.torch
    except ImportError:
        raise UserError("the package safetensors is not installed: pip install safetensors") from None
    return safetensors


def _read_safetensors(path):
    library = _safetensors()
    try:
        weights = library.torch.load_file(path)
        with library.safe_open(path, "pt") as file:
            said = file.metadata() or {}
    except Exception as error:  # the library raises its own class, which is no exported name in old releases
        raise UserError("%s is neither a checkpoint nor a safetensors file: %s" % (path, error)) from None
    try:
        loaded = {name: json.loads(said[name]) for name in ("args", "epoch", "classes") if name in said}
    except ValueError:
        raise UserError("%s: what it says of itself is not JSON" % path) from None
    return dict(loaded, model=weights)


def identify(path, loaded, token_layout=None):
    """{"model", "classes", "size", "keywords", "options"} of the weights; UserError where no model has such."""
    weights, options = loaded["model"], checkpoint.options_of(loaded)
    family = next((name for name, (key, _) in _FAMILIES.items() if key in weights), None)
    if family is None or _FAMILIES[family][1] not in weights:
        raise UserError("%s holds the weights of none of the models (--list-models)" % path)
    classes, size = len(weights[_FAMILIES[family][1]]), _size_of(family, weights, options)
    keywords = {"num_classes": classes, "image_size": size}
    if family == "smlpnet":
        keywords["token_layout"] = token_layout or models.smlp.layout_of(options)
    if family == "spach":
        keywords["stem_type"] = "conv4" if "stem.proj.0.weight" in weights else "conv1"
        keywords["shared_spatial_func"] = bool(options.get("shared_spatial_func"))
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    candidates = [name for name in models.MODEL_NAMES if name.startswith(family + "_")]
    for name in sorted(candidates, key=lambda name: name != options.get("model")):
        if _shapes_of(name, keywords) == shapes:
            return {"model": name, "classes": classes, "size": size, "keywords": keywords, "options": options}
    raise UserError("%s holds weights like those of %s, but of no model of that family" % (path, family))


def _shapes_of(name, keywords):
    try:
        with without_contents():
            model = create_model(name, **keywords)
    except ValueError:
        return None  # it cannot be built for this size, or with these options
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _size_of(family, weights, options):
    """Pixels a side: what the shapes tell, else what is recorded, else 224."""
    if family == "smlpnet":
        patch = weights["to_patch_embedding.0.0.weight"].shape[-1]
        return weights["token_mix.0.1.proj_h.weight"].shape[0] * patch
    if "blocks.0.spatial_func.fc1.weight" in weights:
        return round(weights["blocks.0.spatial_func.fc1.weight"].shape[1] ** 0.5) * 16
    if "layer2.1.spatial_func.fc1.weight" in weights:
        return round(weights["layer2.1.spatial_func.fc1.weight"].shape[1] ** 0.5) * 8
    return options.get("input_size") or 224


def describe(found, loaded):
    """One line about the weights."""
    words = ["%(model)s, %(classes)d classes, %(size)d pixels" % found]
    keywords = {name: value for name, value in found["keywords"].items() if name not in ("num_classes", "image_size")}
    words += ["%s %s" % (name.replace("_", " "), value) for name, value in keywords.items()]
    if loaded.get("epoch") is not None:
        words.append("epoch %d" % loaded["epoch"])
    words.append("with an average" if loaded.get("model_ema") else "without an average")
    return ", ".join(words)


def write(path, kind, weights, found, loaded):
    """Write the weights, and what is known of them, as the kind asks."""
    weights = {name: value.detach().clone() for name, value in weights.items()}
    options = dict(found["options"], model=found["model"], input_size=found["size"])
    options.pop("npu", None)  # the mark of the port, whose layout is recorded in its own right
    for name in ("token_layout", "stem_type", "shared_spatial_func"):
        if name in found["keywords"]:
            options[name] = found["keywords"][name]
    payload = {"model": weights, "args": options}
    payload.update({name: loaded[name] for name in ("epoch", "classes") if loaded.get(name) is not None})
    if kind == "safetensors":
        said = {name: json.dumps(value) for name, value in payload.items() if name != "model"}
        return _safetensors().torch.save_file(weights, path, dict(said, format="pt"))
    if kind == "authors":
        payload["args"] = argparse.Namespace(**options)
    if kind == "ours":
        payload["format"] = checkpoint.FORMAT
    return checkpoint.save_as(weights if kind == "weights" else payload, path)


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
