"""Every option: grouped, checked, and frozen once read from the command line and a configuration file."""

import argparse
import itertools
import os

import config_files
from command_line import Parser, alpha, number
from runtime import amp, device
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
        "eval_json",
        "existing_output",
        "index_cache",
        "per_class",
    ]
    + ["local_rank", "num_workers", "output_dir", "pin_mem", "print_freq", "throughput", "virtual_ranks", "world_size"]
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

    def as_dict(self):
        """The options by name."""
        return {name: value for name, value in vars(self).items() if name != "_frozen"}


_COUNT, _POSITIVE_COUNT = number(int), number(int, low=1)
_POSITIVE, _SHARE = number(float, above=0), number(float, high=1)
# Products of these stay within float32, and a schedule's or a distribution's arithmetic within Python's.
_RATE, _EPOCHS = number(float, high=1000), number(int, high=10**6)
_MOST_WORKERS = max(64, 4 * (os.cpu_count() or 1))


def _switch(group, name, default, help_on):
    """`--name` and `--no-name` for one boolean."""
    group.add_argument("--" + name, action="store_true", default=default, help=help_on)
    group.add_argument("--no-" + name, dest=name.replace("-", "_"), action="store_false", default=default)


def build_parser():
    """The parser of main.py."""
    parser = Parser("main.py", description="Train and evaluate sMLPNet.", allow_abbrev=False)
    recipe = (_add_data, _add_augmentation, _add_optimizer, _add_schedule, _add_distillation)
    for add in (_add_model, *recipe, _add_precision, _add_run):
        add(parser)
    return parser


def _add_model(parser):
    group = parser.add_argument_group("model")
    group.add_argument("--model", default="smlpnet_tiny", metavar="NAME", help="(default: smlpnet_tiny)")
    group.add_argument(
        "--input-size", type=number(int, low=1, high=8192), default=224, metavar="PIXELS", help="(default: 224)"
    )
    group.add_argument("--drop", type=_SHARE, default=0.0, metavar="RATE", help="dropout (default: 0)")
    group.add_argument("--drop-path", type=number(float, high=0.99), metavar="RATE", help="(default: the model's own)")
    group.add_argument(
        "--token-layout",
        choices=["permute", "reshape"],
        help="permute is the paper's function, reshape the Ascend port's (default: the checkpoint's, else permute)",
    )
    group.add_argument("--stem-type", default="conv1", choices=["conv1", "conv4"], help="of SPACH (default: conv1)")
    group.add_argument("--shared-spatial-func", action="store_true", help="of SPACH: one in all blocks of a stage")
    group.add_argument(
        "--finetune",
        default="",
        metavar="PATH",
        help="begin with the weights of this checkpoint (file, folder or https URL), whatever its classes and size",
    )
    group.add_argument("--list-models", action="store_true", help="print a table of the models, and end")
    _switch(group, "model-ema", True, "keep an average of the weights (default: on)")
    group.add_argument(
        "--model-ema-warmup", action="store_true", help="at step t of the run a decay of at most (1 + t) / (10 + t)"
    )
    group.add_argument("--model-ema-decay", type=_SHARE, default=0.99996, metavar="RATE", help="(default: 0.99996)")
    group.add_argument("--model-ema-force-cpu", action="store_true", help="keep the average in host memory")


def _add_data(parser):
    group = parser.add_argument_group("data")
    group.add_argument("--data-path", default="", metavar="DIR", help="folder with train/ and val/")
    group.add_argument(
        "--index-cache",
        default="",
        metavar="DIR",
        help="where lists of the images are kept (default: --output-dir)",
    )
    group.add_argument("--data-set", default="IMNET", choices=["CIFAR", "IMNET", "INAT", "INAT19"], help="only IMNET")
    group.add_argument("--inat-category", default="name", help=argparse.SUPPRESS)
    group.add_argument(
        "--num-workers",
        type=number(int, high=_MOST_WORKERS),
        metavar="N",
        help="loader processes (default: 10, or the cores of a process)",
    )
    group.add_argument(
        "--loader",
        default="exact",
        choices=["exact", "fast"],
        help="fast: simplejpeg, torch and OpenCV in the place of Pillow; nearly the same pixels (default: exact)",
    )
    _switch(group, "pin-mem", True, "page-locked batches on an accelerator (default: on)")
    group.add_argument("--skip-bad-images", action="store_true", help="pass over unreadable images, counted")


