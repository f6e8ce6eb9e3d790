"""Registers, spills and shared memory of the fused kernels, compiled ahead for GPUs: no GPU is needed.

A block of each stage of a model runs forward and backward on the CPU while the launches of Triton kernels are recorded
instead of carried out, so that what is compiled is what a run would launch, sizes and number of warps included. The
command ends with status 1 if a kernel spills registers to memory.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any, Iterator, NamedTuple

import torch

import models  # noqa: F401 - registers the models with timm
from benchmarks import ledger, report
from runtime.amp import DTYPES
from runtime.compat import create_model
from runtime.errors import RunError, UserError, one_line
from utils import write_json

if TYPE_CHECKING:
    import argparse

_BATCH = 16  # images: their number decides no more than how many times a kernel's loop runs
_WARP = 32  # threads
_SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}  # a program may have, by capability
_LEAST_SHARED_BYTES = 99 * 1024  # on others
_POINTED = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "int64": "i64", "int32": "i32"}


class Launch(NamedTuple):
    """A kernel with what it is compiled for."""

    kernel: Any
    signature: dict[str, str]  # the types of its arguments
    constants: dict[str, Any]
    aligned: tuple[str, ...]  # the arguments that are multiples of 16
    options: dict[str, Any]

    @property
    def key(self) -> str:
        return repr((self.kernel.__name__, self.signature, self.constants, self.aligned, self.options))


class Compiled(NamedTuple):
    """A kernel as compiled for one kind of GPU; `stages` are those that launch it."""

    kernel: str
    stages: list[int]
    dtype: str
    capability: int
    warps: int
    registers: int  # a thread
    spilled_bytes: int  # a thread
    shared_bytes: int  # a program


def run(options: argparse.Namespace) -> int:
    """Compile the kernels, print a table, write kernels.json to --output; return 1 if registers are spilled."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise UserError("kernels: TRITON_INTERPRET=1 is set, with which Triton compiles nothing; unset it")
    found: list[Compiled] = []
    for capability in options.capability:
        for dtype in options.precision:
            recorded = launches(options.model, options.stages, dtype, capability)
            print("compiling %d kernels in %s for %.1f" % (len(recorded), dtype, capability / 10), flush=True)
            found += [compile_ahead(name, stages, dtype, launch, capability) for name, stages, launch in recorded]
    print("\n".join(["", *table(found)]))
    if options.output is not None:
        record = {"model": options.model, "rows": [row._asdict() for row in found], "hardware": report.hardware()}
        write_json(os.path.join(options.output, "kernels.json"), record)
    bad = faults(found)
    print("\n".join(bad or ["no kernel spills registers or takes more shared memory than a program may have"]))
    return 1 if bad else 0


def faults(rows: list[Compiled]) -> list[str]:
    """Return a line for each kernel that spills, or needs more shared memory than such a GPU gives a program."""
    found = []
    for row in rows:
        if row.spilled_bytes or row.shared_bytes > _SHARED_BYTES.get(row.capability, _LEAST_SHARED_BYTES):
            text = "%s, stage %s, %s, for %.1f: %d bytes of registers spilled, %d bytes of shared memory"
            at = (row.kernel, _numbers(row.stages), row.dtype, row.capability / 10)
            found.append(text % (*at, row.spilled_bytes, row.shared_bytes))
    return found


