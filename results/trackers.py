"""`--tracker`: the metrics of each epoch in TensorBoard, Weights & Biases or SwanLab; each is an optional package.

Each writes to a folder within `--output-dir`, and uses no network unless its own environment variable asks for it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import uuid
from typing import TYPE_CHECKING, Any, Iterator, Mapping, Sequence

from runtime.errors import UserError, did_you_mean, reason
from utils import write_json

if TYPE_CHECKING:
    from typing import Protocol

    class Tracker(Protocol):
        """What a tracker can do."""

        is_immediate: bool  # whether a logged row is on the disk at once

        def log(self, row: Mapping[str, Any]) -> None:
            """Log a row of log.txt under its epoch."""

        def close(self) -> None:
            """Write what is buffered, and end."""


MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "swanlab": "swanlab"}
NAMES = tuple(MODULES)
PROJECT = "spach-smlp"
STATE = "tracker.json"  # in the tracker's folder: the id of its run, and the first epoch that it does not have yet


def names_of(text: str) -> list[str]:
    """Return the trackers that the value `text` of `--tracker` names; UserError for an unknown one."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names or [text] if text else []:
        if name not in NAMES:
            near = did_you_mean(name, NAMES)
            raise UserError("--tracker %s is unknown: choose from %s%s" % (name, ", ".join(NAMES), near))
    return list(dict.fromkeys(names))


def check(tracker: str, output_dir: str) -> None:
    """Raise UserError if a run with `--tracker tracker` lacks its package or an output folder."""
    names = names_of(tracker)
    if names and not output_dir:
        raise UserError("--tracker %s needs --output-dir, where it keeps its files" % tracker)
    if "wandb" in names:
        _keep_wandb_offline()
    for name in names:
        try:
            module = importlib.import_module(MODULES[name])
            if not hasattr(module, "SummaryWriter" if name == "tensorboard" else "init"):
                raise ImportError("a folder of that name is not the package")
        except ImportError as error:
            message = "--tracker %s: the package is not installed, or lacks something: pip install %s (%s)"
            raise UserError(message % (name, name, error)) from None
        except Exception as error:  # versions that do not fit each other
            raise UserError("--tracker %s: the package does not import: %s" % (name, error)) from None


def _keep_wandb_offline() -> None:
    """Switch off wandb's error reports, before it is imported: they look up a host even in offline mode."""
    if os.environ.get("WANDB_MODE", "offline") == "offline":
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")


