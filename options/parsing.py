"""Every option: grouped, checked, and frozen once read from the command line and a configuration file."""

import argparse
import itertools
import os

from options import config_files, definitions
from options.command_line import Parser, add_switch, number
from runtime import names
from runtime.errors import UserError

# Options that change neither what a run computes nor what it leaves behind.
INCIDENTAL = frozenset(
    [
        "auto_resume",
        "bind_cpu",
        "checkpoint_steps",
        "config",
        "dist_eval",
        "dist_timeout",
        "dist_url",
        "dry_run",
        "eval_json",
        "existing_output",
        "index_cache",
        "per_class",
    ]
    + ["local_rank", "num_workers", "output_dir", "pin_mem", "print_completion", "print_freq", "throughput", "tracker"]
    + ["virtual_ranks", "world_size"]
)

# Options of the published code that nothing reads: accepted, said aloud when set.
_WITHOUT_EFFECT = {
    "inat_category": "only ImageNet-like folders are read",
    "resplit": "there is no augmentation split",
    "cooldown_epochs": "training ends after --epochs",
    "patience_epochs": "no schedule here waits for a plateau",
    "world_size": "the launcher decides how many processes there are",
}


class Options(argparse.Namespace):
    """Parsed options; assigning to one is an error."""

    def __init__(self, values):
        super().__init__(**values)
        object.__setattr__(self, "_frozen", True)

    def __setattr__(self, name, value):
        if getattr(self, "_frozen", False):
            raise AttributeError("options are frozen after parsing: %s" % name)
        super().__setattr__(name, value)

    @property
    def trains(self):
        """Whether the run trains: it does not with --eval or --throughput."""
        return not (self.eval or self.throughput)

    @property
    def mixes(self):
        """Whether training mixes images."""
        return self.mixup > 0 or self.cutmix > 0 or self.cutmix_minmax is not None

    def as_dict(self):
        """The options by name."""
        return {name: value for name, value in vars(self).items() if name != "_frozen"}


_COUNT, _POSITIVE_COUNT = number(int), number(int, low=1)


def build_parser():
    """The parser of main.py."""
    parser = Parser("main.py", description="Train and evaluate sMLPNet.", allow_abbrev=False)
    definitions.add_groups(parser)
    _add_precision(parser)
    _add_run(parser)
    return parser


def _add_precision(parser):
    group = parser.add_argument_group("device, precision and processes")
    text = "auto: the first that works of the others (default: auto)"
    group.add_argument("--device", default="auto", choices=("auto", *names.DEVICE_KINDS), help=text)
    text = "short for --device npu (default: off)"
    group.add_argument("--npu", dest="device", action="store_const", const="npu", help=text)
    text = "mixed precision by apex, by torch itself, or none; auto: what the device is fast in (default: auto)"
    group.add_argument("--amp", default="auto", choices=["auto", "apex", "native", "none"], help=text)
    group.add_argument("--amp-dtype", choices=names.AMP_DTYPES, help="of --amp native (default: the device's)")
    group.add_argument("--opt-level", default="O1", choices=["O0", "O1", "O2"], help="of --amp apex (default: O1)")
    group.add_argument(
        "--compile",
        default="auto",
        choices=["auto", "on", "off"],
        help="compile the model's blocks by torch.compile; auto: on CUDA (default: auto)",
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
        help="do the work of N processes, whatever their number: N batches a step (default: one a process)",
    )
    text = "batch statistics over all processes; CUDA only (default: off)"
    group.add_argument("--sync-bn", action="store_true", help=text)
    group.add_argument("--world-size", type=_POSITIVE_COUNT, default=1, help=argparse.SUPPRESS)
    group.add_argument("--local-rank", type=_COUNT, help=argparse.SUPPRESS)


def _add_run(parser):
    group = parser.add_argument_group("run")
    group.add_argument(
        "--config",
        action="append",
        metavar="FILE",
        help="YAML file of options; the command line wins over it, a later file over an earlier one (default: none)",
    )
    group.add_argument("--output-dir", default="", metavar="DIR", help="where to save (default: nothing is saved)")
    text = "all random draws follow from it (default: 0)"
    group.add_argument("--seed", type=number(int, low=0, high=2**32 - 1), default=0, metavar="N", help=text)
    group.add_argument(
        "--resume",
        default="",
        metavar="PATH",
        help="checkpoint file, the folder that holds it, or https://...#sha256=... (default: none)",
    )
    add_switch(group.add_argument, "auto-resume", True, "go on from the checkpoint in --output-dir")
    group.add_argument(
        "--existing-output",
        default="resume",
        choices=["resume", "match", "rename"],
        help="what to do with a run in --output-dir: resume it, resume it if its options match and else rename the "
        "folder, or always rename it (default: resume)",
    )
    text = "epoch to begin with where there is no checkpoint (default: 0)"
    group.add_argument("--start-epoch", type=number(int, high=10**6), default=0, metavar="EPOCH", help=text)
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
    text = "write evaluation.json, the accuracy of each class and what it is taken for: of --eval, or of the best epoch"
    group.add_argument("--per-class", action="store_true", help=text + " (default: off)")
    add_switch(group.add_argument, "dist-eval", True, "share the evaluation out over the processes")
    group.add_argument("--throughput", action="store_true", help="measure inference only (default: off)")
    text = "log each epoch by tensorboard, wandb or swanlab, several with commas, in --output-dir (default: none)"
    group.add_argument("--tracker", default="", metavar="NAMES", help=text)
    text = "try out one step of all that a run does, estimate what it takes, and leave no trace (default: off)"
    group.add_argument("--dry-run", action="store_true", help=text)
    text = "print a completion of these options for that shell, and end (default: none)"
    group.add_argument("--print-completion", choices=["bash", "zsh"], help=text)


