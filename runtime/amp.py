"""Mixed precision: apex O1, native autocast, or float32 throughout, behind one class.

Order of calls: `prepare` (before DDP, and before any state is loaded); then `autocast` and `backward` for each batch,
and `step` for each optimizer step of one or several batches.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from typing import TYPE_CHECKING, Any, ContextManager, Iterable

import torch
from torch.nn.utils import clip_grad_norm_

from runtime.errors import UserError
from runtime.names import AMP_DTYPES

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from runtime.device import Device

DTYPES = {name: getattr(torch, name) for name in AMP_DTYPES}


class Precision:
    """float32 throughout, and the interface of the other precisions.

    `checkpoint_key` is the entry of a checkpoint for `state_dict`, if there is any state.
    """

    name: str = "float32"
    checkpoint_key: str | None = None

    def prepare(self, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Return both, adapted to this precision; call it before the model is wrapped by DDP."""
        return model, optimizer

    def autocast(self) -> ContextManager[Any]:
        """Return the context of a forward pass."""
        return contextlib.nullcontext()

    def backward(self, loss: Tensor, optimizer: Optimizer, more_follow: bool = False) -> None:
        """Accumulate the gradients of `loss`; pass `more_follow` for all but the last backward pass of a step."""
        loss.backward()

    def step(self, optimizer: Optimizer, parameters: Iterable[Tensor], clip_grad: float | None = None) -> None:
        """Update the weights and clear the gradients; `clip_grad` bounds the norm of the unscaled gradients."""
        if clip_grad is not None:
            clip_grad_norm_(parameters, clip_grad)
        optimizer.step()
        optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the loss scaler."""
        return {}

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Restore the loss scale from a checkpoint, whichever precision wrote it."""


