"""Whether a model's blocks run by the fused kernels: `--fused auto|on|off`. Triton is imported only where they may."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from models.fused.sizes import is_interpreted
from models.smlp import sMLPNet
from runtime.errors import UserError

if TYPE_CHECKING:
    import logging

    from runtime.amp import Precision
    from runtime.device import Device
    from runtime.distributed import Ranks


class Setting(NamedTuple):
    """What the choice depends on beside the model."""

    device: Device
    precision: Precision
    trains: bool
    deterministic: bool
    compiles: bool  # whether compiling was asked for
    syncs: bool  # whether batch norm is synchronised over the processes


def fuse_blocks(model: nn.Module, choice: str, setting: Setting, ranks: Ranks, logger: logging.Logger) -> bool:
    """Make `model` run its blocks by the fused kernels if `choice` is "on", or "auto" and they are right and faster.

    Return whether it does. UserError where "on" cannot work. All ranks decide alike.
    """
    if choice == "off" or (choice == "auto" and setting.device.kind != "cuda"):
        return False
    reason = obstacle(model, setting)
    if reason is None:
        reason = _fault(model, choice, setting)
        if ranks.any(reason is not None):
            reason = reason or "another process has found a fault of theirs"
    if reason is not None and choice == "on":
        raise UserError("--fused on: %s; use --fused off" % reason)
    if reason is not None:
        logger.info("--fused auto: the fused kernels are not used: %s", reason)
        return False
    from models.fused.block import FusedBlock

    model.apply_block = FusedBlock(model.apply_block)
    return True


def obstacle(model: Any, setting: Setting) -> str | None:
    """Return why the kernels cannot run the blocks of `model` in this setting; None if they may."""
    if not isinstance(model, sMLPNet):
        return "they are for the blocks of sMLPNet alone"
    if model.token_layout != "permute":
        return "they compute --token-layout permute, not %s" % model.token_layout
    if setting.precision.checkpoint_key == "amp":
        return "apex changes the blocks' functions; take --amp native"
    if setting.syncs:
        return "--sync-bn sums over processes within a block"
    if setting.compiles:
        return "--compile on compiles the blocks"
    return _what_is_missing(setting.device)


def _what_is_missing(device: Device) -> str | None:
    if device.kind != "cuda" and not (device.kind == "cpu" and is_interpreted()):
        return "they need a CUDA device, not %s" % device.kind
    if not hasattr(getattr(torch, "library", None), "custom_op"):
        return "this torch has no custom operators; 2.4 has"
    return None if importlib.util.find_spec("triton") else "the package triton is not installed"


def _fault(model: nn.Module, choice: str, setting: Setting) -> str | None:
    """Return what speaks against the kernels on this device once they have run there; the interpreter is trusted."""
    if setting.device.kind == "cpu":
        return None
    from models.fused import checks

    return checks.fault(model, setting, is_timed=choice == "auto" and not setting.deterministic)
