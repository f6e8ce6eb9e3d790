"""`--dry-run`: all that a training run does, tried on a few batches, and an estimate of what the whole of it takes.

The output folder is neither made nor changed.
"""

import os
import shutil
import statistics
import tempfile
import time
from collections import namedtuple

import engine
from checkpoints import loading, store
from options import parsing
from results.folder import check_something_is_left
from results.record import Record
from runtime.device import peak_resident_mib
from runtime.errors import RunError, UserError
from utils import clock_text

UNTIMED, TIMED = 2, 2  # steps: the first ones start loaders, allocate and compile
MOST_CHECKPOINTS = 4  # that lie on the disk at once: latest, previous and best, and the one being written
PROBE_IMAGES, PROBE_SECONDS = 32, 1.0

# Of a training step or an evaluation batch: seconds in all and of waiting for images, how many were timed after how
# many others, seconds that one loader process takes for an image.
Pace = namedtuple("Pace", "seconds waited timed untimed image_seconds")
Trial = namedtuple("Trial", "place seconds size free")  # of a checkpoint: folder, seconds to write, bytes, bytes free


class FirstSteps:
    """The first steps of a loader, timed: engine.py's loops take it for the loader itself."""

    def __init__(self, batches):
        self.batches, self.steps = batches, min(UNTIMED + TIMED, len(batches))
        self.times = []  # of each batch: seconds until it was there, and until the next was asked for

    def __getattr__(self, name):
        return getattr(self.batches, name)

    def __len__(self):
        return self.steps

    def epoch(self, epoch, first_step=0):
        return self._timed(self.batches.epoch(epoch, first_step))

    def __iter__(self):
        return self._timed(iter(self.batches))

    def _timed(self, batches):
        for _ in range(self.steps * self.parts):
            asked = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            came = time.perf_counter()
            yield batch
            self.device.synchronize()
            self.times.append((came - asked, time.perf_counter() - came))

    def pace(self, ranks):
        """The Pace of the slowest rank; all ranks must ask."""
        parts = self.parts
        steps = [self.times[first : first + parts] for first in range(0, len(self.times), parts)]
        timed = steps[UNTIMED:] or steps[-1:]
        waited = _mean([sum(wait for wait, _ in step) for step in timed])
        worked = _mean([sum(work for _, work in step) for step in timed])
        image_seconds = seconds_per_image(self.batches)
        if self.workers:  # what they have ready by now hides how fast they are in the long run
            made = image_seconds * self.batch_size * parts / min(self.workers, ranks.cores)
            waited = max(waited, made - worked)
        seconds, waited, image_seconds = highest(ranks, [worked + waited, waited, image_seconds])
        return Pace(seconds, waited, len(timed), len(steps) - len(timed), image_seconds)


def _mean(values):
    return statistics.mean(values) if values else 0.0


def seconds_per_image(batches):
    """Seconds to read and transform an image in this process, over the first ones of the epoch; 0 where it has none."""
    batches.batch_sampler.first_batch = 0
    places = next(iter(batches.batch_sampler), [])[:PROBE_IMAGES]
    for place in places[:1]:
        batches.dataset[place]  # it loads what the others need, too
    marks = [time.perf_counter()]
    for place in places:
        batches.dataset[place]
        marks.append(time.perf_counter())
        if marks[-1] - marks[0] > PROBE_SECONDS:
            break
    return (marks[-1] - marks[0]) / (len(marks) - 1) if places else 0.0


def highest(ranks, numbers):
    """The list of `numbers`, each the highest of all ranks."""
    others = [0.0] * len(numbers)
    everyones = ranks.sum_list(others * ranks.rank + numbers + others * (ranks.world_size - 1 - ranks.rank))
    return [max(everyones[place :: len(numbers)]) for place in range(len(numbers))]


def rehearse(options, run, loaders, plan):
    """Try training, evaluation and saving, and log what the run would take; what fails in a run fails here, too."""
    check_something_is_left(options, plan.loaded)
    for line in parsing.warnings_of(options):
        run.logger.warning(line)
    record = Record(options, run, loaders, plan)
    place = folder_to_try(options.output_dir) if run.ranks.is_main and options.output_dir else None
    epochs = max(0, options.epochs - record.next_epoch)
    if not epochs:
        run.logger.info("dry run: nothing is left to train")
        return
    with run.stop:
        train = FirstSteps(loaders.train)
        engine.train_one_epoch(run, train, record.next_epoch, save=lambda _: None)
        train_pace = train.pace(run.ranks)
        val_pace = try_evaluation(run, loaders.val)
    memory = highest(run.ranks, [run.device.max_memory_mib() or 0.0, peak_resident_mib() or 0.0])
    trial = try_checkpoint(place, run, record) if place else None
    run.ranks.barrier()
    rows = rows_of_time(train_pace, val_pace, loaders, record, epochs, trial.seconds if trial else 0.0)
    rows.append(("memory", memory_text(run, memory, loaders.train.workers)))
    rows.append(("checkpoint", disk_text(trial) if trial else "none is written: no --output-dir"))
    if plan.renames_folder:
        rows.append(("output", "%s holds another run: the run renames it" % options.output_dir))
    rows.append(("left behind", "nothing"))
    run.logger.info("dry run\n" + "\n".join("    %-13s %s" % row for row in rows))
    if trial and trial.free < MOST_CHECKPOINTS * trial.size:
        text = "%s has no room for the %d checkpoints of %.1f MB that lie there at once: %.1f MB are free"
        run.logger.warning(text, trial.place, MOST_CHECKPOINTS, trial.size / 1e6, trial.free / 1e6)


