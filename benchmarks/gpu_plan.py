"""Measure one GPU in 8 minutes, the most valuable findings first: `bash benchmarks/gpu.sh [OPTION...]`.

Each part is a process with a time limit of its own, so that one which fails or hangs costs only itself. Findings go to
benchmarks/results/NAME.jsonl as soon as they are known; what a part printed is in the folder NAME.logs beside it. The
summary comes last. The exit status is 1 where a part did not do all that it should. `--device cpu` rehearses all
parts on a CPU, with sizes at which their values say nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, Callable, NamedTuple, Sequence

from benchmarks import findings, timed_parts
from benchmarks.findings import Findings
from benchmarks.timed_parts import Outcome, TimedPart
from options.command_line import Parser, number
from runtime.errors import UserError
from runtime.programs import run_program

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUDGET = 480.0  # seconds
LOG_LINES = 12  # of the end of a failed part's log, in the summary


class Part(NamedTuple):
    """What a part runs, its limit within BUDGET, and whether it runs beside others or alone."""

    name: str
    seconds: float
    words: str  # the module below benchmarks/, and what its function `measure` gets
    runs_beside: bool = False
    runs_alone: bool = False


# In order of value. Compiling for the speeds takes minutes of the processor, which the first parts leave to it.
PARTS = [
    Part("facts", 25, "gpu_facts"),
    Part("compile", 170, "gpu_speed compile", runs_beside=True),
    Part("numerics", 55, "gpu_numerics eager"),
    Part("numerics-fused", 40, "gpu_numerics fused"),
    Part("resume", 80, "gpu_resume eager"),
    Part("speed-small", 110, "gpu_speed small", runs_alone=True),
    Part("profile", 40, "gpu_speed profile", runs_alone=True),
    Part("speed-large", 80, "gpu_speed large", runs_alone=True),
    Part("loader", 50, "gpu_loader", runs_alone=True),
    Part("resume-fused", 60, "gpu_resume fused"),
    Part("resume-compiled", 80, "gpu_resume compiled"),
]


def build_parser() -> Parser:
    """Return the parser of this program's options."""
    parser = Parser("gpu.sh", description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    positive = number(float, above=0)
    text = "seconds in all, with which the limits of the parts grow (default: %g)" % BUDGET
    parser.add_argument("--budget", type=positive, default=BUDGET, metavar="S", help=text)
    choices = ["cuda", "cpu"]
    parser.add_argument("--device", default="cuda", choices=choices, help="cpu: a rehearsal (default: cuda)")
    names = [part.name for part in PARTS]
    parser.add_argument("--parts", nargs="+", choices=names, default=names, metavar="PART", help="(default: all)")
    text = "of the results, such as h100 (default: that of --device)"
    parser.add_argument("--name", metavar="NAME", help=text)
    text = "where NAME.jsonl is written (default: benchmarks/results, of a rehearsal output)"
    parser.add_argument("--output", metavar="DIR", help=text)
    return parser


def run(argv: Sequence[str]) -> int:
    """Run the parts that the command line `argv` asks for, print the summary, and return the exit status."""
    options = build_parser().parse_args(argv)
    folder = options.output or os.path.join(ROOT, "output" if options.device == "cpu" else "benchmarks/results")
    results = os.path.join(folder, (options.name or options.device) + ".jsonl")
    common = ["--device", options.device, "--results", results]
    parts = [
        TimedPart(
            part.name,
            part.seconds * options.budget / BUDGET,
            [sys.executable, "-m", "benchmarks.gpu_part", part.name, *part.words.split(), *common],
            part.runs_beside,
            part.runs_alone,
        )
        for part in PARTS
        if part.name in options.parts
    ]
    return run_plan(parts, options.budget, results)


def run_plan(parts: Sequence[TimedPart], budget: float, results: str) -> int:
    """Run the parts, whose findings go to the new file `results`; print the summary, and return the exit status."""
    logs = results[: -len(".jsonl")] + ".logs"
    try:
        os.makedirs(logs, exist_ok=True)
        with open(results, "w", encoding="utf-8"):
            pass
    except OSError as error:
        raise UserError("--output %s: %s" % (os.path.dirname(results), error.strerror)) from None

    def log_of(name: str) -> str:
        return os.path.join(logs, name + ".log")

    outcomes: list[Outcome] = []
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what runs is killed
    try:
        for outcome in timed_parts.run_parts(parts, budget, log_of):
            outcomes.append(outcome)
            _note_outcome(results, outcome)
    finally:
        signal.signal(signal.SIGTERM, before)
        _print_summary(findings.read(results), outcomes, log_of)
    return 0 if all(outcome.is_done for outcome in outcomes) else 1


def _note_outcome(results: str, outcome: Outcome) -> None:
    cards = [finding["card"] for finding in findings.read(results) if finding["card"] != "unknown"]
    noted = Findings(results, outcome.part, cards[0] if cards else "unknown")
    noted.note("outcome", outcome.status)
    noted.note("time of the part", round(outcome.seconds, 1), "s")


def _print_summary(found: Sequence[dict[str, Any]], outcomes: Sequence[Outcome], log_of: Callable[[str], str]) -> None:
    """Print every finding that a reader should see first, then how each part ended."""
    print("\n==== summary ====")
    for finding in found:
        if finding["name"] not in ("outcome", "time of the part"):
            print(findings.text_of(finding))
    for outcome in outcomes:
        if not outcome.is_done:
            print("\n---- the end of %s" % log_of(outcome.part))
            print("".join(_last_lines(log_of(outcome.part))).rstrip())
    print("\n---- parts")
    for outcome in outcomes:
        print("%-16s %5.0f s  %s" % (outcome.part, outcome.seconds, outcome.status))
    for finding in found:
        if finding.get("is_met") is False:
            print("not met: %s" % findings.text_of(finding))
    sys.stdout.flush()


def _last_lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readlines()[-LOG_LINES:]
    except FileNotFoundError:  # it was left out
        return []


def main(argv: Sequence[str] | None = None) -> int:
    """Run and return the exit status, as of runtime.programs.run_program."""
    return run_program("gpu.sh", run, argv, interrupted="interrupted; what was found is in the results")


if __name__ == "__main__":
    sys.exit(main())
