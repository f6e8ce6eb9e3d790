"""Optimizer, parameter groups and learning rate, by timm's factories."""

import argparse

from runtime.compat import create_optimizer, create_scheduler
from runtime.errors import UserError


def scaled_lr(args, world_size):
    """The peak learning rate: `--lr` for a global batch of 512, in proportion to the actual one."""
    return args.lr * args.batch_size * world_size / 512.0


def build_optimizer(args, model, lr):
    """The optimizer `--opt` over `model`; weight decay spares biases and 1-d parameters."""
    try:
        optimizer = create_optimizer(_with_lr(args, lr), model)
    except (AssertionError, ValueError, TypeError, ImportError, ModuleNotFoundError) as error:
        raise UserError("--opt %s with its options is not possible: %s" % (args.opt, error)) from None
    if getattr(optimizer, "is_second_order", False):
        raise UserError("--opt %s needs second derivatives, which are not computed here" % args.opt)
    return optimizer


class LearningRate:
    """The learning rate of an epoch, set into the optimizer's groups: a function of the epoch alone.

    The reference steps its schedule after each epoch with that epoch's number, so epoch e trains at the schedule's
    value for e - 1, and epochs 0 and 1 both at the first (golden/trajectory.json).
    """

    def __init__(self, args, optimizer, lr):
        self.optimizer = optimizer
        try:
            self.schedule, _ = create_scheduler(_with_lr(args, lr), optimizer)
        except (AssertionError, ValueError, TypeError) as error:
            raise UserError("--sched %s with its options is not possible: %s" % (args.sched, error)) from None
        if self.schedule is None:
            raise UserError("--sched %s is unknown" % args.sched)

    def set(self, epoch):
        """Set the rate of `epoch` and return the first group's."""
        self.schedule.step(max(epoch - 1, 0))
        return self.optimizer.param_groups[0]["lr"]


def _with_lr(args, lr):
    return argparse.Namespace(**dict(vars(args), lr=lr))
