"""The output of a benchmark: a table on stdout and, with --output, a JSON file and a bar chart."""

from __future__ import annotations

import dataclasses
import datetime
import os
import shlex
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Sequence

import torch

from runtime.affinity import usable_cores
from runtime.device import accelerators, cpu_has_bfloat16
from runtime.errors import RunError, reason
from utils import write_json

_PACKAGES = ("torch", "torchvision", "timm", "Pillow")


@dataclass
class Row:
    """A measured value; `ratio` to the baseline where there is one, and `low` to `high` the ratio's spread."""

    setting: str
    measure: str
    value: float
    unit: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the row as it is in the JSON file, without a spread that it does not have."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name not in ("low", "high") or value is not None}


def publish(name: str, command: Sequence[str], rows: Sequence[Row], folder: str | None = None) -> None:
    """Print the `rows` of the benchmark `name`; with `folder` also write NAME.json and NAME.png there."""
    machine = hardware()
    print("\n".join(["%s: %s" % (name, shlex.join(command)), *header(machine), "", *table(rows)]))
    if folder is None:
        return
    record = {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(command),
        "hardware": machine,
        "rows": [row.as_dict() for row in rows],
    }
    path = os.path.join(folder, name + ".json")
    try:
        write_json(path, record)
        print("wrote " + path)
        draw(name, machine, rows, os.path.join(folder, name + ".png"))
    except OSError as error:
        raise RunError("--output %s: %s" % (folder, reason(error))) from None


def hardware() -> dict[str, Any]:
    """Return what the numbers depend on: processor, cores, threads, accelerators and versions."""
    return {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "bfloat16_instructions": cpu_has_bfloat16(),
        "accelerators": accelerators(),
        "versions": {package: _version(package) for package in _PACKAGES},
    }


def cpu_model() -> str:
    """Return the processor's name from the kernel, "unknown" where it has none."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else "unknown"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def header(machine: dict[str, Any]) -> list[str]:
    """Return the lines above the table that name the hardware and the versions."""
    cards = machine["accelerators"]
    counted = ["%d x %s" % (cards.count(card), card) for card in sorted(set(cards))]
    bfloat16 = "with" if machine["bfloat16_instructions"] else "without"
    return [
        "CPU: %s, %d usable cores, %d threads, %s bfloat16 instructions"
        % (machine["cpu"], machine["cores"], machine["threads"], bfloat16),
        "accelerators: " + (", ".join(counted) or "none"),
        ", ".join("%s %s" % pair for pair in machine["versions"].items()),
    ]


def table(rows: Sequence[Row]) -> list[str]:
    """Return the lines of a table of `rows` with aligned columns."""
    cells = [("setting", "measure", "value", "unit", "ratio", "quartiles")]
    for row in rows:
        ratio = "-" if row.ratio is None else "%.3f" % row.ratio
        spread = "" if row.low is None or row.high is None else "%.3f to %.3f" % (row.low, row.high)
        cells.append((row.setting, row.measure, "%.4g" % row.value, row.unit, ratio, spread))
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in cells]


def draw(name: str, machine: dict[str, Any], rows: Sequence[Row], path: str) -> None:
    """Write the ratios as horizontal bars to the file `path`; print what to install where matplotlib is missing."""
    compared = [row for row in rows if row.ratio is not None]
    if not compared:
        return
    try:
        import matplotlib
    except ImportError:
        print("no chart: install matplotlib (python -m pip install matplotlib) to have %s" % path)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 1.5 + 0.35 * len(compared)), layout="constrained")
    positions = list(range(len(compared)))
    bars = axes.barh(positions, [row.ratio for row in compared], color="#4477aa")
    axes.bar_label(bars, fmt="%.3f", padding=4)
    for position, row in zip(positions, compared):
        if row.low is not None:
            axes.plot([row.low, row.high], [position, position], color="black", linewidth=2)
    axes.axvline(1, color="gray", linewidth=1)
    axes.set_yticks(positions, ["%s (%s)" % (row.setting, row.measure) for row in compared])
    axes.invert_yaxis()
    axes.set_xlabel("ratio")
    axes.margins(x=0.12, y=0.01)
    axes.set_title("\n".join(["benchmark.py " + name, *header(machine)]), fontsize=8, loc="left")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    print("wrote " + path)
