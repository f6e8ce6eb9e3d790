"""The project's runtime on the simulated NPU."""

import pytest
import torch

from runtime import amp
from runtime.device import Device, select_device
from runtime.errors import UserError

if not hasattr(torch, "npu"):
    pytest.skip("no NPU in this process: test/system/test_npu.py runs this file with one", allow_module_level=True)


@pytest.fixture
def device():
    torch.npu.set_compile_mode(jit_compile=True)
    torch.npu.conv.allow_hf32 = True
    return Device("npu", 1)


def test_settings(device):
    assert torch.npu.is_jit_compile_false()
    assert torch.npu.current_device() == 1 and device.torch_device == torch.device("npu:1") and device.backend == "hccl"
    amp.select_precision("native", device)
    assert torch.npu.conv.allow_hf32
    amp.select_precision("none", device)
    assert not torch.npu.conv.allow_hf32


def test_choice(monkeypatch):
    assert select_device("auto").kind == select_device("npu").kind == "npu"
    with pytest.raises(UserError, match="9 processes on a machine with 8 npu device"):
        select_device("npu", 0, 9)
    monkeypatch.setenv("SIMULATED_NPU_COUNT", "0")
    with pytest.raises(UserError, match="torch_npu finds no NPU"):
        select_device("npu")
    assert select_device("auto").kind == "cpu"


def test_precisions(device, monkeypatch):
    assert amp.select_precision("auto", device).name == "native float16"
    assert amp.select_precision("native", device, "bfloat16").scaler is None
    monkeypatch.setenv("SIMULATED_NPU_BF16", "0")
    with pytest.raises(UserError, match="bfloat16: npu:1 .* does not support it"):
        amp.select_precision("native", device, "bfloat16")


def test_loss_scaler_is_the_npus_own_where_float16_saturates(device, monkeypatch):
    stock = amp.select_precision("native", device)
    assert type(stock.scaler) is torch.amp.GradScaler
    monkeypatch.setenv("SIMULATED_NPU_SATURATES", "1")
    own = amp.select_precision("native", device)
    assert type(own.scaler) is torch.npu.amp.GradScaler
    for taker, giver in ((own, stock), (stock, own)):
        giver.scaler.update(8.0) if giver.scaler._scale is not None else giver.scaler.scale(
            torch.ones((), device="npu")
        )
        taker.load({"scaler": giver.state_dict()})
        assert taker.scaler.get_scale() == giver.scaler.get_scale()


def test_memory_and_seed(device):
    held = torch.ones(1 << 18, device="npu")
    assert device.max_memory_mib() >= held.numel() * 4 / 2**20
    device.seed(3)
    first = torch.rand(3, device="npu")
    device.seed(3)
    assert torch.equal(torch.rand(3, device="npu"), first)
    device.synchronize()
    assert str(device) == "npu:1 (Ascend910B (simulated))"
