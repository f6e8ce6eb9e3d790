"""Precision: apex O1, native autocast, or plain float32, behind one object.

Order of use: `prepare` (before DDP, and before any state is loaded); then for each batch `autocast` and `backward`, and
for each step, of one batch or several, `step`.
"""

import contextlib
import inspect
import os

import torch
from torch.nn.utils import clip_grad_norm_

from runtime.errors import UserError
from runtime.names import AMP_DTYPES

DTYPES = {name: getattr(torch, name) for name in AMP_DTYPES}


class Precision:
    """float32 throughout."""

    name = "float32"
    checkpoint_key = None

    def prepare(self, model, optimizer):
        """Adapt both before the model is distributed."""
        return model, optimizer

    def autocast(self):
        """The context of a forward pass."""
        return contextlib.nullcontext()

    def backward(self, loss, optimizer, more_follow=False):
        """Add the gradients of `loss` to what is there; `more_follow` says that it is not the step's last."""
        loss.backward()

    def step(self, optimizer, parameters, clip_grad=None):
        """One update, which leaves no gradients; `clip_grad` bounds the norm of the true (unscaled) ones."""
        if clip_grad is not None:
            clip_grad_norm_(parameters, clip_grad)
        optimizer.step()
        optimizer.zero_grad()

    def state_dict(self):
        return {}

    def load(self, checkpoint):
        """Take the loss scale from a checkpoint, whichever precision wrote it."""


class NativePrecision(Precision):
    """torch's autocast; for float16 with a loss scale as apex O1 has it (starts at 2**16, doubles after 2000 steps)."""

    checkpoint_key = "scaler"

    def __init__(self, device, dtype_name):
        self.name = "native " + dtype_name
        self.kind = device.kind
        self.dtype = DTYPES[dtype_name]
        self.scaler = _make_scaler(device) if dtype_name == "float16" else None

    def autocast(self):
        if hasattr(torch, "autocast"):
            return torch.autocast(self.kind, dtype=self.dtype)
        return getattr(torch, self.kind).amp.autocast()

    def backward(self, loss, optimizer, more_follow=False):
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def step(self, optimizer, parameters, clip_grad=None):
        if self.scaler is None:
            super().step(optimizer, parameters, clip_grad)
            return
        if clip_grad is not None:
            self.scaler.unscale_(optimizer)
            clip_grad_norm_(parameters, clip_grad)
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad()

    def state_dict(self):
        return self.scaler.state_dict() if self.scaler else {}

    def load(self, checkpoint):
        state = checkpoint.get("scaler") or _scaler_of_apex(checkpoint.get("amp"))
        if self.scaler and state:
            self.scaler.load_state_dict(dict({"dynamic": True}, **state))  # the NPU's own scaler asks for this key


class ApexPrecision(Precision):
    """apex.amp at `opt_level`, NVIDIA's or Ascend's."""

    checkpoint_key = "amp"

    def __init__(self, device, opt_level):
        self.name = "apex " + opt_level
        self.kind = device.kind
        self.opt_level = opt_level
        self.amp = _apex_amp()

    def prepare(self, model, optimizer):
        options = {"opt_level": self.opt_level, "loss_scale": "dynamic"}
        # Ascend's apex alone can combine the gradients into one buffer.
        if self.kind == "npu" and "combine_grad" in inspect.signature(self.amp.initialize).parameters:
            options["combine_grad"] = True
        return self.amp.initialize(model, optimizer, **options)

    def backward(self, loss, optimizer, more_follow=False):
        # Delayed, scaled gradients stay where they are, and DDP adds up all of them in the step's last backward pass.
        options = {"delay_unscale": True} if more_follow else {}
        with self.amp.scale_loss(loss, optimizer, **options) as scaled_loss:
            scaled_loss.backward()

    def step(self, optimizer, parameters, clip_grad=None):
        if clip_grad is not None:
            clip_grad_norm_(self.amp.master_params(optimizer), clip_grad)
        optimizer.step()
        optimizer.zero_grad()

    def state_dict(self):
        return self.amp.state_dict()

    def load(self, checkpoint):
        state = checkpoint.get("amp") or _apex_of_scaler(checkpoint.get("scaler"))
        if state:
            self.amp.load_state_dict(state)


def _scaler_of_apex(state):
    """torch's GradScaler state that goes on where apex.amp's `state` stopped; None for None."""
    if not state:
        return None
    scaler = state["loss_scaler0"]
    scale = {"scale": scaler["loss_scale"], "_growth_tracker": scaler["unskipped"]}
    return dict(scale, growth_factor=2.0, backoff_factor=0.5, growth_interval=2000)


def _apex_of_scaler(state):
    """The opposite of `_scaler_of_apex`."""
    if not state:
        return None
    return {"loss_scaler0": {"loss_scale": state["scale"], "unskipped": state["_growth_tracker"]}}


def _make_scaler(device):
    options = {"init_scale": 2.0**16, "growth_interval": 2000}
    if hasattr(torch, "amp") and hasattr(torch.amp, "GradScaler") and not device.saturates():
        return torch.amp.GradScaler(device.kind, **options)
    return getattr(torch, device.kind).amp.GradScaler(**options)


def _apex_amp():
    """apex.amp, or None. PyPI's `apex` is an unrelated package, so only `apex.amp.initialize` counts."""
    try:
        from apex import amp
    except Exception:
        return None
    return amp if hasattr(amp, "initialize") else None


def _why_no_apex():
    """What is in the place of apex.amp, for a message."""
    try:
        import apex
    except Exception as error:
        return "apex does not import (%s)" % error
    return "the package apex in %s has no amp: PyPI's apex is another package, and NVIDIA's has none since 25.07" % (
        os.path.dirname(getattr(apex, "__file__", None) or "?")
    )


def _has_native(kind):
    if hasattr(torch, "autocast"):
        return True
    return kind != "cpu" and hasattr(getattr(getattr(torch, kind, None), "amp", None), "autocast")


def select_precision(mode, device, dtype_name=None, opt_level="O1"):
    """The Precision for `--amp mode` ("auto", "apex", "native" or "none") on `device`.

    auto: apex where an NPU has it (on CUDA only without native autocast, on a CPU never), else native; on a CPU native
    means bfloat16 where the processor has the instructions. UserError where what is asked for is not there.
    """
    if mode == "auto":
        mode = _choose(device)
    if mode == "apex":
        if device.kind == "cpu":
            raise UserError("--amp apex: apex computes on NPU and CUDA only; use --amp native or --amp none")
        if _apex_amp() is None:
            raise UserError("--amp apex: %s; use --amp native" % _why_no_apex())
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
    device.compute_float32_in_full()
    return Precision()


def _choose(device):
    if device.kind == "cpu":
        return "native" if _has_native("cpu") and device.supports_bfloat16() else "none"
    apex_wanted = device.kind == "npu" or not _has_native(device.kind)
    if apex_wanted and _apex_amp() is not None:
        return "apex"
    return "native" if _has_native(device.kind) else "none"
