"""Optimizer, parameter groups and learning rate, by timm's factories."""

import argparse
import importlib.util
import math

import torch
from torch import nn

from runtime.compat import create_optimizer, create_scheduler
from runtime.errors import UserError


def scaled_lr(args, world_size):
    """The peak learning rate: `--lr` for a global batch of 512, in proportion to all that a step takes."""
    return args.lr * args.batch_size * args.grad_accum_steps * world_size / 512.0


def build_optimizer(args, model, lr):
    """The optimizer `--opt` over `model`; weight decay spares biases and 1-d parameters."""
    _check_name(args.opt)
    device = next(model.parameters()).device
    decay = args.layer_decay
    args = _with(args, lr=lr, opt_args={"fused": True} if _can_fuse(args.opt, device) else None)
    args.layer_decay = None  # a recent timm would group by it itself
    try:
        optimizer = create_optimizer(args, model)
        if getattr(optimizer, "is_second_order", False):
            raise UserError("--opt %s needs second derivatives, which are not computed here" % args.opt)
        if hasattr(optimizer, "_momentum_initialized"):
            message = "--opt %s of timm 0.4 takes no weight decay and begins anew in a resumed run: use nvnovograd"
            raise UserError(message % args.opt)
        _rehearse(args, device)
        if decay != 1:
            _split_by_layer(optimizer, model, decay)
    except UserError:
        raise
    except Exception as error:  # an optimizer raises nearly anything on a setting that it did not foresee
        why = str(error) or "this timm has no such optimizer"  # timm 0.4 asserts without a word
        raise UserError("--opt %s with its options is not possible: %s" % (args.opt, why)) from None
    return optimizer


def _split_by_layer(optimizer, model, decay):
    """Give each group one for every layer, whose rate is `decay` times that of the layer above (Clark et al.,
    arXiv 2003.10555); the norm and head above the blocks have the full rate."""
    layer_of = model.group_matcher()
    layers = {id(parameter): layer_of(name) for name, parameter in model.named_parameters()}
    last, groups = max(layers.values()), []
    for group in optimizer.param_groups:
        parts = {}
        for parameter in group["params"]:
            parts.setdefault(layers[id(parameter)], []).append(parameter)
        groups += [
            dict(group, params=parameters, layer_scale=decay ** (last - layer))
            for layer, parameters in sorted(parts.items())
        ]
    optimizer.param_groups[:] = groups


def _check_name(name):
    """UserError for what timm takes without a word, and should not."""
    prefix, _, rest = name.lower().rpartition("_")
    if prefix not in ("", "lookahead") or name.startswith("_"):
        raise UserError("--opt %s is unknown: only lookahead_ may stand before a name" % name)
    if rest.startswith("kron") and importlib.util.find_spec("opt_einsum") is None:
        raise UserError("--opt %s needs the package opt_einsum: a step would fill the memory without it" % name)


def _can_fuse(name, device):
    """Whether torch has one kernel for all parameters' step of `name` on the torch device."""
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


def _rehearse(args, device):
    """Take two steps of the optimizer on a few parameters: some refuse a setting only then, or ask for what is not
    given here, as a closure."""
    module = _Few().to(device)
    wanted = getattr(create_optimizer(_with(args, opt_betas=None), module), "defaults", {}).get("betas")
    if args.opt_betas and wanted and len(wanted) != len(args.opt_betas):
        raise UserError("--opt-betas: %s takes %d, got %s" % (args.opt, len(wanted), args.opt_betas))
    optimizer = create_optimizer(args, module)
    for _ in range(2):
        for parameter in module.parameters():
            parameter.grad = torch.full_like(parameter, 0.01)
        optimizer.step()


class _Few(nn.Module):
    """A parameter of each number of dimensions that a model has."""

    def __init__(self):
        super().__init__()
        shapes = {"bias": (4,), "weight": (4, 4), "kernel": (4, 4, 1, 1)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.full(shape, 0.1)))


class LearningRate:
    """The learning rate of an epoch, set into the optimizer's groups: a function of the epoch alone.

    The reference steps its schedule after each epoch with that epoch's number, so epoch e trains at the schedule's
    value for e - 1, and epochs 0 and 1 both at the first (golden/trajectory.json).
    """

    def __init__(self, args, optimizer, lr):
        self.optimizer = optimizer
        try:
            self.schedule, _ = create_scheduler(_with_lr(args, lr), optimizer)
            if self.schedule is None:
                raise ValueError("this timm has no such schedule")
            self._check(args.epochs)
        except (AssertionError, ValueError, TypeError, ArithmeticError) as error:
            raise UserError("--sched %s with its options is not possible: %s" % (args.sched, error)) from None

    def _check(self, epochs):
        """ValueError or ArithmeticError where the rate of an epoch would not be one; the last is the extreme."""
        for epoch in (epochs, epochs // 2, 0):
            rate = self.set(epoch)
            if not isinstance(rate, float) or not math.isfinite(rate) or not 0 <= rate < 1e30:
                raise ValueError("the rate of epoch %d would be %s" % (epoch, rate))

    def set(self, epoch):
        """Set the rate of `epoch` and return it; with `--layer-decay` a layer takes its part of it."""
        self.schedule.step(max(epoch - 1, 0))
        rate = self.optimizer.param_groups[0]["lr"]
        for group in self.optimizer.param_groups:
            group["lr"] *= group.get("layer_scale", 1)
        return rate


def _with_lr(args, lr):
    return _with(args, lr=lr)


def _with(args, **changes):
    return argparse.Namespace(**dict(vars(args), **changes))
