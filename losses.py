"""Training criteria."""

from torch import nn

from runtime.compat import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy


class Criterion(nn.Module):
    """criterion(inputs, outputs, targets) -> scalar; `inputs` (B, 3, H, W) are there for criteria that need them."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, inputs, outputs, targets):
        return self.base(outputs, targets)


def build_criterion(mixes, smoothing):
    """Soft-target cross entropy where images are mixed, else cross entropy with or without label smoothing.

    Mixing means mixup or cutmix: either makes the targets soft (the reference forgets cutmix alone).
    """
    if mixes:
        return Criterion(SoftTargetCrossEntropy())
    if smoothing:
        return Criterion(LabelSmoothingCrossEntropy(smoothing))
    return Criterion(nn.CrossEntropyLoss())
