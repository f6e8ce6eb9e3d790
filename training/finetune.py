"""Fine-tuning: a run that starts from trained weights, for other classes or at another image size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Sequence

from checkpoints import loading, store
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
    rows = [len(weights[name]) for name in head if name in weights]
    if rows == [len(wanted[name]) for name in head]:
        names_differ = source.classes is not None and list(source.classes) != list(classes)
        return weights, ["the head is kept, although its class names differ"] if names_differ else []
    for name in head:
        weights[name] = wanted[name]
    count = "%d classes" % rows[0] if rows else "no classes"
    return weights, ["the head of %s is replaced by a new one of %d" % (count, len(classes))]


def _head_of(model: ImageModel) -> list[str]:
    """Return the names of the classifier's parameters."""
    own = {id(parameter) for parameter in model.get_classifier().parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) in own]
