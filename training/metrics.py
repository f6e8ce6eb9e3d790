"""What an evaluation counts and computes: accuracy, loss and, with --per-class, the confusion matrix.

To add a metric, add its sums to `Counts.update`, its value to `Counts.result`, and a field to `EvalResult`. The fields
are columns of log.txt (with the prefix test_ or ema_) and the keys of evaluation.json. For --best-by it needs a row in
results/best.py.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Sequence

import numpy
import torch
from torch.nn import functional

from runtime.errors import RunError, printable

if TYPE_CHECKING:
    from torch import Tensor

    from runtime.distributed import Ranks

LOSS_UNIT = 2.0**24  # losses are added up as integers of this fraction: exact, in any order, on any number of ranks
LARGEST_LOSS = 1e4  # a larger one counts as this much, so that their sum fits into an integer
MOST_SHOWN = 100  # the largest number of classes whose whole confusion matrix is written
MOST_PAIRS = 20
_IN_LOG = 5


@dataclass(frozen=True)
class EvalResult:
    """The metrics of an evaluation, in percent but for the loss; how many images count, how many could not be read.

    `not_finite` of the images have logits that are not finite: they count as wrong, and make the loss NaN. Where all
    are such images, the accuracy is NaN too. `balanced_acc` is the mean accuracy of the classes that have images,
    `macro_f1` the mean F1 of the classes that have images or are predicted; None where classes were not counted.
    """

    acc1: float
    acc5: float
    loss: float
    images: int
    skipped: int
    not_finite: int = 0
    balanced_acc: float | None = None
    macro_f1: float | None = None

    def metrics(self) -> dict[str, float]:
        """Return the metrics by name, without the numbers of images and what was not counted."""
        counts = ("images", "skipped", "not_finite")
        return {name: value for name, value in self.as_dict().items() if name not in counts and value is not None}

    def as_dict(self) -> dict[str, Any]:
        """Return all fields by name."""
        return dataclasses.asdict(self)

    def claimed(self) -> EvalResult:
        """Return the result without an accuracy, which is NaN, where logits are not finite."""
        if not self.not_finite:
            return self
        unknown: dict[str, Any] = dict.fromkeys((name for name in self.metrics() if name != "loss"), math.nan)
        return dataclasses.replace(self, **unknown)


class Counts:
    """Named int64 sums over the images of an evaluation, on the device.

    With `classes`, `by_class` (3, classes) counts the images of each class, those predicted as it, and the hits, and
    with `confuses` too `confusion` (classes, classes) has a row for each true class and a column for each predicted
    one; they are None otherwise. Integers make the result independent of how images are spread over batches and ranks.
    """

    def __init__(self, torch_device: torch.device | str, classes: int | None = None, confuses: bool = False) -> None:
        self.torch_device = torch_device
        names = ("images", "top1", "top5", "loss_units", "losses_not_finite", "not_finite", "skipped")
        self.sums = {name: torch.zeros((), dtype=torch.int64, device=torch_device) for name in names}
        self.by_class = self.confusion = None
        if classes is not None:
            self.by_class = torch.zeros(3, classes, dtype=torch.int64, device=torch_device)
            if confuses:
                self.confusion = torch.zeros(classes, classes, dtype=torch.int64, device=torch_device)

    def like(self) -> Counts:
        """Return empty Counts of the same classes, without a confusion matrix."""
        return Counts(self.torch_device, None if self.by_class is None else self.by_class.shape[1])

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count a batch of float32 `logits` (B, classes) and `targets` (B,), without waiting for the device."""
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        is_answer = torch.isfinite(logits).all(dim=1)
        hits = best.eq(targets.unsqueeze(1)) & is_answer.unsqueeze(1)
        losses = functional.cross_entropy(logits, targets, reduction="none")
        is_finite = torch.isfinite(losses)
        losses = torch.where(is_finite, losses, torch.zeros_like(losses)).clamp(max=LARGEST_LOSS)
        self.sums["images"] += len(targets)
        self.sums["top1"] += hits[:, 0].sum()
        self.sums["top5"] += hits.any(dim=1).sum()
        self.sums["loss_units"] += (losses * LOSS_UNIT).round().long().sum()
        self.sums["losses_not_finite"] += (~is_finite).sum()
        self.sums["not_finite"] += (~is_answer).sum()
        if self.by_class is not None:
            answers = is_answer.to(targets.dtype)
            self.by_class[0].index_add_(0, targets, torch.ones_like(targets))
            self.by_class[1].index_add_(0, best[:, 0], answers)
            self.by_class[2].index_add_(0, targets, hits[:, 0].to(targets.dtype))
            if self.confusion is not None:
                cells = targets * self.confusion.shape[1] + best[:, 0]
                self.confusion.view(-1).index_add_(0, cells, answers)

    def add_skipped(self, images: int) -> None:
        """Count images that could not be read."""
        self.sums["skipped"] += images

    def sum_over(self, ranks: Ranks) -> None:
        """Replace each sum by the sum over all ranks, in one message; those of the classes take others."""
        totals = ranks.all_reduce(torch.stack(list(self.sums.values())))
        self.sums = dict(zip(self.sums, totals.unbind()))
        for table in (self.by_class, self.confusion):
            if table is not None:
                ranks.all_reduce(table)

    def result(self) -> EvalResult:
        """Return the metrics; RunError if there was no image."""
        sums = dict(zip(self.sums, torch.stack(list(self.sums.values())).tolist()))
        images = sums["images"]
        if not images:
            raise RunError("no image could be evaluated")
        percent = 100.0 if sums["not_finite"] < images else math.nan
        return EvalResult(
            acc1=percent * sums["top1"] / images,
            acc5=percent * sums["top5"] / images,
            loss=math.nan if sums["losses_not_finite"] else sums["loss_units"] / LOSS_UNIT / images,
            images=images,
            skipped=sums["skipped"],
            not_finite=sums["not_finite"],
            **self._means_of_classes(percent),
        )

    def _means_of_classes(self, percent: float) -> dict[str, float]:
        """Return the metrics that count each class alike, or {}; `percent` is 100, or NaN if nothing is known."""
        if self.by_class is None:
            return {}
        images, predicted, hits = self.by_class.cpu().numpy()
        has_images, occurs = images > 0, images + predicted > 0
        return {
            "balanced_acc": percent * float((hits[has_images] / images[has_images]).mean()),
            "macro_f1": percent * float((2 * hits[occurs] / (images + predicted)[occurs]).mean()),
        }


