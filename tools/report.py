"""Curves and a page of one run, or of several beside each other: `python tools/report.py RUN [RUN...] [--output DIR]`.

RUN is the --output-dir of a run, which may be going on, stopped or damaged. DIR (the folder of a single run, unless
named) gets curves.png and report.html: one file, with the curves in it, that needs neither a network nor scripts.
"""

import argparse
import io
import os
import sys
import warnings

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from options import parsing  # noqa: E402 - after the path is set
from results.reader import RunFolder  # noqa: E402
from results.report_page import GENERATOR, page  # noqa: E402
from runtime.errors import UserError, printable, shown  # noqa: E402
from utils import replacing  # noqa: E402

CURVES, PAGE = "curves.png", "report.html"
_PANELS = (
    ("loss", (("train_loss", "training", "-"), ("test_loss", "validation", "--"))),
    ("Acc@1 (%)", (("test_acc1", "weights", "-"), ("ema_acc1", "EMA", "--"))),
    ("learning rate", (("train_lr", "", "-"),)),
    ("images/s", (("images_per_second", "", "-"),)),
)
_COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#aa3377", "#66ccee", "#bbbbbb", "#222222")
_LINE = 0.22  # inches, of the legend
_MARKED = 40  # epochs up to which each is a dot


def main(argv=None):
    parser = argparse.ArgumentParser(description="Curves and a page of runs.")
    parser.add_argument("runs", metavar="RUN", nargs="+", help="the --output-dir of a run")
    parser.add_argument("--output", metavar="DIR", help="(default: the folder of the run, where it is one)")
    try:
        report(parser.parse_args(argv))
    except UserError as error:
        sys.stderr.write("report.py: error: %s\n" % printable(str(error)))
        return 2
    return 0


def report(args):
    """Do what the options ask for; UserError where it cannot be done."""
    if len(args.runs) > 1 and not args.output:
        raise UserError("--output is missing: name the folder for the report of %d runs" % len(args.runs))
    pyplot = _pyplot()
    runs = [RunFolder(path) for path in args.runs]
    folder = args.output or args.runs[0]
    paths = [os.path.join(folder, name) for name in (CURVES, PAGE)]
    for path in paths:
        _check_ours(path)
    picture = draw(pyplot, runs)
    parser = parsing.build_parser()
    defaults = {action.dest: parser.get_default(action.dest) for action in parser._actions}
    contents = (picture, page(runs, defaults, picture).encode("utf-8"))
    try:
        os.makedirs(folder, exist_ok=True)
        for path, content in zip(paths, contents):
            with replacing(path, force=True) as staged, open(staged, "wb") as file:
                file.write(content)
            print("wrote " + shown(path))
    except OSError as error:
        raise UserError("--output %s cannot be written to: %s" % (shown(folder), error.strerror)) from None
    for run in runs:
        for note in run.notes:
            sys.stderr.write("report.py: note: %s: %s\n" % (run.name, printable(note)))


def _pyplot():
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise UserError("the curves need matplotlib: python -m pip install matplotlib") from None
    return pyplot


def _check_ours(path):
    """UserError where `path` is something that this program has not made."""
    if not os.path.lexists(path):
        return
    try:
        if os.path.isfile(path):
            with open(path, "rb") as file:
                if GENERATOR.encode("ascii") in file.read(2000):
                    return
    except OSError as error:
        raise UserError("%s cannot be read: %s" % (shown(path), error.strerror)) from None
    raise UserError("%s is no report of this program: rename it, or name another folder by --output" % shown(path))


def draw(pyplot, runs):
    """The curves of the runs as the bytes of a PNG."""
    below = len(runs) if len(runs) > 1 else 0  # lines of the legend
    figure, panels = pyplot.subplots(2, 2, figsize=(11, 6.6 + _LINE * below))
    for panel, (label, lines) in zip(panels.flat, _PANELS):
        _draw_panel(panel, label, lines, runs)
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


def _draw_panel(panel, label, lines, runs):
    several, styles = len(runs) > 1, {}
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


if __name__ == "__main__":
    sys.exit(main())
