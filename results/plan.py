"""The plan of a run: whether it begins anew or resumes, which checkpoint, and whether an older folder is renamed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from checkpoints import loading, store
from options import config_files, parsing
from results import existing
from results.file_names import CONFIG
from runtime.errors import UserError

if TYPE_CHECKING:
    from options.parsing import Options


@dataclass
class Plan:
    """How a run begins: from the checkpoint `loaded`, read from `path`, or from scratch."""

    loaded: dict[str, Any] | None = None
    path: str | None = None
    damaged: Sequence[str] = ()  # newer checkpoints of the output folder than `path`, which cannot be read
    continues: bool = False  # whether `loaded` is of the output folder's own run
    renames_folder: bool = False  # whether the output folder holds another run and is renamed first
    has_best: bool = True  # whether the output folder has the best checkpoint that `loaded` refers to
    has_other_val: bool = False  # whether `loaded` was evaluated on other validation images
    finetune: str = ""  # the weights that the output folder's own run began with

    @property
    def is_within_epoch(self) -> bool:
        """Whether the run begins within an epoch, some of whose images it has trained on."""
        loaded = self.loaded or {}
        return bool(loaded.get("step")) and "stats" not in (loaded.get("epoch_state") or {})


def make_plan(options: Options, world_size: int = 1) -> Plan:
    """Return the Plan for `options`; this reads and writes nothing.

    An explicit `--resume` has precedence over the folder's checkpoint, unless that is of a run which began with the
    same `--resume`: then the folder's is newer.
    """
    folder = options.output_dir
    if not options.trains:
        return _plan_evaluation(options)
    found = store.checkpoints_in(folder) if folder else []
    asked = store.resolve(options.resume) if options.resume else None
    if found and _continues(options, asked, found):
        began_with = _recorded(folder).get("finetune")
        plan = Plan(*loading.load_first_good(found), continues=True, finetune=str(began_with or ""))
        loaded = plan.loaded or {}
        if options.existing_output != "match" or loaded.get("world_size", world_size) == world_size:
            return plan
    is_kept = options.existing_output == "resume" and not found
    renames_folder = bool(folder) and not is_kept and existing.holds_run(folder)
    if asked:
        candidates = store.checkpoints_in(options.resume) if os.path.isdir(options.resume) else [asked]
        loaded, path, _ = loading.load_first_good(candidates)
        return Plan(loaded, path, renames_folder=renames_folder)
    return Plan(renames_folder=renames_folder)


def _plan_evaluation(options: Options) -> Plan:
    if options.resume:
        path = store.resolve(options.resume, store.FOR_WEIGHTS)
        return Plan(loading.load(path), path)
    found = store.checkpoints_in(options.output_dir) if options.output_dir and options.auto_resume else []
    if found:
        return Plan(*loading.load_first_good(found))
    if options.eval:
        raise UserError("--eval needs --resume: name the checkpoint to evaluate")
    return Plan()


def _continues(options: Options, asked: str | None, found: Sequence[str]) -> bool:
    """Return whether this run continues the one in its output folder."""
    if not may_continue(options):
        return False
    asks_for_latest = bool(asked and found and os.path.samefile(asked, found[0]))
    if options.existing_output == "match":
        return _same_options(options, ignore_resume=asks_for_latest)
    if options.finetune and not asked and not existing.holds_run(options.output_dir):
        return False  # the checkpoint may be what --finetune names
    return not asked or asks_for_latest or _began_with(options, asked)


def may_continue(options: Options) -> bool:
    """Return whether the options let a run in the output folder be continued."""
    return options.auto_resume and options.existing_output != "rename"


def _began_with(options: Options, asked: str) -> bool:
    recorded = _recorded(options.output_dir).get("resume")
    if not isinstance(recorded, str):
        return False
    if recorded == options.resume:
        return True
    return os.path.exists(recorded) and os.path.samefile(store.resolve(recorded), asked)


def _recorded(folder: str) -> Mapping[str, Any]:
    path = os.path.join(folder, CONFIG)
    return config_files.read_config(path) if folder and os.path.isfile(path) else {}


def _same_options(options: Options, ignore_resume: bool) -> bool:
    return bool(_recorded(options.output_dir)) and not _differing(options, ignore_resume)


def _differing(options: Options, ignore_resume: bool) -> dict[str, Any]:
    """Return {name: its value in config.yaml} for the options that decide what is computed and differ from those."""
    before, now = parsing.identity(_recorded(options.output_dir)), parsing.identity(options.as_dict())
    if options.output_dir in (before.get("resume"), os.path.dirname(before.get("resume") or "")):
        before["resume"] = ""  # it resumed the folder's own checkpoint
    if ignore_resume:
        before.pop("resume", None)
        now.pop("resume", None)
    names = sorted(before.keys() | now.keys())
    return {name: before.get(name) for name in names if name not in before or before[name] != now.get(name)}


def first_epoch(options: Options, loaded: Mapping[str, Any] | None) -> int:
    """Return the epoch that training begins or resumes with."""
    return loaded["epoch"] + 1 if loaded and "epoch" in loaded else options.start_epoch


def check_something_is_left(options: Options, loaded: Mapping[str, Any] | None) -> None:
    """Raise UserError if there is nothing to train and no earlier result either."""
    epoch = first_epoch(options, loaded)
    if epoch >= options.epochs and not (loaded or {}).get("history"):
        raise UserError("nothing to train: epoch %d is not below --epochs %d" % (epoch, options.epochs))


def is_finished(options: Options, plan: Plan) -> bool:
    """Return whether `plan` leaves nothing to train."""
    return first_epoch(options, plan.loaded) >= options.epochs


def warnings_of(options: Options, plan: Plan) -> list[str]:
    """Return a line where an option has no effect because the run in the output folder is continued."""
    if not (plan.continues and options.finetune and not options.resume) or _began_with_finetune(options, plan):
        return []
    text = "--finetune has no effect: the run in --output-dir %s, which did not begin with it, is resumed; name another"
    return [text % options.output_dir]


def _began_with_finetune(options: Options, plan: Plan) -> bool:
    given = config_files.with_full_paths(options.as_dict())["finetune"]
    if given == plan.finetune:
        return True
    both = [path for path in (given, plan.finetune) if path and os.path.exists(path)]
    return len(both) == 2 and os.path.samefile(both[0], both[1])


def finished_line(options: Options, plan: Plan) -> str:
    """Return the line of a finished run that is started again: it stays as it is, whatever options differ."""
    line = "nothing is left to train: the run in %s has done %d epochs, and stays as it is"
    line %= (options.output_dir, first_epoch(options, plan.loaded))
    before, now = _recorded(options.output_dir), options.as_dict()
    names = [name for name in _differing(options, True) if name in before and name in now]
    words = ["--%s %s, not %s" % (name.replace("_", "-"), before[name], now[name]) for name in names]
    return line + ("; its options differ: " + ", ".join(words) if words else "")
