"""What is asked of torch's autocast, on the versions of torch whose functions have other names."""

import types

import pytest
import torch

from runtime import autocast
from runtime.amp import DTYPES, NativePrecision
from runtime.device import Device

FLOAT16, BFLOAT16 = DTYPES["float16"], DTYPES["bfloat16"]


def torch_like(**functions):
    return types.SimpleNamespace(float16=FLOAT16, **functions)


def recent(active):
    """torch since 2.4, with the autocast of the kinds in `active`, {kind: dtype}."""
    return torch_like(is_autocast_enabled=lambda kind: kind in active, get_autocast_dtype=active.get)


def of_two_kinds(gpu=None, cpu=None, npu=None):
    """torch 1.10 to 2.3, where the NPU has functions of its own."""
    own = types.SimpleNamespace(is_autocast_enabled=lambda: npu is not None, get_autocast_dtype=lambda: npu)
    return torch_like(
        is_autocast_enabled=lambda: gpu is not None,
        get_autocast_gpu_dtype=lambda: gpu,
        is_autocast_cpu_enabled=lambda: cpu is not None,
        get_autocast_cpu_dtype=lambda: cpu,
        npu=own,
    )


@pytest.mark.parametrize(
    "stand_in, kind, want",
    [
        (torch_like(), "cuda", None),  # 1.5
        (torch_like(is_autocast_enabled=lambda: False), "cuda", None),
        (torch_like(is_autocast_enabled=lambda: True), "cuda", FLOAT16),  # 1.8
        (torch_like(is_autocast_enabled=lambda: True), "npu", FLOAT16),
        (torch_like(is_autocast_enabled=lambda: True), "cpu", None),
        (of_two_kinds(gpu=BFLOAT16), "cuda", BFLOAT16),
        (of_two_kinds(gpu=BFLOAT16), "cpu", None),
        (of_two_kinds(gpu=BFLOAT16), "npu", None),
        (of_two_kinds(cpu=BFLOAT16), "cpu", BFLOAT16),
        (of_two_kinds(cpu=BFLOAT16), "cuda", None),
        (of_two_kinds(npu=FLOAT16), "npu", FLOAT16),
        (recent({"cuda": FLOAT16}), "cuda", FLOAT16),
        (recent({"cuda": FLOAT16}), "cpu", None),
        (recent({"npu": BFLOAT16}), "npu", BFLOAT16),
    ],
)
def test_the_dtype_is_that_of_the_kind(monkeypatch, stand_in, kind, want):
    monkeypatch.setattr(autocast, "torch", stand_in)
    assert autocast.dtype_of_autocast(kind) == want


def test_a_kind_without_autocast_has_no_dtype():
    assert autocast.dtype_of_autocast("meta") is None


@pytest.mark.skipif(not hasattr(torch, "autocast"), reason="this torch has no autocast on a CPU")
def test_it_is_off_inside_a_context_without_it():
    assert autocast.dtype_of_autocast("cpu") is None
    with NativePrecision(Device("cpu"), "bfloat16").autocast():
        with autocast.without_autocast("cpu"):
            assert autocast.dtype_of_autocast("cpu") is None
        assert autocast.dtype_of_autocast("cpu") == BFLOAT16


def test_an_old_torch_leaves_it_by_the_context_of_the_device(monkeypatch):
    amp = types.SimpleNamespace(autocast=lambda enabled: "autocast, enabled: %s" % enabled)
    monkeypatch.setattr(autocast, "torch", torch_like(npu=types.SimpleNamespace(amp=amp)))
    assert autocast.without_autocast("npu") == "autocast, enabled: False"
