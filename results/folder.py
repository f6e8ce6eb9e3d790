"""The output folder of a run: locked, and an older run there set aside; what is written there."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any, Callable, Iterator, Mapping

from checkpoints import store
from options import config_files
from pipeline.image_index import same_images
from results import existing, lock
from results.file_names import CONFIG, EVAL_LOG, EVALUATION, TRAIN_LOG
from results.plan import is_finished
from runtime.compat import release_versions
from runtime.errors import UserError
from utils import log_to_file, remove_leftovers, write_json, write_text

if TYPE_CHECKING:
    from options.parsing import Options
    from results.plan import Plan


def hold(options: Options, tick: Callable[[], object] = lambda: None) -> None:
    """Before anything is read there, lock the output folder of a training run, if there is one; `tick` as of `lock`.

    UserError where it cannot be locked, or has a pipe or a device in the place of a file.
    """
    folder = options.output_dir
    if not folder or not os.path.isdir(folder):
        return
    existing.check_regular(folder, options.trains)
    if options.trains and not options.dry_run:
        with _reporting(folder):
            lock.lock(folder, tick=tick)


def check_plan(options: Options, plan: Plan) -> None:
    """Raise UserError where the run would rename, or write to, what belongs to the user."""
    folder = options.output_dir
    if not folder or not options.trains:
        return
    if plan.renames_folder:
        existing.check_inputs(options)
    elif not existing.holds_run(folder):
        existing.check_nothing_is_overwritten(folder, plan.continues and "format" in (plan.loaded or {}))


def check_validation_images(options: Options, plan: Plan, fingerprint: list[Any]) -> None:
    """Note in `plan` whether its checkpoint was evaluated on other images than those of the `fingerprint`."""
    before = (plan.loaded or {}).get("val_images")
    is_trained = options.trains and not is_finished(options, plan)
    plan.has_other_val = is_trained and before is not None and not same_images(before, fingerprint)


def prepare(options: Options, plan: Plan) -> str | None:
    """Lock the output folder, rename an older one if `plan` asks for it, and open the log file.

    Updates `plan` with whether the folder has the best checkpoint. Returns a line that reports the renaming, or None.
    """
    if not options.output_dir:
        return None
    with _reporting(options.output_dir):
        message = _prepare(options, plan)
        if options.trains:
            _write_config(options, plan)
        log_to_file(os.path.join(options.output_dir, TRAIN_LOG if options.trains else EVAL_LOG))
        if options.trains:
            _prepare_checkpoints(options.output_dir, plan)
        return message


@contextlib.contextmanager
def _reporting(folder: str) -> Iterator[None]:
    """Turn an OSError into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError("--output-dir %s cannot be written to: %s" % (folder, error)) from None


def _prepare(options: Options, plan: Plan) -> str | None:
    folder, message = options.output_dir, None
    if plan.renames_folder:
        message = _set_aside(folder)
    os.makedirs(os.path.realpath(folder) if message else folder, exist_ok=True)  # a link to it now leads nowhere
    if not os.access(folder, os.W_OK):
        raise UserError("--output-dir %s cannot be written to" % folder)
    if options.trains:
        if lock.lock(folder):  # it is new
            _check_nothing_has_begun(folder)
        lock.keep_file()
        remove_leftovers(folder)
    return message


def _check_nothing_has_begun(folder: str) -> None:
    try:
        existing.check_nothing_is_overwritten(folder, False)
    except UserError:
        text = "--output-dir %s: another run has begun there meanwhile: start this one again" % folder
        raise UserError(text) from None


def _set_aside(folder: str) -> str:
    """Rename the run in `folder`, and return the line that reports it."""
    try:
        target = existing.set_aside(folder)
    except OSError as error:
        raise UserError("--output-dir %s holds another run and cannot be renamed: %s" % (folder, error)) from None
    message = "%s held another run: renamed to %s" % (folder, target)
    if os.path.isdir(folder):
        message = "%s held another run, and other things, which stay: its files are moved to %s" % (folder, target)
    found = store.checkpoints_in(target)
    return message + ("; resume that run with --resume=%s" % found[0] if found else "")


def _write_config(options: Options, plan: Plan) -> None:
    """Write the options, unless they are those of a finished run that is started again."""
    if not plan.continues:
        write_config(options)
    elif not (is_finished(options, plan) and os.path.isfile(os.path.join(options.output_dir, CONFIG))):
        write_config(options, finetune=plan.finetune)  # what it began with, whatever is asked for now


def _prepare_checkpoints(folder: str, plan: Plan) -> None:
    """Rename the checkpoints that the next save would lose, and see to the best one."""
    for path in plan.damaged:  # the next save would otherwise keep one of them as the previous checkpoint
        store.rename_by_time(path, ".damaged")
        plan.has_best = plan.has_best and os.path.basename(path) != store.BEST
    for path in [os.path.join(folder, name) for name in existing.CHECKPOINTS]:
        if os.path.lexists(path) and not os.path.isfile(path):
            renamed = store.rename_by_time(path, ".damaged")
            logging.getLogger().warning("%s is not a regular file: renamed to %s", path, renamed)
    best = os.path.join(folder, store.BEST)
    if plan.has_other_val:
        plan.has_best = False
        kept = "; the best checkpoint so far is kept as " + store.rename_by_time(best) if os.path.exists(best) else ""
        text = "val/ is not the one that %s was evaluated on: the best accuracy counts anew%s"
        logging.getLogger().warning(text, plan.path, kept)
    elif plan.path and not os.path.exists(best):
        plan.has_best = store.copy_best(os.path.dirname(os.path.abspath(plan.path)), folder)


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


def write_config(options: Options, **changed: Any) -> None:
    """Write the configuration file that reproduces the run; `changed` options have other values there."""
    text = "%s (%s)\n" % (existing.CONFIG_TITLE, release_versions())
    write_text(os.path.join(options.output_dir, CONFIG), text + config_files.to_yaml(options, **changed))
