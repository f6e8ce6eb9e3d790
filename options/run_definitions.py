"""The options of a run: device, precision and processes, and where and how it is saved, resumed and logged."""

from __future__ import annotations

import argparse

from options.command_line import Parser, add_switch, number
from runtime import names

_COUNT, _POSITIVE_COUNT = number(int), number(int, low=1)


def add_groups(parser: Parser) -> None:
    """Add the groups of options, each with its default in its help."""
    _add_precision(parser)
    _add_run(parser)


def _add_precision(parser: Parser) -> None:
    group = parser.add_argument_group("device, precision and processes")
    text = "auto: the first of the others that works (default: auto)"
    group.add_argument("--device", default="auto", choices=("auto", *names.DEVICE_KINDS), help=text)
    text = "short for --device npu (default: off)"
    group.add_argument("--npu", dest="device", action="store_const", const="npu", help=text)
    text = "mixed precision by apex, by torch itself, or none; auto: what is fast on the device (default: auto)"
    group.add_argument("--amp", default="auto", choices=["auto", "apex", "native", "none"], help=text)
    group.add_argument("--amp-dtype", choices=names.AMP_DTYPES, help="of --amp native (default: the device's)")
    group.add_argument("--opt-level", default="O1", choices=["O0", "O1", "O2"], help="of --amp apex (default: O1)")
    group.add_argument(
        "--compile",
        default="auto",
        choices=["auto", "on", "off"],
        help="compile the model's blocks by torch.compile; auto: on CUDA (default: auto)",
    )
    group.add_argument(
        "--fused",
        default="auto",
        choices=["auto", "on", "off"],
        help="sMLPNet's blocks by fused Triton kernels; auto: on CUDA where they are right and faster (default: auto)",
    )
    text = "bit-equal results on an accelerator too (default: off)"
    group.add_argument("--deterministic", action="store_true", help=text)
    text = "give each process processor cores of its own (default: off)"
    group.add_argument("--bind-cpu", action="store_true", help=text)
    text = "where the processes meet: env://, tcp://HOST:PORT or file:///PATH (default: env://)"
    group.add_argument("--dist-url", default="env://", metavar="URL", help=text)
    text = "seconds without progress after which a run of several processes ends (default: 1800)"
    seconds = number(int, low=1, high=604800)
    group.add_argument("--dist-timeout", type=seconds, default=1800, metavar="SECONDS", help=text)
    group.add_argument(
        "--virtual-ranks",
        type=number(int, low=1, high=10**4),
        metavar="N",
        help="emulate N ranks on fewer processes: N batches a step (default: one a process)",
    )
    text = "synchronise batch normalisation over all processes; CUDA only (default: off)"
    group.add_argument("--sync-bn", action="store_true", help=text)
    group.add_argument(
        "--grad-compression",
        default="none",
        choices=["none", "bf16"],
        help="precision in which several processes exchange gradients; none: that of the gradients (default: none)",
    )
    group.add_argument("--world-size", type=_POSITIVE_COUNT, default=1, help=argparse.SUPPRESS)
    group.add_argument("--local-rank", type=_COUNT, help=argparse.SUPPRESS)


def _add_run(parser: Parser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument(
        "--config",
        action="append",
        metavar="FILE",
        help="YAML file of options; the command line wins over it, a later file over an earlier one (default: none)",
    )
    group.add_argument("--output-dir", default="", metavar="DIR", help="where to save (default: nothing is saved)")
    text = "upload each checkpoint there too, and resume from it where --output-dir is lost: s3://..., gs://..."
    group.add_argument("--mirror", default="", metavar="URL", help=text + " (default: none)")
    text = "seed of all random numbers (default: 0)"
    group.add_argument("--seed", type=number(int, low=0, high=2**32 - 1), default=0, metavar="N", help=text)
    group.add_argument(
        "--resume",
        default="",
        metavar="PATH",
        help="checkpoint file, the folder that holds it, or https://...#sha256=... (default: none)",
    )
    add_switch(group.add_argument, "auto-resume", True, "resume from the checkpoint in --output-dir")
    group.add_argument(
        "--existing-output",
        default="resume",
        choices=["resume", "match", "rename"],
        help="what to do with a run in --output-dir: resume it, resume it if its options match and else rename the "
        "folder, or always rename it (default: resume)",
    )
    text = "first epoch where there is no checkpoint (default: 0)"
    group.add_argument("--start-epoch", type=number(int, high=10**6), default=0, metavar="EPOCH", help=text)
    text = "what chooses best.pth: Acc@1, the mean accuracy of the classes, macro F1 or the loss (default: acc1)"
    group.add_argument("--best-by", default="acc1", choices=names.BEST_BY, help=text)
    text = "save every so many steps within an epoch too (default: 0, never)"
    group.add_argument("--checkpoint-steps", type=_COUNT, default=0, metavar="STEPS", help=text)
    group.add_argument(
        "--on-nonfinite",
        default="stop",
        choices=["stop", "skip"],
        help="when a loss is NaN or infinite: end the run, or skip that step, at the cost of a wait for the device in "
        "each (default: stop)",
    )
    text = "steps from one line of the log to the next (default: 10)"
    group.add_argument("--print-freq", type=_POSITIVE_COUNT, default=10, metavar="STEPS", help=text)
    group.add_argument("--eval", action="store_true", help="evaluate only (default: off)")
    text = "write the result of --eval there too (default: nowhere)"
    group.add_argument("--eval-json", default="", metavar="FILE", help=text)
    text = "write evaluation.json, the accuracy of each class and the confusion matrix: of --eval, or of the best epoch"
    group.add_argument("--per-class", action="store_true", help=text + " (default: off)")
    add_switch(group.add_argument, "dist-eval", True, "spread the evaluation over the processes")
    group.add_argument("--throughput", action="store_true", help="measure inference only (default: off)")
    text = "log each epoch by tensorboard, wandb or swanlab, several with commas, in --output-dir (default: none)"
    group.add_argument("--tracker", default="", metavar="NAMES", help=text)
    text = "rehearse a few steps of the run, estimate its time, memory and disk space, and write nothing (default: off)"
    group.add_argument("--dry-run", action="store_true", help=text)
    text = "print a completion of these options for that shell, and end (default: none)"
    group.add_argument("--print-completion", choices=["bash", "zsh"], help=text)
