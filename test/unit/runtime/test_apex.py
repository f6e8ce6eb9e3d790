"""apex O1, with stand-ins that have the signatures and the loss scale of NVIDIA's and Ascend's."""

import os
import sys
import types

import pytest
import torch
from paths import TEST
from torch import nn

from runtime import amp
from runtime.errors import UserError

STAND_INS = os.path.join(TEST, "stand_in_apex")


def forget_apex():
    for name in [name for name in sys.modules if name.split(".")[0] in ("apex", "apex_loss_scale")]:
        del sys.modules[name]


@pytest.fixture
def use(monkeypatch):
    """Return use(who), which makes `import apex` find that stand-in and returns its list of calls, if it has amp."""

    def choose(who):
        forget_apex()
        monkeypatch.syspath_prepend(STAND_INS)
        monkeypatch.syspath_prepend(os.path.join(STAND_INS, who))
        return None if who == "pypi" else __import__("apex.amp").amp.CALLS

    yield choose
    forget_apex()


def device(kind):
    """Return a stand-in for an accelerator, with all that select_precision needs."""
    methods = {
        "supports_bfloat16": lambda: True,
        "float16_saturates": lambda: False,
        "disable_short_float32": lambda: None,
    }
    return types.SimpleNamespace(kind=kind, is_accelerator=True, **methods)


class Layer:
    """One linear layer under a precision."""

    def __init__(self, precision, lr=0.1):
        torch.manual_seed(0)
        self.precision = precision
        model = nn.Linear(3, 1)
        self.model, self.optimizer = precision.prepare(model, torch.optim.SGD(model.parameters(), lr))

    def step(self, factor=1.0, clip_grad=None):
        loss = self.model(torch.ones(1, 3)).sum() * factor
        self.precision.backward(loss, self.optimizer)
        self.precision.step(self.optimizer, self.model.parameters(), clip_grad)

    @property
    def weight(self):
        return self.model.weight.detach().clone()


@pytest.mark.parametrize(
    "who, kind, call",
    [
        ("nvidia", "cuda", ("initialize", "O1", "dynamic")),
        ("nvidia", "npu", ("initialize", "O1", "dynamic")),
        ("ascend", "cuda", ("initialize", "O1", "dynamic", None)),
        ("ascend", "npu", ("initialize", "O1", "dynamic", True)),
    ],
)
def test_gradients_are_combined_only_by_ascend_s_apex_on_an_npu(use, who, kind, call):
    calls = use(who)
    precision = amp.select_precision("apex", device(kind))
    assert precision.name == "apex O1"
    Layer(precision)
    assert calls == [call]


def test_auto_takes_apex_on_an_npu_only(use):
    use("ascend")
    assert amp.select_precision("auto", device("npu")).name == "apex O1"
    native = hasattr(torch, "autocast") or hasattr(torch.cuda.amp, "autocast")
    assert amp.select_precision("auto", device("cuda")).name == ("native float16" if native else "apex O1")


def test_steps_equal_float32_and_clip_the_true_gradients(use):
    calls = use("ascend")
    for clip_grad in (None, 0.5):
        scaled, plain = Layer(amp.select_precision("apex", device("npu"))), Layer(amp.Precision())
        for layer in (scaled, plain):
            layer.step(9.0, clip_grad)
        assert torch.allclose(scaled.weight, plain.weight)
    assert calls[-2:] == [("unscaled", False), ("master_params",)]


def test_overflow_skips_the_step_and_halves_the_scale(use):
    use("nvidia")
    layer = Layer(amp.select_precision("apex", device("cuda")))
    before = layer.weight
    layer.step(float("inf"))
    assert torch.equal(layer.weight, before)
    assert layer.precision.state_dict() == {"loss_scaler0": {"loss_scale": 2.0**15, "unskipped": 0}}
    layer.step()
    assert not torch.equal(layer.weight, before)


def test_scale_doubles_after_2000_steps(use):
    use("nvidia")
    layer = Layer(amp.select_precision("apex", device("cuda")), lr=0.0)
    for _ in range(2000):
        layer.step()
    assert layer.precision.state_dict() == {"loss_scaler0": {"loss_scale": 2.0**17, "unskipped": 0}}


def test_state_is_saved_and_restored(use):
    use("ascend")
    layer = Layer(amp.select_precision("apex", device("npu")))
    layer.step(float("inf"))
    layer.step()
    saved = {layer.precision.checkpoint_key: layer.precision.state_dict()}
    assert saved == {"amp": {"loss_scaler0": {"loss_scale": 2.0**15, "unskipped": 1}}}
    again = Layer(amp.select_precision("apex", device("npu")))
    again.precision.load(saved)
    assert again.precision.state_dict() == saved["amp"]


@pytest.mark.skipif(not hasattr(torch, "autocast"), reason="this torch has no autocast to move to")
def test_a_checkpoint_moves_from_apex_to_native_and_back(use):
    use("nvidia")
    native = amp.NativePrecision(device("cuda"), "float16")
    native.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    native.load({"amp": {"loss_scaler0": {"loss_scale": 2.0**13, "unskipped": 7}}})
    state = native.state_dict()
    assert (state["scale"], state["_growth_tracker"], state["growth_interval"]) == (2.0**13, 7, 2000)
    apex = Layer(amp.select_precision("apex", device("cuda"))).precision
    apex.load({"scaler": state})
    assert apex.state_dict() == {"loss_scaler0": {"loss_scale": 2.0**13, "unskipped": 7}}


def test_the_other_apex_is_recognised(use):
    use("pypi")
    with pytest.raises(UserError, match="the package apex in .*pypi.*apex has no amp: PyPI's apex is another package"):
        amp.select_precision("apex", device("npu"))
    assert amp.select_precision("auto", device("npu")).name != "apex O1"
