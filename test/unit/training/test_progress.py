"""The progress within an epoch."""

import logging

import torch

from training.progress import Progress


def test_progress_hands_out_the_batches_of_a_step():
    class Device:
        def synchronize(self):
            pass

        def max_memory_mib(self):
            return None

    progress = Progress("x", 3, Device(), logging.getLogger("x"))
    seen = []
    for step, parts in progress.watch(iter("abcdef"), 2):
        seen.append((step, next(parts)))  # the rest of a step is passed over
        progress.add(torch.tensor([1.0, 3.0]), 2)
        progress.settle(progress.take_pending().mean(dim=1).tolist())
    assert seen == [(0, "a"), (1, "c"), (2, "e")] and progress.mean_loss == 2.0