def try_evaluation(run, batches):
    """The Pace of a batch of the evaluation: of the weights and, where there is one, of their average."""
    first = FirstSteps(batches)
    engine.evaluate(run, run.bare_model, first)
    pace = first.pace(run.ranks)
    if run.ema.module is None:
        return pace
    average = FirstSteps(batches)
    engine.evaluate(run, run.ema.module_on(run.device.torch_device), average)
    second = average.pace(run.ranks)
    return pace._replace(seconds=pace.seconds + second.seconds, waited=pace.waited + second.waited)


def folder_to_try(output_dir):
    """The folder to write a checkpoint in that is on the disk of `output_dir`: the one above it, where that is on the
    same disk. UserError where a run could not write its output."""
    above = os.path.dirname(output_dir)
    if os.path.isdir(output_dir):
        is_same_disk = os.stat(above).st_dev == os.stat(output_dir).st_dev
        folders = [output_dir, above] if is_same_disk and os.access(above, os.W_OK | os.X_OK) else [output_dir]
    else:
        while not os.path.lexists(above):
            above = os.path.dirname(above)
        folders = [above]
    is_in_the_way = os.path.lexists(output_dir) and not os.path.isdir(output_dir)
    if is_in_the_way or not all(os.path.isdir(name) and os.access(name, os.W_OK | os.X_OK) for name in folders):
        raise UserError("--output-dir %s cannot be written to" % output_dir)
    return folders[-1]


def try_checkpoint(place, run, record):
    """The Trial of a checkpoint below the folder `place`, written, read and deleted again."""
    state = dict(run.state_dict(), **record.payload(record.next_epoch - 1, None))
    free = shutil.disk_usage(place).free
    try:
        folder = tempfile.mkdtemp(prefix=".dry-run-", dir=place)
    except OSError as error:
        raise UserError("--output-dir: %s cannot be written to: %s" % (place, error.strerror)) from None
    try:
        path = os.path.join(folder, store.LATEST)
        started = time.perf_counter()
        store.save_as(state, path)
        seconds = time.perf_counter() - started
        loading.load_into(path, run, loading.load(path))
        return Trial(place, seconds, os.path.getsize(path), free)
    except store.SaveError as error:
        raise RunError(str(error)) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def rows_of_time(train, val, loaders, record, epochs, saving):
    """What is printed of the time: of a step, of an epoch, and of the `epochs` that are left."""
    steps, batches = len(loaders.train), len(loaders.val)
    left = epochs * steps - (record.resume_state["step"] if record.resume_state else 0)
    others = val.seconds * batches + saving
    seconds = left * train.seconds + epochs * others
    basis = "mean of %d after %d others" % (train.timed, train.untimed) if train.untimed else "the first one alone"
    share = 100 * train.waited / train.seconds if train.seconds else 0.0
    images = "%.0f %% of a step is waiting for images; one takes %.2f ms on a core, %s"
    workers = loaders.train.workers
    loaders_text = "%d loader processes beside each" % workers if workers else "no loader processes"
    return [
        ("step", "%.4g s (%s)" % (train.seconds, basis)),
        ("data", images % (share, 1e3 * train.image_seconds, loaders_text)),
        ("epoch", "%d steps, and %.4g s of evaluation (%d batches) and saving" % (steps, others, batches)),
        ("time", "%d epochs, %d steps: %.4g h (%s)" % (epochs, left, seconds / 3600, clock_text(seconds))),
    ]


def memory_text(run, memory, workers):
    """What is printed of the memory: (MiB of tensors on the device or 0, MiB resident on the host or 0)."""
    on_device, on_host = memory
    texts = ["%.0f MiB of tensors on %s at most" % (on_device, run.device)] if on_device else []
    if on_host:
        without = " without its %d loader processes" % workers if workers else ""
        texts.append("%.0f MiB resident in each of %d process(es)%s" % (on_host, run.ranks.world_size, without))
    return "; ".join(texts) or "unknown"


def disk_text(trial):
    """What is printed of the disk."""
    words = (trial.size / 1e6, trial.seconds, trial.place, trial.free / 1e6)
    return "%.1f MB, written and read back in %.3g s; %s has %.1f MB free" % words
