"""What a training run is made of."""

from dataclasses import dataclass, field
from typing import Any, Optional

from runtime.seeding import position_seed, seed_host
from runtime.stops import StopSignals


@dataclass
class Run:
    """What a training run is made of; built by build.build_run."""

    device: Any
    ranks: Any
    model: Any  # as trained: distributed where there are several ranks
    bare_model: Any
    ema: Any
    criterion: Any
    optimizer: Any
    precision: Any
    learning_rate: Any
    mixup: Optional[Any]
    clip_grad: Optional[float]
    seed: int
    logger: Any
    print_freq: int = 10
    show_bar: bool = False
    is_compiled: bool = False
    skips_not_finite: bool = False
    rounds: int = 1  # batches of a rank whose gradients make a step
    skipped_in_a_row: int = 0
    stop: Any = field(default_factory=StopSignals)

    def seed_step(self, epoch, number, rank):
        """Set every generator for one batch of the (virtual) rank: mixup, dropout and drop path draw from them."""
        value = position_seed("step", self.seed, epoch, rank, number)
        seed_host(value)
        self.device.seed(value)

    def mix(self, images, targets):
        """Mixed images and soft targets (B, classes), or both unchanged."""
        return self.mixup(images, targets) if self.mixup is not None else (images, targets)

    def state_dict(self):
        """The learned state, by the reference's names."""
        state = {"model": self.bare_model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.ema.module is not None:
            state["model_ema"] = self.ema.state_dict()
        if self.precision.checkpoint_key:
            state[self.precision.checkpoint_key] = self.precision.state_dict()
        return state

    def load_state_dict(self, state):
        """Restore what `state_dict` gave; a checkpoint without EMA starts the average from its weights."""
        self.bare_model.load_state_dict(state["model"])
        self.ema.load_state_dict(state.get("model_ema") or state["model"])
        if state.get("optimizer"):
            self._load_optimizer(state["optimizer"])
        self.precision.load(state)

    def _load_optimizer(self, state):
        """Restore the optimizer's memory; its settings stay those of this run's options and device."""
        names = ("weight_decay", "betas", "eps", "momentum", "foreach", "fused", "layer_scale")
        own, saved = self.optimizer.param_groups, state["param_groups"]
        if len(own) == len(saved):  # else torch says so
            settings = [{name: group[name] for name in names if name in group} for group in own]
            state = dict(state, param_groups=[dict(group, **mine) for group, mine in zip(saved, settings)])
        self.optimizer.load_state_dict(state)