def _add_augmentation(parser):
    group = parser.add_argument_group("augmentation")
    group.add_argument("--color-jitter", type=_RATE, default=0.4, metavar="X", help="used without --aa")
    group.add_argument(
        "--aa", default="rand-m9-mstd0.5-inc1", metavar="POLICY", help="'' for none (default: rand-m9-mstd0.5-inc1)"
    )
    group.add_argument("--smoothing", type=number(float, high=0.99), default=0.1, help="(default: 0.1)")
    group.add_argument(
        "--train-interpolation", default="bicubic", choices=["random", "bilinear", "bicubic"], help="(default: bicubic)"
    )
    group.add_argument("--hflip", type=_SHARE, default=0.5, metavar="P", help="mirror images (default: 0.5)")
    _switch(group, "repeated-aug", True, "each image three times an epoch, of a third of them (default: on)")
    group.add_argument("--reprob", type=_SHARE, default=0.25, metavar="P", help="random erasing (default: 0.25)")
    group.add_argument("--remode", default="pixel", choices=["const", "rand", "pixel"], help="(default: pixel)")
    group.add_argument("--recount", type=number(int, low=1, high=100), default=1, metavar="N", help="(default: 1)")
    group.add_argument("--resplit", action="store_true", help=argparse.SUPPRESS)
    group.add_argument("--mixup", type=alpha, default=0.8, metavar="ALPHA", help="0 for none (default: 0.8)")
    group.add_argument("--cutmix", type=alpha, default=1.0, metavar="ALPHA", help="0 for none (default: 1)")
    group.add_argument("--cutmix-minmax", type=_SHARE, nargs=2, metavar=("MIN", "MAX"), help="instead of --cutmix")
    group.add_argument("--mixup-prob", type=_SHARE, default=1.0, metavar="P", help="(default: 1)")
    group.add_argument("--mixup-switch-prob", type=_SHARE, default=0.5, metavar="P", help="(default: 0.5)")
    group.add_argument("--mixup-mode", default="batch", choices=["batch", "pair", "elem"], help="(default: batch)")


def _add_optimizer(parser):
    group = parser.add_argument_group("optimizer")
    group.add_argument(
        "--batch-size", type=number(int, low=1, high=10**6), default=128, metavar="N", help="a process (default: 128)"
    )
    group.add_argument(
        "--grad-accum-steps",
        type=number(int, low=1, high=10**4),
        default=1,
        metavar="N",
        help="batches of a process whose gradients make a step (default: 1)",
    )
    group.add_argument("--opt", default="adamw", metavar="NAME", help="any of timm's (default: adamw)")
    group.add_argument(
        "--opt-eps", type=number(float, above=0, high=1000), default=1e-8, metavar="X", help="(default: 1e-8)"
    )
    group.add_argument("--opt-betas", type=_SHARE, nargs="+", metavar="BETA", help="(default: the optimizer's)")
    group.add_argument("--momentum", type=_SHARE, default=0.9, metavar="X", help="of SGD (default: 0.9)")
    group.add_argument("--weight-decay", type=_RATE, default=0.05, metavar="X", help="(default: 0.05)")
    group.add_argument("--clip-grad", type=_POSITIVE, metavar="NORM", help="(default: no clipping)")


