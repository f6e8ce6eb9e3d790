"""The output folder of a run: which checkpoint it goes on from, what is set aside, what is written."""

import errno
import os
import time

from checkpoints import store
from options import config_files, parsing
from runtime.compat import release_versions
from runtime.errors import UserError
from utils import log_to_file, write_json, write_text

CONFIG, LOCK, EVALUATION = "config.yaml", ".lock", "evaluation.json"


class Plan:
    """How a run begins: from `loaded` (a checkpoint, or None) read from `path`, in a folder set aside first or not."""

    def __init__(self, loaded=None, path=None, damaged=(), sets_aside=False):
        self.loaded, self.path, self.sets_aside = loaded, path, sets_aside
        self.damaged = damaged  # checkpoints of the output folder that came before `path` and cannot be read
        self.has_best = True  # whether the folder has the best checkpoint that `loaded` speaks of


def make_plan(options, world_size=1):
    """The Plan for `options`; reads, writes nothing.

    An explicit `--resume` wins over the folder's checkpoint, unless that comes from a run which began with the same
    `--resume`: then the folder's is further on.
    """
    folder = options.output_dir
    if not options.trains:
        return _plan_evaluation(options)
    found = store.find_latest(folder) if folder else []
    asked = store.resolve(options.resume) if options.resume else None
    candidates = store.find_latest(options.resume) if os.path.isdir(options.resume) else [asked]
    continues = _continues(options, asked, found)
    if continues and found:
        plan = Plan(*store.load_first_good(found))
        if options.existing_output != "match" or plan.loaded.get("world_size", world_size) == world_size:
            return plan
        continues = False
    sets_aside = bool(folder) and not continues and _holds_a_run(folder, options)
    if asked:
        loaded, path, _ = store.load_first_good(candidates)
        return Plan(loaded, path, sets_aside=sets_aside)
    return Plan(sets_aside=sets_aside)


def _plan_evaluation(options):
    if options.resume:
        path = store.resolve(options.resume, (store.BEST, store.LATEST))
        return Plan(store.load(path), path)
    found = store.find_latest(options.output_dir) if options.output_dir and options.auto_resume else []
    if found:
        return Plan(*store.load_first_good(found))
    if options.eval:
        raise UserError("--eval needs --resume: name the checkpoint to evaluate")
    return Plan()


def _continues(options, asked, found):
    """Whether this run goes on with the one in its output folder."""
    if not options.auto_resume or options.existing_output == "rename":
        return False
    asks_for_latest = bool(asked and found and os.path.samefile(asked, found[0]))
    if options.existing_output == "match":
        return _same_options(options, ignore_resume=asks_for_latest)
    return not asked or asks_for_latest or _began_with(options, asked)


def _began_with(options, asked):
    recorded = _recorded(options.output_dir).get("resume")
    if not isinstance(recorded, str):
        return False
    if recorded == options.resume:
        return True
    return os.path.exists(recorded) and os.path.samefile(store.resolve(recorded), asked)


def _recorded(folder):
    path = os.path.join(folder, CONFIG)
    return config_files.read_config(path) if folder and os.path.exists(path) else {}


def _same_options(options, ignore_resume):
    recorded = _recorded(options.output_dir)
    if not recorded:
        return False
    before, now = parsing.identity(recorded), parsing.identity(options.as_dict())
    if options.output_dir in (before.get("resume"), os.path.dirname(before.get("resume") or "")):
        before["resume"] = ""  # it went on with the folder's own checkpoint
    if ignore_resume:
        before.pop("resume", None)
        now.pop("resume", None)
    return before == now


def _holds_a_run(folder, options):
    if not os.path.isdir(folder) or not os.listdir(folder):
        return False
    if options.existing_output == "resume":
        return bool(store.find_latest(folder))
    return set(os.listdir(folder)) != {LOCK}


