"""Trained weights of any kind: read, identified as weights of a model, and loaded into it.

A file is a checkpoint of this project, of the authors or of the Ascend port, a dictionary of weights, or a .safetensors
file.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from checkpoints import loading, store
from models import families
from runtime.compat import create_model, without_contents
from runtime.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

DEFAULT_SIZE = 224


@dataclass
class WeightsInfo:
    """Which model some weights are of: its name, classes, image size in pixels, keywords, and the recorded options."""

    model: str
    classes: int
    image_size: int
    keywords: dict[str, Any]
    options: dict[str, Any]


@dataclass
class TrainedModel:
    """A model in evaluation mode on the CPU, with its weights, their `info` and the `checkpoint` they come from.

    `class_names` are numbers from 0 where the checkpoint has none (`has_names` is False then).
    """

    path: str
    model: nn.Module
    weights: dict[str, Tensor]
    info: WeightsInfo
    checkpoint: dict[str, Any]
    class_names: list[str]
    has_names: bool


def load_model(path: str, use_ema: bool = False, token_layout: str | None = None) -> TrainedModel:
    """Return the model in a file, or in an output folder (its best checkpoint, else its latest).

    `token_layout` overrides what the file records. UserError where the file holds no model, or no EMA weights for
    `use_ema`.
    """
    path = store.resolve(path, (store.BEST, store.LATEST), "the checkpoint")
    checkpoint = read(path)
    info = identify(path, checkpoint, token_layout)
    weights = select_weights(path, checkpoint, use_ema)
    model = create_model(info.model, **info.keywords)
    loading.check_fits(path, weights, model)
    model.load_state_dict(weights)
    recorded = _class_names(checkpoint, info.classes)
    names = recorded or [str(number) for number in range(info.classes)]
    return TrainedModel(path, model.eval(), weights, info, checkpoint, names, recorded is not None)


def _class_names(checkpoint: dict[str, Any], count: int) -> list[str] | None:
    names = checkpoint.get("classes")
    if not names or len(names) != count or not all(isinstance(name, str) for name in names):
        return None
    return list(names)


def read(path: str) -> dict[str, Any]:
    """Return the checkpoint in a file of any kind, in the form that checkpoints.loading.load returns."""
    if not os.path.isfile(path):
        raise UserError("%s: no such file" % path)
    with open(path, "rb") as file:
        is_pickle_or_zip = file.read(2) in (b"PK", b"\x80\x02")
    return loading.load(path) if is_pickle_or_zip else _read_safetensors(path)


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise UserError("the package safetensors is not installed: pip install safetensors") from None
    return safetensors


def _read_safetensors(path: str) -> dict[str, Any]:
    library = _safetensors()
    with open(path, "rb") as file:  # the library itself opens no path that is not UTF-8
        data = file.read()
    try:
        weights = library.torch.load(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")].decode()).get("__metadata__", {})
    except Exception as error:  # the library raises its own class, which is no exported name in old releases
        raise UserError("%s is neither a checkpoint nor a safetensors file: %s" % (path, error)) from None
    try:
        checkpoint = {name: json.loads(metadata[name]) for name in ("args", "epoch", "classes") if name in metadata}
    except ValueError:
        raise UserError("%s: its metadata is not JSON" % path) from None
    checkpoint["model"] = weights
    loading.check_contents(path, checkpoint)
    return checkpoint


def save_safetensors(path: str, weights: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write the weights, with plain values as JSON in the file's metadata."""
    texts = {name: json.dumps(value) for name, value in metadata.items()}
    data = _safetensors().torch.save(weights, dict(texts, format="pt"))
    with open(path, "wb") as file:  # the library's own files are readable for their owner alone
        file.write(data)


def select_weights(path: str, checkpoint: dict[str, Any], use_ema: bool) -> dict[str, Tensor]:
    """Return the weights of a checkpoint or its EMA weights; UserError where it has none."""
    if not use_ema:
        return checkpoint["model"]
    if not checkpoint.get("model_ema"):
        raise UserError("--ema: %s holds no EMA weights" % path)
    return checkpoint["model_ema"]


def caveats(info: WeightsInfo, uses_ema: bool, has_names: bool = True) -> list[str]:
    """Return a line for each thing about these weights that may surprise."""
    lines = []
    if uses_ema and info.options.get("npu"):
        lines.append("the Ascend port never updated these EMA weights: they are the initial weights of its run")
    if not has_names:
        lines.append("the checkpoint has no class names: classes are numbered from 0")
    return lines


def identify(path: str, checkpoint: dict[str, Any], token_layout: str | None = None) -> WeightsInfo:
    """Return which model the weights of a checkpoint are of; UserError where no model has such weights."""
    weights, options = checkpoint["model"], loading.options_of(checkpoint)
    family = families.family_of_weights(weights)
    if family is None:
        raise UserError("%s holds the weights of none of the models (--list-models)" % path)
    classes = len(weights[family.classifier_key])
    size = family.image_size(weights) or options.get("input_size") or DEFAULT_SIZE
    chosen = family.keywords_of_weights(weights)
    if "token_layout" in family.options:
        chosen["token_layout"] = token_layout
    keywords = dict(family.keywords(options, **chosen), num_classes=classes, image_size=size)
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    for name in sorted(family.model_names, key=lambda name: name != options.get("model")):
        if _shapes_of(name, keywords) == shapes:
            return WeightsInfo(name, classes, size, keywords, options)
    raise UserError("%s holds weights like those of %s, but of no model of that family" % (path, family.name))


def _shapes_of(name: str, keywords: dict[str, Any]) -> dict[str, tuple[int, ...]] | None:
    try:
        with without_contents():
            model = create_model(name, **keywords)
    except (ValueError, TypeError):
        return None  # it cannot be built for this size, or with these options
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def describe(info: WeightsInfo, checkpoint: dict[str, Any]) -> str:
    """Return one line about the weights, for a log."""
    words = ["%s, %d classes, %d pixels" % (info.model, info.classes, info.image_size)]
    own = {name: value for name, value in info.keywords.items() if name not in ("num_classes", "image_size")}
    words += ["%s %s" % (name.replace("_", " "), value) for name, value in own.items()]
    if checkpoint.get("epoch") is not None:
        words.append("epoch %d" % checkpoint["epoch"])
    words.append("with EMA weights" if checkpoint.get("model_ema") else "without EMA weights")
    return ", ".join(words)


def metadata_of(info: WeightsInfo, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return what a file of these weights records beside them: "args", and "epoch" and "classes" where known."""
    options = dict(info.options, model=info.model, input_size=info.image_size)
    options.pop("npu", None)  # the mark of the port, whose layout is recorded in its own right
    own = families.own_options(info.model)
    options.update({name: info.keywords[name] for name in own if name in info.keywords})
    metadata: dict[str, Any] = {"args": options}
    metadata.update({name: checkpoint[name] for name in ("epoch", "classes") if checkpoint.get(name) is not None})
    return metadata


def clone(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights as tensors that share no memory."""
    return {name: value.detach().clone() for name, value in weights.items()}
