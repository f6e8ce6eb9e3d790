"""The output folder of a run: which checkpoint to resume, when to rename an older folder, what is written there."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Mapping, Sequence

from checkpoints import loading, store
from options import config_files, parsing
from results.file_names import CONFIG, EVALUATION, LOCK
from runtime.compat import release_versions
from runtime.errors import UserError
from utils import log_to_file, remove_leftovers, write_json, write_text

if TYPE_CHECKING:
    from options.parsing import Options


@dataclass
class Plan:
    """How a run begins: from the checkpoint `loaded`, read from `path`, or from scratch."""

    loaded: dict[str, Any] | None = None
    path: str | None = None
    damaged: Sequence[str] = ()  # newer checkpoints of the output folder than `path`, which cannot be read
    renames_folder: bool = False  # whether the output folder holds another run and is renamed first
    has_best: bool = True  # whether the output folder has the best checkpoint that `loaded` refers to

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
    continues = _continues(options, asked, found)
    if continues and found:
        plan = Plan(*loading.load_first_good(found))
        loaded = plan.loaded or {}
        if options.existing_output != "match" or loaded.get("world_size", world_size) == world_size:
            return plan
        continues = False
    renames_folder = bool(folder) and not continues and _holds_a_run(folder, options)
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
    if not options.auto_resume or options.existing_output == "rename":
        return False
    asks_for_latest = bool(asked and found and os.path.samefile(asked, found[0]))
    if options.existing_output == "match":
        return _same_options(options, ignore_resume=asks_for_latest)
    return not asked or asks_for_latest or _began_with(options, asked)


def _began_with(options: Options, asked: str) -> bool:
    recorded = _recorded(options.output_dir).get("resume")
    if not isinstance(recorded, str):
        return False
    if recorded == options.resume:
        return True
    return os.path.exists(recorded) and os.path.samefile(store.resolve(recorded), asked)


def _recorded(folder: str) -> Mapping[str, Any]:
    path = os.path.join(folder, CONFIG)
    return config_files.read_config(path) if folder and os.path.exists(path) else {}


def _same_options(options: Options, ignore_resume: bool) -> bool:
    recorded = _recorded(options.output_dir)
    if not recorded:
        return False
    before, now = parsing.identity(recorded), parsing.identity(options.as_dict())
    if options.output_dir in (before.get("resume"), os.path.dirname(before.get("resume") or "")):
        before["resume"] = ""  # it resumed the folder's own checkpoint
    if ignore_resume:
        before.pop("resume", None)
        now.pop("resume", None)
    return before == now


def _holds_a_run(folder: str, options: Options) -> bool:
    if not os.path.isdir(folder) or not os.listdir(folder):
        return False
    if options.existing_output == "resume":
        return bool(store.checkpoints_in(folder))
    return set(os.listdir(folder)) != {LOCK}


def prepare(options: Options, plan: Plan) -> str | None:
    """Lock the output folder, rename an older one if `plan` asks for it, and open the log file.

    Updates `plan` with where its checkpoint is afterwards and whether the folder has its best one. Returns a line that
    reports the renaming, or None.
    """
    if not options.output_dir:
        return None
    try:
        message = _prepare(options, plan)
        log_to_file(_log_path(options))
        if options.trains:
            write_config(options)
        return message
    except OSError as error:
        raise UserError("--output-dir %s cannot be written to: %s" % (options.output_dir, error)) from None


def _prepare(options: Options, plan: Plan) -> str | None:
    folder, writes = options.output_dir, options.trains
    if writes and os.path.isdir(folder):
        lock(folder)
    message = None
    if plan.renames_folder:
        renamed = _rename(folder)
        message = _rename_message(folder, renamed)
        if plan.path and os.path.dirname(os.path.abspath(plan.path)) == folder:
            plan.path = os.path.join(renamed, os.path.basename(plan.path))
    is_new = not os.path.isdir(folder)
    os.makedirs(folder, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise UserError("--output-dir %s cannot be written to" % folder)
    if writes and is_new:
        lock(folder)
    if writes:
        _rename_damaged(plan)
    if writes and plan.path and not os.path.exists(os.path.join(folder, store.BEST)):
        plan.has_best = store.copy_best(os.path.dirname(os.path.abspath(plan.path)), folder)
    return message


def first_epoch(options: Options, loaded: Mapping[str, Any] | None) -> int:
    """Return the epoch that training begins or resumes with."""
    return loaded["epoch"] + 1 if loaded and "epoch" in loaded else options.start_epoch


def check_something_is_left(options: Options, loaded: Mapping[str, Any] | None) -> None:
    """Raise UserError if there is nothing to train and no earlier result either."""
    epoch = first_epoch(options, loaded)
    if epoch >= options.epochs and not (loaded or {}).get("history"):
        raise UserError("nothing to train: epoch %d is not below --epochs %d" % (epoch, options.epochs))


_lock_files: list[IO[str]] = []  # open ones: closing one would release its lock


def lock(folder: str, patience_s: float = 20) -> None:
    """Lock `folder` until `unlock` or the end of this process; raise UserError if another run holds the lock.

    The loader processes of a killed run hold its lock for some seconds, hence the patience.
    """
    try:
        import fcntl
    except ImportError:  # not a Unix system
        return
    file = open(os.path.join(folder, LOCK), "a")  # noqa: SIM115 - stays open
    deadline = time.time() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _lock_files.append(file)
            remove_leftovers(folder)
            return
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                file.close()
                return  # a file system without locks
            if time.time() > deadline:
                file.close()
                raise UserError(
                    "--output-dir %s: another run is writing there; wait for it, or name another" % folder
                ) from None
            time.sleep(0.5)


def unlock() -> None:
    """Release the lock of the output folder, if there is one."""
    while _lock_files:
        _lock_files.pop().close()


def _rename(folder: str) -> str:
    try:
        return store.rename_by_time(folder)
    except OSError as error:
        raise UserError("--output-dir %s holds another run and cannot be renamed: %s" % (folder, error)) from None


def _rename_damaged(plan: Plan) -> None:
    """Rename damaged checkpoints: the next save would otherwise keep one of them as the previous checkpoint."""
    for path in plan.damaged:
        store.rename_by_time(path, ".damaged")
        plan.has_best = plan.has_best and os.path.basename(path) != store.BEST


def _rename_message(folder: str, target: str) -> str:
    message = "%s held another run: renamed to %s" % (folder, target)
    if store.checkpoints_in(target):
        message += "; resume that run with --resume=%s" % store.checkpoints_in(target)[0]
    return message


def write_evaluation(
    options: Options,
    world_size: int,
    result: Mapping[str, Any],
    ema_metrics: Mapping[str, float],
    per_class: Mapping[str, Any] | None = None,
) -> None:
    """Write the `result` of an evaluation as JSON, with those of the EMA weights, to the file `--eval-json`.

    With `per_class`, as of metrics.per_class_summary, write it into the output folder too.
    """
    facts = {"model": options.model, "world_size": world_size, "batch_size": options.batch_size}
    ema = {"ema_" + name: value for name, value in ema_metrics.items()}
    paths = {"--eval-json": options.eval_json if options.eval else ""}
    if per_class and options.output_dir:
        paths["--output-dir"] = os.path.join(options.output_dir, EVALUATION)
    for name, path in paths.items():
        try:
            if path:
                write_json(path, dict(facts, **result, **ema, **(per_class or {})))
        except OSError as error:
            raise UserError("%s %s cannot be written: %s" % (name, path, error.strerror), one_rank=True) from None


def _log_path(options: Options) -> str:
    return os.path.join(options.output_dir, "train_0.log" if options.trains else "eval_0.log")


def write_config(options: Options) -> None:
    """Write the configuration file that reproduces the run."""
    text = "# python main.py --config THIS_FILE reproduces this run (%s)\n" % release_versions()
    write_text(os.path.join(options.output_dir, CONFIG), text + config_files.to_yaml(options))
