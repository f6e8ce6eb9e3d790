"""Trained weights: identified as those of a model, and loaded into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Sequence

from checkpoints import loading, store
from models import families
from runtime.compat import create_model, without_contents
from runtime.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

DEFAULT_SIZE = 224
LARGEST_SIZE = 2**14  # pixels


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

    `class_names` are numbers from 0 where the checkpoint has none (`has_names` is False then). An exported file has no
    `weights` and an empty `checkpoint`; with `takes_bytes` its model takes uint8 images and normalises them.
    """

    path: str
    model: nn.Module
    weights: dict[str, Tensor]
    info: WeightsInfo
    checkpoint: dict[str, Any]
    class_names: list[str]
    has_names: bool
    takes_bytes: bool = False


def load_model(path: str, use_ema: bool = False, token_layout: str | None = None) -> TrainedModel:
    """Return the model in a file, or in an output folder (its best checkpoint, else its latest).

    `token_layout` overrides what the file records. UserError where the file holds no model, or no EMA weights for
    `use_ema`.
    """
    path = store.resolve(path, store.FOR_WEIGHTS, "the checkpoint")
    checkpoint = loading.load(path)
    info = identify(path, checkpoint, token_layout)
    weights = select_weights(path, checkpoint, use_ema)
    model = create_model(info.model, **info.keywords)
    loading.fill(path, model, weights)
    recorded = _class_names(checkpoint, info.classes)
    names = recorded or [str(number) for number in range(info.classes)]
    return TrainedModel(path, model.eval(), weights, info, checkpoint, names, recorded is not None)


def order_of(recorded: Sequence[str] | None, wanted: Sequence[str]) -> list[int] | None:
    """Return the position among the `recorded` names of each of the `wanted` ones, by which outputs are reordered.

    None where these are not the same names; where none are recorded, the order is taken to be the same.
    """
    if not recorded or list(recorded) == list(wanted):
        return list(range(len(wanted)))
    positions = {name: position for position, name in enumerate(recorded)}
    if len(positions) != len(recorded) or sorted(positions) != sorted(wanted):
        return None
    return [positions[name] for name in wanted]


def _class_names(checkpoint: dict[str, Any], count: int) -> list[str] | None:
    names = checkpoint.get("classes")
    return list(names) if names and len(names) == count else None


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
    unlike = "%s holds weights like those of %s, but of no model of that family" % (path, family.name)
    try:
        size = family.image_size(weights) or options.get("input_size") or DEFAULT_SIZE
        chosen = family.keywords_of_weights(weights)
    except IndexError:  # a layer's weights have too few dimensions
        raise UserError(unlike) from None
    if "token_layout" in family.options:
        chosen["token_layout"] = token_layout
    keywords = dict(family.keywords(options, **chosen), image_size=size)
    # Compared for one class: of the others there may be more than memory for a model.
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    classifier = (family.classifier_key, family.classifier_key.replace("weight", "bias"))
    classes = min(len(weights[name]) if weights[name].dim() else 0 for name in classifier if name in weights)
    for name in classifier:
        shapes[name] = (1,) + shapes.get(name, ())[1:] if shapes.get(name, ())[:1] == (classes,) else ()
    for name in sorted(family.model_names, key=lambda name: name != options.get("model")):
        if size <= LARGEST_SIZE and _shapes_of(name, dict(keywords, num_classes=1)) == shapes:
            return WeightsInfo(name, classes, size, dict(keywords, num_classes=classes), options)
    raise UserError(unlike)


def _shapes_of(name: str, keywords: dict[str, Any]) -> dict[str, tuple[int, ...]] | None:
    try:
        with without_contents():
            model = create_model(name, **keywords)
    except (ValueError, TypeError, RuntimeError):
        return None  # it cannot be built for this size, or with these options
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def describe(info: WeightsInfo, checkpoint: dict[str, Any]) -> str:
    """Return one line about the weights, for a log."""
    words = ["%s, %d classes, %d pixels" % (info.model, info.classes, info.image_size)]
    own = {name: value for name, value in info.keywords.items() if name not in ("num_classes", "image_size")}
    words += ["%s %s" % (name.replace("_", " "), value) for name, value in own.items()]
    if checkpoint.get("epoch") is not None:
        words.append("epoch %d" % checkpoint["epoch"])
    if not checkpoint:
        words.append("exported, by onnxruntime")
    else:
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
