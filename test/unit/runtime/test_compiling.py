"""Blocks compiled by torch.compile compute the same as eager ones, up to rounding."""

import re
import shutil
import types

import pytest
import torch

import engine
from models.smlp import sMLPNet
from runtime import compiling
from runtime.compat import inference_mode
from runtime.device import Device
from runtime.errors import UserError

CPU, CUDA, NPU = Device("cpu"), types.SimpleNamespace(kind="cuda"), types.SimpleNamespace(kind="npu")
has_compile = hasattr(torch.nn.Module, "compile")
with_compiler = pytest.mark.skipif(
    not has_compile or not shutil.which("g++"), reason="needs torch.compile and a C++ compiler"
)


def one_stage(**keywords):
    return sMLPNet(dim=8, depths=(3,), image_size=16, num_classes=4, drop_path_rate=0.3, **keywords)


@pytest.fixture(scope="module")
def pair():
    """Two models of the same weights, eager and compiled."""
    plain, compiled = one_stage(), one_stage()
    compiled.load_state_dict(plain.state_dict())
    compiling.compile_blocks(compiled, "on")
    return plain, compiled


def images(count=6):
    return torch.randn(count, 3, 16, 16).contiguous(memory_format=torch.channels_last)


@with_compiler
def test_training_is_the_same(pair):
    batch, losses = images(), []
    for model in pair:
        torch.manual_seed(5)
        model.train().zero_grad()
        loss = model(batch).logsumexp(1).mean()
        loss.backward()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    for (name, one), other in zip(pair[0].named_parameters(), pair[1].parameters()):
        assert torch.allclose(one.grad, other.grad, rtol=1e-4, atol=1e-6), name
    for (name, one), other in zip(pair[0].named_buffers(), pair[1].buffers()):
        assert torch.allclose(one.double(), other.double(), rtol=1e-5, atol=1e-6), name


@with_compiler
def test_blocks_that_differ_by_their_drop_path_are_compiled_once(pair):
    from torch._dynamo.utils import counters

    model = pair[1].train()
    model(images())
    before = counters["stats"]["unique_graphs"]
    for module in model.drop_path[1:]:
        module.drop_prob = 0.123
    model(images())
    assert counters["stats"]["unique_graphs"] == before > 0


@with_compiler
@inference_mode()
def test_a_smaller_batch_is_filled_up(pair):
    """Compiling for each size of a last batch would cost minutes."""
    from torch._dynamo.utils import counters

    plain, compiled = pair[0].eval(), pair[1].eval()
    compiled.load_state_dict(plain.state_dict())
    engine.forward(compiled, images(6), CPU, 6)
    before = counters["stats"]["unique_graphs"]
    for count in (1, 5):
        batch = images(count)
        assert torch.allclose(engine.forward(compiled, batch, CPU, 6), plain(batch), atol=1e-5)
    assert counters["stats"]["unique_graphs"] == before


@inference_mode()
def test_parts_of_a_batch_give_the_logits_of_the_batch(monkeypatch):
    model, sizes = one_stage().eval(), []
    monkeypatch.setattr(Device, "images_in_cache", lambda device, pixels: 512 // pixels)
    model.register_forward_hook(lambda module, given, logits: sizes.append(len(logits)))
    batch = images(5)
    assert torch.allclose(engine.forward(model, batch, CPU), one_by_one(model, batch), atol=1e-6)
    assert sizes[:3] == [2, 2, 1]


def one_by_one(model, batch):
    return torch.cat([model(image.unsqueeze(0)) for image in batch])


def test_auto_compiles_on_cuda_alone(monkeypatch):
    monkeypatch.setattr(compiling, "_what_is_missing", lambda device: None)
    assert compiling.compiles("auto", CUDA) and compiling.compiles("on", CPU)
    assert not any(compiling.compiles("auto", device) for device in (CPU, NPU))
    assert not any(compiling.compiles("off", device) for device in (CPU, CUDA, NPU))


@pytest.mark.skipif(not has_compile, reason="this torch has no torch.compile")
def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    assert not compiling.compiles("auto", CUDA)
    for device, package in ((CUDA, "triton"), (NPU, "triton-ascend")):
        with pytest.raises(UserError, match="--compile on: the package %s is not installed" % package):
            compiling.compiles("on", device)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="--compile on: the C\\+\\+ compiler no-such-compiler is missing"):
        compiling.compiles("on", CPU)


@pytest.mark.parametrize(
    "found, variable, header, want",
    [
        (["gcc"], None, True, None),
        (["clang"], None, True, None),
        (["icc"], "icc", True, None),
        ([], None, True, "there is no C compiler (gcc), which Triton needs"),
        (["gcc"], "icc", True, "the C compiler icc of the variable CC is missing, which Triton needs"),
        (["gcc"], None, False, "there is no {include}/Python.h, which Triton needs (python3-dev)"),
    ],
)
def test_what_triton_needs_is_looked_for(monkeypatch, tmp_path, found, variable, header, want):
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(compiling.shutil, "which", lambda name: name if name in found else None)
    monkeypatch.setattr(compiling.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.setenv("CC", variable or "")
    if header:
        (tmp_path / "Python.h").touch()
    assert compiling.what_triton_misses() == (want and want.format(include=tmp_path))


@pytest.mark.skipif(not has_compile, reason="this torch has no torch.compile")
def test_auto_without_a_c_compiler_is_a_line_and_on_an_error(monkeypatch):
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    lines = []
    assert not compiling.compiles("auto", CUDA, lines.append)
    reason = "there is no C compiler (gcc), which Triton needs"
    assert lines == ["--compile auto: %s; the blocks are not compiled" % reason]
    with pytest.raises(UserError, match="--compile on: " + re.escape(reason)):
        compiling.compiles("on", CUDA)


@pytest.mark.skipif(not has_compile, reason="this torch has no torch.compile")
@pytest.mark.parametrize("is_deterministic", [False, True])
def test_deterministic_algorithms_choose_no_compiled_kernel_by_its_time(monkeypatch, is_deterministic):
    import torch._inductor.config as config

    seen, original = [], torch.compile

    def watched(function, **keywords):
        seen.append(keywords["options"])
        return original(function, **keywords)

    monkeypatch.setattr(torch, "compile", watched)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: is_deterministic)
    compiling.compile_blocks(one_stage(), "on")
    assert seen == [{"deterministic": True} if is_deterministic and hasattr(config, "deterministic") else None]


@pytest.mark.skipif(has_compile, reason="this torch has torch.compile")
def test_an_old_torch_is_named():
    assert not compiling.compiles("auto", CUDA)
    with pytest.raises(UserError, match="--compile on: torch .* has no torch.compile"):
        compiling.compiles("on", CPU)
