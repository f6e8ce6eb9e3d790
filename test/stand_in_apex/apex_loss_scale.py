"""What the two stand-ins for apex.amp share: O1's loss scale and its order of calls, computing in float32."""

import contextlib

import torch

CALLS = []  # what the code asked for, in order
_state = {}


class LossScaler:
    """Dynamic scale: starts at 2**16, doubles after 2000 clean steps (at most 2**24), halves on overflow."""

    def __init__(self):
        self.scale, self.unskipped, self.overflowed = 2.0**16, 0, False

    def update(self, overflowed):
        self.overflowed = overflowed
        if overflowed:
            self.scale, self.unskipped = max(self.scale / 2, 1.0), 0
            return
        self.unskipped += 1
        if self.unskipped == 2000:
            self.scale, self.unskipped = min(self.scale * 2, 2.0**24), 0


def patch(model, optimizer):
    """Make the optimizer skip the step after an overflow, and refuse a distributed model as apex does."""
    if isinstance(model, torch.nn.parallel.DistributedDataParallel):
        raise RuntimeError("Incoming model is an instance of DistributedDataParallel: initialize it first")
    _state["scaler"] = LossScaler()
    step = optimizer.step

    def patched(*arguments, **options):
        if not _state["scaler"].overflowed:
            step(*arguments, **options)

    optimizer.step = patched
    return model, optimizer


@contextlib.contextmanager
def scale_loss(loss, optimizers, loss_id=0, model=None, delay_unscale=False, delay_overflow_check=False):
    """Yield the scaled loss; afterwards, unless delayed, the gradients are unscaled and the scale is updated."""
    scaler = _state["scaler"]
    yield loss.float() * scaler.scale
    if delay_unscale:
        return
    gradients = [parameter.grad for parameter in master_params(optimizers) if parameter.grad is not None]
    overflowed = not all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    for gradient in gradients:
        gradient.div_(scaler.scale)
    CALLS.append(("unscaled", overflowed))
    scaler.update(overflowed)


def master_params(optimizer):
    """The float32 parameters that the optimizer updates."""
    CALLS.append(("master_params",))
    for group in optimizer.param_groups:
        yield from group["params"]


def state_dict(destination=None):
    scaler = _state["scaler"]
    return {"loss_scaler0": {"loss_scale": scaler.scale, "unskipped": scaler.unskipped}}


def load_state_dict(state_dict):
    CALLS.append(("load", dict(state_dict["loss_scaler0"])))
    _state["scaler"].scale = state_dict["loss_scaler0"]["loss_scale"]
    _state["scaler"].unskipped = state_dict["loss_scaler0"]["unskipped"]
