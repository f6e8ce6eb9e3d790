"""Progress of an epoch: log lines in the reference's format, one line an epoch for a terminal, images a second."""

from __future__ import annotations

import collections
import itertools
import statistics
import time
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, Sequence

import torch
from tqdm import tqdm

from utils import IN_FULL, clock_text

if TYPE_CHECKING:
    import logging

    from torch import Tensor

    from runtime.device import Device

WINDOW = 20  # steps that a running median or average looks back
UNTIMED_STEPS = 3  # the first steps of an epoch allocate and tune; the speed is measured after them


class Progress:
    """Follows a loop over batches: progress lines, loss statistics and images a second.

    Losses stay on the device until a line is due, so that a step never waits for the host.
    """

    def __init__(
        self,
        header: str,
        steps: int,
        device: Device,
        logger: logging.Logger,
        print_freq: int = 10,
        first_step: int = 0,
        bar: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.header, self.steps, self.device, self.logger = header, steps, device, logger
        self.print_freq, self.first_step, self.clock = print_freq, first_step, clock
        self.bar = tqdm(total=steps, initial=first_step, desc=header, unit="step", leave=False) if bar else None
        self.pending: list[Tensor] = []
        self.recent_losses: collections.deque[float] = collections.deque(maxlen=WINDOW)
        self.loss_sum, self.loss_count = 0.0, 0
        self.skipped = 0
        self.waited = 0.0
        self.step_seconds: collections.deque[float] = collections.deque(maxlen=WINDOW)
        self.data_seconds: collections.deque[float] = collections.deque(maxlen=WINDOW)
        self.timed_images, self.seconds, self.timed_seconds = 0, 0.0, 0.0
        self.looped_seconds = 0.0
        self.lr = 0.0  # shown in the lines
        self.started, self.seconds_before = 0.0, 0.0  # the latter: of this epoch, before a resume
        self.images_skipped_before = 0

    def restore(self, resume_state: dict[str, Any]) -> None:
        """Continue from a `state` within this epoch; an older checkpoint has less of it."""
        self.loss_sum = resume_state.get("loss_sum", 0.0)
        self.loss_count = resume_state.get("loss_count", resume_state.get("step", 0))
        self.skipped = resume_state.get("skipped", 0)
        self.recent_losses.extend(resume_state.get("recent_losses", []))
        self.images_skipped_before = resume_state.get("images_skipped", 0)
        self.seconds_before = resume_state.get("seconds", 0.0)

    def state(self, step: int, images_skipped: int) -> dict[str, Any]:
        """Return what `restore` needs to continue at `step`; `images_skipped` is the number in the epoch so far."""
        return {
            "step": step,
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            "recent_losses": list(self.recent_losses),
            "skipped": self.skipped,
            "images_skipped": images_skipped,
            "seconds": self.seconds_before + self.clock() - self.started,
        }

    def watch(self, batches: Iterable[Any], parts: int = 1) -> Iterator[tuple[int, Iterator[Any]]]:
        """Yield (step, iterator over its `parts` batches) and time each step.

        A line is logged after every `print_freq` steps.
        """
        self.started = timed_from = mark = self.clock()
        batches = iter(batches)
        for step, first in enumerate(batches, self.first_step):
            if step - self.first_step == UNTIMED_STEPS:
                self.device.synchronize()
                timed_from, self.timed_images = self.clock(), 0
            self.waited = self.clock() - mark
            others = self._timed(batches, parts - 1)
            yield step, itertools.chain([first], others)
            collections.deque(others, maxlen=0)  # a skipped step may leave some
            self.step_seconds.append(self.clock() - mark)
            self.data_seconds.append(self.waited)
            self.looped_seconds += self.step_seconds[-1]
            if self.bar is not None:
                self.bar.update()
            if self.is_due(step):
                self._log_line(step)
            mark = self.clock()
        self.device.synchronize()
        ended = self.clock()
        self.seconds, self.timed_seconds = ended - self.started, ended - timed_from
        if self.bar is not None:
            self.bar.close()

    def _timed(self, batches: Iterator[Any], count: int) -> Iterator[Any]:
        """Yield the next `count` of `batches`; add the time of waiting for each to `waited`."""
        for _ in range(count):
            mark = self.clock()
            batch = next(batches, None)
            self.waited += self.clock() - mark
            if batch is None:
                return
            yield batch

    def is_due(self, step: int) -> bool:
        """Return whether a line follows `step`: then values are read from the device, and the ranks agree."""
        return step % self.print_freq == 0 or step == self.steps - 1

    def add(self, losses: Tensor, images: int) -> None:
        """Record one step's losses ((parts,) on the device) and the number of its images."""
        self.pending.append(losses)
        self.timed_images += images

    def take_pending(self) -> Tensor:
        """Return the losses recorded since the last call, (steps, parts) in float32 on the host."""
        losses = torch.stack(self.pending).float().cpu() if self.pending else torch.zeros(0, 1)
        self.pending = []
        return losses

    def settle(self, losses: Sequence[float]) -> None:
        """Add to the statistics the `losses` of some steps, as the ranks have agreed on them."""
        self.recent_losses.extend(losses)
        for loss in losses:  # one by one, so that the sum does not depend on how often this is called
            self.loss_sum += loss
            self.loss_count += 1

    @property
    def mean_loss(self) -> float:
        """The mean loss of the epoch so far; NaN before the first step."""
        return self.loss_sum / self.loss_count if self.loss_count else float("nan")

    @property
    def median_loss(self) -> float:
        """The median loss of the last WINDOW steps; NaN before the first step."""
        return statistics.median_low(self.recent_losses) if self.recent_losses else float("nan")

    def _loss_text(self) -> str:
        return "lr: %.6f  loss: %.4f (%.4f)" % (self.lr, self.median_loss, self.mean_loss)

    def _log_line(self, step: int) -> None:
        seconds_left = self.looped_seconds / (step - self.first_step + 1) * (self.steps - step)
        width = len(str(self.steps))
        parts = [
            "%s  [%*d/%d]" % (self.header, width, step, self.steps),
            "eta: %s" % clock_text(seconds_left),
            self._loss_text(),
            "time: %.4f" % statistics.mean(self.step_seconds),
            "data: %.4f" % statistics.mean(self.data_seconds),
        ]
        memory_mib = self.device.max_memory_mib()
        if memory_mib is not None:
            parts.append("max mem: %.0f" % memory_mib)
        if self.bar is not None:
            self.bar.set_postfix_str("loss %.4f" % self.median_loss, refresh=False)
        self.logger.info("  ".join(parts), extra=IN_FULL)

    def log_summary(self, batch_size: int, world_size: int) -> float:
        """Log the lines at the end of an epoch; return images a second over all ranks, in the timed steps alone."""
        steps = max(self.steps - self.first_step, 1)
        timed_steps = steps - UNTIMED_STEPS if steps > UNTIMED_STEPS else steps
        images_per_second = self.timed_images * world_size / max(self.timed_seconds, 1e-9)
        for line in (
            "%s Total time: %s (%.4f s / it)" % (self.header, clock_text(self.seconds), self.seconds / steps),
            "iters num: %d, batch_size: %d, world_size: %d" % (steps, batch_size, world_size),
            "%s FPS: %.2f (%.4f s / it)" % (self.header, images_per_second, self.timed_seconds / timed_steps),
            "Averaged stats: %s" % self._loss_text(),
        ):
            self.logger.info(line, extra=IN_FULL)
        return images_per_second


def epoch_line(row: dict[str, Any], max_accuracy: float, seconds_left: float) -> str:
    """Return the one line that a terminal shows of a finished epoch; `row` is its row of log.txt."""
    parts = [
        "epoch %d" % row["epoch"],
        "loss %.4f" % row["train_loss"],
        "val loss %.4f" % row["test_loss"],
        "Acc@1 %.2f%%" % row["test_acc1"],
        "best %.2f%%" % max_accuracy,
    ]
    if "ema_acc1" in row:
        parts.append("EMA Acc@1 %.2f%%" % row["ema_acc1"])
    parts += ["%.0f images/s" % row["images_per_second"], "%s left" % clock_text(seconds_left)]
    return "  ".join(parts)
