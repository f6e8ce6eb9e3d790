"""The training and evaluation loops over a Run; they name no device, no version and no precision."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Callable

import torch

from models import inference
from runtime.compat import inference_mode
from runtime.errors import PeerError, RunError, Stopped
from runtime.signals import agreed_signal
from training.metrics import Counts, EvalResult
from training.progress import Progress
from training.run import Run
from training.steps import ReadError, agreed_batches, note_skipped, stop_unless_finite, take_gradients

if TYPE_CHECKING:
    from torch import Tensor, nn

    from runtime.device import Device
    from training.protocols import EvalBatches, TrainBatches


def train_one_epoch(
    run: Run,
    batches: TrainBatches,
    epoch: int,
    resume_state: dict[str, Any] | None = None,
    save_every: int = 0,
    save: Callable[[dict[str, Any], bool], None] = lambda state, is_last: None,
) -> dict[str, Any]:
    """Train `epoch` and return its statistics by their names in log.txt.

    `resume_state` is the {"step", "loss_sum", ...} of a checkpoint within this epoch. After every `save_every`
    optimizer steps of the run, `save(state, is_last)` is called with such a dictionary; is_last is true where a signal,
    or images that cannot be read, end the run. All ranks together raise NotFiniteError once a loss is not finite,
    Stopped after a signal, and the loader's error or PeerError where a rank cannot read its images.
    """
    if resume_state and "stats" in resume_state:
        return resume_state["stats"]  # the run was stopped while it evaluated
    run.model.train()
    first_step, steps = resume_state["step"] if resume_state else 0, len(batches)
    progress = Progress("Epoch: [%d]" % epoch, steps, run.device, run.logger, run.print_freq, first_step, run.show_bar)
    progress.restore(resume_state or {})
    progress.lr = run.learning_rate.set(epoch)
    run.begin_epoch(epoch)
    done = first_step
    source = agreed_batches(run, batches.epoch(epoch, first_step))
    try:
        for step, parts in progress.watch(source, batches.parts):
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
                run.update()
                run.ema.update(run.bare_model, epoch * steps + step)
            done = step + 1
            if is_within and (save_now or stop):
                save(_state(run, batches, progress, done), bool(stop))
            if is_within and stop:
                raise Stopped(stop)
    except ReadError as failure:
        if done > first_step:
            _agree(run, batches, epoch, done - 1, progress)
            save(_state(run, batches, progress, done), True)
        raise failure.cause from None
    images_per_second = progress.log_summary(batches.batch_size, run.ranks.world_size)
    return {
        "train_loss": progress.mean_loss,
        "train_loss_median": progress.median_loss,
        "train_lr": progress.lr,
        "images_per_second": images_per_second,
        "train_images_skipped": progress.images_skipped_before + run.ranks.sum_int(batches.skipped),
        "train_steps_skipped": progress.skipped,
        "seconds": progress.seconds_before + progress.seconds,
    }


def _state(run: Run, batches: TrainBatches, progress: Progress, step: int) -> dict[str, Any]:
    """Return the state of the epoch before `step`; all ranks must call this."""
    return progress.state(step, progress.images_skipped_before + run.ranks.sum_int(batches.skipped))


def _agree(run: Run, batches: TrainBatches, epoch: int, step: int, progress: Progress) -> int:
    """Exchange the losses since the last call, and received signals, with all ranks; return the signal to stop for.

    Returns 0 without a signal. This happens before the update, so that with `print_freq` 1 a loss that is not finite
    leaves the weights as they were.
    """
    own = progress.take_pending()
    values = own.mean(dim=1).tolist() + run.stop.votes()
    values = run.ranks.sum_list(values)
    losses = [value / run.ranks.world_size for value in values[: len(own)]]
    stop_unless_finite(run, batches, epoch, step, losses, own)
    progress.settle(losses)
    return agreed_signal(values[len(own) :])


@inference_mode()
def evaluate(run: Run, model: nn.Module, batches: EvalBatches, counts: Counts | None = None) -> EvalResult:
    """Return the metrics of the bare `model`, with each image counted once.

    Pass `counts` to keep them, for their confusion matrix. All ranks raise Stopped after a signal to any, and the error
    that ends the evaluation of a rank, or PeerError on the others.
    """
    model.eval()
    run.ranks.broadcast_buffers(model)
    if counts is None:
        counts = Counts(run.device.torch_device)
    compiled_size = batches.batch_size if run.is_compiled else None
    failure: Exception | None = None
    try:
        for images, targets in batches:
            run.ranks.tick()
            if run.stop.number:
                break
            with run.precision.autocast():
                logits = forward(model, images, run.device, compiled_size).float()
            counts.update(logits, targets)
    except Exception as error:  # whatever it is, the other ranks would wait for this one
        failure = error
    counts.add_skipped(batches.skipped)
    run.ranks.mark_waiting()
    *votes, failures = run.ranks.sum_list([*run.stop.votes(), float(failure is not None)])
    if failures:
        raise failure or PeerError("it cannot evaluate its images")
    stop = agreed_signal(votes)
    if stop:
        raise Stopped(stop)
    if batches.is_sharded:
        counts.sum_over(run.ranks)
    return counts.result()


def forward(model: nn.Module, images: Tensor, device: Device, compiled_size: int | None = None) -> Tensor:
    """Return the logits (B, classes) of `images` in evaluation, where images do not influence each other.

    A batch smaller than the `compiled_size` is filled up: another size would compile the model again. On a CPU a batch
    goes through a model that is not compiled in parts that stay within the caches, where possible by the faster way of
    models/inference.py.
    """
    count = len(images)
    if compiled_size is not None:
        missing = images[:1].expand(max(compiled_size - count, 0), -1, -1, -1)
        images = torch.cat([images, missing]).contiguous(memory_format=device.memory_format)
        return model(images)[:count]
    most = device.images_in_cache(images.shape[2] * images.shape[3])
    if not inference.is_faster(model, images):  # asked once: it looks at every layer
        return torch.cat([model(part) for part in images.split(most or count)])
    most = most and most * inference.MORE_AT_ONCE
    return torch.cat([inference.faster(model, part) for part in images.split(most or count)])


@inference_mode()
def throughput(run: Run, model: nn.Module, batches: EvalBatches, warm_up: int = 50, repeats: int = 30) -> float:
    """Log, in the reference's words, and return images a second of forward passes over the first batch."""
    model.eval()
    images, _ = next(iter(batches), (None, None))
    if images is None:
        raise RunError("no image could be read")
    with run.precision.autocast():
        for _ in range(warm_up):
            model(images)
        run.device.synchronize()
        run.logger.info("throughput averaged with %d times", repeats)
        started = time.perf_counter()
        for _ in range(repeats):
            model(images)
        run.device.synchronize()
    images_per_second = repeats * len(images) / (time.perf_counter() - started)
    run.logger.info("batch_size %d throughput %.2f", len(images), images_per_second)
    return images_per_second
