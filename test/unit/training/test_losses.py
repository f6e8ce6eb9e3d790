"""--loss bce: the binary cross entropy of each class, as timm has it."""

import pytest
import torch
from torch.nn import functional

from runtime.compat import timm
from training import losses

HAS_BCE = hasattr(timm.loss, "BinaryCrossEntropy")


def random_batch(seed=0, images=12):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, 5, generator=generator), torch.randint(0, 5, (images,), generator=generator)


@pytest.mark.skipif(not HAS_BCE, reason="timm 0.4.5 has no binary cross entropy")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_class_numbers_is_timms(smoothing):
    logits, targets = random_batch()
    ours = losses.build_criterion(False, smoothing, loss="bce")(None, logits, targets)
    assert torch.allclose(ours, timm.loss.BinaryCrossEntropy(smoothing=smoothing)(logits, targets), rtol=1e-6)


def test_mixed_targets_are_taken_as_they_are_and_weights_multiply_the_classes():
    logits, targets = random_batch()[0], random_batch(1)[0].softmax(dim=1)
    weights = torch.tensor([0.5, 1.0, 2.0, 0.0, 1.0])
    each = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    criterion = losses.build_criterion(True, 0.1, weights, "bce")
    assert torch.allclose(criterion(None, logits, targets), (each * weights).mean(), rtol=1e-6)
    plain = losses.build_criterion(True, 0.1, loss="bce")
    assert torch.allclose(plain(None, logits, targets), each.mean(), rtol=1e-6)
