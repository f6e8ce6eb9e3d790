"""The curves of runs, drawn by matplotlib."""

from __future__ import annotations

import io
import warnings
from typing import Any, Sequence

from results.reader import RunFolder
from results.report_page import GENERATOR
from runtime.errors import UserError

_PANELS = (
    ("loss", (("train_loss", "training", "-"), ("test_loss", "validation", "--"))),
    ("Acc@1 (%)", (("test_acc1", "weights", "-"), ("ema_acc1", "EMA", "--"))),
    ("learning rate", (("train_lr", "", "-"),)),
    ("images/s", (("images_per_second", "", "-"),)),
)
_COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#aa3377", "#66ccee", "#bbbbbb", "#222222")
_LINE = 0.22  # inches, of the legend
_MARKED = 40  # epochs up to which each is a dot


def _pyplot() -> Any:
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise UserError("the curves need matplotlib: python -m pip install matplotlib") from None
    return pyplot


def draw(runs: Sequence[RunFolder]) -> bytes:
    """Return the curves of the runs as the bytes of a PNG; UserError where matplotlib is not installed."""
    pyplot = _pyplot()
    below = len(runs) if len(runs) > 1 else 0  # lines of the legend
    figure, panels = pyplot.subplots(2, 2, figsize=(11, 6.6 + _LINE * below))
    for panel, (label, lines) in zip(panels.flat, _PANELS):
        draw_panel(panel, label, lines, runs)
    if len(runs) > 1:
        handles = [pyplot.Line2D([], [], color=_color(number), linewidth=3) for number in range(len(runs))]
        names = ["%d: %s" % (number, _label(run.name)) for number, run in enumerate(runs, 1)]
        figure.legend(handles, names, loc="lower center", fontsize=9, frameon=False)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of characters in a name that the font lacks
        figure.tight_layout(rect=(0, _LINE * below / figure.get_figheight(), 1, 1))
        figure.savefig(file, format="png", dpi=110, metadata={"Software": GENERATOR})
    pyplot.close(figure)
    return file.getvalue()


def draw_panel(panel, label, lines, runs):
    several = len(runs) > 1
    styles: dict[str, Any] = {}
    for number, run in enumerate(runs):
        for place, (key, name, style) in enumerate(lines):
            pairs = run.series(key)
            if not pairs:
                continue
            color = _color(number) if several else _COLORS[place]
            marker = "o" if len(pairs) <= _MARKED else None
            (line,) = panel.plot(*zip(*pairs), style, color=color, marker=marker, markersize=3, linewidth=1.6)
            styles.setdefault(name, line)
        best = run.best()
        if label.startswith("Acc") and best:
            panel.plot(*best, "*", color=_color(number) if several else _COLORS[0], markersize=12, clip_on=False)
    if not styles:
        panel.text(0.5, 0.5, "nothing yet", transform=panel.transAxes, ha="center", va="center", color="gray")
    elif "" not in styles:
        legend = panel.legend(list(styles.values()), list(styles), frameon=False)
        for handle in legend.get_lines() if several else ():
            handle.set_color("#555555")
    panel.set_xlabel("epoch")
    panel.set_ylabel(label)
    panel.xaxis.get_major_locator().set_params(integer=True)
    if label == "images/s" and styles:
        panel.set_ylim(bottom=0)
    panel.ticklabel_format(axis="y", scilimits=(-3, 5))
    panel.grid(alpha=0.3)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def _color(number):
    return _COLORS[number % len(_COLORS)]


def _label(name):
    """`name` as matplotlib draws it unchanged: no formula, and not too long."""
    name = name if len(name) <= 70 else "..." + name[-67:]
    return name.replace("\\", "\\\\").replace("$", r"\$") if "$" in name else name
