"""The baseline of training: the published training loop's steps, in its order, for the benchmarks to compare with."""

import contextlib
import copy
import math

import torch
from torch.nn import functional

EMA_DECAY = 0.99996
LR = 5e-4


class BaselineEma:
    """The EMA of every entry of the state dict, one tensor after the other, as timm's ModelEma computes it."""

    def __init__(self, model, decay=EMA_DECAY):
        self.decay = decay
        self.module = copy.deepcopy(model).eval()
        for parameter in self.module.parameters():
            parameter.requires_grad_(False)

    @torch.no_grad()
    def update(self, model):
        values = model.state_dict()
        for name, average in self.module.state_dict().items():
            average.copy_(average * self.decay + (1.0 - self.decay) * values[name].detach())


def soft_target_loss(logits, targets):
    """Return the mean cross entropy of `logits` (B, classes) with the soft `targets` (B, classes) of mixup."""
    return torch.sum(-targets * functional.log_softmax(logits, dim=-1), dim=-1).mean()


def baseline_optimizer(model, lr=LR, weight_decay=0.05):
    """Return torch's AdamW with two groups: biases and 1-d parameters do not decay."""
    parameters = list(model.parameters())
    decayed = [parameter for parameter in parameters if parameter.dim() > 1]
    spared = [parameter for parameter in parameters if parameter.dim() <= 1]
    groups = [{"params": spared, "weight_decay": 0.0}, {"params": decayed, "weight_decay": weight_decay}]
    return torch.optim.AdamW(groups, lr=lr)


def baseline_step(model, optimizer, ema, device, autocast=contextlib.nullcontext, scaler=None):
    """Return a function (images, targets) -> loss that takes one training step.

    `images` (B, 3, S, S) are float32 and, like the soft `targets` (B, classes), on the device and mixed by timm.
    `device` has a method `synchronize`; `autocast()` returns the context of the forward pass and the loss; `scaler` is
    a GradScaler for float16, otherwise None.
    """

    def step(images, targets):
        with autocast():
            loss = soft_target_loss(model(images), targets)
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError("the loss is %s" % value)
        optimizer.zero_grad()
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        device.synchronize()
        ema.update(model)
        return value

    return step
