"""What a benchmark leaves: a table on stdout, and with --output a JSON file and a bar chart.

A row is a dictionary {"setting", "measure", "value", "unit", "ratio"}; "ratio" is None where there is nothing to
compare with. "low" and "high", where they are given, are the spread of the ratio.
"""

import datetime
import json
import os
import shlex
from importlib import metadata

import torch

from runtime.affinity import usable_cores
from runtime.device import accelerators, cpu_has_bfloat16
from runtime.errors import RunError

_PACKAGES = ("torch", "torchvision", "timm", "Pillow")


def publish(name, command, rows, folder=None):
    """Print the `rows` of the benchmark `name`; with `folder` also write NAME.json and NAME.png there."""
    machine = hardware()
    print("\n".join(["%s: %s" % (name, shlex.join(command))] + header(machine) + [""] + table(rows)))
    if folder is None:
        return
    record = {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(command),
        "hardware": machine,
        "rows": rows,
    }
    path = os.path.join(folder, name + ".json")
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(record, file, indent=1)
            file.write("\n")
        print("wrote " + path)
        draw(name, machine, rows, os.path.join(folder, name + ".png"))
    except OSError as error:
        raise RunError("--output %s: %s" % (folder, error)) from None


def hardware():
    """What the numbers depend on, as a dictionary."""
    return {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "bfloat16_instructions": cpu_has_bfloat16(),
        "accelerators": accelerators(),
        "versions": {package: _version(package) for package in _PACKAGES},
    }


def cpu_model():
    """The processor's name as the kernel tells it, "unknown" where it does not."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else "unknown"


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def header(machine):
    """The lines above the table that name the hardware and the versions."""
    cards = machine["accelerators"]
    counted = ["%d x %s" % (cards.count(card), card) for card in sorted(set(cards))]
    return [
        "CPU: %s, %d usable cores, %d threads, %s bfloat16 instructions"
        % (machine["cpu"], machine["cores"], machine["threads"], _with(machine["bfloat16_instructions"])),
        "accelerators: " + (", ".join(counted) or "none"),
        ", ".join("%s %s" % pair for pair in machine["versions"].items()),
    ]


def _with(is_there):
    return "with" if is_there else "without"


def table(rows):
    """The lines of a table of `rows`, its columns aligned."""
    cells = [("setting", "measure", "value", "unit", "ratio", "quartiles")]
    for row in rows:
        ratio = "-" if row["ratio"] is None else "%.3f" % row["ratio"]
        spread = "%.3f to %.3f" % (row["low"], row["high"]) if row.get("low") is not None else ""
        cells.append((row["setting"], row["measure"], "%.4g" % row["value"], row["unit"], ratio, spread))
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in cells]


def draw(name, machine, rows, path):
    """Write the ratios as horizontal bars to the file `path`; without matplotlib say how to have them."""
    compared = [row for row in rows if row["ratio"] is not None]
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
    places, ratios = list(range(len(compared))), [row["ratio"] for row in compared]
    bars = axes.barh(places, ratios, color="#4477aa")
    axes.bar_label(bars, ["%.3f" % ratio for ratio in ratios], padding=4)
    for place, row in zip(places, compared):
        if row.get("low") is not None:
            axes.plot([row["low"], row["high"]], [place, place], color="black", linewidth=2)
    axes.axvline(1, color="gray", linewidth=1)
    axes.set_yticks(places, ["%s (%s)" % (row["setting"], row["measure"]) for row in compared])
    axes.invert_yaxis()
    axes.set_xlabel("ratio")
    axes.margins(x=0.12, y=0.01)
    axes.set_title("\n".join(["benchmark.py " + name] + header(machine)), fontsize=8, loc="left")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    print("wrote " + path)