def check_words(argv: list[str]) -> None:
    """Raise UserError where `argv` names an unknown option or a wrong value; configuration files are not read."""
    build_parser().parse_args(argv)


def parse(argv):
    """The Options of `argv`, over those of its `--config` files; UserError where they make no sense."""
    parser = build_parser()
    words = {}
    for path in parser.parse_args(argv).config or []:
        from_file = config_files.words_of(parser, path)
        try:
            parser.parse_args([*itertools.chain.from_iterable(from_file.values())])
        except UserError as error:
            raise UserError("--config %s: %s" % (path, error)) from None
        words.update(from_file)
    values = vars(parser.parse_args([*itertools.chain.from_iterable(words.values()), *argv]))
    if values["output_dir"]:
        values["output_dir"] = os.path.abspath(values["output_dir"])
    options = Options(values)
    _check(options)
    return options


def _check(options):
    if options.list_models or options.print_completion:
        return
    if not options.data_path:
        raise UserError("--data-path is missing: name the folder that holds train/ and val/")
    if options.data_set != "IMNET":
        raise UserError("--data-set %s: only IMNET, a folder with train/ and val/, is supported" % options.data_set)
    if options.dry_run and not options.trains:
        raise UserError("--dry-run tries training: leave out --%s" % ("eval" if options.eval else "throughput"))
    if options.trains:
        _check_batches(options)
        if options.distillation_type != "none" and not options.teacher_path:
            raise UserError("--distillation-type %s needs --teacher-path" % options.distillation_type)
    if options.eval_json:
        _check_eval_json(options.eval_json)
    if options.per_class and not (options.output_dir or (options.eval and options.eval_json)):
        raise UserError("--per-class needs --output-dir, or --eval with --eval-json, to write its numbers to")
    if options.sched == "plateau":
        raise UserError("--sched plateau is not supported: the rate must follow from the epoch alone")
    if options.lr_noise and len(options.lr_noise) > 2:
        raise UserError("--lr-noise takes where the noise begins, and where it ends; got %s" % options.lr_noise)
    if options.opt_betas and any(beta >= 1 for beta in options.opt_betas):
        raise UserError("--opt-betas must be below 1, got %s" % options.opt_betas)


def _check_batches(options):
    if options.mixes and options.batch_size % 2:
        raise UserError(
            "--batch-size %d: mixup and cutmix pair images, so it must be even (or set --mixup 0 --cutmix 0)"
            % options.batch_size
        )
    if options.batch_size == 1 and options.input_size <= 32:
        raise UserError("--batch-size 1: at %d pixels batch normalisation needs 2 images" % options.input_size)
    least, most = options.cutmix_minmax or (0, 1)
    if least > most:
        raise UserError("--cutmix-minmax: %s is more than %s" % (least, most))
    if int(options.input_size * least) == int(options.input_size * most):
        raise UserError("--cutmix-minmax %s %s: no box of %d pixels is between" % (least, most, options.input_size))


def _check_eval_json(path):
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise UserError("--eval-json %s: its folder does not exist" % path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError("--eval-json %s exists and is not a file" % path)


def warnings_of(options):
    """A line for each option that was set and changes nothing."""
    defaults = {name: build_parser().get_default(name) for name in _WITHOUT_EFFECT}
    lines = []
    for name, reason in _WITHOUT_EFFECT.items():
        if getattr(options, name) != defaults[name]:
            lines.append("--%s has no effect: %s" % (name.replace("_", "-"), reason))
    if options.per_class and options.throughput:
        lines.append("--per-class has no effect: --throughput looks at no classes")
    if options.finetune and not options.trains:
        lines.append("--finetune has no effect: nothing is trained; --resume names the weights to evaluate")
    elif options.finetune and options.resume:
        lines.append("--finetune has no effect: --resume names what the run goes on from")
    if options.teacher_path and options.distillation_type == "none":
        lines.append("--teacher-path has no effect: --distillation-type is none")
    if options.tracker and not options.trains:
        lines.append("--tracker has no effect: nothing is trained")
    return lines


def identity(values):
    """Of a dictionary of options those that decide what a run computes, with absolute paths."""
    return {name: value for name, value in config_files.with_full_paths(values).items() if name not in INCIDENTAL}
