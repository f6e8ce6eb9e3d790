"""Runs of small_main.py, each forked from a process that has imported everything (warm.py)."""

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile

import pytest
import torch
from paths import HELPERS, ROOT
from processes import clean_environment, wait_for, with_default_signals

OPTIONS = ["--device=cpu", "--amp=none", "--input-size=32", "--batch-size=4", "--num_workers=0", "--no-repeated-aug"]
OPTIONS += ["--drop=0.1", "--drop-path=0.1", "--lr=0.1", "--warmup-epochs=1", "--model-ema-decay=0.9"]


def words_for(data, folder, *more):
    """The command line of a run of 3 epochs; on 2 processes each has 6 steps."""
    common = ["--data-path=" + data, "--output-dir=" + str(folder), "--epochs=3", "--print-freq=2"]
    return common + OPTIONS + list(more)


RANKS = {"1": (1, []), "2": (2, []), "2 virtual": (1, ["--virtual-ranks=2"])}  # (processes, options) of some runs


def saving_words_for(data, folder, *more):
    """The command line of a run of 2 epochs that saves each step."""
    return words_for(data, folder, "--epochs=2", "--checkpoint-steps=1", *more)


current_torch = pytest.mark.skipif(
    not hasattr(torch, "accelerator"), reason="takes long: run on the current torch alone"
)


_servers = {}  # the warm server for each PYTHONPATH


def warm_server(python_path):
    """Return the socket of a process that has imported all, for runs with this PYTHONPATH."""
    if python_path not in _servers:
        path = os.path.join(tempfile.mkdtemp(prefix="warm-"), "socket")
        command = [sys.executable, os.path.join(HELPERS, "warm.py"), path]
        environ = clean_environment(OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join([ROOT, HELPERS, python_path]))
        process = subprocess.Popen(command, env=environ, start_new_session=True, preexec_fn=with_default_signals)
        wait_for(lambda: os.path.exists(path) or process.poll() is not None)
        assert process.poll() is None
        _servers[python_path] = process, path
    return _servers[python_path][1]


def close_servers():
    """End the processes that runs are forked from, and remove what the runs have printed."""
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
        """Return what it has printed so far."""
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


def references(data, tmp_path_factory):
    """Return a function of a key of RANKS: the output folder of an undisturbed run on `data`, which is made once."""
    made = {}

    def run(ranks):
        if ranks not in made:
            made[ranks] = str(tmp_path_factory.mktemp("reference") / "out")
            nproc, more = RANKS[ranks]
            status, _, err = run_main(saving_words_for(data, made[ranks], *more), nproc)
            assert status == 0, err
        return made[ranks]

    return run
