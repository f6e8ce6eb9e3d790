"""Real wrappers and real processes on a small network and a small folder of images."""

import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import numpy
import pytest
import torch
from machines import machines  # noqa: F401 - a fixture
from PIL import Image

from runtime import checkpoint

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
OPTIONS = ["--device=cpu", "--amp=none", "--input-size=32", "--batch-size=4", "--num_workers=0", "--no-repeated-aug"]
OPTIONS += ["--drop=0.1", "--drop-path=0.1", "--lr=0.1", "--warmup-epochs=1", "--model-ema-decay=0.9"]


current_torch = pytest.mark.skipif(
    not hasattr(torch, "accelerator"), reason="takes long: run on the current torch alone"
)


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
    names += ("NNODES", "NODE_RANK")
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


def with_default_signals():
    """In a process to be: react to signals although the tests run under nohup or in the background of a script."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)


def start_wrapper(project, name, words, cwd=None, prefix=(), **environ):
    """Start a wrapper of the copy in a process group of its own."""
    python = os.path.join(project, "test", "system", "small_python.sh")
    return subprocess.Popen(
        list(prefix) + ["bash", os.path.join(project, "test", name)] + list(words),
        cwd=cwd or project,
        env=clean_environment(PYTHON=python, REAL_PYTHON=sys.executable, **environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        start_new_session=True,
        preexec_fn=with_default_signals,
    )


def run_wrapper(project, name, words, cwd=None, **environ):
    """Run a wrapper of the copy to its end: (exit status, stdout, stderr)."""
    process = start_wrapper(project, name, words, cwd, **environ)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


_servers = {}  # the warm server for each PYTHONPATH


def warm_server(python_path):
    """The socket of a process that has imported all, for runs with this PYTHONPATH."""
    if python_path not in _servers:
        path = os.path.join(tempfile.mkdtemp(prefix="warm-"), "socket")
        command = [sys.executable, os.path.join(HERE, "warm.py"), path]
        environ = clean_environment(OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join([ROOT, HERE, python_path]))
        process = subprocess.Popen(command, env=environ, start_new_session=True, preexec_fn=with_default_signals)
        wait_for(lambda: os.path.exists(path) or process.poll() is not None)
        assert process.poll() is None
        _servers[python_path] = process, path
    return _servers[python_path][1]


@pytest.fixture(scope="session", autouse=True)
def close_warm_servers():
    yield
    for process, path in _servers.values():
        process.kill()
        process.wait()
        shutil.rmtree(os.path.dirname(path))


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


class WarmRun:
    """A run by fork from a warm process, with what the tests use of subprocess.Popen."""

    def __init__(self, words, nproc, environ):
        server = warm_server(environ.get("PYTHONPATH", ""))
        self.folder = tempfile.mkdtemp(prefix="run-", dir=os.path.dirname(server))  # removed with the server's
        self.returncode = None
        order = {"words": list(words), "nproc": nproc, "environ": environ, "cwd": os.getcwd(), "umask": _umask()}
        order.update({name: os.path.join(self.folder, name) for name in ("stdout", "stderr")})
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(server)
        self.socket.sendall(json.dumps(order).encode() + b"\n")
        self.answers = self.socket.makefile()
        self.pid = int(self.answers.readline())

    def poll(self):
        if self.returncode is None and select.select([self.socket], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout=None):
        if self.returncode is None:
            if not select.select([self.socket], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("small_main.py", timeout)
            self.returncode = int(self.answers.readline())
        return self.returncode

    def communicate(self, timeout=None):
        self.wait(timeout)
        texts = []
        for name in ("stdout", "stderr"):
            with open(os.path.join(self.folder, name), encoding="utf-8", errors="replace") as file:
                texts.append(file.read())
        return texts

    def read(self, name="stdout"):
        """What it has printed so far."""
        path = os.path.join(self.folder, name)
        if not os.path.exists(path):
            return ""
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()


def start_main(words, nproc=1, environ=None):
    """Start small_main.py as `nproc` processes under tools/launch.py, in a process group of its own."""
    return WarmRun(words, nproc, clean_environment(**(environ or {})))


def run_main(words, nproc=1, environ=None):
    """Run small_main.py to its end: (exit status, stdout, stderr)."""
    process = start_main(words, nproc, environ)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def assert_same_weights(first, second, name=checkpoint.LATEST):
    """The weights and their average are equal, bit by bit."""
    first, second = (checkpoint.load(os.path.join(folder, name)) for folder in (first, second))
    for part in ("model", "model_ema"):
        assert list(first[part]) == list(second[part])
        for name, value in first[part].items():
            assert torch.equal(value, second[part][name]), (part, name)


def log_of(folder):
    """The rows of a run's log.txt."""
    with open(os.path.join(str(folder), "log.txt")) as file:
        return [json.loads(line) for line in file]


def children_of(pid):
    """The process numbers of a process's children, those of the main thread first."""
    found = []
    try:
        for thread in sorted(os.listdir("/proc/%d/task" % pid), key=int):
            with open("/proc/%d/task/%s/children" % (pid, thread)) as file:
                found += [int(word) for word in file.read().split()]
    except OSError:
        pass  # it has ended
    return found


def processes_of_session(session):
    """The processes of a session that have not ended."""
    found = []
    for name in os.listdir("/proc"):
        try:
            with open("/proc/%s/stat" % name) as file:
                state, _, _, its_session = file.read().rsplit(")", 1)[1].split()[:4]
        except (OSError, ValueError, IndexError):
            continue
        if name.isdigit() and int(its_session) == session and state not in "ZX":
            found.append(int(name))
    return found


def wait_for(condition, seconds=120):
    """Wait until `condition()` holds."""
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, "waited in vain"
        time.sleep(random.uniform(0.01, 0.05))
