"""A Run and batches made by hand, for the loops alone."""

import logging

import engine
from runtime.amp import Precision
from runtime.device import Device
from runtime.distributed import Ranks
from runtime.launch_environment import Launch

CPU = Device("cpu")


def run_of(model, **changes):
    """Return the Run of a model on one process, without what `changes` does not name."""
    parts = {
        "device": CPU,
        "ranks": Ranks(Launch(0, 1, 0, 1), CPU),
        "model": model,
        "bare_model": model,
        "precision": Precision(),
        "logger": logging.getLogger("test"),
        "seed": 0,
    }
    parts.update(changes)
    names = ("ema", "criterion", "optimizer", "learning_rate", "mixup", "clip_grad")
    return engine.Run(**dict({name: None for name in names}, **parts))


class Batches(list):
    """A list of batches with what the loops ask of a loader."""

    is_sharded, skipped, batch_size = True, 0, 4
