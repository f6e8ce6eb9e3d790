"""Which device a process gets, and what is reported where there is none."""

import os
import types

import pytest
import torch
from in_process import restore

from runtime.amp import select_precision
from runtime.device import Device, select_device
from runtime.errors import UserError


def test_missing_devices_name_what_to_install():
    for kind, message in (("npu", "torch_npu"), ("cuda", "CUDA")):
        if not hasattr(torch, kind) or not getattr(torch, kind).is_available():
            with pytest.raises(UserError, match="--device %s: .*%s" % (kind, message)):
                select_device(kind)
    assert select_device("cpu", 3, 8).torch_device == torch.device("cpu")


def test_too_few_cards(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="8 processes on a machine with 2 cuda device.*--nproc=2"):
        select_device("cuda", 0, 8)


@pytest.mark.parametrize("kind, want", [("cpu", True), ("cuda", False)])
def test_float32_means_float32_on_a_gpu(monkeypatch, kind, want):
    switches = types.SimpleNamespace(allow_tf32=True), types.SimpleNamespace(allow_tf32=True)
    monkeypatch.setattr(torch.backends, "cudnn", switches[0])
    monkeypatch.setattr(torch.backends, "cuda", types.SimpleNamespace(matmul=switches[1]), raising=False)
    device = Device("cpu")
    device.kind = kind
    assert select_precision("none", device).name == "float32"
    assert [switch.allow_tf32 for switch in switches] == [want, want]


def test_deterministic_turns_every_switch(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is restored
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    try:
        Device("cpu").prefer_speed()
        assert torch.backends.cudnn.benchmark
        Device("cpu").make_deterministic()
        assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        if hasattr(torch, "use_deterministic_algorithms"):
            assert torch.are_deterministic_algorithms_enabled()
    finally:
        restore()
