"""Trained weights of any kind: read, told which model they are of, and put into it.

A file is a checkpoint of this project, of the authors, of the Ascend port, a dictionary of weights, or a .safetensors
file.
"""

import json
import os
from collections import namedtuple

from checkpoints import store
from models import families
from runtime.compat import create_model, without_contents
from runtime.errors import UserError

# The `model` (in evaluation mode, on the CPU) with the `weights`, and what is known of it: `found` as `identify` gives
# it, `loaded` as `read` does, and the names of its `classes` (their numbers where `has_names` is False).
Trained = namedtuple("Trained", "path model weights found loaded classes has_names")


def load(path, takes_average=False, token_layout=None):
    """The Trained in the file or output folder `path` (the best checkpoint, or else the latest)."""
    path = store.resolve(path, (store.BEST, store.LATEST), "the checkpoint")
    loaded = read(path)
    found = identify(path, loaded, token_layout)
    weights = choose(path, loaded, takes_average)
    model = create_model(found["model"], **found["keywords"])
    store.check_fits(path, weights, model)
    model.load_state_dict(weights)
    names = _names(loaded, found["classes"])
    classes = names or [str(number) for number in range(found["classes"])]
    return Trained(path, model.eval(), weights, found, loaded, classes, names is not None)


def _names(loaded, count):
    names = loaded.get("classes")
    is_whole = bool(names) and len(names) == count and all(isinstance(name, str) for name in names)
    return list(names) if is_whole else None


def read(path):
    """The checkpoint in a file of any kind, as runtime.checkpoint.load gives it."""
    if not os.path.isfile(path):
        raise UserError("%s: no such file" % path)
    with open(path, "rb") as file:
        is_pickle_or_zip = file.read(2) in (b"PK", b"\x80\x02")
    return store.load(path) if is_pickle_or_zip else _read_safetensors(path)


def _safetensors():
    try:
        import safetensors.torch
    except ImportError:
        raise UserError("the package safetensors is not installed: pip install safetensors") from None
    return safetensors


def _read_safetensors(path):
    library = _safetensors()
    with open(path, "rb") as file:  # the library itself opens no path that is not UTF-8
        data = file.read()
    try:
        weights = library.torch.load(data)
        said = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")].decode()).get("__metadata__", {})
    except Exception as error:  # the library raises its own class, which is no exported name in old releases
        raise UserError("%s is neither a checkpoint nor a safetensors file: %s" % (path, error)) from None
    try:
        loaded = {name: json.loads(said[name]) for name in ("args", "epoch", "classes") if name in said}
    except ValueError:
        raise UserError("%s: what it says of itself is not JSON" % path) from None
    loaded["model"] = weights
    store.check_contents(path, loaded)
    return loaded


def save_safetensors(path, weights, known):
    """Write the dictionary of tensors, and the plain values `known` of it as JSON."""
    said = {name: json.dumps(value) for name, value in known.items()}
    data = _safetensors().torch.save(weights, dict(said, format="pt"))
    with open(path, "wb") as file:  # the library's own files are for their owner alone
        file.write(data)


def choose(path, loaded, takes_average):
    """The weights in what `read` gave, or their average; UserError where there is none."""
    if not takes_average:
        return loaded["model"]
    if not loaded.get("model_ema"):
        raise UserError("--ema: %s holds no average of the weights" % path)
    return loaded["model_ema"]


def notes_on(found, takes_average, has_names=True):
    """Lines about what may surprise in these weights."""
    notes = []
    if takes_average and found["options"].get("npu"):
        notes.append("the Ascend port never updated this average: it is what its run began with")
    if not has_names:
        notes.append("the checkpoint has no names of classes: they are numbered from 0")
    return notes


def identify(path, loaded, token_layout=None):
    """{"model", "classes", "size", "keywords", "options"} of the weights; UserError where no model has such."""
    weights, options = loaded["model"], store.options_of(loaded)
    family = families.family_of_weights(weights)
    if family is None:
        raise UserError("%s holds the weights of none of the models (--list-models)" % path)
    classes = len(weights[family.classifier_key])
    size = family.image_size(weights) or options.get("input_size") or 224
    chosen = family.keywords_of_weights(weights)
    if "token_layout" in family.options:
        chosen["token_layout"] = token_layout
    keywords = dict(family.keywords(options, **chosen), num_classes=classes, image_size=size)
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    for name in sorted(family.model_names, key=lambda name: name != options.get("model")):
        if _shapes_of(name, keywords) == shapes:
            return {"model": name, "classes": classes, "size": size, "keywords": keywords, "options": options}
    raise UserError("%s holds weights like those of %s, but of no model of that family" % (path, family.name))


def _shapes_of(name, keywords):
    try:
        with without_contents():
            model = create_model(name, **keywords)
    except (ValueError, TypeError):
        return None  # it cannot be built for this size, or with these options
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def describe(found, loaded):
    """One line about the weights."""
    words = ["%(model)s, %(classes)d classes, %(size)d pixels" % found]
    keywords = {name: value for name, value in found["keywords"].items() if name not in ("num_classes", "image_size")}
    words += ["%s %s" % (name.replace("_", " "), value) for name, value in keywords.items()]
    if loaded.get("epoch") is not None:
        words.append("epoch %d" % loaded["epoch"])
    words.append("with an average" if loaded.get("model_ema") else "without an average")
    return ", ".join(words)


def known_of(found, loaded):
    """What is to be recorded of the weights beside them: "args", and "epoch" and "classes" where they are known."""
    options = dict(found["options"], model=found["model"], input_size=found["size"])
    options.pop("npu", None)  # the mark of the port, whose layout is recorded in its own right
    own = families.family_of(found["model"]).options
    options.update({name: found["keywords"][name] for name in own if name in found["keywords"]})
    known = {"args": options}
    known.update({name: loaded[name] for name in ("epoch", "classes") if loaded.get(name) is not None})
    return known


def copied(weights):
    """The dictionary with tensors of their own, which share no memory."""
    return {name: value.detach().clone() for name, value in weights.items()}
