"""Exponential moving average of a model's weights."""

import copy

import torch


class Ema:
    """A copy of `model` whose weights follow it: ema = decay * ema + (1 - decay) * model after every step.

    Floating-point buffers are averaged too, integer ones keep their first value (timm's ModelEma, which the reference
    uses). `on_cpu` keeps the copy in host memory. With `warms_up` the decay of the run's step t, counted from 0, is at
    most (1 + t) / (10 + t), so that the average is soon one of trained weights.
    """

    def __init__(self, model, decay, on_cpu=False, warms_up=False):
        self.decay, self.warms_up = decay, warms_up
        self.module = copy.deepcopy(model).eval()
        if on_cpu:
            self.module.cpu()
        for parameter in self.module.parameters():
            parameter.requires_grad_(False)
        self._pairs = None

    @torch.no_grad()
    def update(self, model, step=0):
        """Follow the run's step number `step` of the bare (not distributed) `model`, the same in every call."""
        decay = self.decay_of(step)
        if self._pairs is None:  # tensors that are only ever changed in place; to list them takes milliseconds
            self._pairs = _floats_of(self.module), _floats_of(model)
        averages, values = self._pairs
        if averages and averages[0].device != values[0].device:
            values = [value.to(averages[0].device) for value in values]
        if hasattr(torch, "_foreach_mul_"):
            torch._foreach_mul_(averages, decay)
            torch._foreach_add_(averages, values, alpha=1 - decay)
            return
        for average, value in zip(averages, values):
            average.mul_(decay).add_(value, alpha=1 - decay)

    def decay_of(self, step):
        """The weight of the average itself in the update after the run's step number `step`."""
        return min(self.decay, (1 + step) / (10 + step)) if self.warms_up else self.decay

    def module_on(self, device):
        """The averaged model on `device`; a copy where the average is kept in host memory."""
        if next(self.module.parameters()).device == device:
            return self.module
        return copy.deepcopy(self.module).to(device)

    def state_dict(self):
        return self.module.state_dict()

    def load_state_dict(self, state):
        self.module.load_state_dict(state)


def _floats_of(model):
    """Its floating-point tensors; one that goes by several names, as in shared layers, is followed once."""
    return [value.detach() for value in (*model.parameters(), *model.buffers()) if value.is_floating_point()]


class NoEma:
    """Stands in where no average is kept."""

    module = None

    def update(self, model, step=0):
        pass

    def state_dict(self):
        return None

    def load_state_dict(self, state):
        pass
