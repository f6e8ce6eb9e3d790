"""What a run has achieved: its rows, its best accuracy, its checkpoints, its summary."""

import os
import tempfile
import time

from checkpoints import store
from results.folder import first_epoch
from runtime.errors import RunError
from utils import append_missing_rows, write_json

ROWS, SUMMARY = "log.txt", "summary.json"


class Record:
    """What a run has achieved: one row an epoch, the best accuracy, the time. Part of its checkpoint."""

    def __init__(self, options, run, loaders, plan):
        loaded = plan.loaded or {}
        self.options, self.run, self.classes = options, run, loaders.classes
        self.saves = bool(options.output_dir) and run.ranks.is_main
        self.unsaved, self.last = None, (None, None)
        self.facts = {
            "model": options.model,
            "device": str(run.device),
            "precision": run.precision.name,
            "world_size": run.ranks.world_size,
            "virtual_ranks": run.ranks.virtual_size,
            "batch_size": loaders.train.batch_size,
            "train_images": loaders.train.image_count,
            "val_images": loaders.val.image_count,
            "classes": len(loaders.classes),
            "epochs": options.epochs,
        }
        layout = getattr(run.bare_model, "token_layout", options.token_layout)
        self.made = {"token_layout": layout}  # which a checkpoint may have decided
        self.history = list(loaded.get("history", []))
        self.max_accuracy, self.best_epoch = -1.0, None
        if plan.has_best:
            self.max_accuracy, self.best_epoch = loaded.get("max_accuracy", -1.0), loaded.get("best_epoch")
        self.next_epoch = first_epoch(options, loaded)
        self.resume_state = loaded.get("epoch_state")
        self.seconds_before, self.started = loaded.get("seconds", 0.0), time.monotonic()

    @property
    def seconds(self):
        """Seconds of training and evaluation, those before a resume included."""
        return self.seconds_before + time.monotonic() - self.started

    def add(self, epoch, stats, result, average):
        """Record the finished `epoch`; whether it is the best so far."""
        row = dict(epoch=epoch, **stats)
        row.update({"test_" + name: result[name] for name in ("acc1", "acc5", "loss")})
        if average is not None:
            row.update({"ema_" + name: average[name] for name in ("acc1", "acc5", "loss")})
        self.history.append(row)
        self.resume_state = None
        self.best_before = self.max_accuracy, self.best_epoch
        is_best = result["acc1"] > self.max_accuracy
        if is_best:
            self.max_accuracy, self.best_epoch = result["acc1"], epoch
        return is_best

    def payload(self, epoch, resume_state):
        """The checkpoint's entries beside the learned state; `epoch` is the last finished one, `resume_state` the
        state of the one after it, where that has begun."""
        return {
            "format": store.FORMAT,
            "epoch": epoch,
            "step": resume_state["step"] if resume_state else 0,
            "epoch_state": resume_state,
            "max_accuracy": self.max_accuracy,
            "best_epoch": self.best_epoch,
            "history": self.history,
            "seconds": self.seconds,
            "classes": list(self.classes),
            "world_size": self.facts["virtual_ranks"],
            "args": dict(self.options.as_dict(), **self.made),
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
            checkpoint=store.LATEST,
            best=store.BEST,
        )

    def save(self, epoch, resume_state=None, is_best=False):
        """Write the checkpoint after `epoch`, or `resume_state` the one after it, on the first rank.

        Where that fails the one before stays and the run goes on: the next save may find room.
        """
        if not self.saves:
            return
        self.last, self.unsaved = (epoch, resume_state), None
        try:
            store.save(self._state(epoch, resume_state), self.options.output_dir, is_best)
        except store.SaveError as error:
            self.unsaved = str(error)
            self.run.logger.error("%s; the checkpoint before is kept, and the run goes on", error)
            if is_best:  # best.pth is still the one before
                self.max_accuracy, self.best_epoch = self.best_before

    def save_not_finite(self, epoch, failure):
        """Keep the run as it is now, and which images made the loss not finite."""
        if not self.saves:
            return
        path = os.path.join(self.options.output_dir, store.NOT_FINITE)
        resume_state = {"step": failure.facts["noticed_at_step"]}
        try:
            store.save_as(dict(self._state(epoch - 1, resume_state), not_finite=failure.facts), path)
            self.run.logger.error("the run as it is now, and the images of that step, are kept in %s", path)
        except store.SaveError as error:
            self.run.logger.error("%s", error)

    def _state(self, epoch, resume_state):
        return dict(self.run.state_dict(), **self.payload(epoch, resume_state))

    def check_saved(self):
        """Before the process ends: RunError where the last checkpoint could not be written, even now.

        Then it is written into the system's folder for temporary files.
        """
        if self.unsaved is None:
            return
        self.save(*self.last)
        if self.unsaved is None:
            return
        path = os.path.join(tempfile.mkdtemp(prefix="spach-smlp-"), store.LATEST)
        try:
            store.save_as(self._state(*self.last), path)
        except store.SaveError as error:
            message = "%s, nor elsewhere (%s): what came after the last checkpoint is lost" % (self.unsaved, error)
            raise RunError(message) from None
        raise RunError("%s: it is in %s instead; make room, then go on with --resume=%s" % (self.unsaved, path, path))

    def write(self, status):
        """Bring log.txt and summary.json up to date on the first rank; whether that succeeded."""
        if not self.saves:
            return True
        try:
            append_missing_rows(os.path.join(self.options.output_dir, ROWS), self.history)
            write_json(os.path.join(self.options.output_dir, SUMMARY), self.summary(status))
        except OSError as error:
            self.run.logger.error("cannot be written: %s", error)
            return False
        return True

    def closing_lines(self):
        """The last words of a run: best accuracy, speed, and where the weights are."""
        summary = self.summary("complete")
        lines = []
        if self.best_epoch is not None:
            lines.append("Best accuracy %.2f%% in epoch %d" % (self.max_accuracy, self.best_epoch))
        if summary["images_per_second"] is not None:
            lines.append("%.1f images/s on average" % summary["images_per_second"])
        if self.options.output_dir:
            name = store.LATEST if self.best_epoch is None else store.BEST
            lines.append("Weights: %s" % os.path.join(self.options.output_dir, name))
        return lines
