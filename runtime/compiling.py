"""torch.compile, block by block."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import TYPE_CHECKING

import torch

from runtime.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from runtime.device import Device

MOST_VARIANTS = 64  # of a block: by its stage's shape, training or not, with drop path or not, with autocast or not


def compiles(choice: str, device: Device) -> bool:
    """Return whether `--compile choice` ("auto", "on" or "off") compiles on `device`.

    auto: on CUDA if Triton is installed; not on a CPU, where compilation takes minutes. UserError if "on" cannot work.
    """
    if choice == "off" or (choice == "auto" and device.kind != "cuda"):
        return False
    missing = _what_is_missing(device)
    if missing and choice == "on":
        raise UserError("--compile on: %s; use --compile off" % missing)
    return missing is None


def _what_is_missing(device: Device) -> str | None:
    if not hasattr(torch, "compile") or not hasattr(torch.nn.Module, "compile"):
        return "torch %s has no torch.compile of modules; 2.1 has" % torch.__version__
    if device.kind == "cpu":
        compiler = os.environ.get("CXX", "g++")
        return None if shutil.which(compiler) else "the C++ compiler %s is missing" % compiler
    names = {"cuda": ("triton", "triton"), "npu": ("triton", "triton-ascend")}
    module, package = names[device.kind]
    return None if importlib.util.find_spec(module) else "the package %s is not installed" % package


def compile_blocks(model: nn.Module, choice: str) -> None:
    """Make `model` compile its blocks for each stage's shape, at their first use.

    With "auto", blocks that cannot be compiled run eagerly. The results are the same up to rounding.
    """
    import torch._dynamo  # takes seconds, and old versions of torch have none

    config = torch._dynamo.config
    for name in ("recompile_limit", "cache_size_limit"):  # the name since torch 2.7, and the one before
        if hasattr(config, name):
            setattr(config, name, MOST_VARIANTS)
            break
    config.suppress_errors = choice == "auto"
    model.apply_block = torch.compile(model.apply_block, dynamic=False)
