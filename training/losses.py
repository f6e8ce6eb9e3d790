"""Training criteria: cross entropy with hard, smoothed or soft targets, and distillation from a teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from runtime.compat import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

if TYPE_CHECKING:
    from torch import Tensor


class Criterion(nn.Module):
    """A loss of outputs and targets, called as criterion(inputs, outputs, targets) -> scalar; `inputs` are not used."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of `outputs` (B, classes) for `targets` (B,) or (B, classes)."""
        return self.base(outputs, targets)


class Distillation(nn.Module):
    """(1 - `alpha`) times the criterion `base` plus `alpha` times the distance to a frozen `teacher`.

    Both are computed from `outputs` (B, classes); a model with a head for each returns a pair of outputs. `kind` "soft"
    compares with the teacher's distribution at the temperature `tau`, "hard" with its most probable class (Touvron et
    al., arXiv 2012.12877; the reference's losses.py, which accepts only pairs and so fails with each of its models).
    """

    def __init__(self, base: nn.Module, teacher: nn.Module, kind: str, alpha: float, tau: float) -> None:
        super().__init__()
        self.base, self.teacher = base, teacher
        self.kind, self.alpha, self.tau = kind, alpha, tau

    def forward(self, inputs: Tensor, outputs: Tensor | tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        """Return the mean loss; the teacher sees the same `inputs` (B, 3, H, W) as the model."""
        for_base, for_teacher = outputs if isinstance(outputs, tuple) else (outputs, outputs)
        with torch.no_grad():
            teacher_logits = self.teacher(inputs).float()
        distance = self._distance(for_teacher.float(), teacher_logits)
        return self.base(inputs, for_base, targets) * (1 - self.alpha) + distance * self.alpha

    def _distance(self, outputs: Tensor, teacher_logits: Tensor) -> Tensor:
        if self.kind == "hard":
            return functional.cross_entropy(outputs, teacher_logits.argmax(dim=1))
        own = functional.log_softmax(outputs / self.tau, dim=1)
        teachers = functional.log_softmax(teacher_logits / self.tau, dim=1)
        # The published divisor is the number of logits, not of images: classes times less than the divergence's mean.
        return (teachers.exp() * (teachers - own)).sum() * (self.tau**2 / outputs.numel())


class WeightedCrossEntropy(nn.Module):
    """Cross entropy with a weight for each class, and label smoothing: torch's CrossEntropyLoss, on any torch.

    With class numbers (B,) as targets the mean is weighted, with distributions (B, classes) it is that over the images.
    """

    weights: Tensor

    def __init__(self, weights: Tensor, smoothing: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.smoothing = smoothing

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of `outputs` (B, classes)."""
        losses = functional.log_softmax(outputs, dim=1) * -self.weights
        if targets.dim() == outputs.dim():
            return (losses * targets).sum() / len(outputs)
        own = losses.gather(1, targets.unsqueeze(1)).sum()
        weighted = (1 - self.smoothing) * own + self.smoothing * losses.sum() / outputs.shape[1]
        return weighted / self.weights[targets].sum()


class BinaryCrossEntropy(nn.Module):
    """The mean over images and classes of each class's binary cross entropy (Wightman et al., arXiv 2110.00476).

    Class numbers become distributions, smoothed by `smoothing`; `weights` (classes,) multiply the classes' terms.
    """

    weights: Tensor | None

    def __init__(self, smoothing: float = 0.0, weights: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.smoothing = smoothing

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of `outputs` (B, classes) for `targets` (B,) or (B, classes)."""
        if targets.dim() < outputs.dim():
            smallest = self.smoothing / outputs.shape[1]
            targets = torch.full_like(outputs, smallest).scatter_(
                1, targets.unsqueeze(1), 1 - self.smoothing + smallest
            )
        targets = targets.to(outputs.dtype)
        return functional.binary_cross_entropy_with_logits(outputs, targets, weight=self.weights)


def build_criterion(mixes: bool, smoothing: float, weights: Tensor | None = None, loss: str = "ce") -> Criterion:
    """Return soft-target cross entropy if images are mixed, else cross entropy with or without label smoothing.

    Mixing means mixup or cutmix: either makes the targets soft (the reference forgets cutmix alone). `weights`
    (classes,) are those of the classes; None for all alike. `loss` "bce" is binary cross entropy for any targets.
    """
    if loss == "bce":
        return Criterion(BinaryCrossEntropy(smoothing, weights))
    if weights is not None:
        return Criterion(WeightedCrossEntropy(weights, smoothing))
    if mixes:
        return Criterion(SoftTargetCrossEntropy())
    if smoothing:
        return Criterion(LabelSmoothingCrossEntropy(smoothing))
    return Criterion(nn.CrossEntropyLoss())
