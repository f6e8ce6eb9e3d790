"""Run: the model, the optimizer and all else that the training loop works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from checkpoints import training_state
from runtime.errors import UserError, lost_a_peer, out_of_memory
from runtime.seeding import position_seed, seed_host
from runtime.signals import StopSignals

if TYPE_CHECKING:
    import logging

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from runtime.amp import Precision
    from runtime.compat import Mixup
    from runtime.device import Device
    from runtime.distributed import Ranks
    from runtime.ema import Ema, NoEma
    from training.optim import LearningRate


@dataclass
class Run:
    """What the training loop works with; built by build.build_run."""

    device: Device
    ranks: Ranks
    model: nn.Module  # as trained: wrapped by DDP if there are several ranks
    bare_model: nn.Module
    ema: Ema | NoEma
    criterion: nn.Module
    optimizer: Optimizer
    precision: Precision
    learning_rate: LearningRate
    mixup: Mixup | None
    clip_grad: float | None  # the largest norm of the gradients
    seed: int
    logger: logging.Logger
    print_freq: int = 10  # steps from one progress line to the next
    show_bar: bool = False
    is_compiled: bool = False
    is_fused: bool = False  # whether the blocks run by models/fused
    skips_not_finite: bool = False  # whether a step whose loss is not finite is skipped, rather than ending the run
    grad_accum_steps: int = 1
    mixup_off_epoch: int = 0  # the first epoch that mixes no images; 0 for none
    skipped_in_a_row: int = 0
    resumed_from: str | None = None  # the checkpoint whose optimizer state no step has proved yet
    stop: StopSignals = field(default_factory=StopSignals)

    def seed_step(self, epoch: int, number: int, rank: int) -> None:
        """Seed every generator for batch `number` of a (virtual) rank: mixup, dropout and drop path use them."""
        value = position_seed("step", self.seed, epoch, rank, number)
        seed_host(value)
        self.device.seed(value)

    def begin_epoch(self, epoch: int) -> None:
        """Set what depends on the epoch alone, but for the learning rate."""
        if self.mixup is not None and self.mixup_off_epoch:
            self.mixup.mixup_enabled = epoch < self.mixup_off_epoch

    def mix(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return mixed images and soft targets (B, classes), or both unchanged without mixup."""
        return self.mixup(images, targets) if self.mixup is not None else (images, targets)

    def state_dict(self) -> dict[str, Any]:
        """Return the trained state under the reference's names."""
        state = {"model": self.bare_model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.ema.module is not None:
            state["model_ema"] = self.ema.state_dict()
        if self.precision.checkpoint_key:
            state[self.precision.checkpoint_key] = self.precision.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of `state_dict`; the EMA starts from the model's weights if the checkpoint has none."""
        self.bare_model.load_state_dict(state["model"])
        self.ema.load_state_dict(state.get("model_ema") or state["model"])
        saved = state.get("optimizer")
        if saved is not None and not (isinstance(saved, dict) and not saved):  # converted files have none
            self.optimizer.load_state_dict(training_state.optimizer_state(saved, self.optimizer))
        training_state.check_scaler(state)
        self.precision.load(state)

    def update(self) -> None:
        """Update the weights by their gradients.

        UserError where the first update after a resume fails on the state of the optimizer: only the optimizer itself
        knows what it needs.
        """
        try:
            self.precision.step(self.optimizer, self.model.parameters(), self.clip_grad)
        except (TypeError, KeyError, IndexError, AttributeError, AssertionError, ValueError, RuntimeError) as error:
            if self.resumed_from is None or out_of_memory(error) or lost_a_peer(error):
                raise
            message = "%s cannot be resumed: the state of its optimizer is damaged, or of another --opt"
            raise UserError(message % self.resumed_from) from None
        self.resumed_from = None
