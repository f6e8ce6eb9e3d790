"""Options that a CPU does not obey: what a run of main.py on the simulated NPU makes of them."""

import os
import sys

import pytest
import torch
from image_folders import write_images
from in_process import begin_run, restore
from paths import TEST
from small_models import create_tiny_model

from training import build

if not hasattr(torch, "npu"):
    pytest.skip("no NPU in this process: test/system/test_npu.py runs this file with one", allow_module_level=True)


@pytest.fixture
def run_of(tmp_path, monkeypatch):
    """run_of(option...): the Run of main.py on the NPU, as it begins its first epoch."""
    data = write_images(str(tmp_path / "data"), train=4, val=2)
    base = ["--data-path=" + data, "--npu", "--input-size=32", "--batch-size=4", "--no-repeated-aug", "--num-workers=0"]
    monkeypatch.setattr(build, "create_model", create_tiny_model)
    yield lambda *words: begin_run(monkeypatch, [*base, *words])[0]
    restore()


def test_deterministic_reaches_torch(run_of):
    for words, is_asked_for in (([], False), (["--deterministic"], True)):
        restore()
        run_of("--amp=none", *words)
        assert torch.are_deterministic_algorithms_enabled() is is_asked_for
        assert torch.backends.cudnn.deterministic is is_asked_for
        assert torch.backends.cudnn.benchmark is not is_asked_for


def test_model_ema_force_cpu_keeps_the_average_on_the_host(run_of):
    for words, kind in (([], "npu"), (["--model-ema-force-cpu"], "cpu")):
        run = run_of("--amp=none", *words)
        assert {value.device.type for value in run.ema.module.parameters()} == {kind}
        assert {value.device.type for value in run.bare_model.parameters()} == {"npu"}


def test_amp_dtype_is_that_of_autocast(run_of):
    assert run_of("--amp=native", "--amp-dtype=bfloat16").precision.dtype is torch.bfloat16
    assert run_of("--amp=native", "--amp-dtype=float16").precision.dtype is torch.float16


def test_opt_level_reaches_apex(run_of, monkeypatch):
    stand_in = os.path.join(TEST, "stand_in_apex")
    for folder in (stand_in, os.path.join(stand_in, "ascend")):
        monkeypatch.syspath_prepend(folder)
    try:
        for level in ("O1", "O2"):
            assert run_of("--amp=apex", "--opt-level=" + level).precision.name == "apex " + level
            assert sys.modules["apex.amp"].CALLS[-1][:2] == ("initialize", level)
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] in ("apex", "apex_loss_scale")]:
            del sys.modules[name]
