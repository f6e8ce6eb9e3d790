"""Measure this code beside its plain formulation: `python benchmark.py COMMAND [--output DIR]`, COMMAND as below.

docs/BENCHMARKS.md says what each command measures and how to read its rows.
"""

import importlib
import os
import sys

import torch

import models  # noqa: F401 - registers the models with timm
from options.command_line import Parser
from runtime.errors import RunError, UserError, did_you_mean, printable

COMMANDS = {
    "step": "training and evaluation steps a second",
    "data": "images a second that the loaders deliver",
    "e2e": "images a second of whole epochs, from files to weights",
    "start": "seconds until a run takes its first step",
    "ledger": "memory that a step moves, by operator, counted without a device",
    "scale": "images a second of several processes beside one",
    "project": "images a second to expect of many cards, computed from one",
}


def run(argv):
    """Do what the command line `argv` asks for: measure, print the table, and write it where --output says."""
    if not argv:
        raise UserError("no command is given; choose from %s, or see --help" % ", ".join(COMMANDS))
    if argv[0] in ("-h", "--help"):
        print("usage: benchmark.py COMMAND [--output DIR] [OPTION...]; COMMAND --help shows its options\n")
        print("\n".join("  %-8s%s" % row for row in COMMANDS.items()))
        return
    name = argv[0]
    if name not in COMMANDS:
        near = did_you_mean(name, COMMANDS)
        raise UserError("%s is no command; choose from %s%s" % (name, ", ".join(COMMANDS), near))
    if not hasattr(torch, "compile"):
        raise UserError("%s: the benchmarks need torch 2.1 or newer" % name)
    try:
        module = importlib.import_module("benchmarks." + name)
        from benchmarks import report
    except ImportError as error:
        raise UserError("%s: something that it needs is not installed: %s" % (name, error)) from None
    parser = Parser("benchmark.py " + name, description="Measure %s." % COMMANDS[name], allow_abbrev=False)
    parser.add_argument("--output", metavar="DIR", help="write NAME.json and NAME.png there (default: print only)")
    module.add_arguments(parser)
    options = parser.parse_args(argv[1:])
    if options.output is not None:
        prepare(options.output)
    rows = module.run(options)
    report.publish(name, ["benchmark.py"] + argv, rows, options.output)


def prepare(folder):
    """Make the folder of --output; UserError where nothing can be written there, before hours have been measured."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError("--output %s: %s" % (folder, error.strerror)) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError("--output %s: no permission to write there" % folder)


def main(argv=None):
    """Run and return the exit status: 0; 2 for bad input; 1 for a measurement that failed; 130 after Ctrl-C."""
    try:
        run(sys.argv[1:] if argv is None else argv)
    except (UserError, RunError) as error:
        is_bad_input = isinstance(error, UserError)
        sys.stderr.write("benchmark.py: %s: %s\n" % ("error" if is_bad_input else "failed", printable(str(error))))
        return 2 if is_bad_input else 1
    except KeyboardInterrupt:
        sys.stderr.write("benchmark.py: interrupted; nothing is written\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
