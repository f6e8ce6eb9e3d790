"""Several processes compute what one computes, under every launcher."""

import json
import os
import subprocess
import sys

import pytest
from conftest import HERE, OPTIONS, clean_environment, run_main, write_images

from runtime import checkpoint


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(images, output folder) of a short run."""
    root = tmp_path_factory.mktemp("trained")
    images = write_images(str(root / "images"), val=10)
    words = ["--data-path=" + images, "--output-dir=" + str(root / "out"), "--epochs=1"] + OPTIONS
    status, _, err = run_main(words)
    assert status == 0, err
    return images, str(root / "out")


def evaluate(trained, result, nproc, *more):
    images, folder = trained
    words = (
        ["--data-path=" + images, "--eval", "--resume=" + folder, "--eval-json=" + str(result)] + OPTIONS + list(more)
    )
    status, out, err = run_main(words, nproc)
    assert status == 0, err
    line = next(line for line in out.splitlines() if "* Acc@1" in line)
    return line[line.index("* Acc@1") :], json.loads(result.read_text())


def test_evaluation_is_the_same_on_any_number_of_processes(trained, tmp_path):
    alone = evaluate(trained, tmp_path / "1", 1, "--dist-eval")
    assert alone[1]["images"] == 20
    for nproc in (2, 3):
        line, result = evaluate(trained, tmp_path / str(nproc), nproc, "--dist-eval")
        assert line == alone[0]
        for name in ("acc1", "acc5", "images", "ema_acc1"):
            assert result[name] == alone[1][name]
        assert result["loss"] == pytest.approx(alone[1]["loss"], abs=1e-6)
    assert evaluate(trained, tmp_path / "all", 2, "--no-dist-eval")[0] == alone[0]


def losses_of(folder):
    with open(os.path.join(folder, "log.txt")) as file:
        return [json.loads(line)["train_loss"] for line in file]


@pytest.mark.parametrize("name", ["run", "launch"])
def test_torch_launchers(tmp_path, images, name):
    if name == "run":
        pytest.importorskip("torch.distributed.run", reason="this torch has no torchrun")
    command = [sys.executable, "-m", "torch.distributed." + name, "--nproc_per_node=2", "--master_port=29611"]
    words = ["--data-path=" + images, "--output-dir=" + str(tmp_path / "out"), "--epochs=1"] + OPTIONS
    done = subprocess.run(
        command + [os.path.join(HERE, "small_main.py")] + words,
        env=clean_environment(OMP_NUM_THREADS="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    assert checkpoint.load(str(tmp_path / "out" / checkpoint.LATEST))["world_size"] == 2
    assert run_main(words[:1] + ["--output-dir=" + str(tmp_path / "ours")] + words[2:], 2)[0] == 0
    assert losses_of(str(tmp_path / "out")) == losses_of(str(tmp_path / "ours"))


def test_slurm(tmp_path, images):
    words = ["--data-path=" + images, "--output-dir=" + str(tmp_path / "out"), "--epochs=1"] + OPTIONS
    processes = []
    for rank in range(2):
        environ = clean_environment(
            SLURM_PROCID=str(rank),
            SLURM_NTASKS="2",
            SLURM_LOCALID=str(rank),
            SLURM_NODELIST="localhost",
            SLURM_JOB_ID="7613",
            OMP_NUM_THREADS="1",
        )
        command = [sys.executable, os.path.join(HERE, "small_main.py")] + words
        processes.append(subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    assert [(process.communicate(timeout=300), process.returncode)[1] for process in processes] == [0, 0]
    assert checkpoint.load(str(tmp_path / "out" / checkpoint.LATEST))["world_size"] == 2


@pytest.mark.parametrize("nproc", [1, 3])
def test_bad_image_is_told_once(tmp_path, images, nproc):
    with open(os.path.join(images, "train", "cat", "03.png"), "wb") as file:
        file.write(b"not a picture")
    status, _, err = run_main(["--data-path=" + images, "--epochs=1"] + OPTIONS + ["--batch-size=2"], nproc)
    assert status == 2
    lines = [line for line in err.splitlines() if "find_unused_parameters" not in line]  # torch 1.8 cannot be silenced
    assert len(lines) == 1 and "03.png" in lines[0] and "--skip-bad-images" in lines[0]


@pytest.mark.parametrize("nproc", [1, 2])
def test_bad_path_is_told_once(nproc):
    status, _, err = run_main(["--data-path=nowhere"] + OPTIONS, nproc)
    assert status == 2
    assert err == "main.py: error: --data-path nowhere: no such folder\n"
