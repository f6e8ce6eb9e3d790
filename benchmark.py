"""Measure this project beside the plain formulation: `python benchmark.py step|data|e2e|start|scale|ledger`."""

import importlib
import os
import sys

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "test", "reference"))

from benchmarks import report
from command_line import Parser
from runtime.errors import RunError, UserError
from utils import one_line

BENCHMARKS = {
    "step": "images a second of a training step and of a forward pass, on batches that are there already",
    "data": "images a second of the loaders, on one core and with loader processes",
    "e2e": "the real epoch loop on real JPEGs: waiting for data, and what is lost between steps",
    "start": "the index of a large tree of images, scanned and from its cache",
    "scale": "weak scaling: 1 and 2 processes with a core each",
    "ledger": "MB moved an image by operator, counted without a device, beside the floor",
}


def main(words):
    """Run a benchmark and return the exit status."""
    name = words[0] if words else ""
    if name not in BENCHMARKS:
        lines = ["  %-7s %s" % item for item in BENCHMARKS.items()]
        text = "usage: benchmark.py %s [--help] [--output DIR] ...\n%s\n" % ("|".join(BENCHMARKS), "\n".join(lines))
        (sys.stdout if name in ("-h", "--help") else sys.stderr).write(text)
        return 0 if name in ("-h", "--help") else 2
    try:
        module = importlib.import_module("benchmarks." + name)
        parser = Parser("benchmark.py " + name, description=BENCHMARKS[name], allow_abbrev=False)
        module.add_arguments(parser)
        parser.add_argument("--output", metavar="DIR", help="write %s.json and %s.png there" % (name, name))
        args = parser.parse_args(words[1:])
        rows = module.run(args)
        report.show(rows)
        if args.output:
            report.save(args.output, name, rows, "python benchmark.py " + " ".join(words))
    except UserError as error:
        sys.stderr.write("benchmark.py: error: %s\n" % one_line(str(error)))
        return 2
    except RunError as error:
        sys.stderr.write("benchmark.py: failed: %s\n" % one_line(str(error)))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
