"""A check of the fused kernels on the device at hand, beside the eager blocks: are they right, and are they faster?"""

from __future__ import annotations

import copy
import statistics
import time
from typing import TYPE_CHECKING, Any, Callable

import torch
from torch import Tensor

from models.fused.block import FusedBlock
from runtime.amp import DTYPES

if TYPE_CHECKING:
    from models.fused.choice import Setting

# Relative 2-norm of the difference to the eager block. Wrong code is off by far more; rounding, of the first batch
# norm's gradients above all, which cancel, by less.
LIMITS = {torch.float32: 1e-2, DTYPES["float16"]: 5e-2, DTYPES["bfloat16"]: 2e-1}
CHECKED_BATCH, TIMED_BATCH = 3, 32
UNTIMED, TIMED = 3, 7  # passes


def fault(model: Any, setting: Setting, is_timed: bool) -> str | None:
    """Return what is wrong with the kernels for the blocks of `model`, or None; with `is_timed`, if they are slower."""
    try:
        stages = [Stage(model, number, setting) for number in range(len(model.depths))]
        for number, stage in enumerate(stages):
            worst = stage.difference()
            if not worst < LIMITS[stage.dtype]:
                return "in stage %d they differ from the eager block by %.2g" % (number + 1, worst)
        if not is_timed:
            return None
        fused, eager = (sum(times) for times in zip(*(stage.seconds() for stage in stages)))
    except Exception as error:  # of a compiler, a driver, a card that is too old: training continues without them
        text = str(error).strip().split("\n")[0][:200]
        return "they fail here: %s: %s" % (type(error).__name__, text)
    if fused <= eager:
        return None
    return "they are slower here: %.1f ms against %.1f ms for the blocks" % (1000 * fused, 1000 * eager)


class Stage:
    """A copy of the first block of a stage, with both ways to apply it."""

    def __init__(self, model: Any, number: int, setting: Setting) -> None:
        first = sum(model.depths[:number])
        blocks = (model.token_mix[first], model.channel_mix[first])
        self.token_mix, self.channel_mix = (copy.deepcopy(block).train(setting.trains) for block in blocks)
        self.parameters = [*self.token_mix.parameters(), *self.channel_mix.parameters()]
        self.eager, self.fused = model.apply_block, FusedBlock(model.apply_block)
        self.depth, self.setting = model.depths[number], setting
        self.dtype = getattr(setting.precision, "dtype", torch.float32)
        mixing = self.token_mix[1]
        self.shape = (mixing.fuse.weight.shape[0], *[mixing.proj_h.weight.shape[0]] * 2)

    def difference(self) -> float:
        """Return the largest relative difference of an output or gradient of the fused block to the eager one's."""
        x, g = self.random(CHECKED_BATCH)
        pairs = zip(self.work(self.fused, x, g), self.work(self.eager, x, g))
        ratios = [(fused - eager).norm() / eager.norm() for fused, eager in pairs]
        return float(torch.stack(ratios).max())  # NaN if any is

    def seconds(self) -> tuple[float, float]:
        """Return the time of the stage's blocks, fused and eager: medians."""
        x, g = self.random(TIMED_BATCH)
        found = []
        for apply in (self.fused, self.eager):
            times = []
            for _ in range(UNTIMED + TIMED):
                self.setting.device.synchronize()
                began = time.perf_counter()
                self.work(apply, x, g)
                self.setting.device.synchronize()
                times.append(time.perf_counter() - began)
            found.append(self.depth * statistics.median(times[UNTIMED:]))
        return found[0], found[1]

    def random(self, batch: int) -> tuple[Tensor, Tensor]:
        """Return images and a gradient (B, C, S, S) from a generator of their own."""
        source = torch.Generator().manual_seed(0)
        device, layout = self.setting.device.torch_device, self.setting.device.memory_format
        values = torch.randn(2, batch, *self.shape, generator=source).to(device, self.dtype)
        return values[0].contiguous(memory_format=layout), values[1].contiguous(memory_format=layout)

    def work(self, apply: Callable[..., Tensor], x: Tensor, g: Tensor) -> list[Tensor]:
        """Return the output of a block, and in training the gradients of its input and parameters."""
        trains = self.setting.trains
        leaf = x.detach().requires_grad_(trains)
        with self.setting.precision.autocast(), torch.set_grad_enabled(trains):
            out = apply(leaf, self.token_mix, self.channel_mix, None, None)
        gradients = torch.autograd.grad(out, [leaf, *self.parameters], g.to(out.dtype)) if trains else []
        return [value.detach().double() for value in (out, *gradients)]