def _add_schedule(parser):
    group = parser.add_argument_group("learning rate")
    group.add_argument(
        "--lr", type=_RATE, default=5e-4, help="at a global batch of 512, scaled in proportion (default: 5e-4)"
    )
    group.add_argument("--epochs", type=number(int, low=1, high=10**6), default=300, metavar="N", help="(default: 300)")
    group.add_argument("--sched", default="cosine", metavar="NAME", help="any of timm's but plateau (default: cosine)")
    group.add_argument(
        "--layer-decay",
        type=number(float, above=0, high=1),
        default=1.0,
        metavar="X",
        help="a layer's rate is that of the layer above times this (default: 1)",
    )
    group.add_argument("--warmup-epochs", type=_EPOCHS, default=20, metavar="N", help="(default: 20)")
    group.add_argument("--warmup-lr", type=_RATE, default=1e-6, metavar="LR", help="(default: 1e-6)")
    group.add_argument("--min-lr", type=_RATE, default=1e-5, metavar="LR", help="(default: 1e-5)")
    group.add_argument(
        "--decay-epochs", type=_POSITIVE, default=30, metavar="N", help="of step, wsd and rsqrt (default: 30)"
    )
    group.add_argument(
        "--decay-milestones",
        type=_EPOCHS,
        nargs="+",
        default=[90, 180, 270],
        metavar="EPOCH",
        help="of multistep (default: 90 180 270)",
    )
    group.add_argument(
        "--decay-rate",
        "--dr",
        type=number(float, above=0, high=1000),
        default=0.1,
        metavar="X",
        help="of step and multistep, the power of poly (default: 0.1)",
    )
    group.add_argument("--lr-noise", type=_SHARE, nargs="+", metavar="PCT", help="share of the epochs (default: none)")
    group.add_argument(
        "--lr-noise-pct", type=number(float, low=0.01, high=1), default=0.67, metavar="X", help="limit (default: 0.67)"
    )
    group.add_argument(
        "--lr-noise-std", type=number(float, above=0, high=10), default=1.0, metavar="X", help="(default: 1)"
    )
    group.add_argument("--cooldown-epochs", type=_COUNT, default=10, help=argparse.SUPPRESS)
    group.add_argument("--patience-epochs", type=_COUNT, default=10, help=argparse.SUPPRESS)


def _add_distillation(parser):
    group = parser.add_argument_group("distillation")
    group.add_argument(
        "--distillation-type", default="none", choices=["none", "soft", "hard"], help="learn from a teacher's logits"
    )
    group.add_argument("--teacher-model", default="regnety_160", metavar="NAME", help="(default: regnety_160)")
    group.add_argument("--teacher-path", default="", metavar="PATH", help="its checkpoint, as of --resume")
    group.add_argument("--distillation-alpha", type=_SHARE, default=0.5, metavar="X", help="its share (default: 0.5)")
    group.add_argument(
        "--distillation-tau",
        type=number(float, low=0.01, high=1000),
        default=1.0,
        metavar="X",
        help="temperature of soft (default: 1)",
    )


def _add_precision(parser):
    group = parser.add_argument_group("device, precision and processes")
    group.add_argument("--device", default="auto", choices=("auto", *device.KINDS), help="(default: auto)")
    group.add_argument("--npu", dest="device", action="store_const", const="npu", help="short for --device npu")
    group.add_argument("--amp", default="auto", choices=["auto", "apex", "native", "none"], help="(default: auto)")
    group.add_argument("--amp-dtype", choices=sorted(amp.DTYPES), help="of native (default: the device's)")
    group.add_argument("--opt-level", default="O1", choices=["O0", "O1", "O2"], help="of apex (default: O1)")
    group.add_argument(
        "--compile",
        default="auto",
        choices=["auto", "on", "off"],
        help="compile the model's blocks by torch.compile; auto: on CUDA (default: auto)",
    )
    group.add_argument("--deterministic", action="store_true", help="bit-equal results on an accelerator too")
    group.add_argument("--bind-cpu", action="store_true", help="give each process processor cores of its own")
    group.add_argument("--dist-url", default="env://", metavar="URL", help="rendezvous (default: env://)")
    group.add_argument(
        "--dist-timeout", type=number(int, low=1, high=604800), default=1800, metavar="SECONDS", help="(default: 1800)"
    )
    group.add_argument(
        "--virtual-ranks",
        type=number(int, low=1, high=10**4),
        metavar="N",
        help="do the work of N processes, whatever their number: N batches a step (default: one a process)",
    )
    group.add_argument("--sync-bn", action="store_true", help="batch statistics over all processes; CUDA only")
    group.add_argument("--world-size", type=_POSITIVE_COUNT, default=1, help=argparse.SUPPRESS)
    group.add_argument("--local-rank", type=_COUNT, help=argparse.SUPPRESS)


