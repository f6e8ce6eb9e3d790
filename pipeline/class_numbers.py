"""The class numbers of labels, where lists or archives tell labels instead of having class folders; and their order."""

from __future__ import annotations

from typing import Sequence

import numpy

from pipeline.lists import number_labels
from runtime.errors import UserError, did_you_mean, shown


def numbers_of(
    labels: Sequence[str],
    lines: Sequence[int] | Sequence[str],
    source: str,
    own: Sequence[str] | None,
    known: Sequence[str] | None,
) -> tuple[list[str], numpy.ndarray]:
    """Return (names of the classes, class number of each label) by the names `own` of the source, of classes.txt.

    The numbers are those of the training classes `known`, where there are any. `lines` and `source` are those of
    number_labels. UserError for a label that cannot be told, and for a class that is not among `known`.
    """
    names, numbers = number_labels(labels, lines, known if own is None else own, source)
    if known is None or own is None:
        return names, numbers
    places = {name: number for number, name in enumerate(known)}
    table = numpy.array([places.get(name, -1) for name in names])
    strangers = [names[number] for number in numpy.unique(numbers) if table[number] < 0]
    if strangers:
        raise stranger_error(source, strangers[0], known)
    return list(known), table[numbers].astype(numpy.int32)


def stranger_error(source: str, name: str, known: Sequence[str]) -> UserError:
    """Return the error of a class that is not among the training classes `known`."""
    hint = did_you_mean(name, known)
    if list(known) == [str(number) for number in range(len(known))]:
        hint = ", which are numbers: name them in classes.txt beside the training data"
    return UserError("%s: the class %s is not among the training classes%s" % (source, shown(name), hint))


def row_order(targets: numpy.ndarray, names: Sequence[str]) -> numpy.ndarray:
    """Return the rows that have a class (0 and up) in the order of ImageFolder: by class, folder, name there."""
    keys = ["\0".join(name.rpartition("/")[::2]) for name in names]  # no character sorts before the null
    rows = numpy.argsort(targets, kind="stable")
    counts = numpy.bincount(targets[targets >= 0])
    order: list[int] = []
    start = len(targets) - int(counts.sum())
    for count in counts.tolist():
        order += sorted(rows[start : start + count].tolist(), key=keys.__getitem__)
        start += count
    return numpy.array(order, numpy.int64)
