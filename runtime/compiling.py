"""torch.compile, block by block."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from typing import TYPE_CHECKING, Any, Callable

import torch

from runtime.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from runtime.device import Device

MOST_VARIANTS = 64  # of a block: by its stage's shape, training or not, with drop path or not, with autocast or not


def compiles(choice: str, device: Device, log: Callable[[str], None] = lambda text: None) -> bool:
    """Return whether `--compile choice` ("auto", "on" or "off") compiles on `device`.

    auto: on CUDA if nothing that Triton needs is missing, otherwise `log` gets a line that names it; not on a CPU,
    where compilation takes minutes. UserError if "on" cannot work.
    """
    if choice == "off" or (choice == "auto" and device.kind != "cuda"):
        return False
    missing = _what_is_missing(device)
    if missing and choice == "on":
        raise UserError("--compile on: %s; use --compile off" % missing)
    if missing:
        log("--compile auto: %s; the blocks are not compiled" % missing)
    return missing is None


def _what_is_missing(device: Device) -> str | None:
    if not hasattr(torch, "compile") or not hasattr(torch.nn.Module, "compile"):
        return "torch %s has no torch.compile of modules; 2.1 has" % torch.__version__
    if device.kind == "cpu":
        compiler = os.environ.get("CXX", "g++")
        return None if shutil.which(compiler) else "the C++ compiler %s is missing" % compiler
    return what_triton_misses({"cuda": "triton", "npu": "triton-ascend"}[device.kind])


def what_triton_misses(package: str = "triton") -> str | None:
    """Return None if Triton, from the pip `package`, can compile here, otherwise what is missing.

    Triton compiles the host side of each kernel by a C compiler, against Python's own headers.
    """
    if not importlib.util.find_spec("triton"):
        return "the package %s is not installed" % package
    named = os.environ.get("CC")
    if not any(shutil.which(compiler) for compiler in ([named] if named else ["gcc", "clang"])):
        text = "the C compiler %s of the variable CC is missing" % named if named else "there is no C compiler (gcc)"
        return text + ", which Triton needs"
    header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
    return None if os.path.exists(header) else "there is no %s, which Triton needs (python3-dev)" % header


def compile_blocks(model: nn.Module, choice: str) -> None:
    """Make `model` compile its blocks for each stage's shape, at their first use.

    With "auto", blocks that cannot be compiled run eagerly. The results are the same up to rounding. With deterministic
    algorithms no kernel is chosen by its measured time.
    """
    import torch._dynamo  # takes seconds, and old versions of torch have none

    config = torch._dynamo.config
    for name in ("recompile_limit", "cache_size_limit"):  # the name since torch 2.7, and the one before
        if hasattr(config, name):
            setattr(config, name, MOST_VARIANTS)
            break
    config.suppress_errors = choice == "auto"
    model.apply_block = torch.compile(model.apply_block, dynamic=False, options=_options())


def _options() -> dict[str, Any] | None:
    """Return the options of torch's own compiler."""
    if not torch.are_deterministic_algorithms_enabled():
        return None
    import torch._inductor.config as config

    return {"deterministic": True} if hasattr(config, "deterministic") else None