class NativePrecision(Precision):
    """torch's autocast; float16 has a loss scale like apex O1's, which starts at 2**16 and doubles after 2000 steps."""

    checkpoint_key = "scaler"

    def __init__(self, device: Device, dtype_name: str) -> None:
        self.name = "native " + dtype_name
        self.kind = device.kind
        self.dtype = DTYPES[dtype_name]
        self.scaler = _make_scaler(device) if dtype_name == "float16" else None

    def autocast(self) -> ContextManager[Any]:
        if hasattr(torch, "autocast"):
            return torch.autocast(self.kind, dtype=self.dtype)
        return getattr(torch, self.kind).amp.autocast()

    def backward(self, loss: Tensor, optimizer: Optimizer, more_follow: bool = False) -> None:
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def step(self, optimizer: Optimizer, parameters: Iterable[Tensor], clip_grad: float | None = None) -> None:
        if self.scaler is None:
            super().step(optimizer, parameters, clip_grad)
            return
        if clip_grad is not None:
            self.scaler.unscale_(optimizer)
            clip_grad_norm_(parameters, clip_grad)
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        return self.scaler.state_dict() if self.scaler else {}

    def load(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint.get("scaler") or _scaler_from_apex(checkpoint.get("amp"))
        if self.scaler and state:
            self.scaler.load_state_dict(dict({"dynamic": True}, **state))  # the NPU's own scaler needs this key


class ApexPrecision(Precision):
    """apex.amp at `opt_level`, NVIDIA's or Ascend's."""

    checkpoint_key = "amp"

    def __init__(self, device: Device, opt_level: str) -> None:
        self.name = "apex " + opt_level
        self.kind = device.kind
        self.opt_level = opt_level
        self.amp = _apex_amp()

    def prepare(self, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        options: dict[str, Any] = {"opt_level": self.opt_level, "loss_scale": "dynamic"}
        # Only Ascend's apex can combine the gradients into one buffer.
        if self.kind == "npu" and "combine_grad" in inspect.signature(self.amp.initialize).parameters:
            options["combine_grad"] = True
        return self.amp.initialize(model, optimizer, **options)

    def backward(self, loss: Tensor, optimizer: Optimizer, more_follow: bool = False) -> None:
        # With a delay the gradients stay scaled, and DDP sums all of them in the last backward pass of the step.
        options = {"delay_unscale": True} if more_follow else {}
        with self.amp.scale_loss(loss, optimizer, **options) as scaled_loss:
            scaled_loss.backward()

    def step(self, optimizer: Optimizer, parameters: Iterable[Tensor], clip_grad: float | None = None) -> None:
        if clip_grad is not None:
            clip_grad_norm_(self.amp.master_params(optimizer), clip_grad)
        optimizer.step()
        optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        return self.amp.state_dict()

    def load(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint.get("amp") or _apex_from_scaler(checkpoint.get("scaler"))
        if state:
            self.amp.load_state_dict(state)


def _scaler_from_apex(state: dict[str, Any] | None) -> dict[str, Any] | None:
    """Convert apex.amp's state to that of torch's GradScaler; return None for None."""
    if not state:
        return None
    scaler = state["loss_scaler0"]
    scale = {"scale": scaler["loss_scale"], "_growth_tracker": scaler["unskipped"]}
    return dict(scale, growth_factor=2.0, backoff_factor=0.5, growth_interval=2000)


def _apex_from_scaler(state: dict[str, Any] | None) -> dict[str, Any] | None:
    """Convert the state of torch's GradScaler to apex.amp's; return None for None."""
    if not state:
        return None
    return {"loss_scaler0": {"loss_scale": state["scale"], "unskipped": state["_growth_tracker"]}}


def cpu_autocast_dtype() -> torch.dtype | None:
    """Return the type that autocast on a CPU computes in now; None where it is off."""
    if hasattr(torch, "get_autocast_dtype"):
        return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    if not hasattr(torch, "is_autocast_cpu_enabled"):
        return None
    return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None


def _make_scaler(device: Device) -> Any:
    options = {"init_scale": 2.0**16, "growth_interval": 2000}
    if hasattr(torch, "amp") and hasattr(torch.amp, "GradScaler") and not device.float16_saturates():
        return torch.amp.GradScaler(device.kind, **options)
    return getattr(torch, device.kind).amp.GradScaler(**options)


def _apex_amp() -> Any:
    """Return apex.amp or None. PyPI's `apex` is an unrelated package, so only one with `apex.amp.initialize` counts."""
    try:
        from apex import amp
    except Exception:
        return None
    return amp if hasattr(amp, "initialize") else None


def _apex_fault() -> str:
    """Return the reason that there is no apex.amp, for a message."""
    try:
        import apex
    except Exception as error:
        return "apex does not import (%s)" % error
    return "the package apex in %s has no amp: PyPI's apex is another package, and NVIDIA's has none since 25.07" % (
        os.path.dirname(getattr(apex, "__file__", None) or "?")
    )


def _has_native(kind: str) -> bool:
    if hasattr(torch, "autocast"):
        return True
    return kind != "cpu" and hasattr(getattr(getattr(torch, kind, None), "amp", None), "autocast")


def select_precision(mode: str, device: Device, dtype_name: str | None = None, opt_level: str = "O1") -> Precision:
    """Return the Precision for `--amp mode` ("auto", "apex", "native" or "none") on `device`.

    auto: on an NPU apex if it is installed (on CUDA only if torch has no autocast, on a CPU never), otherwise native;
    on a CPU native bfloat16 if the processor has the instructions. UserError if the requested precision is missing.
    """
    if mode == "auto":
        mode = _best_mode(device)
    if mode == "apex":
        if device.kind == "cpu":
            raise UserError("--amp apex: apex runs on NPU and CUDA only; use --amp native or --amp none")
        if _apex_amp() is None:
            raise UserError("--amp apex: %s; use --amp native" % _apex_fault())
        return ApexPrecision(device, opt_level)
    if mode == "native":
        if not _has_native(device.kind):
            raise UserError("--amp native: torch %s has no autocast on %s" % (torch.__version__, device.kind))
        dtype_name = dtype_name or ("bfloat16" if device.kind == "cpu" else "float16")
        if device.kind == "cpu" and dtype_name != "bfloat16":
            raise UserError("--amp-dtype %s: on a CPU autocast trains in bfloat16 only" % dtype_name)
        if device.is_accelerator and dtype_name == "bfloat16" and not device.supports_bfloat16():
            raise UserError("--amp-dtype bfloat16: %s does not support it; use float16" % device)
        return NativePrecision(device, dtype_name)
    device.disable_hf32()
    return Precision()


def _best_mode(device: Device) -> str:
    """Return the mode that "auto" selects."""
    if device.kind == "cpu":
        return "native" if _has_native("cpu") and device.supports_bfloat16() else "none"
    apex_wanted = device.kind == "npu" or not _has_native(device.kind)
    if apex_wanted and _apex_amp() is not None:
        return "apex"
    return "native" if _has_native(device.kind) else "none"