def per_class_summary(confusion: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Return {"per_class", "confused", "confusion"} for JSON, from a confusion matrix and the classes' names.

    "per_class" has {"name", "images", "correct", "acc1"} for each class in order; acc1 is in percent, or None for a
    class without images. "confused" lists the most frequently confused pairs as {"true", "predicted", "images",
    "percent"}, in percent of the true class. "confusion" has the rows of the matrix, or is None for more than
    MOST_SHOWN classes.
    """
    matrix = confusion.cpu().numpy()
    images, correct = matrix.sum(axis=1).tolist(), matrix.diagonal().tolist()
    rows = [
        {"name": name, "images": total, "correct": hits, "acc1": 100.0 * hits / total if total else None}
        for name, total, hits in zip(names, images, correct)
    ]
    confused = [
        {"true": names[true], "predicted": names[other], "images": times, "percent": 100.0 * times / images[true]}
        for true, other, times in _most_confused(matrix)
    ]
    return {
        "per_class": rows,
        "confused": confused,
        "confusion": matrix.tolist() if len(rows) <= MOST_SHOWN else None,
    }


def _most_confused(matrix: numpy.ndarray) -> list[tuple[int, int, int]]:
    """Return [(true class, predicted class, times)], the most frequent first, then in the order of classes."""
    true, predicted = numpy.nonzero(matrix)
    is_wrong = true != predicted
    true, predicted = true[is_wrong], predicted[is_wrong]
    times = matrix[true, predicted]
    order = numpy.lexsort((predicted, true, -times))[:MOST_PAIRS]
    return list(zip(true[order].tolist(), predicted[order].tolist(), times[order].tolist()))


def per_class_table(summary: dict[str, Any]) -> list[str]:
    """Return the lines of a table of the few worst classes and most confused pairs, for the log."""
    wrong = [row for row in summary["per_class"] if row["correct"] < row["images"]]
    if not wrong:
        return ["Every image is predicted as its own class"]
    worst = sorted(wrong, key=lambda row: row["acc1"])[:_IN_LOG]
    pairs, totals = summary["confused"][:_IN_LOG], {row["name"]: row["images"] for row in summary["per_class"]}
    classes = [(printable(row["name"]), row["acc1"], row["correct"], row["images"]) for row in worst]
    confused = [
        (
            "%s predicted as %s" % (printable(pair["true"]), printable(pair["predicted"])),
            pair["percent"],
            pair["images"],
            totals[pair["true"]],
        )
        for pair in pairs
    ]
    width = max(len(row[0]) for row in classes + confused)
    lines = []
    for title, rows in (("Lowest accuracy by class", classes), ("Most often confused", confused)):
        lines.append(title)
        lines += ["    %-*s %5.1f%% (%d of %d)" % (width, *row) for row in rows]
    return lines
