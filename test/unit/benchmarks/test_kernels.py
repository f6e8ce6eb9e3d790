"""benchmark.py kernels: the fused kernels as they are compiled for GPUs, where there is none."""

import importlib.util
import json
import os

import pytest
import torch

if not hasattr(torch, "compile"):
    pytest.skip("the benchmarks need torch 2.1", allow_module_level=True)
if importlib.util.find_spec("triton") is None:
    pytest.skip("NOT CHECKED: the fused kernels, without Triton", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("NOT CHECKED: Triton's interpreter compiles nothing", allow_module_level=True)

import triton
import triton.language as tl

import benchmark
from benchmarks import kernels
from runtime.amp import DTYPES


@triton.jit
def add_kernel(x, y, scale, out, count, offset, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + place, mask=place < count, other=0.0).to(tl.float32)
    if y is not None:
        value += tl.load(y + place, mask=place < count, other=0.0)
    tl.store(out + place + offset, value * scale, mask=place < count)


@triton.jit
def crowded_kernel(x, out, count):
    """Keep 256 values of a thread until a loop ends that changes them in ways that have nothing in common."""
    place = tl.arange(0, 32 * 256)
    value = tl.load(x + place)
    for turn in range(count):
        value = value * tl.load(x + (place + turn) % 7) + turn
    tl.store(out + place, value)


def launch(function):
    with kernels.recording() as recorded:
        function()
    (found,) = recorded
    return found


def added(**changes):
    options = dict({"y": None, "count": 100, "offset": 1, "BLOCK": 128, "num_warps": 2}, **changes)
    x, out = torch.zeros(128, dtype=DTYPES["bfloat16"]), torch.zeros(128)
    return launch(lambda: add_kernel[(1,)](x, options.pop("y"), 0.5, out, **options))


def test_a_launch_is_recorded_as_triton_specialises_it():
    found = added()
    assert found.signature == {
        "x": "*bf16", "y": "constexpr", "scale": "fp32", "out": "*fp32", "count": "i32",
        "offset": "constexpr", "BLOCK": "constexpr",
    }  # fmt: skip
    assert found.constants == {"y": None, "offset": 1, "BLOCK": 128}
    assert found.aligned == ("x", "out")
    assert found.options == {"num_warps": 2}
    assert added(count=112).aligned == ("x", "out", "count")
    assert added(y=torch.zeros(128)).signature["y"] == "*fp32"


def test_only_launches_within_the_context_are_recorded():
    before = triton.runtime.jit.JITFunction.run
    with pytest.raises(ZeroDivisionError), kernels.recording():
        raise ZeroDivisionError
    assert triton.runtime.jit.JITFunction.run is before


@pytest.mark.parametrize("capability", [80, 90])
def test_a_kernel_is_compiled_with_what_it_takes(capability):
    found = kernels.compile_ahead("add", [1], "bfloat16", added(), capability)
    assert found[:5] == ("add", [1], "bfloat16", capability, 2)
    assert 0 < found.registers < 64
    assert found.spilled_bytes == 0 and 0 < found.shared_bytes <= 1024  # a change of layout
    assert kernels.faults([found]) == []


def test_spilled_registers_are_found():
    x = torch.zeros(32 * 256)
    found = launch(lambda: crowded_kernel[(1,)](x, x, 16, num_warps=1))
    row = kernels.compile_ahead("crowded", [2, 3], "float32", found, 90)
    assert row.registers <= 255 and row.spilled_bytes > 0
    (line,) = kernels.faults([row])
    assert line.startswith("crowded, stage 2, 3, float32, for 9.0: %d bytes of registers spilled" % row.spilled_bytes)


def test_too_much_shared_memory_is_a_fault():
    row = kernels.Compiled("one", [1], "float16", 80, 4, 100, 0, 163 * 1024)
    assert kernels.faults([row, row._replace(capability=90, shared_bytes=227 * 1024)]) == []
    assert len(kernels.faults([row._replace(shared_bytes=163 * 1024 + 1)])) == 1


def test_each_stage_launches_its_kernels():
    """Narrow stages compute the hidden layer again and have no kernel for it; before 9.0 the second is a wide one."""
    found = {
        capability: {
            name: stages for name, stages, _ in kernels.launches("smlpnet_tiny", [1, 2, 3], "float16", capability)
        }
        for capability in (80, 90)
    }
    assert found[90]["narrow_forward"] and found[80]["narrow_forward"] == [1]
    names = {name for name in found[90] if name.startswith(("narrow", "wide"))}
    assert names == {
        "narrow_forward", "narrow_input", "narrow_weights",
        "wide_hidden", "wide_out", "wide_hidden_gradient", "wide_input", "wide_weights",
    }  # fmt: skip


@pytest.mark.parametrize("precision, pointer", [("float32", "*fp32"), ("float16", "*fp16"), ("bfloat16", "*bf16")])
def test_kernels_are_launched_in_the_chosen_precision(precision, pointer):
    found = {name: launch for name, _, launch in kernels.launches("smlpnet_tiny", [1], precision, 90)}
    assert found["narrow_forward"].signature["x"] == found["narrow_forward"].signature["w1"] == pointer


@pytest.fixture
def one_row(monkeypatch):
    """The command with one kernel of these sizes."""

    def make(spilled):
        row = kernels.Compiled("fuse", [1, 2], "float16", 90, 4, 154, spilled, 1024)
        monkeypatch.setattr(kernels, "launches", lambda *a: [("fuse", [1, 2], None)])
        monkeypatch.setattr(kernels, "compile_ahead", lambda *a: row)

    return make


@pytest.mark.parametrize("spilled, status", [(0, 0), (8, 1)])
def test_the_command_prints_a_table_and_fails_where_registers_are_spilled(one_row, spilled, status, tmp_path, capsys):
    one_row(spilled)
    words = ["kernels", "--precision=float16", "--capability=90", "--output=%s" % tmp_path]
    assert benchmark.main(words) == status
    out = capsys.readouterr().out
    assert "| fuse | 1, 2 | 9.0 | float16 | 4 | 154 | %d | 1.0 |" % spilled in out
    assert ("8 bytes of registers spilled" in out) == bool(spilled)
    assert json.loads((tmp_path / "kernels.json").read_text())["rows"][0]["registers"] == 154


def test_the_interpreter_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert benchmark.main(["kernels"]) == 2
    assert "TRITON_INTERPRET=1 is set" in capsys.readouterr().err
