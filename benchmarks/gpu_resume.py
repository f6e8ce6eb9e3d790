"""Whether a run on the card that is killed and started again ends with the same bits, under --deterministic."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

import numpy
import torch
from PIL import Image

from benchmarks.step import NOT_ON_A_CPU, WAYS
from checkpoints import loading, store

if TYPE_CHECKING:
    from benchmarks.findings import Findings
    from benchmarks.gpu_part import Setting

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CLASSES, SIDE = 10, 32


def measure(setting: Setting, way: str) -> None:
    """Train configs/digits.yaml twice, the second time with a kill -9 within an epoch, and compare the checkpoints.

    `way` is one of benchmarks.step.WAYS.
    """
    if way != "eager" and not setting.device.is_accelerator:
        setting.findings.note("undisturbed run", NOT_ON_A_CPU[way])
        return
    with tempfile.TemporaryDirectory() as work:
        write_images(work, setting.sizes.images)
        words = ["--config=" + os.path.join(ROOT, "configs", "digits.yaml"), "--data-path=" + work]
        words += ["--device=" + setting.device.kind, "--model=" + setting.sizes.model]
        words += [*WAYS[way], "--deterministic", "--checkpoint-steps=2", "--print-freq=1"]
        words += ["--epochs=2"] if setting.device.is_accelerator else ["--epochs=1", "--batch-size=6"]
        compare_runs(setting.findings, words, work)


def write_images(folder: str, train: int) -> None:
    """Write an image folder of noise with `train` training and two validation images of each class."""
    noise = numpy.random.RandomState(0)
    for part, count in (("train", train), ("val", 2)):
        for number in range(CLASSES * count):
            class_folder = os.path.join(folder, part, str(number % CLASSES))
            os.makedirs(class_folder, exist_ok=True)
            pixels = noise.randint(0, 256, (SIDE, SIDE, 3)).astype("uint8")
            Image.fromarray(pixels).save(os.path.join(class_folder, "%04d.png" % number))


def compare_runs(findings: Findings, words: list[str], work: str) -> None:
    """Note whether a killed and resumed run of main.py with the options `words` equals an undisturbed one."""
    command = [sys.executable, os.path.join(ROOT, "main.py"), *words]
    whole, killed = os.path.join(work, "whole"), os.path.join(work, "killed")
    started = time.perf_counter()
    status = subprocess.call([*command, "--output-dir=" + whole])  # noqa: S603 - a list, no shell
    findings.note("undisturbed run", round(time.perf_counter() - started, 1), "s")
    findings.check("undisturbed run succeeds", status == 0)
    if status:
        return
    was_killed = _kill_within_epoch([*command, "--output-dir=" + killed])
    findings.check("killed after a checkpoint within an epoch", was_killed)
    status = subprocess.call([*command, "--output-dir=" + killed])  # noqa: S603 - a list, no shell
    findings.check("resumed run succeeds", status == 0)
    if status:
        return
    one, other = (loading.load(os.path.join(folder, store.LATEST)) for folder in (whole, killed))
    for part in ("model", "model_ema"):
        different = [name for name, value in one[part].items() if not torch.equal(value, other[part][name])]
        findings.note("%s: tensors that differ, of %d" % (part, len(one[part])), len(different), at_most=0)
        print("\n".join(different[:10]))


def _kill_within_epoch(command: list[str]) -> bool:
    """Start the command, kill it after its fourth printed step, and return whether it was alive until then."""
    process = subprocess.Popen(  # noqa: S603 - a list, no shell
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="")
        if re.search(r"Epoch: \[0\]  \[ *3/", line):
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.close()
    return process.wait() == -signal.SIGKILL
