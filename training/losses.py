"""Training criteria."""

import torch
from torch import nn
from torch.nn import functional

from runtime.compat import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy


class Criterion(nn.Module):
    """criterion(inputs, outputs, targets) -> scalar; `inputs` (B, 3, H, W) are there for criteria that need them."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, inputs, outputs, targets):
        return self.base(outputs, targets)


class Distillation(nn.Module):
    """`alpha` parts of what a frozen `teacher` says of the same images, the rest of the criterion `base`.

    `outputs` (B, classes) learn from both; a model with a head for each gives the pair of both. "soft" is the teacher's
    distribution at the temperature `tau`, "hard" its first class (Touvron et al., arXiv 2012.12877; the reference's
    losses.py, which takes pairs alone and so fails with each of its models).
    """

    def __init__(self, base, teacher, kind, alpha, tau):
        super().__init__()
        self.base, self.teacher = base, teacher
        self.kind, self.alpha, self.tau = kind, alpha, tau

    def forward(self, inputs, outputs, targets):
        for_base, for_teacher = outputs if isinstance(outputs, tuple) else (outputs, outputs)
        with torch.no_grad():
            advice = self.teacher(inputs).float()
        taught = self._distance(for_teacher.float(), advice)
        return self.base(inputs, for_base, targets) * (1 - self.alpha) + taught * self.alpha

    def _distance(self, outputs, advice):
        if self.kind == "hard":
            return functional.cross_entropy(outputs, advice.argmax(dim=1))
        own = functional.log_softmax(outputs / self.tau, dim=1)
        teachers = functional.log_softmax(advice / self.tau, dim=1)
        # The published divisor is the number of logits, not of images: classes times less than the divergence's mean.
        return (teachers.exp() * (teachers - own)).sum() * (self.tau**2 / outputs.numel())


def build_criterion(mixes, smoothing):
    """Soft-target cross entropy where images are mixed, else cross entropy with or without label smoothing.

    Mixing means mixup or cutmix: either makes the targets soft (the reference forgets cutmix alone).
    """
    if mixes:
        return Criterion(SoftTargetCrossEntropy())
    if smoothing:
        return Criterion(LabelSmoothingCrossEntropy(smoothing))
    return Criterion(nn.CrossEntropyLoss())
