"""Errors planted in the gradients of the fused channel MLP, each of which its tests must find."""

import importlib.util
import os
import shutil
import subprocess
import sys

import pytest
from paths import ROOT

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="NOT CHECKED: the fused kernels, without Triton"
)
KERNELS = os.path.join("models", "fused", "mlp_kernels.py")
TESTS = os.path.join("test", "interpreted", "unit", "test_fused_mlp.py")
NOTHING = ("", "")
PLANTED = {  # what is replaced, by what
    "narrow: no second sum of a token": ("d_a - centre - a * along", "d_a - centre"),
    "narrow: the residual's gradient is left out": (
        "d_b = (d_b - centre - b * along) * inverse[:, None] + _tokens(g, row, tokens, second, C).to(tl.float32)",
        "d_b = (d_b - centre - b * along) * inverse[:, None]",
    ),
    "narrow: GELU instead of its derivative": ("du = back * gelu_gradient(u)", "du = back * gelu(u)"),
    "narrow: a program's last tile of tokens": ("for turn in range(0, ROUNDS):", "for turn in range(1, ROUNDS):"),
    "wide: the bias remains in the sum with u": ("hidden - _vector(b1, unit, H)[None, :]", "hidden"),
    "wide: no factors of drop path": (
        "own = _scaled(gradient, scale, row, tokens, area, output, OUTPUTS)",
        "own = _tokens(gradient, row, tokens, output, OUTPUTS).to(tl.float32)",
    ),
    "wide: no first sum of a token": ("d - (first / C)[:, None]", "d"),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of what the tests import."""
    root = str(tmp_path_factory.mktemp("tree"))
    for folder in ("models", "runtime", os.path.join("test", "interpreted"), os.path.join("test", "helpers")):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(os.path.join(ROOT, folder), os.path.join(root, folder), ignore=ignored)
    for file in ("pyproject.toml", "utils.py"):
        shutil.copy(os.path.join(ROOT, file), root)
    return root


def outcome(tree, planted):
    """Return status and output of the tests of two small shapes, one narrow and one wide, in float32."""
    old, new = planted
    with open(os.path.join(ROOT, KERNELS), encoding="utf-8") as file:
        source = file.read()
    assert old in source
    with open(os.path.join(tree, KERNELS), "w", encoding="utf-8") as file:
        file.write(source.replace(old, new) if old else source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", TESTS]
    command += ["-k", "float32 and drop and (case1 or case4)"]
    environ = dict(os.environ, TRITON_INTERPRET="1", OMP_NUM_THREADS="1", PYTHONPATH="")
    done = subprocess.run(command, env=environ, cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.decode()


def test_the_kernels_as_they_are_pass(tree):
    status, out = outcome(tree, NOTHING)
    assert status == 0 and "2 passed" in out, out


@pytest.mark.parametrize("planted", PLANTED.values(), ids=list(PLANTED))
def test_a_planted_error_is_found(tree, planted):
    status, out = outcome(tree, planted)
    assert status == 1 and "AssertionError: {'out': " in out, out
