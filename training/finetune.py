"""Fine-tuning: a run that starts from trained weights, for other classes or at another image size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Sequence

from checkpoints import loading, store
from checkpoints.weights import order_of
from models.resampling import resample
from runtime.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from models.layers import ImageModel


@dataclass
class InitialWeights:
    """The weights of `--finetune`, with what their file records: the options of its run, and None or its classes."""

    path: str
    weights: dict[str, Tensor]
    options: dict[str, Any]
    classes: Sequence[str] | None


def read(option: str) -> InitialWeights:
    """Return the weights in a file, in a folder (its best checkpoint), or at an https address."""
    path = store.resolve(option, store.FOR_WEIGHTS, "--finetune")
    checkpoint = loading.load(path)
    return InitialWeights(path, checkpoint["model"], loading.options_of(checkpoint), checkpoint.get("classes"))


def load_weights(source: InitialWeights, model: ImageModel, classes: Sequence[str]) -> list[str]:
    """Load the weights into `model`, and return a line for each thing that does not fit as it is.

    A head for other classes is replaced by the one of `model`, and token mixers of another image size are resampled.
    UserError where anything else differs.
    """
    wanted = model.state_dict()
    weights, lines = _with_head(source, model, wanted, classes)
    weights, count = resample(weights, wanted, model.line_mixers, model.token_mlps)
    if count and getattr(model, "token_layout", None) == "reshape":
        raise UserError(
            "--finetune %s: with --token-layout reshape its layers mix groups of channels and cannot be resampled: "
            "pass its own --input-size" % source.path
        )
    if count:
        lines.append("%d token-mixing layers are resampled to this --input-size" % count)
    loading.fill(source.path, model, weights)
    return lines


def _with_head(
    source: InitialWeights, model: ImageModel, wanted: dict[str, Tensor], classes: Sequence[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights with a head for `classes`: their own, or that of `wanted`; and a line on what was done."""
    weights, head = dict(source.weights), _head_of(model)
    rows = [len(weights[name]) for name in head if name in weights and weights[name].dim()]
    if rows == [len(wanted[name]) for name in head]:
        recorded = source.classes if source.classes and len(source.classes) == len(classes) else None
        order = order_of(recorded, classes)
        if order is not None:
            if order == list(range(len(classes))):
                return weights, []
            weights.update({name: weights[name][order] for name in head})
            return weights, ["the rows of the head are reordered by the names of the classes"]
    for name in head:
        weights[name] = wanted[name]
    count = "%d classes" % rows[0] if rows else "no classes"
    other = "%d other classes" % rows[0] if rows and rows[0] == len(classes) else count
    return weights, ["the head of %s is replaced by a new one of %d" % (other, len(classes))]


def _head_of(model: ImageModel) -> list[str]:
    """Return the names of the classifier's parameters."""
    own = {id(parameter) for parameter in model.get_classifier().parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) in own]
