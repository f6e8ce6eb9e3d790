"""What each class is taken for: the counts of an evaluation, as numbers of each class and the pairs mixed up most."""

import numpy
import torch
from torch.nn import functional

from runtime.errors import printable

LOSS_UNIT = 2.0**24  # losses are added up as integers of this fraction: exact, in any order, on any number of ranks
MOST_SHOWN = 100  # classes up to which the whole matrix is told
MOST_PAIRS = 20
_IN_LOG = 5


def no_counts(classes, torch_device):
    """int64 (classes, classes) of zeros for `count`: a row for each true class, a column for what it is taken for."""
    return torch.zeros(classes, classes, dtype=torch.int64, device=torch_device)


def count(counts, targets, predicted):
    """Add images with the classes `targets` (B,), taken for `predicted` (B,), without waiting for the device."""
    places = targets * counts.shape[1] + predicted
    counts.view(-1).index_add_(0, places, torch.ones_like(places))


def summary_of(counts, names):
    """{"per_class", "confused", "confusion"} of the `counts`: plain numbers, for JSON.

    "per_class" has {"name", "images", "correct", "acc1"} for each class in order, acc1 in percent, or None without
    images. "confused" has the pairs that are mixed up most often, {"true", "predicted", "images", "percent"} of the
    true class; "confusion" the rows of the matrix, or None for more than MOST_SHOWN classes.
    """
    matrix = counts.cpu().numpy()
    images, correct = matrix.sum(axis=1).tolist(), matrix.diagonal().tolist()
    rows = [
        {"name": name, "images": total, "correct": hits, "acc1": 100.0 * hits / total if total else None}
        for name, total, hits in zip(names, images, correct)
    ]
    confused = [
        {"true": names[true], "predicted": names[taken], "images": times, "percent": 100.0 * times / images[true]}
        for true, taken, times in _worst_pairs(matrix)
    ]
    return {
        "per_class": rows,
        "confused": confused,
        "confusion": matrix.tolist() if len(rows) <= MOST_SHOWN else None,
    }


def _worst_pairs(matrix):
    """[(true class, what it is taken for, times)], the most frequent first, among equals in the order of classes."""
    true, taken = numpy.nonzero(matrix)
    true, taken = true[true != taken], taken[true != taken]
    times = matrix[true, taken]
    order = numpy.lexsort((taken, true, -times))[:MOST_PAIRS]
    return list(zip(true[order].tolist(), taken[order].tolist(), times[order].tolist()))


def lines_of(summary):
    """The worst few classes and pairs, for the log."""
    wrong = [row for row in summary["per_class"] if row["correct"] < row["images"]]
    if not wrong:
        return ["Every image of every class is taken for what it is"]
    worst = sorted(wrong, key=lambda row: row["acc1"])[:_IN_LOG]
    texts = ["%s %.1f%% of %d" % (printable(row["name"]), row["acc1"], row["images"]) for row in worst]
    pairs = summary["confused"][:_IN_LOG]
    taken = ["%s for %s (%d)" % (printable(p["true"]), printable(p["predicted"]), p["images"]) for p in pairs]
    return [
        "Lowest accuracy by class: " + ", ".join(texts),
        "Most often taken for another: " + ", ".join(taken),
    ]


def count_hits(logits, best, targets):
    """int64 [images, top-1 hits, top-5 hits, sum of losses in units of 2**-24, losses that are not finite]."""
    losses = functional.cross_entropy(logits, targets, reduction="none")
    hits = best.eq(targets.unsqueeze(1))
    finite = torch.isfinite(losses)
    units = (torch.where(finite, losses, torch.zeros_like(losses)).clamp(max=1e4) * LOSS_UNIT).round().long()
    return torch.stack(
        [torch.ones_like(targets).sum(), hits[:, 0].sum(), hits.any(dim=1).sum(), units.sum(), (~finite).sum()]
    )
