"""Fine-tuning: a run that starts from trained weights, for other classes or at another image size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Sequence

from checkpoints import loading, store
from models.resampling import resample
from runtime.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn


class InitialWeights:
    """The weights of `--finetune`: the file's `path`, its `weights`, `options` and `classes` (None if not recorded)."""

    def __init__(self, path: str, loaded: dict[str, Any]) -> None:
        self.path, self.weights = path, loaded["model"]
        self.options, self.classes = loading.options_of(loaded), loaded.get("classes")


def read(option: str) -> InitialWeights:
    """Return the weights in a file, in a folder (its best checkpoint), or at an https address."""
    path = store.resolve(option, (store.BEST, store.LATEST), "--finetune")
    return InitialWeights(path, loading.load(path))


def load_weights(source: InitialWeights, model: nn.Module, classes: Sequence[str]) -> list[str]:
    """Load the weights into `model`, and return a line for each thing that could not be taken over as it is.

    A head for other classes is replaced by the one of `model`, and token mixers of another image size are resampled.
    UserError where anything else differs.
    """
    wanted = model.state_dict()
    weights, lines = _with_head(source, model, wanted, classes)
    weights, count = resample(weights, wanted)
    if count and getattr(model, "token_layout", None) == "reshape":
        raise UserError(
            "--finetune %s: with --token-layout reshape its layers mix groups of channels and cannot be resampled: "
            "pass its own --input-size" % source.path
        )
    if count:
        lines.append("%d token-mixing layers are resampled to this --input-size" % count)
    loading.check_fits(source.path, weights, model)
    model.load_state_dict(weights)
    return lines


def _with_head(
    source: InitialWeights, model: nn.Module, wanted: dict[str, Tensor], classes: Sequence[str]
) -> tuple[dict[str, Tensor], list[str]]:
    weights, head = dict(source.weights), _head_of(model)
    there = [len(weights[name]) for name in head if name in weights]
    here = [len(wanted[name]) for name in head]
    if there == here:
        known = source.classes
        others = known is not None and list(known) != list(classes)
        return weights, ["the head is kept, although its class names differ"] if others else []
    for name in head:
        weights[name] = wanted[name]
    return weights, ["the head of %s is replaced by a new one of %d" % (_count(there), len(classes))]


def _head_of(model: nn.Module) -> list[str]:
    """Return the names of the classifier's parameters."""
    own = {id(parameter) for parameter in model.get_classifier().parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) in own]


def _count(rows: list[int]) -> str:
    return "%d classes" % rows[0] if rows else "no classes"
