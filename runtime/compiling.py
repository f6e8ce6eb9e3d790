"""torch.compile, block by block."""

import importlib.util
import os
import shutil

import torch

from runtime.errors import UserError

MOST_VARIANTS = 64  # of a block: by its stage's shape, training or not, with drop path or not, with autocast or not


def compiles(choice, device):
    """Whether `--compile choice` ("auto", "on" or "off") compiles on the runtime.device.Device.

    auto: on CUDA, where Triton is there; not on a CPU, where the compilation takes minutes. UserError where what is
    asked for cannot be.
    """
    if choice == "off" or (choice == "auto" and device.kind != "cuda"):
        return False
    missing = _what_is_missing(device)
    if missing and choice == "on":
        raise UserError("--compile on: %s; use --compile off" % missing)
    return missing is None


def _what_is_missing(device):
    if not hasattr(torch, "compile") or not hasattr(torch.nn.Module, "compile"):
        return "torch %s has no torch.compile for this (2.1 has)" % torch.__version__
    if device.kind == "cpu":
        compiler = os.environ.get("CXX", "g++")
        return None if shutil.which(compiler) else "there is no C++ compiler %s" % compiler
    names = {"cuda": ("triton", "triton"), "npu": ("triton", "triton-ascend")}
    module, package = names[device.kind]
    return None if importlib.util.find_spec(module) else "the package %s is not installed" % package


def compile_blocks(model, choice):
    """Have `model` compute its blocks by code compiled for each stage's shape, at their first use.

    With "auto" what cannot be compiled is computed as it is written. The results are the same up to rounding.
    """
    import torch._dynamo  # takes seconds, and is not there in an old torch

    config = torch._dynamo.config
    for name in ("recompile_limit", "cache_size_limit"):  # the name from torch 2.7 on, and before
        if hasattr(config, name):
            setattr(config, name, MOST_VARIANTS)
            break
    config.suppress_errors = choice == "auto"
    model.apply_block = torch.compile(model.apply_block, dynamic=False)
