"""A Run of main.py's own making, and what a step of it does, for the benchmarks that time it."""

import logging
import os

import baseline_smlp
import torch
from baseline_siblings import baseline_sibling

import models
from options import parsing
from results import folder
from runtime.device import select_device
from runtime.distributed import Ranks
from runtime.launch_environment import read_launch
from training import build
from training.steps import take_gradients

CLASSES = 1000


def add_model_arguments(parser):
    """The options that choose the model and its batches."""
    parser.add_argument("--model", default="smlpnet_tiny", choices=models.MODEL_NAMES, metavar="NAME")
    parser.add_argument("--batch-size", type=int, default=None, help="(default: 8 on a CPU, else 112)")
    parser.add_argument("--input-size", type=int, default=224)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "npu"])


def words_of(args, *more):
    """The options of main.py for the benchmark's `args`, without mixup: a synthetic batch is used again and again."""
    words = ["--model=%s" % args.model, "--input-size=%d" % args.input_size, "--device=%s" % args.device]
    return [*words, "--data-path=unused", "--batch-size=%d" % args.batch_size, "--mixup=0", "--cutmix=0", *more]


def make_run(words, classes=CLASSES):
    """(options, Run) as main.py makes them in this process."""
    options = parsing.parse(words)
    launch = read_launch(os.environ)
    device = select_device(options.device, launch.local_rank, launch.local_world_size)
    device.prefer_speed()
    ranks = Ranks(launch, device, options.dist_url, options.dist_timeout)
    plan = folder.make_plan(options, ranks.virtual_size)
    return options, build.build_run(options, ranks, logging.getLogger("benchmark"), range(classes), plan)


def settle(args):
    """Choose the default batch size for the device; returns the runtime.device.Device."""
    device = select_device(args.device)
    args.device = device.kind
    args.batch_size = args.batch_size or (112 if device.is_accelerator else 8)
    return device


def baseline_model(name, **keywords):
    """The plain formulation of the model `name`."""
    make = baseline_smlp.baseline_model if name in baseline_smlp.WIDTHS_AND_DEPTHS else baseline_sibling
    return make(name, **keywords)


def batch_for(device, args, memory_format=torch.channels_last):
    """(images, targets) of noise on the device; float32."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(args.batch_size, 3, args.input_size, args.input_size, generator=generator)
    targets = torch.randint(CLASSES, (args.batch_size,), generator=generator)
    images = images.to(device.torch_device).contiguous(memory_format=memory_format)
    return images, targets.to(device.torch_device)


def train_step(run, batch, step=0):
    """One optimizer step of the run, as engine.train_one_epoch takes it between two printed lines."""
    result = take_gradients(run, [batch], 0, step)
    run.precision.step(run.optimizer, run.model.parameters(), run.clip_grad)
    run.ema.update(run.bare_model)
    return result
