"""--class-weights: the loss equals torch's, and the weights are what the numbers of images or a file say."""

import json

import numpy
import pytest
import torch
from torch.nn import functional

from runtime.errors import UserError
from training import class_weights, losses

WEIGHTS = torch.tensor([0.5, 1.0, 3.0, 0.0])
HAS_SMOOTHING = "label_smoothing" in torch.nn.CrossEntropyLoss.__constants__
needs_smoothing = pytest.mark.skipif(not HAS_SMOOTHING, reason="torch before 1.10 has no label smoothing")


def random_batch(seed=0, images=12):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, 4, generator=generator)
    return logits, torch.randint(0, 4, (images,), generator=generator)


def test_the_loss_of_class_numbers_is_torchs():
    logits, targets = random_batch()
    ours = losses.build_criterion(False, 0.0, WEIGHTS)(None, logits, targets)
    assert torch.allclose(ours, functional.cross_entropy(logits, targets, weight=WEIGHTS), rtol=1e-6)


@needs_smoothing
def test_the_smoothed_loss_is_torchs():
    logits, targets = random_batch()
    ours = losses.build_criterion(False, 0.1, WEIGHTS)(None, logits, targets)
    want = functional.cross_entropy(logits, targets, weight=WEIGHTS, label_smoothing=0.1)
    assert torch.allclose(ours, want, rtol=1e-6)


@needs_smoothing
def test_the_loss_of_mixed_targets_is_torchs():
    logits, _ = random_batch()
    targets = random_batch(1)[0].softmax(dim=1)
    ours = losses.build_criterion(True, 0.1, WEIGHTS)(None, logits, targets)
    assert torch.allclose(ours, functional.cross_entropy(logits, targets, weight=WEIGHTS), rtol=1e-6)


def test_weights_fall_with_the_numbers_of_images():
    counts = numpy.array([100, 25, 4])
    weights = numpy.array(class_weights.from_counts(counts, 0.5))
    assert weights / weights[0] == pytest.approx([1.0, 2.0, 5.0])
    assert (weights * counts).sum() == pytest.approx(counts.sum())
    assert class_weights.from_counts(counts, 0.0) == [1.0, 1.0, 1.0]


def test_a_file_gives_the_weights_in_the_order_of_the_classes(tmp_path):
    (tmp_path / "weights.json").write_text(json.dumps({"dog": 3, "cat": 0.5}))
    assert class_weights.read(str(tmp_path / "weights.json"), ["cat", "dog"]) == [0.5, 3.0]


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"cat": 1}', "it has no weight of the class dog"),
        ('{"cat": 1, "dog": 1, "cow": 1}', "there is no class cow"),
        ('{"cat": 1, "dog": -1}', "the weight of the class dog is no number from 0"),
        ('{"cat": 1, "dog": NaN}', "the weight of the class dog is no number from 0"),
        ('{"cat": true, "dog": 1}', "the weight of the class cat is no number from 0"),
        ('{"cat": 0, "dog": 0}', "all weights are 0"),
        ("[1, 2]", "it must hold"),
        ("cat: 1", "Expecting value"),
        (None, "No such file"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_it(tmp_path, text, message):
    path = tmp_path / "weights.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as caught:
        class_weights.read(str(path), ["cat", "dog"])
    assert str(caught.value).startswith("--class-weights %s: " % path) and message in str(caught.value)