class TensorBoard:
    """Event files: a row is on the disk at once; an epoch that is logged again replaces all from that epoch on."""

    is_immediate = True

    def __init__(self, folder: str, run_id: str, settings: Mapping[str, Any], first_epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter, summary

        self.writer = SummaryWriter(folder, purge_step=first_epoch)
        values = {name: _plain(value) for name, value in settings.items() if value is not None}
        for part in summary.hparams(values, {"test_acc1": 0.0}):  # into this file, not into that of another run
            self.writer.file_writer.add_summary(part)

    def log(self, row: Mapping[str, Any]) -> None:
        """Write a row of log.txt under its epoch."""
        for name, value in figures(row).items():
            self.writer.add_scalar(name, value, row["epoch"])
        self.writer.flush()

    def close(self) -> None:
        """Write what is buffered, and end."""
        self.writer.close()


class Wandb:
    """A run of Weights & Biases, offline unless WANDB_MODE is set; a killed process loses what is buffered."""

    is_immediate = False

    def __init__(self, folder: str, run_id: str, settings: Mapping[str, Any], first_epoch: int) -> None:
        import wandb

        self.run = wandb.init(
            dir=os.path.dirname(folder),  # it adds wandb/ itself
            mode=None if os.environ.get("WANDB_MODE") else "offline",
            project=None if os.environ.get("WANDB_PROJECT") else PROJECT,
            name=os.path.basename(os.path.dirname(folder)),
            id=run_id,
            resume="allow",
            config=dict(settings),
            settings=wandb.Settings(console="off", silent=True),
        )

    def log(self, row: Mapping[str, Any]) -> None:
        """Log a row of log.txt under its epoch."""
        self.run.log(figures(row), step=row["epoch"])

    def close(self) -> None:
        """Write what is buffered, and end."""
        self.run.finish()


class SwanLab:
    """A run of SwanLab, offline unless SWANLAB_MODE is set; a killed process loses what is buffered."""

    is_immediate = False

    def __init__(self, folder: str, run_id: str, settings: Mapping[str, Any], first_epoch: int) -> None:
        import swanlab

        os.environ.setdefault("SWANLAB_TERMINAL_PROXY_TYPE", "none")  # the terminal shows this program's log
        self.module = swanlab
        swanlab.init(
            logdir=folder,
            mode=None if os.environ.get("SWANLAB_MODE") else "offline",
            project=None if os.environ.get("SWANLAB_PROJECT") else PROJECT,
            experiment_name=os.path.basename(os.path.dirname(folder)),
            id=run_id,
            resume="allow",
            config={name: _plain(value) for name, value in settings.items()},
        )

    def log(self, row: Mapping[str, Any]) -> None:
        """Log a row of log.txt under its epoch."""
        self.module.log(figures(row), step=row["epoch"])

    def close(self) -> None:
        """Write what is buffered, and end."""
        self.module.finish()


KINDS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": Wandb, "swanlab": SwanLab}


def figures(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a row of log.txt by name, without its epoch."""
    return {name: value for name, value in row.items() if name != "epoch" and isinstance(value, (int, float))}


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


class Trackers:
    """The open trackers of a run; a context. One that fails is switched off with a warning, and the run continues.

    Each gets a folder of its name in `output_dir`, and the run's options as `settings`. `first_epoch` is the next epoch
    to train.
    """

    def __init__(
        self,
        names: Sequence[str],
        output_dir: str,
        settings: Mapping[str, Any],
        first_epoch: int,
        logger: logging.Logger,
    ) -> None:
        self.names, self.output_dir, self.settings = names, output_dir, settings
        self.first_epoch, self.logger = first_epoch, logger
        self.opened: dict[str, Tracker] = {}
        self.states: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Trackers:
        for name in self.names:
            with self._switched_off_if_it_fails(name):
                self._open(name)
        return self

    def __exit__(self, *_: object) -> None:
        for name, tracker in list(self.opened.items()):
            with self._switched_off_if_it_fails(name):
                tracker.close()
                self._write_state(name)

    def _open(self, name: str) -> None:
        folder = os.path.join(self.output_dir, name)
        os.makedirs(folder, exist_ok=True)
        state = _read_state(os.path.join(folder, STATE))
        if KINDS[name].is_immediate:  # it is ahead of the checkpoints if the last ones could not be written
            state["next_epoch"] = min(state["next_epoch"], self.first_epoch)
        self.states[name] = state
        write_json(os.path.join(folder, STATE), state)
        self.opened[name] = KINDS[name](folder, state["run_id"], self.settings, state["next_epoch"])

    def update(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Log those rows of the run's `history` that a tracker does not have yet."""
        for name, tracker in list(self.opened.items()):
            with self._switched_off_if_it_fails(name):
                state = self.states[name]
                for row in history:
                    if row["epoch"] >= state["next_epoch"]:
                        tracker.log(row)
                        state["next_epoch"] = row["epoch"] + 1
                if tracker.is_immediate:
                    self._write_state(name)

    def _write_state(self, name: str) -> None:
        """Write which epochs the tracker has for good: after a kill the others are logged again."""
        write_json(os.path.join(self.output_dir, name, STATE), self.states[name])

    @contextlib.contextmanager
    def _switched_off_if_it_fails(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # such a library may raise anything, and no run should end because of it
            tracker = self.opened.pop(name, None)
            if tracker is not None:
                with contextlib.suppress(Exception):
                    tracker.close()  # it may have threads, and rows that it has not written yet
            message = "--tracker %s failed and is switched off; the run continues: %s"
            self.logger.warning(message, name, reason(error))


def _read_state(path: str) -> dict[str, Any]:
    state: dict[str, Any] = {"run_id": uuid.uuid4().hex[:21], "next_epoch": 0}
    if os.path.isfile(path):  # opening a pipe would wait for its writer
        with open(path, encoding="utf-8") as file:
            state.update(json.load(file))
    return state
