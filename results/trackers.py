"""`--tracker`: the figures of each epoch in TensorBoard, Weights & Biases or SwanLab, of which none is required.

Each keeps its files in a folder of `--output-dir` and needs no network unless its own environment variable asks for it.
"""

import contextlib
import importlib
import json
import os
import uuid

from runtime.errors import UserError, did_you_mean, reason
from utils import write_json

MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "swanlab": "swanlab"}
NAMES = tuple(MODULES)
PROJECT = "spach-smlp"
STATE = "tracker.json"  # in the tracker's folder: its run's name there, and the first epoch that it has not


def names_of(text):
    """The trackers that the value `text` of `--tracker` names; UserError for one that is none."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names or [text] if text else []:
        if name not in NAMES:
            near = did_you_mean(name, NAMES)
            raise UserError("--tracker %s is unknown: choose from %s%s" % (name, ", ".join(NAMES), near))
    return list(dict.fromkeys(names))


def check(options):
    """UserError where `--tracker` cannot work in training: for want of its package or of an output folder."""
    names = names_of(options.tracker)
    if not names or not options.trains:
        return
    if not options.output_dir:
        raise UserError("--tracker %s needs --output-dir, where it keeps its files" % options.tracker)
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
        except Exception as error:  # of versions that do not go together
            raise UserError("--tracker %s: the package does not import: %s" % (name, error)) from None


def _keep_wandb_offline():
    """Before wandb is imported: its reports of errors look a host up, even in offline mode."""
    if os.environ.get("WANDB_MODE", "offline") == "offline":
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")


class TensorBoard:
    """Event files: a row is on the disk at once, and what is logged again replaces all from that epoch on."""

    is_immediate = True

    def __init__(self, folder, run_id, options, first_epoch):
        from torch.utils.tensorboard import SummaryWriter, summary

        self.writer = SummaryWriter(folder, purge_step=first_epoch)
        values = {name: _plain(value) for name, value in options.as_dict().items() if value is not None}
        for part in summary.hparams(values, {"test_acc1": 0.0}):  # into this file, not into a run of its own
            self.writer.file_writer.add_summary(part)

    def log(self, row):
        """Write a row of log.txt under its epoch."""
        for name, value in figures(row).items():
            self.writer.add_scalar(name, value, row["epoch"])
        self.writer.flush()

    def close(self):
        self.writer.close()


class Wandb:
    """A run of Weights & Biases, offline unless WANDB_MODE says otherwise; what it buffers, a killed process loses."""

    is_immediate = False

    def __init__(self, folder, run_id, options, first_epoch):
        import wandb

        self.run = wandb.init(
            dir=os.path.dirname(folder),  # it adds wandb/ itself
            mode=None if os.environ.get("WANDB_MODE") else "offline",
            project=None if os.environ.get("WANDB_PROJECT") else PROJECT,
            name=os.path.basename(options.output_dir),
            id=run_id,
            resume="allow",
            config=options.as_dict(),
            settings=wandb.Settings(console="off", silent=True),
        )

    def log(self, row):
        """Log a row of log.txt under its epoch."""
        self.run.log(figures(row), step=row["epoch"])

    def close(self):
        self.run.finish()


class SwanLab:
    """A run of SwanLab, offline unless SWANLAB_MODE says otherwise; what it buffers, a killed process loses."""

    is_immediate = False

    def __init__(self, folder, run_id, options, first_epoch):
        import swanlab

        os.environ.setdefault("SWANLAB_TERMINAL_PROXY_TYPE", "none")  # the log is this program's own
        self.module = swanlab
        swanlab.init(
            logdir=folder,
            mode=None if os.environ.get("SWANLAB_MODE") else "offline",
            project=None if os.environ.get("SWANLAB_PROJECT") else PROJECT,
            experiment_name=os.path.basename(options.output_dir),
            id=run_id,
            resume="allow",
            config={name: _plain(value) for name, value in options.as_dict().items()},
        )

    def log(self, row):
        """Log a row of log.txt under its epoch."""
        self.module.log(figures(row), step=row["epoch"])

    def close(self):
        self.module.finish()


KINDS = {"tensorboard": TensorBoard, "wandb": Wandb, "swanlab": SwanLab}


def figures(row):
    """The numbers of a row of log.txt by name, but for its epoch."""
    return {name: value for name, value in row.items() if name != "epoch" and isinstance(value, (int, float))}


def _plain(value):
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


class Trackers:
    """The trackers of a run on its first rank, none elsewhere; while entered they are open.

    One that fails is switched off with a warning, and the run goes on.
    """

    def __init__(self, options, run, record):
        self.options, self.logger, self.record = options, run.logger, record
        self.names = names_of(options.tracker) if run.ranks.is_main else []
        self.opened, self.states = {}, {}

    def __enter__(self):
        for name in self.names:
            with self._switched_off_if_it_fails(name):
                self._open(name)
        self.update()
        return self

    def __exit__(self, *_):
        for name, tracker in list(self.opened.items()):
            with self._switched_off_if_it_fails(name):
                tracker.close()
                self._note(name)

    def _open(self, name):
        folder = os.path.join(self.options.output_dir, name)
        os.makedirs(folder, exist_ok=True)
        state = _read_state(os.path.join(folder, STATE))
        if KINDS[name].is_immediate:  # where the last checkpoints could not be written it is ahead of them
            state["next_epoch"] = min(state["next_epoch"], self.record.next_epoch)
        self.states[name] = state
        write_json(os.path.join(folder, STATE), state)
        self.opened[name] = KINDS[name](folder, state["run_id"], self.options, state["next_epoch"])

    def update(self):
        """Log the rows of the run's history that a tracker does not have yet."""
        for name, tracker in list(self.opened.items()):
            with self._switched_off_if_it_fails(name):
                state = self.states[name]
                for row in self.record.history:
                    if row["epoch"] >= state["next_epoch"]:
                        tracker.log(row)
                        state["next_epoch"] = row["epoch"] + 1
                if tracker.is_immediate:
                    self._note(name)

    def _note(self, name):
        """Keep in the tracker's folder what it has for good: a killed run logs the rest again when it goes on."""
        write_json(os.path.join(self.options.output_dir, name, STATE), self.states[name])

    @contextlib.contextmanager
    def _switched_off_if_it_fails(self, name):
        try:
            yield
        except Exception as error:  # whatever such a library raises: it is not what the run is for
            tracker = self.opened.pop(name, None)
            with contextlib.suppress(Exception):
                tracker.close()  # it may have threads, and what it has not written yet
            why = reason(error)
            self.logger.warning("--tracker %s failed and is switched off; the run goes on: %s", name, why)


def _read_state(path):
    state = {"run_id": uuid.uuid4().hex[:21], "next_epoch": 0}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            state.update(json.load(file))
    return state
