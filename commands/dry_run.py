"""`--dry-run`: a rehearsal of a training run on a few batches, and an estimate of the time and space of the whole run.

It neither makes nor changes the output folder.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Iterator, Sequence

import engine
from checkpoints import loading, store
from options import parsing
from results.plan import check_something_is_left, warnings_of
from results.record import Record
from runtime.device import peak_resident_mib
from runtime.ema import NoEma
from runtime.errors import RunError, UserError, reason
from utils import clock_text

if TYPE_CHECKING:
    from datasets import Loaders
    from options.parsing import Options
    from pipeline.batches import Batches
    from results.plan import Plan
    from runtime.distributed import Ranks
    from training.run import Run

UNTIMED, TIMED = 2, 2  # steps: the first ones start loaders, allocate and compile
MOST_CHECKPOINTS = 4  # on the disk at once: latest, previous and best, and the one being written
PROBE_IMAGES, PROBE_SECONDS = 32, 1.0


@dataclass(frozen=True)
class Pace:
    """The time of a training step or of an evaluation batch, on the slowest rank."""

    seconds: float
    waited: float  # the part of `seconds` that is spent waiting for images
    timed: int  # steps that were timed
    untimed: int  # steps before those
    image_seconds: float  # that one loader process takes for an image


@dataclass(frozen=True)
class CheckpointProbe:
    """A checkpoint that was written and read back, and the disk it was on."""

    folder: str
    seconds: float  # to write it
    size: int  # bytes
    free: int  # bytes on the disk


class FirstSteps:
    """The first steps of a loader, timed; the loops of engine.py use it in place of the loader."""

    def __init__(self, batches: Any) -> None:
        self.batches, self.steps = batches, min(UNTIMED + TIMED, len(batches))
        self.times: list[tuple[float, float]] = []  # of each batch: seconds of waiting for it, seconds of work with it

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batches, name)

    def __len__(self) -> int:
        return self.steps

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Any]:
        """Yield the first batches of `epoch` from `first_step` on."""
        return self._timed(self.batches.epoch(epoch, first_step))

    def __iter__(self) -> Iterator[Any]:
        return self._timed(iter(self.batches))

    def _timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        for _ in range(self.steps * self.parts):
            asked = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            came = time.perf_counter()
            yield batch
            self.device.synchronize()
            self.times.append((came - asked, time.perf_counter() - came))

    def pace(self, ranks: Ranks) -> Pace:
        """Return the Pace of the slowest rank; all ranks must call this."""
        parts = self.parts
        steps = [self.times[first : first + parts] for first in range(0, len(self.times), parts)]
        timed = steps[UNTIMED:] or steps[-1:]
        waited = _mean([sum(wait for wait, _ in step) for step in timed])
        worked = _mean([sum(work for _, work in step) for step in timed])
        image_seconds = seconds_per_image(self.batches)
        if self.workers:  # the batches that they have ready by now hide how fast they are in the long run
            made = image_seconds * self.batch_size * parts / min(self.workers, ranks.cores)
            waited = max(waited, made - worked)
        seconds, waited, image_seconds = highest(ranks, [worked + waited, waited, image_seconds])
        return Pace(seconds, waited, len(timed), len(steps) - len(timed), image_seconds)


def _mean(values: Sequence[float]) -> float:
    return statistics.mean(values) if values else 0.0


def seconds_per_image(batches: Batches) -> float:
    """Return the seconds to read and transform one of the epoch's first images in this process; 0 if it has none."""
    batches.batch_sampler.first_batch = 0
    indices: list[int] = next(iter(batches.batch_sampler), [])[:PROBE_IMAGES]
    for index in indices[:1]:
        batches.dataset[index]  # loads what all of them need
    marks = [time.perf_counter()]
    for index in indices:
        batches.dataset[index]
        marks.append(time.perf_counter())
        if marks[-1] - marks[0] > PROBE_SECONDS:
            break
    return (marks[-1] - marks[0]) / (len(marks) - 1) if indices else 0.0


def highest(ranks: Ranks, numbers: list[float]) -> list[float]:
    """Return `numbers`, each the highest of all ranks; all ranks must call this."""
    zeros = [0.0] * len(numbers)
    gathered = ranks.sum_list(zeros * ranks.rank + numbers + zeros * (ranks.world_size - 1 - ranks.rank))
    return [max(gathered[position :: len(numbers)]) for position in range(len(numbers))]


