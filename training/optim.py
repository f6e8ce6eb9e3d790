"""Optimizer, parameter groups and learning rate schedule, by timm's factories, which read the options themselves."""

from __future__ import annotations

import argparse
import importlib.util
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from runtime.compat import create_optimizer, create_scheduler
from runtime.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer


def scaled_lr(options: argparse.Namespace, world_size: int) -> float:
    """Return the peak learning rate: `--lr` times the global batch size over 512."""
    return options.lr * options.batch_size * options.grad_accum_steps * world_size / 512.0


def build_optimizer(options: argparse.Namespace, model: nn.Module, lr: float) -> Optimizer:
    """Return the optimizer `--opt` over `model`; biases and 1-d parameters have no weight decay."""
    _check_name(options.opt)
    device = next(model.parameters()).device
    opt_args = {"fused": True} if _can_fuse(options.opt, device) else None
    settings = _changed(
        options, lr=lr, opt_args=opt_args, layer_decay=None
    )  # a recent timm would group by layer itself
    try:
        optimizer = create_optimizer(settings, model)
        if getattr(optimizer, "is_second_order", False):
            raise UserError("--opt %s needs second derivatives, which are not computed here" % options.opt)
        if hasattr(optimizer, "_momentum_initialized"):
            message = "--opt %s of timm 0.4 has no weight decay and loses its state in a resumed run: use nvnovograd"
            raise UserError(message % options.opt)
        _rehearse(settings, device)
        if options.layer_decay != 1:
            _split_by_layer(optimizer, model, options.layer_decay)
    except UserError:
        raise
    except Exception as error:  # optimizers raise nearly anything for a setting that they do not support
        reason = str(error) or "this timm has no such optimizer"  # timm 0.4 asserts without a message
        raise UserError("--opt %s with its options is not possible: %s" % (options.opt, reason)) from None
    return optimizer


def _split_by_layer(optimizer: Optimizer, model: nn.Module, decay: float) -> None:
    """Split each group into one for every layer, whose rate is `decay` times that of the layer above.

    The norm and head above the blocks have the full rate (layer-wise decay of Clark et al., arXiv 2003.10555).
    """
    layer_of = model.group_matcher()
    layers = {id(parameter): layer_of(name) for name, parameter in model.named_parameters()}
    last, groups = max(layers.values()), []
    for group in optimizer.param_groups:
        parts: dict[int, list[Tensor]] = {}
        for parameter in group["params"]:
            parts.setdefault(layers[id(parameter)], []).append(parameter)
        groups += [
            dict(group, params=parameters, layer_scale=decay ** (last - layer))
            for layer, parameters in sorted(parts.items())
        ]
    optimizer.param_groups[:] = groups


def _check_name(name: str) -> None:
    """Raise UserError for a name that timm accepts although it cannot work."""
    prefix, _, rest = name.lower().rpartition("_")
    if prefix not in ("", "lookahead") or name.startswith("_"):
        raise UserError("--opt %s is unknown: the only prefix of an optimizer's name is lookahead_" % name)
    if rest.startswith("kron") and importlib.util.find_spec("opt_einsum") is None:
        raise UserError("--opt %s needs the package opt_einsum: a step would fill the memory without it" % name)


def _can_fuse(name: str, device: torch.device) -> bool:
    """Return whether torch has a fused kernel for `name`, one for all parameters, on the device."""
    optimizers = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    if name.lower() not in optimizers or device.type not in ("cpu", "cuda"):
        return False
    parameter = nn.Parameter(torch.ones(1, device=device))
    parameter.grad = torch.ones_like(parameter)
    try:
        optimizers[name.lower()]([parameter], fused=True).step()
    except (TypeError, RuntimeError):  # torch < 2, and a CPU before torch 2.4
        return False
    return True


def _rehearse(settings: argparse.Namespace, device: torch.device) -> None:
    """Take two steps of the optimizer on a few parameters.

    Some optimizers refuse a setting only then, or need something that is not available here, such as a closure.
    """
    module = _FewParameters().to(device)
    defaults = getattr(create_optimizer(_changed(settings, opt_betas=None), module), "defaults", {})
    betas = defaults.get("betas")
    if settings.opt_betas and betas and len(betas) != len(settings.opt_betas):
        message = "--opt-betas: %s takes %d values, got %s"
        raise UserError(message % (settings.opt, len(betas), settings.opt_betas))
    optimizer = create_optimizer(settings, module)
    for _ in range(2):
        for parameter in module.parameters():
            parameter.grad = torch.full_like(parameter, 0.01)
        optimizer.step()


class _FewParameters(nn.Module):
    """A parameter of each number of dimensions that occurs in a model."""

    def __init__(self) -> None:
        super().__init__()
        shapes = {"bias": (4,), "weight": (4, 4), "kernel": (4, 4, 1, 1)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.full(shape, 0.1)))


class LearningRate:
    """The learning rate schedule: sets the optimizer's rate for an epoch, as a function of the epoch alone.

    The reference steps its schedule after each epoch with that epoch's number. So epoch e trains at the schedule's
    value for e - 1, and epochs 0 and 1 both train at the first value (golden/trajectory.json).
    """

    def __init__(self, options: argparse.Namespace, optimizer: Optimizer, lr: float) -> None:
        self.optimizer = optimizer
        try:
            self.schedule, _ = create_scheduler(_changed(options, lr=lr), optimizer)
            if self.schedule is None:
                raise ValueError("this timm has no such schedule")
            self._check(options.epochs)
        except (AssertionError, ValueError, TypeError, ArithmeticError) as error:
            raise UserError("--sched %s with its options is not possible: %s" % (options.sched, error)) from None

    def _check(self, epochs: int) -> None:
        """Raise ValueError or ArithmeticError if an epoch's rate would be no usable number; the last is the extreme."""
        for epoch in (epochs, epochs // 2, 0):
            rate = self.set(epoch)
            if not isinstance(rate, float) or not math.isfinite(rate) or not 0 <= rate < 1e30:
                raise ValueError("the rate of epoch %d would be %s" % (epoch, rate))

    def set(self, epoch: int) -> float:
        """Set the rate of `epoch` and return it; with `--layer-decay` each layer gets its fraction of it."""
        self.schedule.step(max(epoch - 1, 0))
        rate = self.optimizer.param_groups[0]["lr"]
        for group in self.optimizer.param_groups:
            group["lr"] *= group.get("layer_scale", 1)
        return rate


def _changed(options: argparse.Namespace, **changes: Any) -> argparse.Namespace:
    """Return a copy of `options`, which are frozen, with some values changed."""
    return argparse.Namespace(**dict(vars(options), **changes))
