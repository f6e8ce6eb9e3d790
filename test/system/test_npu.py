"""The product on an NPU that is simulated over host memory (test/simulated_npu)."""

import json
import math
import os
import shutil
import subprocess
import sys

import pytest
import torch
from image_folders import write_images
from paths import ROOT
from processes import clean_environment, kill_after
from small_runs import assert_same_weights, log_of
from warm_runs import OPTIONS, run_main, start_main
from wrappers import run_wrapper

from checkpoints import loading, store

SIMULATOR = os.path.join(ROOT, "test", "simulated_npu")
COMMON = [word for word in OPTIONS if not word.startswith(("--device", "--amp"))] + ["--warmup-epochs=0"]

pytestmark = pytest.mark.skipif(not hasattr(torch, "accelerator"), reason="the simulated NPU needs a recent torch")


@pytest.fixture(scope="module")
def built():
    """The simulator's C++ part; building it takes about a minute, once."""
    if not (shutil.which("c++") or shutil.which("g++")):
        pytest.skip("NOT CHECKED: the simulated NPU needs a C++ compiler, and none was found")
    command = [sys.executable, "-c", "import torch; print(torch.npu.device_count())"]
    environ = clean_environment(PYTHONPATH=SIMULATOR)
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0 and done.stdout.strip().endswith("8"), done.stdout


@pytest.fixture(autouse=True)
def simulator(built, monkeypatch):
    """Every process that a test starts finds the simulated NPU."""
    monkeypatch.setenv("PYTHONPATH", SIMULATOR)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_the_simulator_itself():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", os.path.join(SIMULATOR, "unit")]
    environ = clean_environment(PYTHONPATH=os.pathsep.join([SIMULATOR, ROOT]))
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    assert done.returncode == 0 and "skipped" not in done.stdout, done.stdout


def words_for(images, folder, *more):
    return ["--data-path=" + images, "--output-dir=" + str(folder), "--epochs=3", "--npu", *COMMON, *more]


def succeed(words, nproc=1):
    status, out, err = run_main(words, nproc)
    assert status == 0, out + err
    return out


def weights_of(folder):
    return loading.load(os.path.join(str(folder), store.LATEST))


@pytest.mark.parametrize("nproc", [1, 2])
def test_trajectory_is_the_cpus(tmp_path, nproc):
    """Up to rounding, which a large rate would make grow: a CPU has channels_last, and torch's own AdamW."""
    images = write_images(str(tmp_path / "images"), train=12 * nproc)
    common = ["--amp=none", "--mixup=0.8", "--cutmix=1.0", "--clip-grad=1", "--lr=0.01"]
    out = succeed(words_for(images, tmp_path / "npu", *common), nproc)
    assert "device        npu:0 (Ascend910B (simulated)), %d process(es)" % nproc in out and "max mem: " in out
    succeed(words_for(images, tmp_path / "cpu", *common, "--device=cpu"), nproc)
    here, there = log_of(tmp_path / "cpu"), log_of(tmp_path / "npu")
    assert len(here) == 3
    for wanted, got in zip(here, there):
        for name, value in wanted.items():
            if "loss" in name or "acc" in name:
                assert got[name] == pytest.approx(value, rel=1e-4), name
    here, there = weights_of(tmp_path / "cpu"), weights_of(tmp_path / "npu")
    for part in ("model", "model_ema"):
        assert all(value.device.type == "cpu" for value in there[part].values())
        wanted, got = (
            torch.cat([value.double().flatten() for value in state[part].values()]) for state in (here, there)
        )
        assert (got - wanted).norm() < 1e-3 * wanted.norm()  # AdamW takes a step for a gradient of mere rounding


def test_native_precision_really_casts(tmp_path, images):
    logs = {}
    for name, more in {
        "none": ["--amp=none"],
        "float16": ["--amp=native"],
        "bfloat16": ["--amp=native", "--amp-dtype=bfloat16"],
    }.items():
        out = succeed(words_for(images, tmp_path / name, "--clip-grad=1", "--lr=0.001", *more))
        assert "precision     " + {"none": "float32"}.get(name, "native " + name) in out
        logs[name] = [row["train_loss"] for row in log_of(tmp_path / name)]
    for name, distance in (("float16", 0.003), ("bfloat16", 0.02)):
        assert logs[name] != logs["none"]
        assert logs[name] == pytest.approx(logs["none"], abs=distance)
    scaler = weights_of(tmp_path / "float16")["scaler"]
    skipped = 16 - math.log2(scaler["scale"])  # the scale starts at 2**16 and is halved where a step overflows
    assert skipped == int(skipped) < 9 and 0 <= scaler["_growth_tracker"] <= 18 - skipped


def test_apex_trains_and_moves_to_native(tmp_path, images, monkeypatch):
    """The stand-in refuses a distributed model, so initialisation comes first, and has a state only after it."""
    stand_in = os.path.join(ROOT, "test", "stand_in_apex")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([SIMULATOR, stand_in, os.path.join(stand_in, "ascend")]))
    out = str(tmp_path / "out")
    assert "precision     apex O1" in succeed(words_for(images, out, "--epochs=1"), 2)
    state = weights_of(out)["amp"]["loss_scaler0"]
    assert state["loss_scale"] <= 2.0**16 and "scaler" not in weights_of(out)
    succeed(words_for(images, out, "--epochs=2"), 2)
    assert weights_of(out)["amp"]["loss_scaler0"]["unskipped"] == state["unskipped"] + 3
    succeed(words_for(images, out, "--epochs=3", "--amp=native"), 2)
    assert weights_of(out)["scaler"]["scale"] <= state["loss_scale"] and "amp" not in weights_of(out)