def prepare(options, plan):
    """Set the folder aside if `plan` says so, and create it; a line that tells what was renamed, or None.

    `plan` learns where its checkpoint lies afterwards, and whether the folder has its best one.
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


def _prepare(options, plan):
    folder = options.output_dir
    writes = options.trains
    if writes and os.path.isdir(folder):
        _claim(folder)
    message = None
    if plan.sets_aside:
        renamed = _set_aside(folder)
        message = _message(folder, renamed)
        if plan.path and os.path.dirname(os.path.abspath(plan.path)) == folder:
            plan.path = os.path.join(renamed, os.path.basename(plan.path))
    is_new = not os.path.isdir(folder)
    os.makedirs(folder, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise UserError("--output-dir %s cannot be written to" % folder)
    if writes and is_new:
        _claim(folder)
    if writes:
        _set_damaged_aside(plan)
    if writes and plan.path and not os.path.exists(os.path.join(folder, store.BEST)):
        plan.has_best = store.copy_best(os.path.dirname(os.path.abspath(plan.path)), folder)
    return message


def first_epoch(options, loaded):
    """The epoch that training begins with or goes on in."""
    return loaded["epoch"] + 1 if loaded and "epoch" in loaded else options.start_epoch


def check_something_is_left(options, loaded):
    """UserError where there is nothing to train and no earlier result either."""
    epoch = first_epoch(options, loaded)
    if epoch >= options.epochs and not (loaded or {}).get("history"):
        raise UserError("nothing to train: epoch %d is not below --epochs %d" % (epoch, options.epochs))


_claims = []  # open lock files: closing one would release it


def _claim(folder, patience_s=20):
    """Lock the folder until this process ends; UserError where another run holds it.

    A killed run's loader processes hold its lock for some seconds, hence the patience.
    """
    try:
        import fcntl
    except ImportError:  # not a Unix system
        return
    lock = open(os.path.join(folder, LOCK), "a")  # noqa: SIM115 - stays open
    deadline = time.time() + patience_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _claims.append(lock)
            store.remove_leftovers(folder)
            return
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                lock.close()
                return  # a file system without locks
            if time.time() > deadline:
                lock.close()
                raise UserError(
                    "--output-dir %s: another run is writing there; wait for it, or name another" % folder
                ) from None
            time.sleep(0.5)


def release():
    """Give up the lock of the output folder."""
    while _claims:
        _claims.pop().close()


def _set_aside(folder):
    try:
        return store.set_aside(folder)
    except OSError as error:
        raise UserError("--output-dir %s holds another run and cannot be renamed: %s" % (folder, error)) from None


def _set_damaged_aside(plan):
    """Rename damaged checkpoints: as the latest one, such a file would become the previous one at the next save."""
    for path in plan.damaged:
        store.set_aside(path, ".damaged")
        plan.has_best = plan.has_best and os.path.basename(path) != store.BEST


def _message(folder, target):
    message = "%s held another run: renamed to %s" % (folder, target)
    if store.find_latest(target):
        message += "; go on with it by --resume=%s" % store.find_latest(target)[0]
    return message


def write_evaluation(options, run, result, average, classes=None):
    """Write the result of an evaluation as JSON: that of `--eval` to `--eval-json`, and one with the numbers of
    `classes`, as of confusion.summary_of, into the output folder too."""
    facts = {"model": options.model, "world_size": run.ranks.world_size, "batch_size": options.batch_size}
    averages = {"ema_" + name: average[name] for name in ("acc1", "acc5", "loss") if average}
    paths = {"--eval-json": options.eval_json if options.eval else ""}
    if classes and options.output_dir:
        paths["--output-dir"] = os.path.join(options.output_dir, EVALUATION)
    for name, path in paths.items():
        try:
            if path:
                write_json(path, dict(facts, **result, **averages, **(classes or {})))
        except OSError as error:
            raise UserError("%s %s cannot be written: %s" % (name, path, error.strerror), one_rank=True) from None


def _log_path(options):
    return os.path.join(options.output_dir, "eval_0.log" if not options.trains else "train_0.log")


def write_config(options):
    """Write the configuration file that reproduces the run."""
    text = "# python main.py --config THIS_FILE reproduces this run (%s)\n" % release_versions()
    write_text(os.path.join(options.output_dir, CONFIG), text + config_files.to_yaml(options))
