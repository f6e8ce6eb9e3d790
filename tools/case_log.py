"""Print the last lines of a wrapper, and write the case's log file, as the ModelZoo contract asks, from a run's JSON.

`python tools/case_log.py --result JSON --folder DIR --suffix acc|perf|eval --seconds N`
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from typing import Any, Sequence

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from options.command_line import FileParser
from runtime.errors import UserError, reason, shown
from runtime.programs import run_program

NETWORK = "SPACH-SMLP"
_NULL_FOR_NAN = ("train_loss", "min_train_loss", "acc1")  # JSON has no NaN


def training_rows(result: dict[str, Any], seconds: str) -> list[tuple[str, Any]]:
    """Return (key, value) of the log of a training case: this model's keys, then those of most other wrappers."""
    fps, loss = "%.2f" % (result["images_per_second"] or 0), "%.4f" % result["train_loss"]
    accuracy = "%.2f" % result["max_accuracy"]
    return [
        ("AvgFPS", fps),
        ("MinLoss", "%.4f" % result["min_train_loss"]),
        ("MaxAccuracy", accuracy),
        ("E2ETrainingTime", seconds),
        ("ActualFPS", fps),
        ("ActualLoss", loss),
        ("TrainAccuracy", accuracy),
        ("TrainingTime", "%.2f" % (1000 * result["world_size"] * result["batch_size"] / max(float(fps), 1e-9))),
    ]


def evaluation_rows(result: dict[str, Any], seconds: str) -> list[tuple[str, Any]]:
    """Return (key, value) of the log of an evaluation case."""
    accuracy = "%.3f" % result["acc1"]
    return [("ActualAccuracy", accuracy), ("TrainAccuracy", accuracy), ("E2EEvalTime", seconds)]


def closing_lines(suffix: str, result: dict[str, Any], seconds: str, folder: str) -> list[str]:
    """Return the last lines that the wrapper prints."""
    lines = ["------------------ Final result ------------------"]
    if suffix == "eval":
        lines.append("Final Eval Accuracy : %.3f" % result["acc1"])
        lines.append("E2E Evaluation Duration sec : %s" % seconds)
        lines.append("Acc@1 %.3f on %d images, logs in %s" % (result["acc1"], result["images"], folder))
        return lines
    lines.append("Final Performance FPS : %.2f" % (result["images_per_second"] or 0))
    lines.append("Final Performance images/sec : %.2f" % (result["images_per_second"] or 0))
    lines.append("Final Train Accuracy : %.2f" % result["max_accuracy"])
    lines.append("E2E Training Duration sec : %s" % seconds)
    return lines


def run(argv: Sequence[str]) -> int:
    """Do what the command line `argv` asks for, and return the exit status."""
    parser = FileParser("case_log.py", description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--result", required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--suffix", required=True, choices=["acc", "perf", "eval"])
    parser.add_argument("--seconds", required=True)
    options = parser.parse_args(argv)
    result = _read(options.result)
    case = "%s_bs%d_%dp_%s" % (NETWORK, result["batch_size"], result["world_size"], options.suffix)
    rows = [
        ("Network", NETWORK),
        ("RankSize", result["world_size"]),
        ("BatchSize", result["batch_size"]),
        ("DeviceType", platform.machine()),
        ("CaseName", case),
    ]
    rows += (evaluation_rows if options.suffix == "eval" else training_rows)(result, options.seconds)
    with open(os.path.join(options.folder, case + ".log"), "w", encoding="utf-8") as file:
        file.writelines("%s = %s\n" % row for row in rows)
    print("\n".join(closing_lines(options.suffix, result, options.seconds, options.folder)))
    return 0


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            result = json.load(file)
        not_finite = [name for name in _NULL_FOR_NAN if name in result and result[name] is None]
        return dict(result, **dict.fromkeys(not_finite, math.nan))
    except (OSError, ValueError) as error:
        raise UserError("--result %s cannot be read: %s" % (shown(path), reason(error))) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run and return the exit status: 0; 2 for bad input."""
    return run_program("case_log.py", run, argv)


if __name__ == "__main__":
    sys.exit(main())
