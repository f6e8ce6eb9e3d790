"""Programs answer --help and bad input at once: without importing torch, which takes seconds."""

import os
import resource
import subprocess
import sys

import pytest
from paths import ROOT

TOOLS = sorted(
    name for name in os.listdir(os.path.join(ROOT, "tools")) if name.endswith(".py") and name != "__init__.py"
)
# Each command line with its exit status.
QUICK = [
    (["main.py", "--help"], 0),
    (["main.py", "--epoch=3"], 2),
    (["main.py"], 2),
    (["main.py", "--data-path=no such folder"], 2),
    (["main.py", "--data-path=."], 2),
    (["main.py", "--data-path=.", "--model=smlpnet_tinny"], 2),
    (["main.py", "--list-models"], 0),
    (["predict.py", "--help"], 0),
    (["predict.py", "best.pth", "a.png", "--tip=3"], 2),
    (["export_onnx.py", "--help"], 0),
    (["export_onnx.py", "best.pth", "a.onnx", "--opsett=3"], 2),
    (["benchmark.py", "--help"], 0),
    (["benchmark.py", "stepp"], 2),
    *((["tools/" + name, "--help"], 0) for name in TOOLS),
    (["tools/launch.py", "--check", "main.py", "--epoch=3"], 2),
]


def run(words, cwd, *flags):
    command = [sys.executable, *flags, os.path.join(ROOT, words[0]), *words[1:]]
    return subprocess.run(command, cwd=str(cwd), capture_output=True)


@pytest.mark.skipif(sys.version_info < (3, 7), reason="this Python does not list its imports")
@pytest.mark.parametrize("words, status", QUICK, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_an_answer_does_not_wait_for_torch(words, status, tmp_path):
    done = run(words, tmp_path, "-X", "importtime")
    lines = done.stderr.decode().splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert done.returncode == status, lines[-3:]
    assert "runtime.programs" in imported and not imported & {"torch", "timm", "numpy"}
    assert os.listdir(str(tmp_path)) == []


@pytest.mark.parametrize(
    "name", ["main.py", "predict.py", "export_onnx.py", "benchmark.py", *("tools/" + name for name in TOOLS)]
)
def test_a_program_finds_its_modules_where_python_leaves_its_folder_out(name, tmp_path):
    """As python -P and PYTHONSAFEPATH=1 do; -I does so on every Python, here by a link in another folder."""
    link = str(tmp_path / "link.py")
    os.symlink(os.path.join(ROOT, name), link)
    done = subprocess.run([sys.executable, "-I", link, "--help"], cwd=str(tmp_path), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def cpu_seconds(words, cwd):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], cwd=str(cwd), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_an_answer_takes_a_fifth_of_the_import(tmp_path):
    """CPU time, which a busy machine changes little; the least of three, and in fact a twentieth."""
    imports = min(cpu_seconds(["-c", "import torch, timm"], tmp_path) for _ in range(2))
    for words in (["main.py", "--help"], ["predict.py", "--help"]):
        program = [os.path.join(ROOT, words[0]), *words[1:]]
        assert min(cpu_seconds(program, tmp_path) for _ in range(3)) < imports / 5, words


WRAPPERS = ["train_full_1p", "train_full_8p", "train_performance_1p", "train_performance_8p", "train_eval_8p"]


def run_wrapper(name, *words, **variables):
    command = ["bash", os.path.join(ROOT, "test", name + ".sh"), *words]
    environ = dict(os.environ, **dict({"PYTHON": sys.executable}, **variables))
    return subprocess.run(command, env=environ, capture_output=True)


@pytest.mark.parametrize("name", [*WRAPPERS, "train_multinode", "quickstart"])
def test_a_wrapper_prints_its_usage(name):
    done = run_wrapper(name, "--help")
    text = done.stdout.decode()
    assert done.returncode == 0 and done.stderr == b"" and "bash test/%s.sh" % name in text
    assert all(option in text for option in ("--data_path=DIR", "--output_dir=DIR", "--resume=PATH", "--nproc=N"))


@pytest.mark.parametrize("name", [*WRAPPERS, "quickstart"])
def test_a_wrapper_refuses_a_misspelt_option_before_it_starts(name):
    done = run_wrapper(name, "--data_path=nowhere", "--epoch=3", "--resume=nothing")
    assert done.returncode == 2 and done.stdout == b""
    assert done.stderr.decode().splitlines() == ["launch.py: error: unknown option --epoch=3; did you mean --epochs?"]


@pytest.mark.parametrize("name", ["train_full_1p", "quickstart"])
def test_an_interpreter_that_is_not_there(name):
    done = run_wrapper(name, "--data_path=nowhere", PYTHON="/no/such/python")
    assert done.returncode == 2 and done.stdout == b""
    assert done.stderr.startswith(b"[Error] PYTHON=/no/such/python is no interpreter") and done.stderr.count(b"\n") == 1
