"""Images a second from JPEG files on the card's machine: of the loaders alone, and of the epoch loop with the model."""

from __future__ import annotations

import io
import multiprocessing
import os
import tempfile
import time
from typing import TYPE_CHECKING

import datasets
import engine
from benchmarks import photos, runs
from benchmarks.e2e import WatchedBatches
from benchmarks.runs import Workload
from runtime.affinity import usable_cores
from runtime.errors import UserError

if TYPE_CHECKING:
    from benchmarks.gpu_part import Setting
    from training.protocols import TrainBatches

PHOTOS, LINKS = 192, 60  # different photos, and names of each: an epoch that lasts


def measure(setting: Setting) -> None:
    """Note the rates of the exact and the fast loader, and of an epoch with whichever there is."""
    with tempfile.TemporaryDirectory() as folder:
        count, links = (PHOTOS, LINKS) if setting.device.is_accelerator else (6, 2)
        write_linked_photos(folder, count, links)
        workload = Workload(
            setting.sizes.model, setting.sizes.batches["small"], setting.sizes.input_size, setting.device
        )
        for loader in ("exact", "fast"):
            words = [
                "--loader=" + loader,
                "--num-workers=%d" % usable_cores(),
                "--compile=off",
                "--data-path=" + folder,
            ]
            try:
                _measure_loader(setting, loader, workload.words(*words))
            except UserError as error:
                setting.findings.note("%s loader" % loader, "not run: %s" % error)


def write_linked_photos(folder: str, count: int, links: int) -> None:
    """Write `count` photos, made by all cores, and `links` names for each."""
    with multiprocessing.get_context("spawn").Pool(min(count, usable_cores())) as pool:
        contents = pool.map(_encoded, range(count))
    for part, names in (("train", links), ("val", 1)):
        for number, content in enumerate(contents if part == "train" else contents[:3]):
            class_folder = os.path.join(folder, part, "class%d" % (number % 3))
            os.makedirs(class_folder, exist_ok=True)
            first = os.path.join(class_folder, "%05d-00.jpg" % number)
            with open(first, "wb") as file:
                file.write(content)
            for copy in range(1, names):
                os.link(first, os.path.join(class_folder, "%05d-%02d.jpg" % (number, copy)))


def _encoded(number: int) -> bytes:
    held = io.BytesIO()
    photos.photo(number).save(held, "JPEG", quality=photos.QUALITY)
    return held.getvalue()


def _measure_loader(setting: Setting, loader: str, words: list[str]) -> None:
    options, run = runs.make_run(words)
    train = datasets.build_loaders(options, run.ranks).train
    rate, steps = _loader_rate(setting, train)
    setting.findings.note("%s loader alone" % loader, round(rate, 1), "images/s")
    watched = WatchedBatches(train, steps)
    started = time.perf_counter()
    engine.train_one_epoch(run, watched, 1)
    seconds = time.perf_counter() - started
    name = "epoch of %d steps, eager, %s loader" % (len(watched), loader)
    setting.findings.note(name, round(len(watched) * watched.batch_size / seconds, 1), "images/s")
    setting.findings.note(name + ": waiting for data", round(100 * watched.waited / seconds, 1), "%")


def _loader_rate(setting: Setting, train: TrainBatches) -> tuple[float, int]:
    """Return the images a second after the first batch, and how many batches that were."""
    images = steps = 0
    stream = train.epoch(0)
    next(stream)
    started = time.perf_counter()
    for inputs, _ in stream:
        images, steps = images + len(inputs), steps + 1
        if time.perf_counter() - started > setting.sizes.loader_seconds:
            break
    setting.device.synchronize()
    return images / (time.perf_counter() - started), max(steps, 2)
