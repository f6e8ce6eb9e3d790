"""What a benchmark found: a table, a JSON file and a bar chart, all of which name the machine."""

import datetime
import os
import sys

import torch

from runtime.compat import all_versions
from runtime.device import Device, cpu_has_bfloat16, select_device
from runtime.errors import UserError
from utils import write_json


def hardware():
    """The machine and the versions that decide what a benchmark finds, by name."""
    accelerator = select_device("auto")
    return {
        "cpu": Device("cpu").name,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_has_bfloat16": cpu_has_bfloat16(),
        "accelerator": accelerator.name if accelerator.is_accelerator else None,
        "versions": all_versions(),
    }


def show(rows):
    """Print the rows as a table under a description of the machine."""
    machine = hardware()
    bfloat16 = "with" if machine["cpu_has_bfloat16"] else "without"
    print(
        "%s, %d cores, %d threads, %s bfloat16 instructions; %s\n%s"
        % (
            machine["cpu"],
            machine["cores"],
            machine["threads"],
            bfloat16,
            machine["accelerator"] or "no GPU or NPU",
            machine["versions"],
        )
    )
    wide = max([len(row["setting"]) for row in rows] + [7])
    print("%-*s  %12s  %-24s  %7s" % (wide, "setting", "value", "unit", "ratio"))
    for row in rows:
        ratio = "" if row["ratio"] is None else "%7.2f" % row["ratio"]
        spread = "  (%.2f to %.2f)" % (row["low"], row["high"]) if "low" in row else ""
        print("%-*s  %12.4g  %-24s  %7s%s" % (wide, row["setting"], row["value"], row["measure"], ratio, spread))


def save(folder, name, rows, words):
    """Write <folder>/<name>.json and the chart <name>.png; UserError where that is not possible."""
    found = {"benchmark": name, "command": words, "hardware": hardware(), "rows": rows}
    found["date"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    try:
        os.makedirs(folder, exist_ok=True)
        write_json(os.path.join(folder, name + ".json"), found)
        _draw(os.path.join(folder, name + ".png"), name, rows, found["hardware"])
    except OSError as error:
        raise UserError("--output %s: %s" % (folder, error)) from None


def _draw(path, name, rows, machine):
    try:
        import matplotlib
    except ImportError:
        sys.stderr.write("benchmark.py: no chart, for want of matplotlib: pip install matplotlib\n")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in rows if row["ratio"] is not None]
    figure, axes = pyplot.subplots(figsize=(9, 1.4 + 0.32 * len(rows)))
    spreads = [[max(row["ratio"] - row.get("low", row["ratio"]), 0) for row in rows]]
    spreads.append([max(row.get("high", row["ratio"]) - row["ratio"], 0) for row in rows])
    labels = ["%s (%s)" % (row["setting"], row["measure"]) for row in rows]
    bars = axes.barh(range(len(rows)), [row["ratio"] for row in rows], xerr=spreads, color="#4878a8", ecolor="#333333")
    axes.bar_label(bars, ["%.2f" % row["ratio"] for row in rows], padding=6)
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color="#999999", linewidth=1)
    axes.margins(x=0.15)
    axes.set_xlabel("ratio to the baseline")
    axes.set_title("%s: %s, %s" % (name, machine["accelerator"] or machine["cpu"], machine["versions"]), fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
