"""A Run as main.py builds it, and what one step of it does, for the benchmarks that time it."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Sequence

import baseline_smlp
import torch
from baseline_siblings import baseline_sibling

from options import parsing
from results.plan import make_plan
from runtime import host_memory
from runtime.device import Device, select_device
from runtime.distributed import Ranks
from runtime.launch_environment import read_launch
from training import build
from training.steps import take_gradients

if TYPE_CHECKING:
    import argparse

    from torch import Tensor, nn

    from options.parsing import Options
    from training.run import Run

CLASSES = 1000


@dataclass
class Workload:
    """A model on a device, and the size of its batches."""

    model: str
    batch_size: int
    input_size: int
    device: Device

    def words(self, *more: str) -> list[str]:
        """Return it as options of main.py, without mixup: a synthetic batch is used again and again."""
        words = ["--model=%s" % self.model, "--input-size=%d" % self.input_size, "--device=%s" % self.device.kind]
        return [*words, "--data-path=unused", "--batch-size=%d" % self.batch_size, "--mixup=0", "--cutmix=0", *more]

    def batch(self, memory_format: torch.memory_format = torch.channels_last) -> tuple[Tensor, Tensor]:
        """Return (images, targets) of noise on the device; the images are float32."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch_size, 3, self.input_size, self.input_size, generator=generator)
        targets = torch.randint(CLASSES, (self.batch_size,), generator=generator)
        images = images.to(self.device.torch_device).contiguous(memory_format=memory_format)
        return images, targets.to(self.device.torch_device)

    def baseline_model(self) -> nn.Module:
        """Return the baseline of the model, on the device."""
        is_smlp = self.model in baseline_smlp.WIDTHS_AND_DEPTHS
        create = baseline_smlp.baseline_model if is_smlp else baseline_sibling
        model = create(self.model, image_size=self.input_size, num_classes=CLASSES)
        return model.to(self.device.torch_device)


def workload_of(options: argparse.Namespace, device_kind: str | None = None) -> Workload:
    """Return the Workload of a benchmark's options, with the default batch size of the device."""
    device = select_device(device_kind or options.device)
    if not device.is_accelerator:  # for all peers, as main.py does
        host_memory.keep_freed_memory()
    batch_size = options.batch_size or (112 if device.is_accelerator else 8)
    return Workload(options.model, batch_size, options.input_size, device)


def make_run(words: Sequence[str], classes: int = CLASSES) -> tuple[Options, Run]:
    """Return the options of main.py's command line `words`, and the Run that main.py makes of them in this process."""
    options, ranks = open_ranks(words)
    return options, build_run(options, ranks, [str(number) for number in range(classes)])


def open_ranks(words: Sequence[str]) -> tuple[Options, Ranks]:
    """Return the options of main.py's command line `words`, and the Ranks of this process."""
    options = parsing.parse(words)
    launch = read_launch(os.environ)
    device = select_device(options.device, launch.local_rank, launch.local_world_size)
    device.prefer_speed()
    return options, Ranks(launch, device, options.dist_url, options.dist_timeout)


def build_run(
    options: Options, ranks: Ranks, classes: Sequence[str], class_weights: Sequence[float] | None = None
) -> Run:
    """Return the Run of `options` for these classes, and their weights in the loss."""
    plan = make_plan(options, ranks.virtual_size)
    return build.build_run(options, ranks, logging.getLogger("benchmark"), classes, plan, class_weights)


def train_step(run: Run, batch: tuple[Tensor, Tensor], step: int = 0) -> None:
    """Take one optimizer step as engine.train_one_epoch does between two printed lines."""
    take_gradients(run, [batch], 0, step)
    run.precision.step(run.optimizer, run.model.parameters(), run.clip_grad)
    run.ema.update(run.bare_model)
