"""Write curves and a page of one run, or several runs to compare: `python tools/report.py RUN [RUN...] [--output DIR]`.

RUN is the --output-dir of a run, which may be running, stopped or damaged. DIR (by default the folder of a single run)
gets curves.png and report.html: one file with the curves in it, without scripts or links to other files.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Sequence

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from options import parsing
from options.command_line import FileParser
from results import curves
from results.file_names import CURVES, PAGE
from results.reader import RunFolder
from results.report_page import GENERATOR, page
from runtime.errors import UserError, printable, reason, shown
from runtime.programs import report as print_line
from runtime.programs import run_program
from utils import replacing


def run(argv: Sequence[str]) -> int:
    """Do what the command line `argv` asks for, and return the exit status."""
    parser = FileParser("report.py", description="Write curves and a page of runs.", allow_abbrev=False)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="the --output-dir of a run")
    text = "folder for curves.png and report.html (default: the folder of a single run)"
    parser.add_argument("--output", metavar="DIR", help=text)
    report(parser.parse_args(argv))
    return 0


def report(options: argparse.Namespace) -> None:
    """Write the report that the options ask for; UserError where that cannot be done."""
    if len(options.runs) > 1 and not options.output:
        raise UserError("--output is missing: name the folder for the report of %d runs" % len(options.runs))
    runs = [RunFolder(path) for path in options.runs]
    folder = options.output or options.runs[0]
    paths = [os.path.join(folder, name) for name in (CURVES, PAGE)]
    for path in paths:
        _check_ours(path)
    picture = curves.draw(runs)
    parser = parsing.build_parser()
    defaults = {action.dest: parser.get_default(action.dest) for action in parser._actions}
    contents = (picture, page(runs, defaults, picture).encode("utf-8"))
    try:
        os.makedirs(folder, exist_ok=True)
        for path, content in zip(paths, contents):
            with replacing(path) as temporary, open(temporary, "wb") as file:
                file.write(content)
            print("wrote " + shown(path))
    except OSError as error:
        raise UserError("--output %s cannot be written to: %s" % (shown(folder), reason(error))) from None
    for read in runs:
        for note in read.notes:
            print_line("report.py", "note: %s: %s" % (read.name, printable(note)))


def _check_ours(path: str) -> None:
    """Raise UserError where `path` is not an output of this program."""
    if not os.path.lexists(path):
        return
    try:
        if os.path.isfile(path):
            with open(path, "rb") as file:
                if GENERATOR.encode("ascii") in file.read(2000):
                    return
    except OSError as error:
        raise UserError("%s cannot be read: %s" % (shown(path), reason(error))) from None
    raise UserError("%s is not a report of this program: rename it, or name another folder by --output" % shown(path))


def main(argv: Sequence[str] | None = None) -> int:
    """Run and return the exit status, as of runtime.programs.run_program."""
    return run_program("report.py", run, argv)


if __name__ == "__main__":
    sys.exit(main())
