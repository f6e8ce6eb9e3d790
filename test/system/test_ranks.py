"""Several processes compute what one computes, under every launcher."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch
from image_folders import write_images
from paths import HELPERS, ROOT
from processes import clean_environment
from warm_runs import OPTIONS, current_torch, run_main

from checkpoints import loading, store


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
        command + [os.path.join(HELPERS, "small_main.py")] + words,
        env=clean_environment(OMP_NUM_THREADS="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    assert loading.load(str(tmp_path / "out" / store.LATEST))["world_size"] == 2
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
        command = [sys.executable, os.path.join(HELPERS, "small_main.py")] + words
        processes.append(subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    assert [(process.communicate(timeout=300), process.returncode)[1] for process in processes] == [0, 0]
    assert loading.load(str(tmp_path / "out" / store.LATEST))["world_size"] == 2


@pytest.mark.parametrize("nproc", [1, 3])
def test_bad_image_is_told_once(tmp_path, images, nproc):
    with open(os.path.join(images, "train", "cat", "03.png"), "wb") as file:
        file.write(b"not a picture")
    status, _, err = run_main(["--data-path=" + images, "--epochs=1"] + OPTIONS + ["--batch-size=2"], nproc)
    assert status == 2
    assert len(err.splitlines()) == 1 and "03.png" in err and "--skip-bad-images" in err


def test_the_first_rank_alone_lists_the_images(tmp_path, images):
    """That may take longer than --dist-timeout; the next run finds the lists in the folder that it renames."""
    out = tmp_path / "out"
    words = ["--data-path=" + images, "--output-dir=" + str(out), "--epochs=1", "--existing-output=rename"] + OPTIONS
    time.sleep(2.1)  # an index of what has just changed is not kept
    status, text, err = run_main(words + ["--dist-timeout=4"], 2, {"FAULT": "slow-listing:3"})
    assert status == 0, err
    assert "those of the index" not in text and len(list(out.glob("index.*"))) == 2
    status, text, err = run_main(words, 2, {"FAULT": "slow-listing:3600"})
    assert status == 0, err
    assert text.count("those of the index in " + str(out)) == 2 and len(list(out.glob("index.*"))) == 2
    assert losses_of(str(out)) == losses_of(str(next(tmp_path.glob("out.*"))))


FROM_FIRST = """
import sys
import numpy
from runtime.device import Device
from runtime.distributed import Ranks
from runtime.errors import UserError
from runtime.launch_environment import Launch

rank = int(sys.argv[1])
ranks = Ranks(Launch(rank, 2, rank, 2), Device("cpu"), "file://" + sys.argv[2], timeout_s=60)
calls = []

def make(tick):
    calls.append(rank)
    return numpy.arange(256, dtype=numpy.uint8)[: int(sys.argv[3])]

def refuse(tick):
    raise UserError("no folder \\udc80 here")

made = ranks.from_rank_0(make)
try:
    ranks.from_rank_0(refuse)
except UserError as error:
    print(calls, len(made), made.dtype, int(made.sum()), ascii(str(error)))