def rehearse(options: Options, run: Run, loaders: Loaders, plan: Plan) -> None:
    """Train, evaluate and save on a small scale, and log what the run would take; what fails in a run fails here."""
    check_something_is_left(options, plan.loaded)
    for line in [*parsing.warnings_of(options), *warnings_of(options, plan)]:
        run.logger.warning(line)
    record = Record(options, run, loaders, plan)
    folder = probe_folder(options.output_dir) if run.ranks.is_main and options.output_dir else None
    epochs = max(0, options.epochs - record.next_epoch)
    if not epochs:
        run.logger.info("dry run: nothing is left to train")
        return
    with run.stop:
        train = FirstSteps(loaders.train)
        engine.train_one_epoch(run, train, record.next_epoch, save=lambda state, is_last: None)
        train_pace = train.pace(run.ranks)
        val_pace = time_evaluation(run, loaders.val)
    memory = highest(run.ranks, [run.device.max_memory_mib() or 0.0, peak_resident_mib() or 0.0])
    probe = probe_checkpoint(folder, run, record) if folder else None
    run.ranks.barrier()
    rows = time_rows(train_pace, val_pace, loaders, record, epochs, probe.seconds if probe else 0.0)
    rows.append(("memory", memory_text(run, memory, loaders.train.workers)))
    rows.append(("checkpoint", disk_text(probe) if probe else "none is written: no --output-dir"))
    if plan.renames_folder:
        rows.append(("output", "%s holds another run: the run renames it" % options.output_dir))
    rows.append(("left behind", "nothing"))
    run.logger.info("dry run\n" + "\n".join("    %-13s %s" % row for row in rows))
    if probe and probe.free < MOST_CHECKPOINTS * probe.size:
        text = "%s has no room for the %d checkpoints of %.1f MB that a run keeps there at once: %.1f MB are free"
        run.logger.warning(text, probe.folder, MOST_CHECKPOINTS, probe.size / 1e6, probe.free / 1e6)


def time_evaluation(run: Run, batches: Batches) -> Pace:
    """Return the Pace of an evaluation batch: of the weights and, if there is an EMA, of the EMA weights too."""
    first = FirstSteps(batches)
    engine.evaluate(run, run.bare_model, first)
    pace = first.pace(run.ranks)
    if isinstance(run.ema, NoEma):
        return pace
    again = FirstSteps(batches)
    engine.evaluate(run, run.ema.module_on(run.device.torch_device), again)
    ema_pace = again.pace(run.ranks)
    return replace(pace, seconds=pace.seconds + ema_pace.seconds, waited=pace.waited + ema_pace.waited)


def probe_folder(output_dir: str) -> str:
    """Return the folder to write a checkpoint into, on the disk of `output_dir`; UserError if a run could not write.

    It is the folder above `output_dir` if that is on the same disk.
    """
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


def probe_checkpoint(folder: str, run: Run, record: Record) -> CheckpointProbe:
    """Write a checkpoint below `folder`, read it back, delete it, and return what that took."""
    state = dict(run.state_dict(), **record.payload(record.next_epoch - 1, None))
    free = shutil.disk_usage(folder).free
    try:
        temporary = tempfile.mkdtemp(prefix=".dry-run-", dir=folder)
    except OSError as error:
        raise UserError("--output-dir: %s cannot be written to: %s" % (folder, reason(error))) from None
    try:
        path = os.path.join(temporary, store.LATEST)
        started = time.perf_counter()
        store.save_as(state, path)
        seconds = time.perf_counter() - started
        loading.load_into(path, run, loading.load(path))
        return CheckpointProbe(folder, seconds, os.path.getsize(path), free)
    except store.SaveError as error:
        raise RunError(str(error)) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def time_rows(
    train: Pace, val: Pace, loaders: Loaders, record: Record, epochs: int, saving: float
) -> list[tuple[str, str]]:
    """Return the (name, text) rows about time: of a step, of an epoch, and of the `epochs` that are left."""
    steps, batches = len(loaders.train), len(loaders.val)
    left = epochs * steps - (record.resume_state["step"] if record.resume_state else 0)
    others = val.seconds * batches + saving
    seconds = left * train.seconds + epochs * others
    basis = "mean of %d after %d others" % (train.timed, train.untimed) if train.untimed else "the first one alone"
    percent = 100 * train.waited / train.seconds if train.seconds else 0.0
    images = "%.0f %% of a step is waiting for images; one takes %.2f ms on a core, %s"
    workers = loaders.train.workers
    loaders_text = "%d loader processes beside each" % workers if workers else "no loader processes"
    return [
        ("step", "%.4g s (%s)" % (train.seconds, basis)),
        ("data", images % (percent, 1e3 * train.image_seconds, loaders_text)),
        ("epoch", "%d steps, and %.4g s of evaluation (%d batches) and saving" % (steps, others, batches)),
        ("time", "%d epochs, %d steps: %.4g h (%s)" % (epochs, left, seconds / 3600, clock_text(seconds))),
    ]


def memory_text(run: Run, memory: Sequence[float], workers: int) -> str:
    """Return the text about `memory`: (MiB of tensors on the device or 0, MiB resident on the host or 0)."""
    on_device, on_host = memory
    texts = ["%.0f MiB of tensors on %s at most" % (on_device, run.device)] if on_device else []
    if on_host:
        without = " without its %d loader processes" % workers if workers else ""
        texts.append("%.0f MiB resident in each of %d process(es)%s" % (on_host, run.ranks.world_size, without))
    return "; ".join(texts) or "unknown"


def disk_text(probe: CheckpointProbe) -> str:
    """Return the text about the disk."""
    words = (probe.size / 1e6, probe.seconds, probe.folder, probe.free / 1e6)
    return "%.1f MB, written and read back in %.3g s; %s has %.1f MB free" % words
