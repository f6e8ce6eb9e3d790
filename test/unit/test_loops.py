"""What the loops count and log, on models and batches made for it."""

import logging
import re
import types

import pytest
import torch
from bare_runs import CPU, Batches, run_of
from recipe import golden

import engine
from training.progress import Progress


class Clock:
    """Advances a quarter of a second at every look, as the golden log lines assume."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 0.25
        return self.now


def progress_lines(caplog, steps, device=CPU):
    caplog.set_level(logging.INFO)
    progress = Progress("Epoch: [0]", steps, device, logging.getLogger("x"), clock=Clock())
    progress.lr = 1e-6
    for step, _ in progress.watch(range(steps)):
        progress.add(torch.tensor([7 - 0.01 * step]), 112)
        if progress.is_due(step):
            progress.settle(progress.take_pending().mean(dim=1).tolist())
    speed = progress.log_summary(112, 2)
    return [record.getMessage() for record in caplog.records], speed, progress


def test_progress_lines_are_the_reference_s(caplog):
    got, speed, progress = progress_lines(caplog, 23)
    want = golden("components")["logging_and_fps"]["sample_ascend_batch_112"]
    assert got[:4] == want[:4]  # the four progress lines
    assert re.fullmatch(r"Epoch: \[0\] Total time: 0:00:1\d \(0\.\d{4} s / it\)", got[4])
    assert got[5] == "iters num: 23, batch_size: 112, world_size: 2"
    assert got[6].startswith("Epoch: [0] FPS: %.2f (" % speed)
    assert got[7] == want[7]  # Averaged stats
    assert speed == pytest.approx(20 * 112 * 2 / progress.timed_seconds)  # 3 steps are not timed and not counted
    assert progress.timed_seconds < progress.seconds - 3 * 0.5


def test_short_epochs_are_timed_whole(caplog):
    _, speed, progress = progress_lines(caplog, 2)
    assert progress.timed_seconds == progress.seconds
    assert speed == pytest.approx(2 * 112 * 2 / progress.seconds)


def test_memory_is_shown_where_there_is_a_device(caplog):
    device = types.SimpleNamespace(synchronize=lambda: None, max_memory_mib=lambda: 1234.5)
    assert progress_lines(caplog, 2, device)[0][0].endswith("  max mem: 1234")


def test_the_progress_bar_shows_the_loss(caplog):
    progress = Progress("Epoch: [0]", 2, CPU, logging.getLogger("x"), bar=True)
    for _ in progress.watch(range(2)):
        progress.settle([6.9])
    assert progress.bar.postfix == "loss 6.9000" and progress.bar.n == 2


def test_evaluation_counts_every_image_once():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 7))
    images, targets = torch.randn(10, 3, 2, 2), torch.randint(0, 7, (10,))
    logits = model(images)
    top5 = logits.topk(5).indices.eq(targets[:, None]).any(1).sum().item()
    for size in (1, 3, 4, 10):
        batches = Batches(zip(images.split(size), targets.split(size)))
        result = engine.evaluate(run_of(model), model, batches)
        assert result.images == 10
        assert result.acc1 == pytest.approx(10.0 * logits.argmax(1).eq(targets).sum().item())
        assert result.acc5 == pytest.approx(10.0 * top5)
        assert result.loss == pytest.approx(torch.nn.functional.cross_entropy(logits, targets).item(), rel=1e-5)


def test_evaluation_with_fewer_than_five_classes():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    result = engine.evaluate(run_of(model), model, Batches([(torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 2, 0]))]))
    assert result.acc5 == 100.0


def test_a_loss_that_is_not_finite_is_reported():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    torch.nn.init.constant_(model[1].bias, float("nan"))
    result = engine.evaluate(run_of(model), model, Batches([(torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 2, 0]))]))
    assert result.loss != result.loss
