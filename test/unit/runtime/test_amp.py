"""Native precision, and the choice between precisions; apex is in test_apex.py."""

import types

import pytest
import torch
from torch import nn

from runtime import amp
from runtime.device import Device, cpu_has_bfloat16
from runtime.errors import UserError


def test_precision_choice(monkeypatch):
    cpu = Device("cpu")
    assert amp.select_precision("none", cpu).name == "float32"
    wanted = "native bfloat16" if cpu_has_bfloat16() and hasattr(torch, "autocast") else "float32"
    assert amp.select_precision("auto", cpu).name == wanted
    with pytest.raises(UserError, match="--amp apex"):
        amp.select_precision("apex", cpu)
    with pytest.raises(UserError, match="--amp apex: apex does not import.*use --amp native"):
        amp.select_precision("apex", types.SimpleNamespace(kind="cuda"))
    if hasattr(torch, "autocast"):
        assert amp.select_precision("native", cpu).name == "native bfloat16"
        with pytest.raises(UserError, match="--amp-dtype float16"):
            amp.select_precision("native", cpu, "float16")


@pytest.mark.skipif(not hasattr(torch, "autocast"), reason="this torch has no autocast on a CPU")
def test_bfloat16_computes_in_bfloat16():
    precision = amp.select_precision("native", Device("cpu"))
    with precision.autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.bfloat16


class ScaledBy:
    """A loss scaler whose scale is known, to see that clipping works on the true gradients."""

    def __init__(self, scale):
        self.factor, self.calls = scale, []

    def scale(self, loss):
        return loss * self.factor

    def unscale_(self, optimizer):
        self.calls.append("unscale")
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad /= self.factor

    def step(self, optimizer):
        self.calls.append("step")
        if "unscale" not in self.calls:
            self.unscale_(optimizer)
        optimizer.step()

    def update(self):
        self.calls.append("update")


def test_gradients_are_unscaled_before_clipping():
    def weights_after(precision):
        torch.manual_seed(0)
        layer = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(layer.parameters(), 0.1)
        precision.backward(layer(torch.ones(1, 3)).sum() * 9, optimizer)
        precision.step(optimizer, layer.parameters(), 0.5)
        return layer.weight.detach()

    scaled = amp.NativePrecision(types.SimpleNamespace(kind="cpu"), "bfloat16")
    scaled.scaler = ScaledBy(1024.0)
    assert torch.allclose(weights_after(scaled), weights_after(amp.Precision()))
    assert scaled.scaler.calls == ["unscale", "step", "update"]
