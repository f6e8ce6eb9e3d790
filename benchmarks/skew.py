"""Do --class-weights and --balanced-sampling help where classes are skewed?

A small sMLPNet (that of benchmark.py parity) learns scikit-learn's digits, of which the training images are thinned: of
each class only KEPT times as many remain as of the class before it. Half of all digits are validation images, none of
which is left out. All ways of a seed start from the same weights. The rows compare the macro F1 after the last epoch,
seed by seed, with that of plain training; the interval is that of a paired t test.
"""

from __future__ import annotations

import concurrent.futures
import logging
import multiprocessing
import os
import tempfile
from typing import TYPE_CHECKING

import numpy
import torch
from scipy import stats

import datasets
import engine
from benchmarks import parity, runs
from benchmarks.report import Row
from tools.make_digits import write_digits
from training import class_weights
from training.metrics import Counts

if TYPE_CHECKING:
    import argparse

KEPT, LEAST = 0.6, 3
WAYS = {
    "plain": [],
    "--class-weights auto": ["--class-weights=auto"],
    "--class-weights auto, power 1": ["--class-weights=auto", "--class-weights-power=1"],
    "--balanced-sampling 0.5": ["--balanced-sampling=0.5"],
    "--balanced-sampling 1": ["--balanced-sampling=1"],
}
CONFIDENCE = 0.95


def run(options: argparse.Namespace) -> list[Row]:
    """Return rows of each way's macro F1 and of its difference to plain training, in percentage points."""
    scores: dict[str, list[float]] = {way: [0.0] * options.seeds for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        write_skewed_digits(folder)
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(options.processes, context) as pool:
            jobs = {
                pool.submit(learn, way, seed, options.epochs, folder): (way, seed)
                for seed in range(options.seeds)
                for way in WAYS
            }
            for done, job in enumerate(concurrent.futures.as_completed(jobs), 1):
                way, seed = jobs[job]
                scores[way][seed] = job.result()
                print("%d of %d: %s, seed %d: macro F1 %.2f %%" % (done, len(jobs), way, seed, scores[way][seed]))
    return rows_of(scores)


def rows_of(scores: dict[str, list[float]]) -> list[Row]:
    """Return the rows of macro F1 by way and seed."""
    rows, plain = [], numpy.array(scores["plain"])
    for way, values in scores.items():
        rows.append(Row(way, "macro F1", float(numpy.mean(values)), "%"))
    for way, values in scores.items():
        if way != "plain":
            differences = numpy.array(values) - plain
            error = stats.sem(differences)
            half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(differences) - 1) * error)
            mean = float(differences.mean())
            text = "gain, 95 %% interval %+.2f to %+.2f" % (mean - half, mean + half)
            rows.append(Row(way, text, mean, "points"))
    return rows


def write_skewed_digits(folder: str) -> None:
    """Write the digits to train/ and val/ below `folder`, and remove training images, more of each higher digit."""
    write_digits(folder, val_every=2)
    for digit in range(10):
        place = os.path.join(folder, "train", str(digit))
        names = sorted(os.listdir(place))
        for name in names[max(LEAST, round(len(names) * KEPT**digit)) :]:
            os.unlink(os.path.join(place, name))


def learn(way: str, seed: int, epochs: int, folder: str) -> float:
    """Train once and return the macro F1 after the last epoch, in percent."""
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    words = ["--model=smlpnet_parity", "--data-path=" + folder, "--seed=%d" % seed, "--epochs=%d" % epochs]
    options, ranks = runs.open_ranks([*words, *parity.RECIPE, *WAYS[way]])
    loaders = datasets.build_loaders(options, ranks)
    run = runs.build_run(options, ranks, loaders.classes, class_weights.weights_of(options, loaders))
    for epoch in range(epochs):
        engine.train_one_epoch(run, loaders.train, epoch)
    counts = Counts(run.device.torch_device, len(loaders.classes))
    found = engine.evaluate(run, run.bare_model, loaders.val, counts)
    assert found.macro_f1 is not None  # the classes are counted
    return found.macro_f1