def launches(model_name: str, stages: list[int], dtype: str, capability: int) -> list[tuple[str, list[int], Launch]]:
    """Return the kernels that blocks of the model launch in `dtype`, each once, with the stages that launch it."""
    from models.fused.sizes import standing_for

    model = create_model(model_name, drop_path_rate=0.1)
    found: dict[str, tuple[str, list[int], Launch]] = {}
    for stage in stages:
        with standing_for(capability // 10), ledger.autocast(dtype):
            recorded = launches_of(model, stage, DTYPES.get(dtype, torch.float32))
        for launch in recorded:
            found.setdefault(launch.key, (launch.kernel.__name__, [], launch))[1].append(stage)
    return sorted(found.values(), key=lambda row: row[:2])


def launches_of(model: Any, stage: int, dtype: torch.dtype) -> list[Launch]:
    """Return what a block of a stage launches in training and in evaluation; nothing is computed."""
    from models.fused.block import mix_tokens
    from models.fused.mlp_operators import channel_mix

    number, side = sum(model.depths[: stage - 1]), model.image_size // model.patch_size >> (stage - 1)
    unit, mixing = model.token_mix[number]
    _, norm, mlp, _ = model.channel_mix[number]
    tokens = torch.zeros(_BATCH, side, side, len(norm.weight), dtype=dtype, requires_grad=True)
    scale = torch.ones(_BATCH, 1, 1, 1, dtype=dtype)
    with recording() as recorded:
        for out in (mix_tokens(tokens, unit, mixing, scale), channel_mix(tokens, norm, mlp, scale)):
            out.backward(torch.zeros_like(out))
        model.eval()
        with torch.no_grad():
            channel_mix(mix_tokens(tokens, unit, mixing, None), norm, mlp, None)
        model.train()
    return list({launch.key: launch for launch in recorded}.values())


@contextlib.contextmanager
def recording() -> Iterator[list[Launch]]:
    """Record the launches of Triton kernels within the context instead of carrying them out."""
    from triton.runtime.jit import JITFunction

    recorded: list[Launch] = []

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **keywords: Any) -> None:
        recorded.append(launch_of(self, args, keywords))

    original = JITFunction.run
    JITFunction.run = run
    try:
        yield recorded
    finally:
        JITFunction.run = original


def launch_of(kernel: Any, args: Any, keywords: dict[str, Any]) -> Launch:
    """Return the launch of `kernel` with these arguments, specialised as Triton does: 1, None and multiples of 16."""
    values = dict(zip(kernel.arg_names, args))
    values.update((name, value) for name, value in keywords.items() if name in kernel.arg_names)
    signature, constants, aligned = {}, {}, []
    for parameter in kernel.params:
        name = parameter.name
        value = values.get(name, parameter.default if parameter.has_default else None)
        if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1):
            signature[name], constants[name] = "constexpr", value
            continue
        signature[name] = type_of(value)
        if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
            aligned.append(name)
    options = {name: value for name, value in keywords.items() if name not in kernel.arg_names}
    return Launch(kernel, signature, constants, tuple(aligned), options)


def type_of(value: Any) -> str:
    """Return Triton's name for the type of an argument."""
    if isinstance(value, torch.Tensor):
        return "*" + _POINTED[str(value.dtype).rpartition(".")[2]]
    return {bool: "u1", int: "i32", float: "fp32"}[type(value)]


def compile_ahead(name: str, stages: list[int], dtype: str, launch: Launch, capability: int) -> Compiled:
    """Compile a kernel for GPUs of this compute capability (90 for 9.0), and return what it takes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    place = {argument: (number,) for number, argument in enumerate(launch.kernel.arg_names)}
    source = ASTSource(
        fn=launch.kernel,
        signature=launch.signature,
        constexprs={place[argument]: value for argument, value in launch.constants.items()},
        attrs={place[argument]: [["tt.divisibility", 16]] for argument in launch.aligned},
    )
    found = triton.compile(source, target=GPUTarget("cuda", capability, _WARP), options=launch.options)
    usage = usage_of(found.asm["cubin"])
    return Compiled(name, stages, dtype, capability, found.metadata.num_warps, *usage, found.metadata.shared)


def usage_of(binary: bytes) -> tuple[int, int]:
    """Return a compiled kernel's registers of a thread, and the bytes of its stack, to which registers are spilled."""
    import triton

    program = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        done = subprocess.run(  # noqa: S603 - Triton's own program
            [program, "-res-usage", file.name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    text = done.stdout.decode(errors="replace")
    found = re.findall(r"REG:(\d+) STACK:(\d+)", text)
    if done.returncode or len(found) != 1:
        raise RunError("kernels: cuobjdump printed no registers: " + one_line(text))
    registers, stack = found[0]
    return int(registers), int(stack)


def table(rows: list[Compiled]) -> list[str]:
    """Return the lines of a Markdown table: a line for a kernel, its stages and a capability, a cell for each dtype."""
    lines = ["| Kernel | Stages | Capability | Precision | Warps | Registers | Spilled bytes | Shared KiB |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in rows:
        capability = "%d.%d" % divmod(row.capability, 10)
        sizes = (row.warps, row.registers, row.spilled_bytes, "%.1f" % (row.shared_bytes / 1024))
        lines.append("| %s |" % " | ".join(map(str, (row.kernel, _numbers(row.stages), capability, row.dtype, *sizes))))
    return lines


def _numbers(stages: list[int]) -> str:
    return ", ".join(map(str, stages))