ranks.close()
"""


@pytest.mark.parametrize("size", [0, 256])
def test_what_the_first_rank_makes_comes_to_all(tmp_path, size):
    command = [sys.executable, "-c", FROM_FIRST]
    words = [str(tmp_path / "rendezvous"), str(size)]
    environ = clean_environment(OMP_NUM_THREADS="1", PYTHONPATH=ROOT)
    ranks = [subprocess.Popen(command + [rank] + words, env=environ, stdout=subprocess.PIPE) for rank in "01"]
    printed = [rank.communicate(timeout=300)[0].decode().strip() for rank in ranks]
    rest = "%d uint8 %d 'no folder \\udc80 here'" % (size, sum(range(size)))
    assert printed == ["[0] " + rest, "[] " + rest]


def test_a_folder_that_cannot_be_listed_is_told_once(images):
    os.symlink(images, os.path.join(images, "train", "cat", "back"))
    status, _, err = run_main(["--data-path=" + images, "--epochs=1"] + OPTIONS, 2)
    assert status == 2 and len(err.splitlines()) == 1 and "is a link back to" in err


@pytest.mark.parametrize("nproc", [1, 2])
def test_bad_path_is_told_once(nproc):
    status, _, err = run_main(["--data-path=nowhere"] + OPTIONS, nproc)
    assert status == 2
    assert err == "main.py: error: --data-path nowhere: no such folder\n"


@current_torch
def test_accumulation_and_a_teacher_are_the_same_on_any_number_of_processes(tmp_path, images):
    """Two steps an epoch of three batches on each of two ranks, on two processes and on one that emulates them."""
    base = ["--data-path=" + images] + OPTIONS + ["--batch-size=2", "--epochs=2", "--lr=0.5", "--opt=momentum"]
    assert run_main(base + ["--output-dir=" + str(tmp_path / "teacher"), "--seed=7"])[0] == 0
    words = base + ["--grad-accum-steps=3", "--model-ema-warmup", "--distillation-type=soft", "--print-freq=1"]
    words += ["--teacher-model=smlpnet_tiny", "--teacher-path=" + str(tmp_path / "teacher"), "--checkpoint-steps=1"]
    folders = {}
    for nproc, more in ((2, []), (1, ["--virtual-ranks=2"])):
        folders[nproc] = str(tmp_path / str(nproc))
        status, out, err = run_main(words + more + ["--output-dir=" + folders[nproc]], nproc)
        assert status == 0, err
        assert "global batch  12 (2 a rank, accumulated over 3 batches)" in out
    two, one = (loading.load(os.path.join(folders[nproc], store.LATEST)) for nproc in (2, 1))
    assert losses_of(folders[1]) == pytest.approx(losses_of(folders[2]), abs=1e-5)
    for part in ("model", "model_ema"):
        for name, value in two[part].items():
            assert torch.allclose(one[part][name], value, rtol=1e-4, atol=1e-5), (part, name)
    status, _, err = run_main(words + ["--sync-bn"], 2)
    assert status == 2 and err == "main.py: error: --sync-bn works between CUDA GPUs only, this is cpu: leave it out\n"


@current_torch
def test_gradients_travel_once_a_step(tmp_path, images):
    """DDP adds up gradients only in the backward pass of the last accumulated batch."""
    words = ["--data-path=" + images] + OPTIONS + ["--batch-size=2", "--epochs=1", "--opt=momentum"]
    counts = {}
    for accumulated in (1, 3):
        status, out, err = run_main(words + ["--grad-accum-steps=%d" % accumulated], 2, {"FAULT": "count-sums:0"})
        assert status == 0, err
        counts[accumulated] = [int(line.split()[-1]) for line in err.splitlines() if line.startswith("gradient sums")]
    assert len(counts[1]) == 6 and len(counts[3]) == 2
    assert set(counts[1]) == set(counts[3]) and min(counts[1]) >= 1


@current_torch
def test_compressed_gradients_are_nearly_those_of_a_run_without(tmp_path, images):
    """On three processes, which log it; alone, a process has nothing to send."""
    words = ["--data-path=" + images, "--epochs=1", "--print-freq=1"] + OPTIONS + ["--batch-size=2", "--opt=momentum"]
    losses = {}
    for compression in ("none", "bf16"):
        folder = str(tmp_path / compression)
        more = ["--output-dir=" + folder, "--grad-compression=" + compression, "--lr=0.5"]
        status, out, err = run_main(words + more, 3)
        assert status == 0, err
        assert ("gradients     exchanged as bf16" in out) == (compression == "bf16")
        losses[compression] = losses_of(folder)
    assert losses["bf16"] != losses["none"] and losses["bf16"] == pytest.approx(losses["none"], rel=1e-2)
    status, out, err = run_main(words + ["--grad-compression=bf16"])
    assert status == 0 and "--grad-compression has no effect: there is one process" in out
    assert "exchanged" not in out
