"""Exponential moving average (EMA) of a model's weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn


class Ema:
    """A copy of `model` that follows its weights: ema = decay * ema + (1 - decay) * model after every step.

    Floating-point buffers are averaged too, integer ones keep their first value (timm's ModelEma, which the reference
    uses). `on_cpu` keeps the copy in host memory. With `warms_up` the decay of the run's step t, counted from 0, is at
    most (1 + t) / (10 + t), so that the initial weights soon lose their influence.
    """

    def __init__(self, model: nn.Module, decay: float, on_cpu: bool = False, warms_up: bool = False) -> None:
        self.decay, self.warms_up = decay, warms_up
        self.module = copy.deepcopy(model).eval()
        if on_cpu:
            self.module.cpu()
        for parameter in self.module.parameters():
            parameter.requires_grad_(False)
        self._pairs: tuple[list[Tensor], list[Tensor]] | None = None

    @torch.no_grad()
    def update(self, model: nn.Module, step: int = 0) -> None:
        """Average in the weights of `model` (not DDP's; the same object in every call) after step `step` of the run."""
        decay = self.decay_at(step)
        if self._pairs is None:  # these tensors are only changed in place, and listing them takes milliseconds
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

    def decay_at(self, step: int) -> float:
        """Return the decay of the update after step `step` of the run."""
        return min(self.decay, (1 + step) / (10 + step)) if self.warms_up else self.decay

    def module_on(self, device: torch.device) -> nn.Module:
        """Return the EMA model on `device`; a copy if it is kept in host memory."""
        if next(self.module.parameters()).device == device:
            return self.module
        return copy.deepcopy(self.module).to(device)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the EMA weights and buffers."""
        return self.module.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.module.load_state_dict(state)


def _floats_of(model: nn.Module) -> list[Tensor]:
    """Return the floating-point tensors of `model`; a tensor that several layers share occurs once."""
    return [value.detach() for value in (*model.parameters(), *model.buffers()) if value.is_floating_point()]


class NoEma:
    """The EMA of a run without one: it keeps no weights."""

    module = None

    def update(self, model: nn.Module, step: int = 0) -> None:
        """Do nothing."""

    def state_dict(self) -> dict[str, Any] | None:
        """Return None."""
        return None

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Do nothing."""
