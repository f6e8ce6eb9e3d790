"""What a test lets go wrong in a run, by the environment variable FAULT: `name:rank:epoch:step[:more]`."""

import contextlib
import io
import os
import signal
import sys
import time

import torch

import engine
from checkpoints import store
from pipeline import index, parquet_listing
from training import metrics


def install(text):
    """Let the faults happen, which commas separate: for ranks and steps where "*" stands, always."""
    for part in text.split(","):
        name, *place = part.split(":")
        FAULTS[name](name, *place)


def slow_save(name, seconds):
    """Every file that torch.save writes stands half written for some time."""
    save = torch.save

    def halting(value, target, **options):
        whole = io.BytesIO()
        save(value, whole, **options)
        data = whole.getvalue()
        with open(target, "wb") if isinstance(target, str) else contextlib.nullcontext(target) as file:
            for part in (data[: len(data) // 2], data[len(data) // 2 :]):
                file.write(part)
                file.flush()
                time.sleep(float(seconds) / 2)

    store.torch.save = halting


def at(run, epoch, step, place):
    """Whether a run is at the place (rank, epoch, step)."""
    here = (run.ranks.rank, epoch, step)
    return all(want in ("*", str(value)) for want, value in zip(place, here))


def before_steps(act):
    """Call `act(run, parts, epoch, step)` before each step; what it returns, unless None, is used for `parts`."""
    take = engine.take_gradients

    def disturbed(run, parts, epoch, step):
        changed = act(run, parts, epoch, step)
        return take(run, parts if changed is None else changed, epoch, step)

    engine.take_gradients = disturbed


def not_finite(name, *place):
    """The loss of a step is NaN or infinite, its gradients and statistics too."""

    def poison(run, parts, epoch, step):
        if at(run, epoch, step, place):
            return [(images * float(name), targets) for images, targets in parts]

    before_steps(poison)


def hang(name, *place):
    """A rank stands still before a step."""

    def stand_still(run, parts, epoch, step):
        if at(run, epoch, step, place):
            time.sleep(3600)

    before_steps(stand_still)


def die(name, *place):
    """A rank is killed before a step, the first time that torchrun starts it."""

    def end(run, parts, epoch, step):
        if at(run, epoch, step, place) and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
            os.kill(os.getpid(), signal.SIGKILL)

    before_steps(end)


def slow(name, seconds):
    """Every step takes some time, so that a test can act within an epoch."""
    before_steps(lambda *_: time.sleep(float(seconds)))


def slow_evaluation(name, seconds):
    """Every batch of an evaluation takes some time."""
    update = metrics.Counts.update

    def slowed(counts, logits, targets):
        time.sleep(float(seconds))
        update(counts, logits, targets)

    metrics.Counts.update = slowed


def slow_listing(name, seconds):
    """The first rank takes some time for each folder of images; no other rank may list them."""
    list_source = index.list_source

    def listing(source, classes, tick, decoding):
        if os.environ.get("RANK", "0") != "0":
            raise AssertionError("rank %s lists images" % os.environ["RANK"])
        return list_source(source, classes, lambda: (time.sleep(float(seconds)), tick()), decoding)

    index.list_source = listing


def count_sums(name, rank):
    """A rank says on stderr after each step how many buckets of gradients were added up over the ranks."""
    take, counted = engine.take_gradients, []

    def hook(state, bucket):
        state.append(bucket)
        work = torch.distributed.all_reduce(bucket.buffer().div_(2), async_op=True).get_future()
        return work.then(lambda done: done.value()[0])

    def counting(run, parts, epoch, step):
        if not hasattr(run.model, "is_counted"):
            run.model.is_counted = True
            run.model.register_comm_hook(counted, hook)
        result = take(run, parts, epoch, step)
        if str(run.ranks.rank) == rank:
            sys.stderr.write("gradient sums %d\n" % len(counted))
        counted.clear()
        return result

    engine.take_gradients = counting


def narrow_windows(name, size):
    """A window of the shuffle of Parquet files has `size` bytes."""
    parquet_listing.WINDOW_BYTES = int(size)


FAULTS = {
    "window": narrow_windows,
    "slow-save": slow_save,
    "count-sums": count_sums,
    "nan": not_finite,
    "inf": not_finite,
    "hang": hang,
    "die": die,
    "slow": slow,
    "slow-listing": slow_listing,
    "slow-evaluation": slow_evaluation,
}
