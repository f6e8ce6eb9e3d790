"""The output folder of a run: which checkpoint it goes on from, what is set aside, what is written."""

import errno
import os
import time

import args as options_module
import config_files
from runtime import checkpoint
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


def plan(options, world_size=1):
    """The Plan for `options`; reads, writes nothing.

    An explicit `--resume` wins over the folder's checkpoint, unless that comes from a run which began with the same
    `--resume`: then the folder's is further on.
    """
    folder = options.output_dir
    if options.eval or options.throughput:
        return _plan_evaluation(options)
    found = checkpoint.find_latest(folder) if folder else []
    asked = checkpoint.resolve(options.resume) if options.resume else None
    candidates = checkpoint.find_latest(options.resume) if os.path.isdir(options.resume) else [asked]
    continues = _continues(options, asked, found)
    if continues and found:
        start = Plan(*checkpoint.load_first_good(found))
        if options.existing_output != "match" or start.loaded.get("world_size", world_size) == world_size:
            return start
        continues = False
    sets_aside = bool(folder) and not continues and _holds_a_run(folder, options)
    if asked:
        loaded, path, _ = checkpoint.load_first_good(candidates)
        return Plan(loaded, path, sets_aside=sets_aside)
    return Plan(sets_aside=sets_aside)


def _plan_evaluation(options):
    if options.resume:
        path = checkpoint.resolve(options.resume, (checkpoint.BEST, checkpoint.LATEST))
        return Plan(checkpoint.load(path), path)
    found = checkpoint.find_latest(options.output_dir) if options.output_dir and options.auto_resume else []
    if found:
        return Plan(*checkpoint.load_first_good(found))
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
    return os.path.exists(recorded) and os.path.samefile(checkpoint.resolve(recorded), asked)


def _recorded(folder):
    path = os.path.join(folder, CONFIG)
    return config_files.read_config(path) if folder and os.path.exists(path) else {}


def _same_options(options, ignore_resume):
    recorded = _recorded(options.output_dir)
    if not recorded:
        return False
    before, now = options_module.identity(recorded), options_module.identity(options.as_dict())
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
        return bool(checkpoint.find_latest(folder))
    return set(os.listdir(folder)) != {LOCK}


def prepare(options, start):
    """Set the folder aside if `start` says so, and create it; a line that tells what was renamed, or None.

    `start` learns where its checkpoint lies afterwards, and whether the folder has its best one.
    """
    if not options.output_dir:
        return None
    try:
        message = _prepare(options, start)
        log_to_file(_log_path(options))
        if not (options.eval or options.throughput):
            write_config(options)
        return message
    except OSError as error:
        raise UserError("--output-dir %s cannot be written to: %s" % (options.output_dir, error)) from None


def _prepare(options, start):
    folder = options.output_dir
    writes = not (options.eval or options.throughput)
    if writes and os.path.isdir(folder):
        _claim(folder)
    message = None
    if start.sets_aside:
        renamed = _set_aside(folder)
        message = _message(folder, renamed)
        if start.path and os.path.dirname(os.path.abspath(start.path)) == folder:
            start.path = os.path.join(renamed, os.path.basename(start.path))
    is_new = not os.path.isdir(folder)
    os.makedirs(folder, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise UserError("--output-dir %s cannot be written to" % folder)
    if writes and is_new:
        _claim(folder)
    if writes:
        _set_damaged_aside(start)
    if writes and start.path and not os.path.exists(os.path.join(folder, checkpoint.BEST)):
        start.has_best = checkpoint.copy_best(os.path.dirname(os.path.abspath(start.path)), folder)
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
            checkpoint.remove_leftovers(folder)
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
        return checkpoint.set_aside(folder)
    except OSError as error:
        raise UserError("--output-dir %s holds another run and cannot be renamed: %s" % (folder, error)) from None


def _set_damaged_aside(start):
    """Rename damaged checkpoints: as the latest one, such a file would become the previous one at the next save."""
    for path in start.damaged:
        checkpoint.set_aside(path, ".damaged")
        start.has_best = start.has_best and os.path.basename(path) != checkpoint.BEST


def _message(folder, target):
    message = "%s held another run: renamed to %s" % (folder, target)
    if checkpoint.find_latest(target):
        message += "; go on with it by --resume=%s" % checkpoint.find_latest(target)[0]
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
    return os.path.join(options.output_dir, "eval_0.log" if options.eval or options.throughput else "train_0.log")


def write_config(options):
    """Write the configuration file that reproduces the run."""
    text = "# python main.py --config THIS_FILE reproduces this run (%s)\n" % release_versions()
    write_text(os.path.join(options.output_dir, CONFIG), text + config_files.to_yaml(options))
