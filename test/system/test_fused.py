"""The fused kernels by Triton's interpreter, which needs no GPU: their tests, and runs with --fused on."""

import importlib.util
import os
import subprocess
import sys

import pytest
from image_folders import write_noise
from paths import ROOT, TEST
from processes import kill_after
from small_runs import assert_same_weights, weights
from warm_runs import run_main, start_main, words_for

from checkpoints import store

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="NOT CHECKED: the fused kernels, without Triton"
)
INTERPRETED = {"TRITON_INTERPRET": "1"}  # before Triton is imported, hence in a process of its own


@pytest.fixture
def interpreted(monkeypatch):
    """The environment of runs that fork from a process of their own, which has imported Triton for its interpreter."""
    for name, value in INTERPRETED.items():
        monkeypatch.setenv(name, value)
    return {"PYTHONPATH": os.path.join(TEST, "interpreted")}


def test_the_kernels_compute_what_the_formulas_say():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", os.path.join(TEST, "interpreted")]
    environ = dict(os.environ, OMP_NUM_THREADS="1", **INTERPRETED)
    done = subprocess.run(command, env=environ, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout.decode()


def test_a_run_with_fused_kernels_is_killed_and_resumes_to_the_same_bits(tmp_path, interpreted):
    nproc = 2
    images = write_noise(str(tmp_path / "images"), {"cat": 3 * nproc, "dog": 3 * nproc}, {"cat": 1, "dog": 1})
    whole, cut = str(tmp_path / "whole"), str(tmp_path / "cut")
    more = ["--fused=on", "--epochs=1", "--checkpoint-steps=1", "--batch-size=2"]
    status, out, err = run_main(words_for(images, whole, *more), nproc, interpreted)
    assert status == 0, err
    assert "by fused kernels" in out
    kill_after(start_main(words_for(images, cut, *more), nproc, interpreted), os.path.join(cut, store.LATEST), 1)
    status, out, err = run_main(words_for(images, cut, *more), nproc, interpreted)
    assert status == 0, err
    assert "start         from %s" % cut in out
    assert_same_weights(cut, whole)
    plain = str(tmp_path / "plain")
    assert run_main(words_for(images, plain, *more, "--fused=off"), nproc, interpreted)[0] == 0
    assert_nearly_the_same_weights(plain, whole)


def assert_nearly_the_same_weights(one, other):
    """Rounding alone tells them apart: both are the same function."""
    first, second = (weights(folder)["model"] for folder in (one, other))
    names = [name for name in first if first[name].is_floating_point()]
    differences = [float((first[name] - second[name]).norm() / first[name].norm()) for name in names]
    assert 0 < max(differences) < 1e-2