def _add_run(parser):
    group = parser.add_argument_group("run")
    group.add_argument(
        "--config",
        action="append",
        metavar="FILE",
        help="YAML file of options; the command line wins over it, and a later file over an earlier one",
    )
    group.add_argument("--output-dir", default="", metavar="DIR", help="where to save (default: nothing is saved)")
    group.add_argument("--seed", type=number(int, low=0, high=2**32 - 1), default=0, metavar="N", help="(default: 0)")
    group.add_argument(
        "--resume",
        default="",
        metavar="PATH",
        help="checkpoint file, the folder that holds it, or https://...#sha256=...",
    )
    _switch(group, "auto-resume", True, "go on from the checkpoint in --output-dir (default: on)")
    group.add_argument(
        "--existing-output",
        default="resume",
        choices=["resume", "match", "rename"],
        help="what to do with a run in --output-dir: resume it, resume it if its options match and else rename the "
        "folder, or always rename it (default: resume)",
    )
    group.add_argument("--start-epoch", type=_EPOCHS, default=0, metavar="N", help="without a checkpoint (default: 0)")
    group.add_argument(
        "--checkpoint-steps", type=_COUNT, default=0, metavar="N", help="save within an epoch too (default: 0, never)"
    )
    group.add_argument(
        "--on-nonfinite",
        default="stop",
        choices=["stop", "skip"],
        help="when a loss is NaN or infinite: end the run, or skip that step, at the cost of a wait for the device in "
        "each (default: stop)",
    )
    group.add_argument("--print-freq", type=_POSITIVE_COUNT, default=10, metavar="STEPS", help="(default: 10)")
    group.add_argument("--eval", action="store_true", help="evaluate only")
    group.add_argument("--eval-json", default="", metavar="FILE", help="write the result of --eval there too")
    group.add_argument(
        "--per-class",
        action="store_true",
        help="write evaluation.json with the accuracy of each class and what it is taken for: of --eval, or of the "
        "best epoch",
    )
    _switch(group, "dist-eval", True, "share the evaluation out over the processes (default: on)")
    group.add_argument("--throughput", action="store_true", help="measure inference only")


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
    if options.list_models:
        return
    if not options.data_path:
        raise UserError("--data-path is missing: name the folder that holds train/ and val/")
    if options.data_set != "IMNET":
        raise UserError("--data-set %s: only IMNET, a folder with train/ and val/, is supported" % options.data_set)
    if not (options.eval or options.throughput):
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
    if mixes(options) and options.batch_size % 2:
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


def mixes(options):
    """Whether training mixes images."""
    return options.mixup > 0 or options.cutmix > 0 or options.cutmix_minmax is not None


def warnings_of(options):
    """A line for each option that was set and changes nothing."""
    defaults = {name: build_parser().get_default(name) for name in _WITHOUT_EFFECT}
    lines = []
    for name, reason in _WITHOUT_EFFECT.items():
        if getattr(options, name) != defaults[name]:
            lines.append("--%s has no effect: %s" % (name.replace("_", "-"), reason))
    if options.per_class and options.throughput:
        lines.append("--per-class has no effect: --throughput looks at no classes")
    if options.finetune and (options.eval or options.throughput):
        lines.append("--finetune has no effect: nothing is trained; --resume names the weights to evaluate")
    elif options.finetune and options.resume:
        lines.append("--finetune has no effect: --resume names what the run goes on from")
    if options.teacher_path and options.distillation_type == "none":
        lines.append("--teacher-path has no effect: --distillation-type is none")
    return lines


def identity(values):
    """Of a dictionary of options those that decide what a run computes, with absolute paths."""
    return {name: value for name, value in config_files.with_full_paths(values).items() if name not in INCIDENTAL}
