"""The fused kernels by Triton's interpreter, which needs no GPU: their tests, and runs with --fused on."""

import importlib.util
import os
import subprocess
import sys

import pytest
from paths import ROOT, TEST

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="NOT CHECKED: the fused kernels, without Triton"
)
INTERPRETED = {"TRITON_INTERPRET": "1"}  # before Triton is imported, hence in a process of its own


def test_the_kernels_compute_what_the_formulas_say():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", os.path.join(TEST, "interpreted")]
    environ = dict(os.environ, OMP_NUM_THREADS="1", **INTERPRETED)
    done = subprocess.run(command, env=environ, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout.decode()
