"""Progress of an epoch: log lines in the reference's format, loss statistics, images a second."""

import collections
import itertools
import statistics
import time

import torch
from tqdm import tqdm

from utils import clock_text

WINDOW = 20  # steps that a running median or average looks back
UNTIMED_STEPS = 3  # the first steps of an epoch allocate and tune; the speed is measured from the next on


class Progress:
    """Follows a loop over batches: progress lines, loss statistics and images a second.

    Losses stay on the device until a line is due, so that a step never waits for the host.
    """

    def __init__(self, header, steps, device, logger, print_freq=10, first_step=0, bar=False, clock=time.perf_counter):
        self.header, self.steps, self.device, self.logger = header, steps, device, logger
        self.print_freq, self.first_step, self.clock = print_freq, first_step, clock
        self.bar = tqdm(total=steps, initial=first_step, desc=header, unit="step", leave=False) if bar else None
        self.pending, self.recent_losses = [], collections.deque(maxlen=WINDOW)
        self.loss_sum, self.loss_count = 0.0, 0
        self.skipped = 0
        self.waited = 0.0
        self.step_seconds, self.data_seconds = collections.deque(maxlen=WINDOW), collections.deque(maxlen=WINDOW)
        self.timed_images, self.seconds, self.timed_seconds = 0, 0.0, 0.0
        self.looped_seconds = 0.0
        self.lr = 0.0  # shown in the lines

    def restore(self, state):
        """Go on from what `state` gave within this epoch."""
        self.loss_sum = state.get("loss_sum", 0.0)
        self.loss_count = state.get("loss_count", state.get("step", 0))
        self.skipped = state.get("skipped", 0)

    def state(self, step):
        """What `restore` needs to go on at `step`."""
        sums = {"loss_sum": self.loss_sum, "loss_count": self.loss_count, "skipped": self.skipped}
        return dict(sums, step=step)

    def watch(self, batches, parts=1):
        """Yield (step, iterator of its `parts` batches) and account for the time of each step; a line is printed after
        every `print_freq` steps."""
        started = timed_from = mark = self.clock()
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
                self._print_line(step)
            mark = self.clock()
        self.device.synchronize()
        ended = self.clock()
        self.seconds, self.timed_seconds = ended - started, ended - timed_from
        if self.bar is not None:
            self.bar.close()

    def _timed(self, batches, count):
        """The next `count` of `batches`, the time until each is there added to `waited`."""
        for _ in range(count):
            mark = self.clock()
            batch = next(batches, None)
            self.waited += self.clock() - mark
            if batch is None:
                return
            yield batch

    def is_due(self, step):
        """Whether a line follows `step`: the moment to look at values, and for the ranks to agree."""
        return step % self.print_freq == 0 or step == self.steps - 1

    def add(self, losses, images):
        """Record one step's losses ((parts,) on the device) and the number of its images."""
        self.pending.append(losses)
        self.timed_images += images

    def take_pending(self):
        """The losses recorded since the last time, (steps, parts) in float32 on the host."""
        losses = torch.stack(self.pending).float().cpu() if self.pending else torch.zeros(0, 1)
        self.pending = []
        return losses

    def settle(self, losses):
        """Count the agreed `losses` of some steps."""
        self.recent_losses.extend(losses)
        for loss in losses:  # one by one, so that the sum does not depend on how often this is called
            self.loss_sum += loss
            self.loss_count += 1

    @property
    def mean_loss(self):
        return self.loss_sum / self.loss_count if self.loss_count else float("nan")

    @property
    def median_loss(self):
        return statistics.median_low(self.recent_losses) if self.recent_losses else float("nan")

    def _loss_text(self):
        return "lr: %.6f  loss: %.4f (%.4f)" % (self.lr, self.median_loss, self.mean_loss)

    def _print_line(self, step):
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
        self.logger.info("  ".join(parts))

    def log_summary(self, batch_size, world_size):
        """The lines at the end of an epoch; returns images a second over all ranks, of the timed window alone."""
        steps = max(self.steps - self.first_step, 1)
        timed_steps = steps - UNTIMED_STEPS if steps > UNTIMED_STEPS else steps
        images_per_second = self.timed_images * world_size / max(self.timed_seconds, 1e-9)
        self.logger.info("%s Total time: %s (%.4f s / it)", self.header, clock_text(self.seconds), self.seconds / steps)
        self.logger.info("iters num: %d, batch_size: %d, world_size: %d", steps, batch_size, world_size)
        self.logger.info("%s FPS: %s (%.4f s / it)", self.header, images_per_second, self.timed_seconds / timed_steps)
        self.logger.info("Averaged stats: %s", self._loss_text())
        return images_per_second
