"""The output folder of a run: which checkpoint it goes on from, what is set aside, what is written."""

import errno
import os
import time

import args as options_module
import config_files
from runtime import checkpoint
from runtime.errors import UserError
from utils import append_missing_rows, write_json, write_text

CONFIG, ROWS, SUMMARY, LOCK = "config.yaml", "log.txt", "summary.json", ".lock"


class Plan:
    """How a run begins: from `loaded` (a checkpoint, or None) read from `path`, in a folder set aside first or not."""

    def __init__(self, loaded=None, path=None, sets_aside=False):
        self.loaded, self.path, self.sets_aside = loaded, path, sets_aside
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
    continues = _continues(options, asked, found)
    if continues and found:
        start = Plan(*checkpoint.load_first_good(found))
        if options.existing_output != "match" or start.loaded.get("world_size", world_size) == world_size:
            return start
        continues = False
    sets_aside = bool(folder) and not continues and _holds_a_run(folder, options)
    if asked:
        return Plan(checkpoint.load(asked), asked, sets_aside)
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
    if not isinstance(recorded, str) or not os.path.exists(recorded):
        return False
    return os.path.samefile(checkpoint.resolve(recorded), asked)


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
    folder = options.output_dir
    if not folder:
        return None
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
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError("--output-dir %s cannot be created: %s" % (folder, error)) from None
    if not os.access(folder, os.W_OK):
        raise UserError("--output-dir %s cannot be written to" % folder)
    if writes and is_new:
        _claim(folder)
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
    stem = folder.rstrip(os.sep) + time.strftime(".%Y%m%d-%H%M%S")
    target, count = stem, 1
    while os.path.exists(target):
        count += 1
        target = "%s-%d" % (stem, count)
    try:
        os.rename(folder, target)
    except OSError as error:
        raise UserError("--output-dir %s holds another run and cannot be renamed: %s" % (folder, error)) from None
    return target


def _message(folder, target):
    message = "%s held another run: renamed to %s" % (folder, target)
    if checkpoint.find_latest(target):
        message += "; go on with it by --resume=%s" % checkpoint.find_latest(target)[0]
    return message


def write_evaluation(options, run, result, average):
    """Write the result of `--eval` to the file `--eval-json`."""
    facts = {"model": options.model, "world_size": run.ranks.world_size, "batch_size": options.batch_size}
    of_average = {"ema_" + name: average[name] for name in ("acc1", "acc5", "loss") if average}
    try:
        write_json(options.eval_json, dict(facts, **result, **of_average))
    except OSError as error:
        raise UserError("--eval-json %s cannot be written: %s" % (options.eval_json, error), one_rank=True) from None


def log_path(options):
    """The file of the run's log lines."""
    return os.path.join(options.output_dir, "eval_0.log" if options.eval or options.throughput else "train_0.log")


def write_config(options, versions):
    """Write the configuration file that reproduces the run."""
    text = "# python main.py --config THIS_FILE reproduces this run (%s)\n" % versions
    write_text(os.path.join(options.output_dir, CONFIG), text + config_files.to_yaml(options))


class Record:
    """What a run has achieved: one row an epoch, the best accuracy, the time. Part of its checkpoint."""

    def __init__(self, options, run, loaders, start):
        loaded = start.loaded or {}
        self.options, self.classes = options, loaders.classes
        self.facts = {
            "model": options.model,
            "device": str(run.device),
            "precision": run.precision.name,
            "world_size": run.ranks.world_size,
            "batch_size": loaders.train.batch_size,
            "train_images": loaders.train.image_count,
            "val_images": loaders.val.image_count,
            "classes": len(loaders.classes),
            "epochs": options.epochs,
        }
        self.history = list(loaded.get("history", []))
        self.max_accuracy, self.best_epoch = -1.0, None
        if start.has_best:
            self.max_accuracy, self.best_epoch = loaded.get("max_accuracy", -1.0), loaded.get("best_epoch")
        self.next_epoch = first_epoch(options, loaded)
        self.within = loaded.get("epoch_state")
        self.seconds_before, self.started = loaded.get("seconds", 0.0), time.time()

    @property
    def seconds(self):
        """Seconds of training and evaluation, those before a resume included."""
        return self.seconds_before + time.time() - self.started

    def add(self, epoch, stats, result, average):
        """Record the finished `epoch`; whether it is the best so far."""
        row = dict(epoch=epoch, **stats)
        row.update({"test_" + name: result[name] for name in ("acc1", "acc5", "loss")})
        if average is not None:
            row.update({"ema_" + name: average[name] for name in ("acc1", "acc5", "loss")})
        self.history.append(row)
        self.within = None
        is_best = result["acc1"] > self.max_accuracy
        if is_best:
            self.max_accuracy, self.best_epoch = result["acc1"], epoch
        return is_best

    def payload(self, epoch, within):
        """The checkpoint's entries beside the learned state; `epoch` is the last finished one, `within` the state of
        the one after it, where that has begun."""
        return {
            "format": checkpoint.FORMAT,
            "epoch": epoch,
            "step": within["step"] if within else 0,
            "epoch_state": within,
            "max_accuracy": self.max_accuracy,
            "best_epoch": self.best_epoch,
            "history": self.history,
            "seconds": self.seconds,
            "classes": list(self.classes),
            "world_size": self.facts["world_size"],
            "args": self.options.as_dict(),
        }

    def summary(self, status):
        """What summary.json says."""
        last = self.history[-1] if self.history else {}
        speeds = [row["images_per_second"] for row in self.history]
        return dict(
            self.facts,
            status=status,
            epochs_done=last.get("epoch", -1) + 1,
            max_accuracy=self.max_accuracy,
            best_epoch=self.best_epoch,
            test_acc1=last.get("test_acc1"),
            test_acc5=last.get("test_acc5"),
            test_loss=last.get("test_loss"),
            ema_acc1=last.get("ema_acc1"),
            train_loss=last.get("train_loss"),
            min_train_loss=min((row["train_loss"] for row in self.history), default=None),
            images_per_second=sum(speeds) / len(speeds) if speeds else None,
            training_seconds=self.seconds,
            checkpoint=checkpoint.LATEST,
            best=checkpoint.BEST,
        )

    def write(self, status):
        """Bring log.txt and summary.json up to date."""
        append_missing_rows(os.path.join(self.options.output_dir, ROWS), self.history)
        write_json(os.path.join(self.options.output_dir, SUMMARY), self.summary(status))

    def closing_lines(self):
        """The last words of a run: best accuracy, speed, and where the weights are."""
        summary = self.summary("complete")
        lines = []
        if self.best_epoch is not None:
            lines.append("Best accuracy %.2f%% in epoch %d" % (self.max_accuracy, self.best_epoch))
        if summary["images_per_second"] is not None:
            lines.append("%.1f images/s on average" % summary["images_per_second"])
        if self.options.output_dir:
            name = checkpoint.LATEST if self.best_epoch is None else checkpoint.BEST
            lines.append("Weights: %s" % os.path.join(self.options.output_dir, name))
        return lines
