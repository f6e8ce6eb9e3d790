"""A training step as the published loop takes it: the host reads the loss and waits for the device in every step, and
the average of the weights is followed tensor by tensor."""

import copy
import math

import torch

from runtime.compat import LabelSmoothingCrossEntropy


class PlainTraining:
    """AdamW of the recipe over `model`, under a runtime.amp precision."""

    def __init__(self, model, device, precision, decay=0.99996):
        self.model, self.device, self.precision, self.decay = model.train(), device, precision, decay
        self.average = copy.deepcopy(model).eval()
        self.criterion = LabelSmoothingCrossEntropy(0.1)
        groups = [[], []]
        for parameter in model.parameters():
            groups[parameter.dim() > 1].append(parameter)
        groups = [{"params": groups[0], "weight_decay": 0.0}, {"params": groups[1], "weight_decay": 0.05}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-4, eps=1e-8)

    def step(self, images, targets):
        """Train on a batch (B, 3, S, S) and return B."""
        with self.precision.autocast():
            loss = self.criterion(self.model(images), targets)
        if not math.isfinite(loss.item()):
            raise RuntimeError("the loss is not finite")
        self.precision.backward(loss, self.optimizer)
        self.precision.step(self.optimizer, self.model.parameters())
        self.device.synchronize()
        self._follow()
        return len(images)

    @torch.no_grad()
    def _follow(self):
        for average, value in zip(self.average.state_dict().values(), self.model.state_dict().values()):
            if average.is_floating_point():
                average.copy_(average * self.decay + (1.0 - self.decay) * value.detach())
