"""The training and evaluation loops over a Run; they name no device, no version and no precision."""

import time

import torch

from runtime.compat import inference_mode
from runtime.errors import RunError, Stopped
from runtime.stops import elected
from training import metrics
from training.progress import Progress
from training.steps import note_skipped, stop_unless_finite, take_gradients


def train_one_epoch(run, batches, epoch, resume_state=None, save_every=0, save=None):
    """Train `epoch` and return its statistics as a dictionary.

    `resume_state` is the {"step", "loss_sum", ...} of a checkpoint within this epoch. After every `save_every`
    optimizer steps of the run, and when a signal stops it, `save(state)` is called with such a dictionary. All ranks
    together raise NotFiniteError once a loss is not finite, and Stopped after a signal.
    """
    if resume_state and "stats" in resume_state:
        return resume_state["stats"]  # it was stopped while it evaluated
    run.model.train()
    first_step, steps = resume_state["step"] if resume_state else 0, len(batches)
    progress = Progress("Epoch: [%d]" % epoch, steps, run.device, run.logger, run.print_freq, first_step, run.show_bar)
    progress.restore(resume_state or {})
    progress.lr = run.learning_rate.set(epoch)
    for step, parts in progress.watch(batches.epoch(epoch, first_step), batches.parts):
        run.ranks.mark(epoch, step)
        is_within = step + 1 < steps
        save_now = is_within and bool(save_every) and (epoch * steps + step + 1) % save_every == 0
        result = take_gradients(run, parts, epoch, step)
        if result.is_skipped:
            progress.skipped += 1
            note_skipped(run, batches, epoch, step, result.losses)
        else:
            run.skipped_in_a_row = 0
            progress.add(result.losses, result.images)
        stop = 0
        if save_now or progress.is_due(step) or (run.stop.number and run.ranks.world_size == 1):
            stop = _agree(run, batches, epoch, step, progress)
        if not result.is_skipped:
            run.precision.step(run.optimizer, run.model.parameters(), run.clip_grad)
            run.ema.update(run.bare_model, epoch * steps + step)
        if is_within and (save_now or stop):
            save(progress.state(step + 1))
        if is_within and stop:
            raise Stopped(stop)
    images_per_second = progress.log_summary(batches.batch_size, run.ranks.world_size)
    return {
        "train_loss": progress.mean_loss,
        "train_loss_median": progress.median_loss,
        "train_lr": progress.lr,
        "images_per_second": images_per_second,
        "train_images_skipped": run.ranks.count(batches.skipped),
        "train_steps_skipped": progress.skipped,
        "seconds": progress.seconds,
    }


def _agree(run, batches, epoch, step, progress):
    """Let all ranks know each other's losses since the last time, as their mean, and the signals that came.

    Returns the signal to stop for, or 0. It comes before the update, so that with `print_freq` 1 a loss that is not
    finite leaves the weights as they were.
    """
    own = progress.take_pending()
    values = own.mean(dim=1).tolist() + run.stop.votes()
    values = run.ranks.added(values)
    losses = [value / run.ranks.world_size for value in values[: len(own)]]
    stop_unless_finite(run, batches, epoch, step, losses, own)
    progress.settle(losses)
    return elected(values[len(own) :])


@inference_mode()
def evaluate(run, model, batches, counts=None):
    """{"acc1", "acc5" (percent), "loss", "images", "skipped"} of the bare `model`, each image counted once.

    Counts and losses are added as integers, so the result does not depend on how the images were dealt out. `counts`,
    as of confusion.no_counts, takes up which class each image was taken for. All ranks raise Stopped after a signal to
    any.
    """
    model.eval()
    run.ranks.broadcast_buffers(model)
    totals = torch.zeros(6, dtype=torch.int64, device=run.device.torch_device)
    for images, targets in batches:
        run.ranks.tick()
        if run.stop.number:
            break
        with run.precision.autocast():
            logits = forward(run, model, images, batches.batch_size).float()
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        totals[:5] += metrics.count_hits(logits, best, targets)
        if counts is not None:
            metrics.count(counts, targets, best[:, 0])
    totals[5] += batches.skipped
    run.ranks.mark_waiting()
    stop = elected(run.ranks.added(run.stop.votes()))
    if stop:
        raise Stopped(stop)
    if batches.is_sharded:
        run.ranks.sum_(totals)
        if counts is not None:
            run.ranks.sum_(counts)
    images, top1, top5, loss_units, not_finite, skipped = totals.tolist()
    if not images:
        raise RunError("no image could be evaluated")
    return {
        "acc1": 100.0 * top1 / images,
        "acc5": 100.0 * top5 / images,
        "loss": float("nan") if not_finite else loss_units / metrics.LOSS_UNIT / images,
        "images": images,
        "skipped": skipped,
    }


def forward(run, model, images, batch_size):
    """The logits (B, classes) of `images`, in evaluation, where they do not depend on what else is in the batch.

    A batch of another size than `batch_size` is filled up where the model would be compiled anew for it. On a CPU it
    goes through the model in parts that stay within its caches.
    """
    count = len(images)
    if run.is_compiled:
        missing = images[:1].expand(max(batch_size - count, 0), -1, -1, -1)
        images = torch.cat([images, missing]).contiguous(memory_format=run.device.memory_format)
        return model(images)[:count]
    most = run.device.images_in_cache(images.shape[2] * images.shape[3])
    return torch.cat([model(part) for part in images.split(most or count)])


@inference_mode()
def throughput(run, model, batches, warm_up=50, repeats=30):
    """Images a second of forward passes over the first batch, logged in the reference's words."""
    model.eval()
    images, _ = next(iter(batches), (None, None))
    if images is None:
        raise RunError("no image could be read")
    with run.precision.autocast():
        for _ in range(warm_up):
            model(images)
        run.device.synchronize()
        run.logger.info("throughput averaged with %d times", repeats)
        started = time.time()
        for _ in range(repeats):
            model(images)
        run.device.synchronize()
    images_per_second = repeats * len(images) / (time.time() - started)
    run.logger.info("batch_size %d throughput %s", len(images), images_per_second)
    return images_per_second
