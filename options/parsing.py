"""The options of main.py: read from a command line and configuration files, checked, and frozen."""

from __future__ import annotations

import argparse
import itertools
import os
import re
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from options import config_files, definitions, run_definitions
from options.command_line import Parser
from runtime.errors import UserError, shown

# Options that change neither what a run computes nor what it leaves behind.
INCIDENTAL = frozenset(
    [
        "auto_resume",
        "bind_cpu",
        "checkpoint_steps",
        "config",
        "data_cache",
        "data_cache_gb",
        "dist_eval",
        "dist_timeout",
        "dist_url",
        "dry_run",
        "eval_json",
        "existing_output",
        "index_cache",
        "mirror",
        "per_class",
    ]
    + ["local_rank", "num_workers", "output_dir", "pin_mem", "print_completion", "print_freq", "throughput", "tracker"]
    + ["virtual_ranks", "world_size"]
)

# Options of the published code that nothing reads: accepted, with a warning when set.
_WITHOUT_EFFECT = {
    "inat_category": "only ImageNet-like folders are read",
    "resplit": "there is no augmentation split",
    "cooldown_epochs": "training ends after --epochs",
    "patience_epochs": "no schedule here waits for a plateau",
    "world_size": "the launcher decides how many processes there are",
}


class Options(argparse.Namespace):
    """Parsed options; assigning to one is an error."""

    if TYPE_CHECKING:
        # The parser is the one list of options and of their types.
        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(**values)
        object.__setattr__(self, "_frozen", True)

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(self, "_frozen", False):
            raise AttributeError("options are frozen after parsing: %s" % name)
        super().__setattr__(name, value)

    @property
    def trains(self) -> bool:
        """Whether the run trains: it does not with --eval or --throughput."""
        return not (self.eval or self.throughput)

    @property
    def mixes(self) -> bool:
        """Whether training mixes images."""
        return self.mixup > 0 or self.cutmix > 0 or self.cutmix_minmax is not None

    def as_dict(self) -> dict[str, Any]:
        """Return the options by name."""
        return {name: value for name, value in vars(self).items() if name != "_frozen"}


def build_parser() -> Parser:
    """Return the parser of main.py."""
    parser = Parser("main.py", description="Train, evaluate or time an image classifier.", allow_abbrev=False)
    definitions.add_groups(parser)
    run_definitions.add_groups(parser)
    return parser


def check_words(argv: Sequence[str]) -> None:
    """Raise UserError where `argv` names an unknown option or a wrong value; configuration files are not read."""
    build_parser().parse_args(argv)


def parse(argv: Sequence[str]) -> Options:
    """Return the Options of `argv`, over those of its `--config` files; UserError where they make no sense."""
    parser = build_parser()
    words: dict[str, list[str]] = {}
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


def _check(options: Options) -> None:
    if options.list_models or options.print_completion:
        return
    if not options.data_path and not (options.val_data and (options.train_data or not options.trains)):
        raise UserError("--data-path is missing: name the folder that holds train/ and val/")
    if options.data_set != "IMNET":
        raise UserError("--data-set %s: only IMNET, a folder with train/ and val/, is supported" % options.data_set)
    if options.dry_run and not options.trains:
        raise UserError("--dry-run rehearses training: leave out --%s" % ("eval" if options.eval else "throughput"))
    if options.trains:
        _check_batches(options)
        if options.distillation_type != "none" and not options.teacher_path:
            raise UserError("--distillation-type %s needs --teacher-path" % options.distillation_type)
    _check_output(options)
    if options.sched == "plateau":
        raise UserError("--sched plateau is not supported: the rate must follow from the epoch alone")
    if options.lr_noise and len(options.lr_noise) > 2:
        raise UserError("--lr-noise takes where the noise begins, and where it ends; got %s" % options.lr_noise)
    for name in ("scale", "ratio"):
        least, most = getattr(options, name) or (0, 1)
        if least > most:
            raise UserError("--%s: %s is more than %s" % (name, least, most))
    if options.opt_betas and any(beta >= 1 for beta in options.opt_betas):
        raise UserError("--opt-betas must be below 1, got %s" % options.opt_betas)


def _check_batches(options: Options) -> None:
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


def _check_output(options: Options) -> None:
    if options.eval_json:
        _check_eval_json(options.eval_json)
    if options.per_class and not (options.output_dir or (options.eval and options.eval_json)):
        raise UserError("--per-class needs --output-dir, or --eval with --eval-json, to write its numbers to")
    if options.mirror and not re.fullmatch(r"\w+://[^/].*", shown(options.mirror)):
        raise UserError("--mirror %s is not the URL of a folder, as s3://BUCKET/FOLDER" % shown(options.mirror))
    if options.mirror and options.trains and not options.output_dir:
        raise UserError("--mirror %s needs --output-dir, whose checkpoints it uploads" % shown(options.mirror))


def _check_eval_json(path: str) -> None:
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise UserError("--eval-json %s: its folder does not exist" % path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError("--eval-json %s exists and is not a file" % path)


def warnings_of(options: Options) -> list[str]:
    """Return a line for each option that is set and has no effect."""
    defaults = {name: build_parser().get_default(name) for name in _WITHOUT_EFFECT}
    lines = []
    for name, reason in _WITHOUT_EFFECT.items():
        if getattr(options, name) != defaults[name]:
            lines.append("--%s has no effect: %s" % (name.replace("_", "-"), reason))
    if options.per_class and options.throughput:
        lines.append("--per-class has no effect: --throughput evaluates nothing")
    if options.finetune and not options.trains:
        lines.append("--finetune has no effect: nothing is trained; --resume names the weights to evaluate")
    elif options.finetune and options.resume:
        lines.append("--finetune has no effect: --resume names the checkpoint to resume")
    if options.teacher_path and options.distillation_type == "none":
        lines.append("--teacher-path has no effect: --distillation-type is none")
    for name in ("tracker", "mirror"):
        if getattr(options, name) and not options.trains:
            lines.append("--%s has no effect: nothing is trained" % name)
    return lines


def identity(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options of a dictionary that decide what a run computes, with absolute paths.

    Those without a value are left out: a file that an older version wrote lacks the options that are new.
    """
    full = config_files.with_full_paths(values)
    return {name: value for name, value in full.items() if name not in INCIDENTAL and value not in (None, "none")}
