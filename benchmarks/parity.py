"""Does this code learn what the published one learns?

A small sMLPNet learns scikit-learn's digits, half of which are its validation images, in several ways. For each seed
all ways start from the same weights, see the same images in the same order (but for parquet), and use the same random
numbers, so that the remaining differences are those of the code:

    baseline  the baseline's model and training loop, on float32 batches
    ours      this project's, through its own loop and loader
    fast      the same with --loader fast
    reshape   ours with the Ascend port's token layout
    parquet   ours on a Parquet file, whose images are shuffled in windows of some row groups, so in another order

--output gets runs.jsonl (run again to resume), parity.json and parity.png.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import logging
import math
import multiprocessing
import os
import tempfile
from typing import TYPE_CHECKING, Any, Callable, Iterable, Sequence

import numpy
import torch
from baseline_smlp import BaselineSMLPNet
from baseline_training import BaselineEma, baseline_optimizer, baseline_step
from torch.utils.data import DataLoader

import datasets
import engine
from benchmarks import parquet_copies, runs
from benchmarks.arguments import PARITY_WAYS
from benchmarks.data import PublishedImages
from benchmarks.parity_report import Curve, compare, draw, table
from models.smlp import sMLPNet
from pipeline.layout import list_classes
from pipeline.listing import list_images
from runtime.compat import register_model
from runtime.errors import UserError
from tools.make_digits import write_digits
from training import build
from utils import write_json

if TYPE_CHECKING:
    import argparse

    from torch import Tensor, nn

    from datasets import Loaders
    from options.parsing import Options
    from training.run import Run

SHAPE: dict[str, Any] = {"dim": 16, "depths": (1, 1, 2, 1)}
REQUIRED = ("ours", "fast")  # the ways that must be equivalent to the baseline
CLASSES, SIDE = 10, 32
RECIPE = [
    *("--input-size=32", "--batch-size=64", "--lr=0.024", "--warmup-epochs=2", "--warmup-lr=1e-4", "--min-lr=1e-5"),
    *("--aa=rand-m5-mstd0.5-inc1", "--hflip=0", "--reprob=0.1", "--mixup=0.1", "--cutmix=0", "--no-pin-mem"),
    *("--no-repeated-aug", "--device=cpu", "--amp=none", "--num-workers=0", "--model-ema-decay=0.9"),
    "--print-freq=1000",
]


@register_model
def smlpnet_parity(**kwargs: Any) -> sMLPNet:
    """Return the small network of the comparison."""
    return sMLPNet(**dict(SHAPE, **kwargs))


def run(options: argparse.Namespace) -> int:
    """Compare the ways and write the results; return 1 where ours or fast is not equivalent to the baseline."""
    if options.output is None:
        raise UserError("--output is missing: name the folder for runs.jsonl, parity.json and parity.png")
    options.ways = available(options.ways)
    curves = collect(options)
    results = compare(curves, options.margin)
    values = {"options": vars(options), "recipe": RECIPE, "results": results}
    write_json(os.path.join(options.output, "parity.json"), values)
    draw(curves, results, options.margin, os.path.join(options.output, "parity.png"))
    print("\n".join(table(results)))
    is_equivalent = all(results[way].get("equivalent", True) for way in REQUIRED if way in results)
    return 0 if is_equivalent else 1


def available(ways: Sequence[str]) -> list[str]:
    """Return the ways that can run here, and print why another cannot; UserError where none can."""
    reason = parquet_copies.missing() if "parquet" in ways else ""
    if not reason:
        return list(ways)
    print("parquet is left out: %s" % reason)
    left = [way for way in ways if way != "parquet"]
    if not left:
        raise UserError(reason)
    return left


def collect(options: argparse.Namespace) -> dict[str, dict[int, Curve]]:
    """Return the curve of each way and seed, from runs.jsonl where it is there already."""
    path = os.path.join(options.output, "runs.jsonl")
    curves: dict[str, dict[int, Curve]] = {way: {} for way in options.ways}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            for row in map(json.loads, file):
                if row["way"] in curves and row["epochs"] == options.epochs and row["seed"] < options.seeds:
                    curves[row["way"]][row["seed"]] = row
    missing = [(way, seed) for seed in range(options.seeds) for way in options.ways if seed not in curves[way]]
    with tempfile.TemporaryDirectory() as folder, open(path, "a", encoding="utf-8") as file:
        write_digits(folder, val_every=2)
        if any(way == "parquet" for way, _ in missing):
            write_parquet_digits(folder)
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(options.processes, context) as pool:
            jobs = [pool.submit(learn, way, seed, options.epochs, folder) for way, seed in missing]
            for done, job in enumerate(concurrent.futures.as_completed(jobs), 1):
                row = job.result()
                curves[row["way"]][row["seed"]] = row
                file.write(json.dumps(row) + "\n")
                file.flush()
                words = (done, len(jobs), row["way"], row["seed"], row["accuracy"][-1])
                print("%d of %d: %s, seed %d: %.2f %%" % words)
    return curves


def write_parquet_digits(folder: str) -> None:
    """Write the digits in the folders of `folder` to parquet/train.parquet and val.parquet there, the rows shuffled."""
    os.mkdir(os.path.join(folder, "parquet"))
    for part in ("train", "val"):
        images = list_images(os.path.join(folder, part), list_classes(os.path.join(folder, part)))
        order = numpy.random.RandomState(0).permutation(len(images)).tolist()
        parquet_copies.write(images, os.path.join(folder, "parquet", part + ".parquet"), order)


def learn(way: str, seed: int, epochs: int, folder: str) -> Curve:
    """Train once and return its curve."""
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    place = os.path.join(folder, "parquet") if way == "parquet" else folder
    words = ["--model=smlpnet_parity", "--data-path=" + place, "--seed=%d" % seed, "--epochs=%d" % epochs]
    options, run = runs.make_run(words + RECIPE + PARITY_WAYS[way], CLASSES)
    with parquet_copies.windows(place) if way == "parquet" else contextlib.nullcontext():
        loaders = datasets.build_loaders(options, run.ranks)
    train_epoch = baseline_epoch(options, run, loaders) if way == "baseline" else own_epoch(run, loaders)
    loss, accuracy = zip(*[train_epoch(epoch) for epoch in range(epochs)])
    return {"way": way, "seed": seed, "epochs": epochs, "loss": list(loss), "accuracy": list(accuracy)}


def own_epoch(run: Run, loaders: Loaders) -> Callable[[int], tuple[float, float]]:
    """Return a function that trains an epoch and returns its training loss and Acc@1 in percent."""

    def train_epoch(epoch: int) -> tuple[float, float]:
        loss = engine.train_one_epoch(run, loaders.train, epoch)["train_loss"]
        return loss, engine.evaluate(run, run.bare_model, loaders.val).acc1

    return train_epoch


def baseline_epoch(options: Options, run: Run, loaders: Loaders) -> Callable[[int], tuple[float, float]]:
    """Return the same for the baseline, which starts from the weights of `run`."""
    model = BaselineSMLPNet(image_size=SIDE, num_classes=CLASSES, **SHAPE)
    model.load_state_dict(run.bare_model.state_dict())
    optimizer, ema = baseline_optimizer(model, options.lr), BaselineEma(model, options.model_ema_decay)
    step, mixup = baseline_step(model, optimizer, ema, run.device), build.build_mixup(options, CLASSES)
    assert mixup is not None  # the recipe has it
    train, val = (
        PublishedImages(part.dataset.images, datasets.build_transform(options, is_train))
        for part, is_train in ((loaders.train, True), (loaders.val, False))
    )
    order = loaders.train.batch_sampler
    batches = DataLoader(train, batch_sampler=order)

    def train_epoch(epoch: int) -> tuple[float, float]:
        order.set_epoch(epoch)
        for group in optimizer.param_groups:
            group["lr"] = published_rate(options, max(epoch - 1, 0))
        model.train()
        losses = []
        for number, (images, targets) in enumerate(batches):
            run.seed_step(epoch, number, 0)
            losses.append(step(*mixup(images, targets)))
        return sum(losses) / len(losses), baseline_accuracy(model, DataLoader(val, 128))

    return train_epoch


def published_rate(options: Options, epoch: int) -> float:
    """Return the published learning rate: a cosine after a linear warm-up, with its peak for a global batch of 512."""
    peak = options.lr * options.batch_size / 512
    if epoch < options.warmup_epochs:
        return options.warmup_lr + epoch * (peak - options.warmup_lr) / options.warmup_epochs
    wave = 1 + math.cos(math.pi * epoch / options.epochs)
    return options.min_lr + 0.5 * (peak - options.min_lr) * wave


@torch.no_grad()
def baseline_accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return Acc@1 in percent."""
    model.eval()
    hits = [model(images).argmax(dim=1).eq(targets) for images, targets in batches]
    return 100 * torch.cat(hits).double().mean().item()
