"""Whole networks by the fused kernels beside the eager blocks, in Triton's interpreter; test/system/test_fused.py."""

import copy
import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1: test/system/test_fused.py runs this file with it", allow_module_level=True)

from models import smlp
from models.fused import block, checks, choice
from runtime.amp import NativePrecision, Precision
from runtime.device import Device


def pair(**keywords):
    """Return two networks of the same weights: eager, and by the fused kernels."""
    torch.manual_seed(3)
    eager = smlp.sMLPNet(**dict({"dim": 16, "depths": (1, 1), "image_size": 32, "num_classes": 5}, **keywords))
    fused = copy.deepcopy(eager)
    fused.apply_block = block.FusedBlock(fused.apply_block)
    return eager, fused


def images(count=2, size=32):
    return torch.randn(count, 3, size, size).contiguous(memory_format=torch.channels_last)


def learn(model, x):
    torch.manual_seed(7)
    model(x).logsumexp(1).sum().backward()


@pytest.mark.parametrize("keywords", [{}, {"drop_path_rate": 0.5}, {"drop_rate": 0.3}], ids=str)
def test_a_network_learns_the_same(keywords):
    x, (eager, fused) = images(), pair(**keywords)
    for model in (eager, fused):
        learn(model, x)
    for (name, one), other in zip(eager.named_parameters(), fused.parameters()):
        assert (one.grad - other.grad).norm() < 1e-4 * one.grad.norm() + 1e-6, name
        assert other.grad.stride() == other.stride(), name  # as DDP wants it
    for (name, one), other in zip(eager.named_buffers(), fused.buffers()):
        assert torch.allclose(one.double(), other.double(), rtol=1e-5, atol=1e-6), name


def test_a_network_predicts_the_same():
    x, (eager, fused) = images(3), pair()
    with torch.no_grad():
        for model in (eager, fused):
            model(x)  # for its running statistics
        assert torch.allclose(fused.eval()(x), eager.eval()(x), rtol=1e-4, atol=1e-5)


def test_lines_that_are_too_long_go_by_the_eager_block(monkeypatch):
    monkeypatch.setattr(block, "MOST_SIDE", 4)
    x, (eager, fused) = images(), pair()
    called = []
    fused.apply_block.eager = lambda x, *others: called.append(x.shape[2]) or eager.apply_block(x, *others)
    assert torch.allclose(fused(x), eager(x), atol=1e-5)
    assert called == [8]


def setting(precision, trains=True):
    return choice.Setting(Device("cpu"), precision, trains, False, False, False)


@pytest.mark.parametrize("trains", [True, False])
def test_the_self_check_finds_right_kernels_right(trains):
    assert checks.fault(pair()[0], setting(Precision(), trains), False) is None
    if trains:
        assert checks.fault(pair()[0], setting(NativePrecision(Device("cpu"), "bfloat16")), False) is None


def test_the_self_check_finds_wrong_slow_and_broken_kernels(monkeypatch):
    class Wrong(block.FusedBlock):
        def __call__(self, x, *others):
            return self.eager(x * 1.2, *others)

    class Broken(block.FusedBlock):
        def __call__(self, x, *others):
            raise RuntimeError("no such instruction\non this card")

    eager = pair(depths=(1,))[0]
    monkeypatch.setattr(checks, "FusedBlock", Wrong)
    assert "in stage 1 they differ" in checks.fault(eager, setting(Precision()), False)
    monkeypatch.setattr(checks, "FusedBlock", Broken)
    want = "they fail here: RuntimeError: no such instruction"
    assert checks.fault(eager, setting(Precision()), False) == want
    monkeypatch.undo()
    monkeypatch.setattr(checks.Stage, "seconds", lambda stage: (0.003, 0.002))
    assert "slower here: 3.0 ms against 2.0 ms" in checks.fault(eager, setting(Precision()), True)


def test_a_check_leaves_the_network_and_the_generator_as_they_were():
    eager = pair(depths=(1,))[0]
    state, drawn = copy.deepcopy(eager.state_dict()), torch.random.get_rng_state()
    assert checks.fault(eager, setting(Precision()), False) is None
    assert torch.equal(torch.random.get_rng_state(), drawn)
    for name, value in eager.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert all(parameter.grad is None for parameter in eager.parameters())
