"""What a run has achieved: its rows, its best accuracy, its checkpoints, its summary."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from typing import TYPE_CHECKING, Any, Callable, Mapping

from checkpoints import store
from results import best, reader
from results.file_names import ROWS, SUMMARY
from results.plan import first_epoch
from runtime.errors import RunError, reason
from utils import append_missing_rows, write_json

if TYPE_CHECKING:
    import logging
    from typing import Protocol

    from torch import nn

    from datasets import Loaders
    from options.parsing import Options
    from results.plan import Plan
    from runtime.amp import Precision
    from runtime.device import Device
    from runtime.distributed import Ranks

    class RecordedRun(Protocol):
        """What a Record needs of a training.run.Run."""

        device: Device
        ranks: Ranks
        bare_model: nn.Module
        precision: Precision
        logger: logging.Logger

        def state_dict(self) -> dict[str, Any]:
            """Return the trained state."""

    class Evaluated(Protocol):
        """What a Record needs of a training.metrics.EvalResult."""

        @property
        def acc1(self) -> float:
            """The accuracy in percent that tells the best epoch."""

        def metrics(self) -> dict[str, float]:
            """Return the metrics by name."""


class Record:
    """What a run has achieved: one row an epoch, the best accuracy, the time. It is part of the run's checkpoints.

    `constants` is the part of summary.json that no epoch changes. `recorded_options` are the options as a checkpoint
    keeps them, with the token layout that the model has and the decoding of the images, which an earlier checkpoint may
    have decided. `on_save(run_id, epoch, step)` is called when a checkpoint was saved.
    """

    def __init__(
        self,
        options: Options,
        run: RecordedRun,
        loaders: Loaders,
        plan: Plan,
        on_save: Callable[[str, int, int], object] = lambda *_: None,
    ) -> None:
        loaded = plan.loaded or {}
        self.run, self.classes = run, loaders.classes
        self.output_dir, self.epochs = options.output_dir, options.epochs
        self.saves = bool(options.output_dir) and run.ranks.is_main
        self.unsaved: str | None = None  # why the last checkpoint could not be written
        self.lacks_room = False  # whether a full disk is why
        self.last_save: tuple[int, dict[str, Any] | None, bool] = (-1, None, False)  # the arguments of `save`
        self.lost_best: tuple[best.Best, str] | None = None  # what best.pth should hold, and why it does not
        self.is_restarted = plan.continues  # in its own folder
        self.run_id = str((plan.continues and loaded.get("run_id")) or uuid.uuid4().hex)
        self.on_save = on_save
        self.constants: dict[str, Any] = {
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
        self.train_images: list[Any] = loaders.train.dataset.images.fingerprint
        self.val_images: list[Any] = loaders.val.dataset.images.fingerprint
        token_layout = getattr(run.bare_model, "token_layout", options.token_layout)
        self.recorded_options = dict(options.as_dict(), token_layout=token_layout, **loaders.decoding.as_options())
        self.history: list[dict[str, Any]] = list(loaded.get("history", []))
        self.best_by = options.best_by
        self.best = best.recorded(loaded, self.best_by) if plan.has_best else best.Best()
        self.best_before = self.best
        self.next_epoch = first_epoch(options, loaded)
        self.resume_state: dict[str, Any] | None = loaded.get("epoch_state")
        self.seconds_before, self.started = loaded.get("seconds", 0.0), time.monotonic()
        self.epochs_here = 0  # finished in this process

    @property
    def seconds(self) -> float:
        """Seconds of training and evaluation, including those before a resume."""
        return self.seconds_before + time.monotonic() - self.started

    @property
    def seconds_left(self) -> float:
        """Seconds that the remaining epochs will take, at the mean speed of this process's epochs so far."""
        left = self.epochs - self.history[-1]["epoch"] - 1 if self.history else self.epochs
        return (time.monotonic() - self.started) / max(self.epochs_here, 1) * left

    def add(self, epoch: int, stats: Mapping[str, Any], result: Evaluated, ema_result: Evaluated | None) -> bool:
        """Record the finished `epoch`; return whether it is the best so far."""
        row = {"epoch": epoch, **stats}
        row.update({"test_" + name: value for name, value in result.metrics().items()})
        if ema_result is not None:
            row.update({"ema_" + name: value for name, value in ema_result.metrics().items()})
        self.history.append(row)
        self.resume_state = None
        self.epochs_here += 1
        self.best_before = self.best
        self.best = best.better(self.best, row, self.best_by)
        return self.best is not self.best_before

    def payload(self, epoch: int, resume_state: dict[str, Any] | None) -> dict[str, Any]:
        """Return the checkpoint's entries beside the trained state.

        `epoch` is the last finished one, `resume_state` the state of the one after it, if that has begun.
        """
        return {
            "format": store.FORMAT,
            "run_id": self.run_id,
            "epoch": epoch,
            "step": resume_state["step"] if resume_state else 0,
            "epoch_state": resume_state,
            "max_accuracy": self.best.accuracy,
            "best_epoch": self.best.epoch,
            "history": self.history,
            "seconds": self.seconds,
            "classes": list(self.classes),
            "train_images": self.train_images,
            "val_images": self.val_images,
            "world_size": self.constants["virtual_ranks"],
            "args": self.recorded_options,
        }

    def summary(self, status: str) -> dict[str, Any]:
        """Return the content of summary.json."""
        last = self.history[-1] if self.history else {}
        speeds = [row["images_per_second"] for row in self.history]
        return dict(
            self.constants,
            status=status,
            epochs_done=last.get("epoch", -1) + 1,
            max_accuracy=self.best.accuracy,
            best_epoch=self.best.epoch,
            best_by=self.best_by,
            test_acc1=last.get("test_acc1"),
            test_acc5=last.get("test_acc5"),
            test_balanced_acc=last.get("test_balanced_acc"),
            test_macro_f1=last.get("test_macro_f1"),
            test_loss=last.get("test_loss"),
            ema_acc1=last.get("ema_acc1"),
            train_loss=last.get("train_loss"),
            min_train_loss=min((row["train_loss"] for row in self.history), default=None),
            images_per_second=sum(speeds) / len(speeds) if speeds else None,
            training_seconds=self.seconds,
            checkpoint=store.LATEST,
            best=store.BEST,
        )

    def save(self, epoch: int, resume_state: dict[str, Any] | None = None, is_best: bool = False) -> None:
        """Write the checkpoint after `epoch`, or within the next epoch if there is a `resume_state`, on the first rank.

        If that fails, the previous checkpoint stays and the run continues: the next save may succeed.
        """
        if not self.saves:
            return
        self.last_save, self.unsaved = (epoch, resume_state, is_best), None
        try:
            store.save(self._state(epoch, resume_state), self.output_dir, is_best)
            if self.lost_best and self.best.value >= self.lost_best[0].value:
                self.lost_best = None
            self.on_save(self.run_id, epoch, resume_state["step"] if resume_state else 0)
        except store.SaveError as error:
            self.unsaved, self.lacks_room = str(error), error.lacks_room
            kept = "the previous checkpoint is kept" if os.path.isdir(self.output_dir) else "the folder is gone"
            self.run.logger.error("%s; %s, and the run continues", error, kept)
            if is_best:  # best.pth is still the one before
                if not self.lost_best or self.best.value > self.lost_best[0].value:
                    self.lost_best = self.best, self.unsaved
                self.best = self.best_before

    def save_not_finite(self, epoch: int, facts: Mapping[str, Any]) -> None:
        """Save the run as it is now, with the `facts` about a loss that is not finite: its step and images."""
        if not self.saves:
            return
        path = os.path.join(self.output_dir, store.NOT_FINITE)
        resume_state = {"step": facts["noticed_at_step"]}
        try:
            store.save_as(dict(self._state(epoch - 1, resume_state), not_finite=facts), path)
            self.run.logger.error("the run as it is now, and the images of that step, are saved in %s", path)
        except store.SaveError as error:
            self.run.logger.error("%s", error)

    def _state(self, epoch: int, resume_state: dict[str, Any] | None) -> dict[str, Any]:
        return dict(self.run.state_dict(), **self.payload(epoch, resume_state))

    def check_saved(self) -> None:
        """Before the process ends, raise RunError if the last checkpoint cannot be written even now.

        It is then written into the system's folder for temporary files.
        """
        if self.unsaved is None:
            return
        epoch, resume_state, is_best = self.last_save
        if is_best:
            self.best = best.better(best.Best(), self.history[-1], self.best_by)
        self.save(epoch, resume_state, is_best)
        if self.unsaved is None:
            return
        path, failure = self._save_elsewhere(epoch, resume_state)
        if failure:
            message = "%s, nor elsewhere (%s): what came after the last checkpoint is lost"
            raise RunError(message % (self.unsaved, failure))
        remedy = "make room, then resume" if self.lacks_room else "resume"
        raise RunError("%s: it is in %s instead; %s with --resume=%s" % (self.unsaved, path, remedy, path))

    def _save_elsewhere(self, epoch: int, resume_state: dict[str, Any] | None) -> tuple[str, str]:
        """Write the checkpoint into the system's folder for temporary files; return its path, and why that failed."""
        try:
            folder = tempfile.mkdtemp(prefix="spach-smlp-")
        except OSError as error:
            return "", reason(error)
        path = os.path.join(folder, store.LATEST)
        try:
            store.save_as(self._state(epoch, resume_state), path)
            return path, ""
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, store.SaveError):
                return "", str(error)
            raise

    def check_best(self) -> None:
        """At the end of training, raise RunError if the weights with the best accuracy could not be saved."""
        if self.lost_best:
            lost, why = self.lost_best
            raise RunError("the weights with the best accuracy, %.2f%%, are not saved: %s" % (lost.accuracy, why))

    def finish(self) -> bool:
        """Write the final results, unless this is a finished run that was started again; return as `write`."""
        is_unchanged = self.is_restarted and not self.epochs_here
        if self.saves and is_unchanged and reader.RunFolder(self.output_dir).status == "complete":
            return True
        return self.write("complete")

    def write(self, status: str) -> bool:
        """Update log.txt and summary.json on the first rank; return whether that succeeded."""
        if not self.saves:
            return True
        try:
            append_missing_rows(os.path.join(self.output_dir, ROWS), self.history)
            write_json(os.path.join(self.output_dir, SUMMARY), self.summary(status))
        except OSError as error:
            self.run.logger.error("cannot be written: %s", error)
            return False
        return True

    def closing_lines(self) -> list[str]:
        """Return the last lines of a run's log: best accuracy, speed, and where the weights are."""
        summary = self.summary("complete")
        lines = []
        if self.best.epoch is not None:
            lines.append("Best accuracy %.2f%% in epoch %d" % (self.best.accuracy, self.best.epoch))
        if summary["images_per_second"] is not None:
            lines.append("%.1f images/s on average" % summary["images_per_second"])
        if self.output_dir:
            name = store.LATEST if self.best.epoch is None else store.BEST
            lines.append("Weights: %s" % os.path.join(self.output_dir, name))
        else:
            lines.append("Nothing is saved: there is no --output-dir")
        return lines
