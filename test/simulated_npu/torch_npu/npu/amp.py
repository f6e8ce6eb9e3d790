"""torch.npu.amp: autocast and the loss scaler, which have no parameter for the device."""

import torch

__all__ = ["GradScaler", "autocast"]


class autocast(torch.amp.autocast_mode.autocast):
    def __init__(self, enabled=True, dtype=torch.float16, cache_enabled=True):
        super().__init__("npu", enabled=enabled, dtype=dtype, cache_enabled=cache_enabled)


class GradScaler(torch.amp.GradScaler):
    def __init__(
        self,
        init_scale=2.0**16,
        growth_factor=2.0,
        backoff_factor=0.5,
        growth_interval=2000,
        dynamic=True,
        enabled=True,
    ):
        super().__init__("npu", init_scale, growth_factor, backoff_factor, growth_interval, enabled)
        self._dynamic = dynamic

    def state_dict(self):
        return dict(super().state_dict(), dynamic=self._dynamic) if self._enabled else {}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self._dynamic = state_dict["dynamic"]
