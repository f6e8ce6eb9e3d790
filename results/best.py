"""Which epoch of a run is the best: the one whose weights best.pth holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

# How --best-by names a metric: its column of log.txt, and 1 where more of it is better, else -1.
METRICS = {
    "acc1": ("test_acc1", 1),
    "balanced": ("test_balanced_acc", 1),
    "f1": ("test_macro_f1", 1),
    "loss": ("test_loss", -1),
}


@dataclass(frozen=True)
class Best:
    """The best epoch: its number, its Acc@1 in percent, and the value by which it was chosen, of which more is better.

    Before there is one the epoch is None, and the accuracy -1.
    """

    epoch: int | None = None
    accuracy: float = -1.0
    value: float = -math.inf


def value_of(row: Mapping[str, Any], best_by: str) -> float:
    """Return what `--best-by` compares of a row of log.txt: more is better; NaN where the row lacks it."""
    column, sign = METRICS[best_by]
    value = row.get(column)
    return math.nan if value is None else sign * value


def better(best: Best, row: Mapping[str, Any], best_by: str) -> Best:
    """Return the Best of `best` and the epoch of `row`; the earlier of equals, and never one whose value is NaN."""
    value = value_of(row, best_by)
    return Best(row["epoch"], row["test_acc1"], value) if value > best.value else best


def recorded(loaded: Mapping[str, Any], best_by: str) -> Best:
    """Return the Best of the checkpoint `loaded`, whose weights best.pth holds, in terms of `best_by`.

    Its value is unknown, so that the next epoch is better, where the run was recorded without that metric.
    """
    epoch, accuracy = loaded.get("best_epoch"), loaded.get("max_accuracy", -1.0)
    if best_by == "acc1":
        return Best(epoch, accuracy, accuracy)
    history: Sequence[Mapping[str, Any]] = loaded.get("history", [])
    values = [value_of(row, best_by) for row in history if row.get("epoch") == epoch]
    is_known = bool(values) and not math.isnan(values[-1])
    return Best(epoch, accuracy, values[-1] if is_known else -math.inf)
