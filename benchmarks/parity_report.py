"""The statistics of benchmark.py parity, as a table and a chart.

Accuracies after the last epoch are compared seed by seed. Two ways are equivalent when two one-sided t tests at 5 %
(Schuirmann 1987) put the mean difference within the margin, that is, when its 90 % interval lies within the margin.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Sequence

import matplotlib
import numpy
from scipy import stats

if TYPE_CHECKING:
    from typing import TypedDict

    class Curve(TypedDict):
        """A line of runs.jsonl: a training with one seed."""

        way: str
        seed: int
        epochs: int
        loss: list[float]  # of each epoch
        accuracy: list[float]  # of each epoch, percent

else:
    Curve = dict

CONFIDENCE = 0.9
# The way that a way is compared with, if it is not the baseline.
BASES = {"baseline": None, "reshape": "ours", "parquet": "ours"}


def compare(curves: dict[str, dict[int, Curve]], margin: float) -> dict[str, dict[str, Any]]:
    """Return the mean accuracy of each way after the last epoch, and the statistics of its difference to another."""
    last = {way: {seed: row["accuracy"][-1] for seed, row in rows.items()} for way, rows in curves.items()}
    results: dict[str, dict[str, Any]] = {}
    for way, values in last.items():
        base = BASES.get(way, "baseline")
        results[way] = {"mean": sum(values.values()) / len(values), "runs": len(values), "beside": base}
        if base in last:
            differences = [values[seed] - last[base][seed] for seed in values]
            results[way].update(equivalence(differences, margin))
    return results


def equivalence(differences: Sequence[float], margin: float) -> dict[str, Any]:
    """Return {"difference", "low", "high", "p", "equivalent"} of paired differences, by two one-sided t tests."""
    count = len(differences)
    mean = sum(differences) / count
    error = math.sqrt(sum((value - mean) ** 2 for value in differences) / (count - 1) / count)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * error
    if error:
        p = max(stats.t.sf((mean + margin) / error, count - 1), stats.t.cdf((mean - margin) / error, count - 1))
    else:
        p = float(abs(mean) >= margin)
    low, high = mean - half, mean + half
    is_equivalent = bool(-margin < low and high < margin)
    return {"difference": mean, "low": low, "high": high, "p": float(p), "equivalent": is_equivalent}


def table(results: dict[str, dict[str, Any]]) -> list[str]:
    """Return the lines to print."""
    head = ("way", "runs", "Acc@1 %", "difference in points, its 90 % interval, p of two one-sided tests")
    lines = ["%-8s %5s %9s  %s" % head]
    for way, result in results.items():
        line = "%-8s %5d %9.3f" % (way, result["runs"], result["mean"])
        if "difference" in result:
            line += "  to {beside}: {difference:+.3f} ({low:+.3f} to {high:+.3f}), p {p:.2g}".format(**result)
            line += ", equivalent" if result["equivalent"] else ", not shown to be equivalent"
        lines.append(line)
    return lines


def draw(curves: dict[str, dict[int, Curve]], results: dict[str, dict[str, Any]], margin: float, path: str) -> None:
    """Write mean curves with 95 % bands, and the differences with their intervals beside the margin, to a PNG file."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    for way, rows in curves.items():
        _draw_mean(panels[0], way, [row["loss"] for row in rows.values()])
        _draw_mean(panels[1], way, [row["accuracy"] for row in rows.values()])
    for panel, label in ((panels[0], "training loss"), (panels[1], "Acc@1 (%)")):
        panel.set_xlabel("epoch")
        panel.set_ylabel(label + ", mean and 95 % band")
        panel.legend()
    least = min(row["accuracy"][-1] for rows in curves.values() for row in rows.values())
    panels[1].set_ylim(max(0, least - 3), min(100, panels[1].get_ylim()[1]))
    _draw_differences(panels[2], results, margin)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_mean(panel: Any, way: str, curves: list[list[float]]) -> None:
    values = numpy.array(curves)
    mean, epochs = values.mean(axis=0), numpy.arange(1, values.shape[1] + 1)
    band = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values, axis=0)
    panel.plot(epochs, mean, label="%s (%d runs)" % (way, len(values)))
    panel.fill_between(epochs, mean - band, mean + band, alpha=0.25)


def _draw_differences(panel: Any, results: dict[str, dict[str, Any]], margin: float) -> None:
    compared = [(way, result) for way, result in results.items() if "difference" in result]
    for position, (_, result) in enumerate(compared):
        panel.plot([result["low"], result["high"]], [position, position], color="black")
        panel.plot(result["difference"], position, "o", color="#4477aa")
    panel.set_yticks(range(len(compared)), ["%s - %s" % (way, result["beside"]) for way, result in compared])
    panel.axvline(0, color="gray", linewidth=1)
    for limit in (-margin, margin):
        panel.axvline(limit, color="gray", linewidth=1, linestyle="--")
    panel.set_xlabel("difference in points, 90 % interval, margin")
