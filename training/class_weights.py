"""--class-weights: how much the images of each class count in the training loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Sequence

import numpy

from runtime.errors import UserError, reason, shown
from utils import open_regular, parse_json

if TYPE_CHECKING:
    from datasets import Loaders
    from options.parsing import Options

_LARGEST = 1e6


def weights_of(options: Options, loaders: Loaders) -> list[float] | None:
    """Return the weight of each class in the training loss; None without `--class-weights`, and without training."""
    if options.class_weights == "none" or loaders.train is None:
        return None
    if options.class_weights != "auto":
        return read(options.class_weights, loaders.classes)
    return from_counts(loaders.train.dataset.images.class_counts(), options.class_weights_power)


def from_counts(counts: Sequence[int] | numpy.ndarray, power: float) -> list[float]:
    """Return weights in proportion to the images of each class to the power of -`power`.

    Their mean over the images is 1, so that the learning rate keeps its meaning.
    """
    images = numpy.asarray(counts, numpy.float64)
    weights = images**-power
    return (weights * (images.sum() / (images * weights).sum())).tolist()


def read(path: str, classes: Sequence[str]) -> list[float]:
    """Return the weights of the `classes` in the JSON file `path`, {name: weight}; UserError where it is wrong."""
    option = "--class-weights %s" % shown(path)
    try:
        with open_regular(path) as file:
            found = parse_json(file.read().decode("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError("%s: %s" % (option, reason(error))) from None
    if not isinstance(found, dict):
        raise UserError('%s: it must hold {"NAME OF A CLASS": WEIGHT, ...}' % option)
    weights = {name: _weight(option, name, weight) for name, weight in found.items()}
    for name in classes:
        if name not in weights:
            raise UserError("%s: it has no weight of the class %s" % (option, shown(name)))
    strangers = sorted(set(weights) - set(classes))
    if strangers:
        raise UserError("%s: there is no class %s" % (option, shown(strangers[0])))
    if not any(weights.values()):
        raise UserError("%s: all weights are 0" % option)
    return [weights[name] for name in classes]


def _weight(option: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _LARGEST:
        text = "%s: the weight of the class %s is no number from 0 to %g"
        raise UserError(text % (option, shown(name), _LARGEST))
    return float(value)
