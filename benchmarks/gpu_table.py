"""Print the Markdown table of a results file of benchmarks/gpu.sh: `python benchmarks/gpu_table.py FILE`.

docs/MEASUREMENTS.md holds the table of each file in benchmarks/results.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Sequence

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from benchmarks import findings
from options.command_line import FileParser
from runtime.errors import UserError
from runtime.programs import run_program


def table(found: Sequence[dict[str, Any]]) -> str:
    """Return the table of findings, under a line that names the card and the versions; empty for none."""
    if not found:
        return ""
    cards = sorted({finding["card"] for finding in found} - {"unknown"}) or ["unknown"]
    versions = ", ".join("%s %s" % pair for pair in found[-1]["versions"].items())
    lines = ["%s; %s." % (", ".join(cards), versions), "", "| Part | Finding | Value | Limit |", "|---|---|---|---|"]
    for finding in found:
        cells = [finding["part"], finding["name"], findings.shown_value(finding), findings.shown_limit(finding)]
        lines.append("| %s |" % " | ".join(cell.replace("|", "\\|") for cell in cells))
    return "\n".join(lines) + "\n"


def run(argv: Sequence[str]) -> int:
    """Print the table of the file that the command line `argv` names."""
    parser = FileParser("gpu_table.py", description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("file", metavar="FILE", help="NAME.jsonl")
    path = parser.parse_args(argv).file
    found = findings.read(path)
    if not found:
        raise UserError("%s: no findings there" % path)
    print(table(found), end="")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run and return the exit status, as of runtime.programs.run_program."""
    return run_program("gpu_table.py", run, argv)


if __name__ == "__main__":
    sys.exit(main())
