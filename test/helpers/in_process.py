"""main.py in the process of the tests: what a run changes there is undone."""

import logging
import os

import torch

import engine
import main
from runtime.errors import RunError

CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS")  # their variables


def restore():
    """Undo what a run changes in its process."""
    for handler in list(logging.getLogger().handlers):
        if type(handler).__module__ in ("utils", "logging"):
            logging.getLogger().removeHandler(handler)
            handler.close()
    logging.captureWarnings(False)
    if CORES is not None:
        os.sched_setaffinity(0, CORES)
    torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = False
    if hasattr(torch, "use_deterministic_algorithms"):
        torch.use_deterministic_algorithms(False)


def begin_run(monkeypatch, words):
    """Return (Run, training batches) of main.py with these words as its first epoch begins."""
    begun = []

    def begin(run, batches, *_):
        begun.append((run, batches))
        raise RunError("begun")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "train_one_epoch", begin)
        assert main.main(words) == 1
    return begun[0]