@pytest.mark.parametrize("nproc, precision", [(1, "native"), (2, "native"), (2, "none")])
def test_killed_and_started_again(tmp_path, nproc, precision):
    images = write_images(str(tmp_path / "images"), train=12 * nproc)
    whole, cut = str(tmp_path / "whole"), str(tmp_path / "cut")
    more = ["--checkpoint-steps=1", "--amp=" + precision, "--num-workers=1"]
    succeed(words_for(images, whole, *more), nproc)
    kill_after(start_main(words_for(images, cut, *more), nproc), os.path.join(cut, store.LATEST), 3)
    assert "start         from %s" % cut in succeed(words_for(images, cut, *more), nproc)
    assert_same_weights(cut, whole)
    if precision == "native":
        assert weights_of(cut)["scaler"] == weights_of(whole)["scaler"]


def test_evaluation_is_the_same_everywhere(tmp_path, images):
    out = str(tmp_path / "out")
    succeed(words_for(images, out, "--amp=none"))
    results = []
    for nproc, device in ((1, "npu"), (2, "npu"), (1, "cpu")):
        path = str(tmp_path / "result.json")
        words = [
            "--data-path=" + images,
            "--eval",
            "--resume=" + out,
            "--eval-json=" + path,
            "--per-class",
            "--amp=none",
            "--dist-eval",
        ]
        succeed(words + COMMON + ["--device=" + device], nproc)
        with open(path) as file:
            result = json.load(file)
        results.append({name: result[name] for name in ("acc1", "acc5", "images", "ema_acc1", "confusion")})
    assert results[0] == results[1] == results[2]
    words = ["--data-path=" + images, "--throughput", "--resume=" + out, "--amp=native", "--npu"]
    assert "throughput averaged" in succeed(words + COMMON)


def test_deterministic_and_average_on_the_host(tmp_path, images):
    words = ["--amp=native", "--deterministic", "--model-ema-force-cpu", "--epochs=1"]
    for name in ("one", "two"):
        succeed(words_for(images, tmp_path / name, *words))
    assert_same_weights(str(tmp_path / "one"), str(tmp_path / "two"))


def test_what_is_missing_is_told(images, monkeypatch):
    monkeypatch.setenv("SIMULATED_NPU_COUNT", "1")
    status, _, err = run_main(["--data-path=" + images, "--npu", *COMMON], 2)
    assert status == 2 and err.count("\n") == 1 and "2 processes on a machine with 1 npu device(s)" in err
    monkeypatch.setenv("SIMULATED_NPU_COUNT", "0")
    status, _, err = run_main(["--data-path=" + images, "--npu", *COMMON])
    assert status == 2 and err.count("\n") == 1 and "--device npu: torch_npu finds no NPU" in err


SMALL = [word for word in COMMON if not word.startswith("--batch-size")] + ["--npu"]


@pytest.mark.parametrize(
    "name, nproc, case, amp",
    [
        ("train_performance_1p.sh", 1, "bs24_1p_perf", "native"),
        ("train_full_1p.sh", 1, "bs24_1p_acc", "none"),
    ],
)
def test_wrappers(project, images, name, nproc, case, amp):
    words = ["--data_path=" + images, "--epochs=1", "--nproc=%d" % nproc, "--amp=" + amp, *SMALL]
    status, out, err = run_wrapper(project, name, words)
    assert status == 0, out + err
    assert "device        npu:0" in out and "precision     " + {"none": "float32"}.get(amp, amp) in out
    assert os.path.exists(os.path.join(project, "test", "output", "0", "SPACH-SMLP_%s.log" % case))


def test_wrappers_on_eight_devices(tmp_path, project):
    images = write_images(str(tmp_path / "images"), train=16, val=8)
    words = ["--data_path=" + images, "--batch-size=2", *SMALL]
    status, out, err = run_wrapper(project, "train_full_8p.sh", ["--epochs=1", *words])
    assert status == 0, out + err
    assert "npu:0 (Ascend910B (simulated)), 8 process(es)" in out
    output = os.path.join(project, "test", "output", "0")
    status, out, err = run_wrapper(project, "train_eval_8p.sh", ["--resume=" + output, *words])
    assert status == 0 and "on 16 images" in out, out + err


@pytest.mark.parametrize(
    "file, sound, faulty",
    [
        ("training/steps.py", "run.mix(inputs, targets)", "run.mix(inputs.cuda(), targets)"),
        ("training/metrics.py", "dtype=torch.int64, device=torch_device) for name", "dtype=torch.int64) for name"),
        ("commands/train.py", "Counts(run.device.torch_device,", "Counts('cuda',"),
        ("pipeline/batch_bytes.py", "batch.bytes.to(device.torch_device, non_blocking=True)", "batch.bytes"),
        ("runtime/distributed.py", "dtype=torch.float32, device", "dtype=torch.float64, device"),
        ("runtime/device.py", "self._module.set_device(self.torch_device)", "pass"),
    ],
)
def test_faults_are_caught(project, images, file, sound, faulty):
    path = os.path.join(project, file)
    with open(path) as source:
        text = source.read()
    assert sound in text
    with open(path, "w") as target:
        target.write(text.replace(sound, faulty))
    words = ["--data_path=" + images, "--nproc=2", "--batch-size=4", "--epochs=1", "--amp=none", *SMALL]
    status, out, err = run_wrapper(project, "train_performance_8p.sh", words)
    assert status == 1 and "Final" not in out, out + err
