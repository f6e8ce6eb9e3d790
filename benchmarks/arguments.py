"""The options of benchmark.py's commands, without importing torch."""

from __future__ import annotations

import argparse

from commands import list_models
from options.command_line import number
from runtime.affinity import usable_cores
from runtime.names import AMP_DTYPES, DEVICE_KINDS

# What parity compares, and the options of main.py for each.
PARITY_WAYS = {
    "baseline": [],
    "ours": [],
    "fast": ["--loader=fast"],
    "reshape": ["--token-layout=reshape"],
    "parquet": [],
}
_COUNT, _COUNT_OR_NONE, _SECONDS = number(int, low=1), number(int), number(float)
_PRECISIONS = ["float32", *sorted(AMP_DTYPES)]


def add_step(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark.py step`."""
    _add_workload(parser)
    parser.add_argument("--mode", default="both", choices=["train", "eval", "both"], help="(default: both)")
    parser.add_argument("--precision", nargs="+", choices=_PRECISIONS, help="(default: all of this device)")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile on a CPU, too (minutes more)")
    parser.add_argument("--profile", action="store_true", help="print the operators of our training step instead")
    _add_rounds(parser, 7, 3.0)


def add_infer(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark.py infer`."""
    _add_workload(parser, has_device=False, has_batch_size=False)
    parser.add_argument("--checkpoint", metavar="CKPT", help="measure its model (default: a new one of --model)")
    text = "(default: 1 32)"
    parser.add_argument("--batch-sizes", type=_COUNT, nargs="+", default=[1, 32], metavar="N", help=text)
    text = "images on which the peers are compared, and int8 is calibrated (default: made here)"
    parser.add_argument("--data-path", metavar="DIR", help=text)
    parser.add_argument("--images", type=_COUNT, default=64, metavar="N", help="how many of them (default: 64)")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile, too (minutes more)")
    _add_rounds(parser, 9, 2.0)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark.py data`."""
    parser.add_argument("--data-path", metavar="DIR", help="with train/ and val/ (default: 300 photos made here)")
    parser.add_argument("--batch-size", type=_COUNT, default=56, metavar="N", help="(default: 56)")
    parser.add_argument("--input-size", type=_COUNT, default=224, metavar="PIXELS", help="(default: 224)")
    text = "loader processes of the second table; 0 leaves it out (default: 2)"
    parser.add_argument("--num-workers", type=_COUNT_OR_NONE, default=2, metavar="N", help=text)
    _add_rounds(parser, 7, 2.0)


def add_e2e(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark.py e2e`."""
    _add_workload(parser)
    parser.add_argument("--data-path", metavar="DIR", help="with train/ and val/ (default: photos made here)")
    text = "loader processes (default: the cores of a process)"
    parser.add_argument("--num-workers", type=_COUNT_OR_NONE, metavar="N", help=text)
    parser.add_argument("--loader", default="exact", choices=["exact", "fast"], help="(default: exact)")
    steps = number(int, low=2)
    text = "of an epoch (default: 12 on a CPU, otherwise 200)"
    parser.add_argument("--steps", type=steps, metavar="N", help=text)
    text = "of whole epochs at least, after one that is not counted (default: 5)"
    parser.add_argument("--seconds", type=_SECONDS, default=5.0, metavar="S", help=text)
    _add_rounds(parser, 5)


def add_program(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark.py program`."""
    text = "the other program and its options; {data} in it is the folder of the images (required)"
    parser.add_argument("--peer", required=True, metavar="COMMAND", help=text)
    text = "another command instead of main.py (default: an epoch of smlpnet_tiny on a CPU)"
    parser.add_argument("--ours", metavar="COMMAND", help=text)
    parser.add_argument("--data-path", metavar="DIR", help="with train/ and val/ (default: photos made here)")
    _add_rounds(parser, 5)


def add_start(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark.py start`."""
    parser.add_argument("--files", type=_COUNT, default=1281167, metavar="N", help="images (default: 1281167)")
    text = "keep the images there for the next time (default: they are removed)"
    parser.add_argument("--tree", default="", metavar="DIR", help=text)


def add_ledger(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark.py ledger`."""
    count = number(int, low=1, high=8192)
    _add_smlpnet(parser)
    parser.add_argument("--batch-size", type=count, default=112, metavar="N", help="(default: 112)")
    parser.add_argument("--input-size", type=count, default=224, metavar="PIXELS", help="(default: 224)")
    parser.add_argument("--precision", default="float16", choices=_PRECISIONS, help="(default: float16)")
    parser.add_argument("--mode", default="train", choices=["train", "eval"], help="(default: train)")


def add_kernels(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark.py kernels`."""
    _add_smlpnet(parser)
    stages, capabilities = [1, 2, 3, 4], [80, 90]
    parser.add_argument("--stages", type=int, nargs="+", choices=stages, default=stages, help="(default: all)")
    halves = sorted(AMP_DTYPES, reverse=True)
    text = "(default: float16 bfloat16)"
    parser.add_argument("--precision", nargs="+", choices=_PRECISIONS, default=halves, help=text)
    text = "compute capabilities times 10 (default: 80 90)"
    parser.add_argument("--capability", type=int, nargs="+", choices=capabilities, default=capabilities, help=text)


def add_scale(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark.py scale`."""
    _add_workload(parser, has_device=False)
    text = "numbers of processes to compare, the first of which is the baseline (default: 1 2)"
    parser.add_argument("--processes", type=_COUNT, nargs="+", default=[1, 2], metavar="N", help=text)
    parser.add_argument("--steps", type=_COUNT, default=4, metavar="N", help="in a round (default: 4)")
    parser.add_argument("--result", metavar="FILE", help=argparse.SUPPRESS)  # of the processes that are compared
    _add_rounds(parser, 5)


def add_parity(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark.py parity`, whose results need --output."""
    count = number(int, low=2)  # a difference needs two seeds
    parser.add_argument("--seeds", type=count, default=40, metavar="N", help="(default: 40)")
    parser.add_argument("--epochs", type=_COUNT, default=24, metavar="N", help="(default: 24)")
    parser.add_argument("--ways", nargs="+", choices=PARITY_WAYS, default=list(PARITY_WAYS), help="(default: all)")
    text = "of equivalence, percentage points (default: 0.3)"
    parser.add_argument("--margin", type=number(float, above=0), default=0.3, metavar="POINTS", help=text)
    _add_processes(parser)


def add_skew(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark.py skew`."""
    parser.add_argument("--seeds", type=number(int, low=2), default=10, metavar="N", help="(default: 10)")
    parser.add_argument("--epochs", type=_COUNT, default=24, metavar="N", help="(default: 24)")
    _add_processes(parser)


def _add_processes(parser: argparse.ArgumentParser) -> None:
    text = "runs at the same time (default: the cores)"
    parser.add_argument("--processes", type=_COUNT, default=usable_cores(), metavar="N", help=text)


def _add_smlpnet(parser: argparse.ArgumentParser) -> None:
    names = [name for name in list_models.names() if name.startswith("smlpnet_")]
    parser.add_argument("--model", default=names[0], choices=names, help="(default: %s)" % names[0])


def _add_workload(parser: argparse.ArgumentParser, has_device: bool = True, has_batch_size: bool = True) -> None:
    """Add the options that choose the model and its batches."""
    names, default = list_models.names(), "smlpnet_tiny"
    text = "one of main.py --list-models (default: %s)" % default
    parser.add_argument("--model", default=default, choices=names, metavar="NAME", help=text)
    if has_batch_size:
        parser.add_argument("--batch-size", type=_COUNT, metavar="N", help="(default: 8 on a CPU, otherwise 112)")
    parser.add_argument("--input-size", type=_COUNT, default=224, metavar="PIXELS", help="(default: 224)")
    if has_device:
        parser.add_argument("--device", default="auto", choices=["auto", *DEVICE_KINDS], help="(default: auto)")


def _add_rounds(parser: argparse.ArgumentParser, rounds: int, seconds: float | None = None) -> None:
    parser.add_argument("--rounds", type=_COUNT, default=rounds, metavar="N", help="(default: %d)" % rounds)
    if seconds is not None:
        text = "of each setting in a round (default: %g)" % seconds
        parser.add_argument("--seconds", type=_SECONDS, default=seconds, metavar="S", help=text)
