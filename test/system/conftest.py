"""Real wrappers and real processes on a small network and a small folder of images."""

import os
import random
import shutil
import subprocess
import sys
import time

import numpy
import pytest
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
OPTIONS = ["--device=cpu", "--amp=none", "--input-size=32", "--batch-size=4", "--num_workers=0", "--no-repeated-aug"]
OPTIONS += ["--drop=0.1", "--drop-path=0.1", "--lr=0.1", "--warmup-epochs=1", "--model-ema-decay=0.9"]


def write_images(root, train=12, val=5, side=32):
    """A folder of random pictures of two classes: `train` and `val` images of each."""
    source = numpy.random.RandomState(0)
    for part, count in (("train", train), ("val", val)):
        for name in ("cat", "dog"):
            folder = os.path.join(root, part, name)
            os.makedirs(folder)
            for number in range(count):
                pixels = source.randint(0, 256, (side, side, 3)).astype("uint8")
                Image.fromarray(pixels).save(os.path.join(folder, "%02d.png" % number))
    return root


@pytest.fixture
def images(tmp_path):
    return write_images(str(tmp_path / "some images"))


def clean_environment(**more):
    """The environment without what a launcher around the tests may have set."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID", "SLURM_NTASKS")
    environ = {name: value for name, value in os.environ.items() if name not in names}
    environ.update(more)
    return environ


@pytest.fixture
def project(tmp_path):
    """A copy of the project whose wrappers train the small network, in a path with a space."""
    copy = str(tmp_path / "a project")
    os.makedirs(copy)
    for name in os.listdir(ROOT):
        if name.endswith(".py") or name in ("models", "runtime", "tools", "configs", "test"):
            source, target = os.path.join(ROOT, name), os.path.join(copy, name)
            if os.path.isdir(source):
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("output", "__pycache__", "golden"))
            else:
                shutil.copy(source, target)
    return copy


def start_wrapper(project, name, words, cwd=None):
    """Start a wrapper of the copy in a process group of its own."""
    python = os.path.join(project, "test", "system", "small_python.sh")
    return subprocess.Popen(
        ["bash", os.path.join(project, "test", name)] + list(words),
        cwd=cwd or project,
        env=clean_environment(PYTHON=python, REAL_PYTHON=sys.executable),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        start_new_session=True,
    )


def run_wrapper(project, name, words, cwd=None):
    """Run a wrapper of the copy to its end: (exit status, stdout, stderr)."""
    process = start_wrapper(project, name, words, cwd)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def start_main(words, nproc=1, environ=None):
    """Start small_main.py as `nproc` processes under tools/launch.py, in a process group of its own."""
    command = [sys.executable, os.path.join(ROOT, "tools", "launch.py"), "--nproc", str(nproc)]
    return subprocess.Popen(
        command + [os.path.join(HERE, "small_main.py")] + list(words),
        env=clean_environment(**(environ or {})),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        start_new_session=True,
    )


def run_main(words, nproc=1):
    """Run small_main.py to its end: (exit status, stdout, stderr)."""
    process = start_main(words, nproc)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for(condition, seconds=120):
    """Wait until `condition()` holds."""
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, "waited in vain"
        time.sleep(random.uniform(0.01, 0.05))
