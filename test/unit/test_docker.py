"""The Dockerfiles as they can be read without a Docker engine; they have not been built."""

import fnmatch
import os
import re
import shlex
import shutil
import subprocess

import pytest
from paths import ROOT

FILES = [os.path.join(ROOT, "docker", name) for name in sorted(os.listdir(os.path.join(ROOT, "docker")))]
INSTRUCTIONS = {"FROM", "RUN", "COPY", "WORKDIR", "ENV", "USER", "CMD", "SHELL"}


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def instructions_of(path):
    """[(instruction, its words)]"""
    text = re.sub(r"^#.*\n", "", read(path), flags=re.M).replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    return [(name, rest.strip()) for name, rest in lines]


def is_left_out(path):
    """Whether .dockerignore leaves `path` out: by itself, or by a folder that holds it."""
    parts = path.split("/")
    above = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    patterns = [line for line in read(os.path.join(ROOT, ".dockerignore")).splitlines() if line and line[0] != "#"]
    assert not any(pattern.startswith("!") for pattern in patterns)
    return any(_matches(name, pattern) for name in above for pattern in patterns)


def _matches(name, pattern):
    if pattern.startswith("**/"):
        return fnmatch.fnmatchcase(name.split("/")[-1], pattern[3:])
    return name.count("/") == pattern.count("/") and fnmatch.fnmatchcase(name, pattern)


def test_there_is_one_for_each_kind_of_card():
    assert [os.path.basename(path) for path in FILES] == ["Dockerfile.ascend", "Dockerfile.cuda"]


@pytest.mark.parametrize("path", FILES, ids=os.path.basename)
def test_a_dockerfile_is_sound(path):
    steps = instructions_of(path)
    assert steps[0][0] == "FROM" and {name for name, _ in steps} <= INSTRUCTIONS
    base = re.fullmatch(r"[a-z0-9./-]+:([A-Za-z0-9._-]+)", steps[0][1])
    assert base and base.group(1) != "latest" and re.search(r"\d+\.\d+\.\d+", base.group(1)), "a base without a version"
    for name, rest in steps:
        if name == "COPY":
            for source in shlex.split(rest)[:-1]:
                assert os.path.exists(os.path.join(ROOT, source)) and not is_left_out(source), source
        if name in ("CMD", "SHELL"):
            assert re.fullmatch(r'\["[^"]*"(, "[^"]*")*\]', rest), rest
        if name == "RUN" and "pip install" in rest and "-r " in rest:
            assert "-c /tmp/constraints.txt" in rest, "the torch of the image could be replaced"
    command = [rest for name, rest in steps if name == "CMD"]
    assert len(command) == 1 and '"main.py"' in command[0]
    header = read(path).split("FROM")[0]
    assert "Not built yet" in header and "-f docker/%s " % os.path.basename(path) in header
    for word in re.findall(r"\S+\.(?:sh|md)\b", header):
        assert os.path.exists(os.path.join(ROOT, word)), word


def test_the_run_commands_name_the_devices():
    ascend, cuda = (read(path) for path in FILES)
    assert "--gpus all" in cuda and "USER 1000:1000" in cuda
    for device in ("davinci0", "davinci_manager", "devmm_svm", "hisi_hdc"):
        assert "--device /dev/" + device in ascend


@pytest.mark.skipif(not shutil.which("hadolint"), reason="NOT CHECKED: hadolint is missing; .ci/run installs it")
def test_hadolint_finds_nothing():
    done = subprocess.run(["hadolint", *FILES], stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_an_image_holds_the_program_and_no_data():
    left_out = ["data/digits/train/0/1.png", "output/tiny/best.pth", "test/output/0/checkpoint.pth", ".git/HEAD"]
    left_out += [".venv/bin/python", ".venv-1.5/bin/python", "port.pth", "runtime/__pycache__/amp.pyc", ".ruff_cache/x"]
    assert [path for path in left_out if not is_left_out(path)] == []
    tracked = [
        name for name in os.listdir(ROOT) if name.endswith((".py", ".txt", ".md")) or name in ("LICENSE", "NOTICE")
    ]
    for folder in ("runtime", "models", "configs", "tools", "test", "benchmarks"):
        tracked += ["%s/%s" % (folder, name) for name in os.listdir(os.path.join(ROOT, folder)) if "." in name[1:]]
    assert len(tracked) > 50 and [path for path in tracked if is_left_out(path)] == []
