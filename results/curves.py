"""The curves of runs, drawn by matplotlib."""

from __future__ import annotations

import io
import warnings
from typing import Any, NamedTuple, Sequence

from results.reader import RunFolder
from results.report_page import GENERATOR
from runtime.errors import UserError


class Line(NamedTuple):
    """A curve of each run."""

    key: str  # in log.txt
    name: str  # in the legend, "" for none
    style: str  # of matplotlib


class Panel(NamedTuple):
    """One of the four plots."""

    label: str
    lines: tuple[Line, ...]
    marks_best: bool = False
    starts_at_zero: bool = False


PANELS = (
    Panel("loss", (Line("train_loss", "training", "-"), Line("test_loss", "validation", "--"))),
    Panel("Acc@1 (%)", (Line("test_acc1", "weights", "-"), Line("ema_acc1", "EMA", "--")), marks_best=True),
    Panel("learning rate", (Line("train_lr", "", "-"),)),
    Panel("images/s", (Line("images_per_second", "", "-"),), starts_at_zero=True),
)
_COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#aa3377", "#66ccee", "#bbbbbb", "#222222")
_LEGEND_LINE = 0.22  # inches
_MOST_DOTS = 40  # epochs, above which a line has no dots


def draw(runs: Sequence[RunFolder]) -> bytes:
    """Return the curves of the runs as the bytes of a PNG; UserError where matplotlib is not installed."""
    pyplot = _pyplot()
    legend_lines = len(runs) if len(runs) > 1 else 0
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 6.6 + _LEGEND_LINE * legend_lines))
    for axis, panel in zip(axes.flat, PANELS):
        draw_panel(axis, panel, runs)
    if legend_lines:
        handles = [pyplot.Line2D([], [], color=_color(number), linewidth=3) for number in range(len(runs))]
        names = ["%d: %s" % (number, _legend_text(run.name)) for number, run in enumerate(runs, 1)]
        figure.legend(handles, names, loc="lower center", fontsize=9, frameon=False)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of characters in a name that the font lacks
        figure.tight_layout(rect=(0, _LEGEND_LINE * legend_lines / figure.get_figheight(), 1, 1))
        figure.savefig(file, format="png", dpi=110, metadata={"Software": GENERATOR})
    pyplot.close(figure)
    return file.getvalue()


def _pyplot() -> Any:
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise UserError("the curves need matplotlib: python -m pip install matplotlib") from None
    return pyplot


def draw_panel(axis: Any, panel: Panel, runs: Sequence[RunFolder]) -> None:
    """Draw the lines of a panel for all runs into a matplotlib axis: one color a run, or a line if there is one run."""
    styles: dict[str, Any] = {}
    for number, run in enumerate(runs):
        for position, line in enumerate(panel.lines):
            pairs = run.series(line.key)
            if not pairs:
                continue
            color = _color(number) if len(runs) > 1 else _color(position)
            marker = "o" if len(pairs) <= _MOST_DOTS else None
            (drawn,) = axis.plot(*zip(*pairs), line.style, color=color, marker=marker, markersize=3, linewidth=1.6)
            styles.setdefault(line.name, drawn)
        best = run.best()
        if panel.marks_best and best:
            axis.plot(*best, "*", color=_color(number), markersize=12, clip_on=False)
    if not styles:
        axis.text(0.5, 0.5, "no values yet", transform=axis.transAxes, ha="center", va="center", color="gray")
    elif "" not in styles:
        legend = axis.legend(list(styles.values()), list(styles), frameon=False)
        for handle in legend.get_lines() if len(runs) > 1 else ():
            handle.set_color("#555555")
    _set_up(axis, panel, bool(styles))


def _set_up(axis: Any, panel: Panel, has_values: bool) -> None:
    axis.set_xlabel("epoch")
    axis.set_ylabel(panel.label)
    axis.xaxis.get_major_locator().set_params(integer=True)
    if panel.starts_at_zero and has_values:
        axis.set_ylim(0, 1.05 * axis.get_ylim()[1])
    axis.ticklabel_format(axis="y", scilimits=(-3, 5))
    axis.grid(alpha=0.3)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _color(number: int) -> str:
    return _COLORS[number % len(_COLORS)]


def _legend_text(name: str) -> str:
    """Return `name` shortened, and escaped so that matplotlib reads no formula in it."""
    name = name if len(name) <= 70 else "..." + name[-67:]
    return name.replace("\\", "\\\\").replace("$", r"\$") if "$" in name else name
