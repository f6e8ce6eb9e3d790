"""Measure this code beside its baseline: `python benchmark.py COMMAND [--output DIR]`, COMMAND as below.

docs/MEASUREMENTS.md explains what each command measures and how to read its rows.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Sequence

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # python -P leaves it out

from benchmarks import arguments
from options.command_line import Parser
from runtime.errors import UserError, did_you_mean, reason
from runtime.programs import run_program, slow_imports

COMMANDS = {
    "step": ("training and evaluation steps a second", arguments.add_step),
    "infer": ("images a second of a forward pass on the CPU, in torch and in onnxruntime", arguments.add_infer),
    "data": ("images a second that the loaders deliver", arguments.add_data),
    "e2e": ("images a second of whole epochs, from files to weights", arguments.add_e2e),
    "program": ("seconds of whole programs: main.py beside any other command", arguments.add_program),
    "start": ("seconds until a run takes its first step", arguments.add_start),
    "ledger": ("memory that a step moves, by operator, counted without a device", arguments.add_ledger),
    "kernels": ("registers and shared memory of the fused kernels, compiled without a GPU", arguments.add_kernels),
    "scale": ("images a second of several processes beside one", arguments.add_scale),
    "parity": ("accuracy that this code and the baseline reach, over many seeds", arguments.add_parity),
    "skew": ("macro F1 that is gained where classes are skewed", arguments.add_skew),
}


def run(argv: Sequence[str]) -> int:
    """Measure what the command line `argv` asks for, print the results, and write them to --output."""
    names = ", ".join(COMMANDS)
    if not argv:
        raise UserError("no command is given; choose from %s, or see --help" % names)
    if argv[0] in ("-h", "--help"):
        print("usage: benchmark.py COMMAND [--output DIR] [OPTION...]; COMMAND --help shows its options\n")
        print("\n".join("  %-8s%s" % (name, text) for name, (text, _) in COMMANDS.items()))
        return 0
    name = argv[0]
    if name not in COMMANDS:
        raise UserError("unknown command %s; choose from %s%s" % (name, names, did_you_mean(name, COMMANDS)))
    text, add_arguments = COMMANDS[name]
    parser = Parser("benchmark.py " + name, description="Measure %s." % text, allow_abbrev=False)
    files = "kernels.json" if name == "kernels" else "NAME.json and NAME.png"
    help_text = "write %s there" % files + ("" if name == "parity" else " (default: print only)")
    parser.add_argument("--output", metavar="DIR", help=help_text)
    add_arguments(parser)
    options = parser.parse_args(argv[1:])
    if options.output is not None:
        prepare(options.output)
    with slow_imports():
        module, report = _import(name)
    result = module.run(options)
    if name in ("kernels", "parity"):  # they write their own results
        return result
    report.publish(name, ["benchmark.py", *argv], result, options.output)
    return 0


def _import(name):
    """Return the module of a command, and benchmarks.report; UserError where a package is missing or too old."""
    try:
        import torch

        if not hasattr(torch, "compile"):
            raise UserError("%s: the benchmarks need torch 2.1 or newer" % name)
        return importlib.import_module("benchmarks." + name), importlib.import_module("benchmarks.report")
    except ImportError as error:
        raise UserError("%s: a package that it needs is not installed: %s" % (name, reason(error))) from None


def prepare(folder: str) -> None:
    """Make the folder of --output; UserError where nothing can be written there, before hours of measurement."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError("--output %s: %s" % (folder, reason(error))) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError("--output %s: no permission to write there" % folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Run and return the exit status, as of runtime.programs.run_program."""
    return run_program("benchmark.py", run, argv, interrupted="interrupted; nothing is written")


if __name__ == "__main__":
    sys.exit(main())
