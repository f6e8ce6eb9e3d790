"""One part of benchmarks/gpu.sh in a process of its own; benchmarks/gpu_plan.py starts it.

`python -m benchmarks.gpu_part NAME MODULE [WORD] --device KIND --results FILE` calls `benchmarks.MODULE.measure`. The
exit status is 1 where a required finding is not met, and 3 where a package is not installed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Sequence

from benchmarks.findings import Findings
from benchmarks.timed_parts import LACKS_PACKAGE, LIMIT_VARIABLE
from runtime.names import DEVICE_KINDS
from runtime.programs import run_program

if TYPE_CHECKING:
    from runtime.device import Device

STARTED = time.monotonic()


@dataclass
class Sizes:
    """How much is measured: on a card, or in a rehearsal on a CPU."""

    model: str
    batches: dict[str, int]
    input_size: int
    golden_sizes: tuple[int, ...]  # of those in test/golden/models_eval.json
    images: int  # training images of each of ten classes of the run that is killed
    seconds: float  # of each peer in a round
    rounds: int
    copied_mib: int
    matrix: int
    loader_seconds: float


CARD = Sizes("smlpnet_tiny", {"small": 112, "large": 256}, 224, (224, 192, 32), 128, 1.0, 5, 1024, 8192, 6.0)
REHEARSAL = Sizes("spach_xxs_patch16_224_mlp", {"small": 2, "large": 3}, 32, (32,), 3, 0.05, 2, 4, 256, 0.2)


@dataclass
class Setting:
    """What a part measures on and with, and where its findings go."""

    device: Device
    sizes: Sizes
    findings: Findings
    seconds: float  # its limit

    def seconds_left(self) -> float:
        """Return how many seconds are left until this process is stopped."""
        return STARTED + self.seconds - time.monotonic()


def run(argv: Sequence[str]) -> int:
    """Measure the part that the command line `argv` names, and return the exit status."""
    parser = argparse.ArgumentParser("gpu_part.py", description="Run one part of benchmarks/gpu.sh.")
    parser.add_argument("name")
    parser.add_argument("module")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--device", choices=DEVICE_KINDS, required=True)
    parser.add_argument("--results", metavar="FILE", required=True)
    options = parser.parse_args(argv)
    findings = Findings(options.results, options.name, "unknown")
    try:
        from runtime.card import card_name
        from runtime.device import select_device

        device = select_device(options.device)
        findings.card = card_name(device)
        module = importlib.import_module("benchmarks." + options.module)
        sizes = CARD if device.is_accelerator else REHEARSAL
        seconds = float(os.environ.get(LIMIT_VARIABLE, "inf"))
        module.measure(Setting(device, sizes, findings, seconds), *options.words)
    except ModuleNotFoundError as error:
        findings.note("not run, since a package is not installed", (error.name or str(error)).partition(".")[0])
        return LACKS_PACKAGE
    return 1 if findings.fails else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run and return the exit status, as of runtime.programs.run_program."""
    return run_program("gpu_part.py", run, argv)


if __name__ == "__main__":
    sys.exit(main())
