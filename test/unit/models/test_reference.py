"""The model and its training step equal the baseline.

Both sum the same terms in another order, so logits, gradients and statistics agree to float32 rounding: the tolerance
is a part in 10,000 of the largest value of each tensor, and as much of the largest gradient of all where a gradient is
zero but for rounding (a bias before a batch norm, say).
"""

import baseline_siblings
import pytest
import torch
from baseline_smlp import WIDTHS_AND_DEPTHS, BaselineSMLPNet, baseline_model
from baseline_training import BaselineEma, baseline_optimizer, baseline_step, soft_target_loss
from recipe import fill, normal
from small_models import SMALL_SIBLINGS

from models.smlp import sMLPNet
from runtime.amp import Precision
from runtime.compat import create_model
from runtime.device import Device
from runtime.ema import Ema
from training import losses

TOLERANCE = 1e-4
SMALL = {"dim": 16, "depths": (1, 1, 2, 1), "image_size": 64, "num_classes": 10}
WIDE = {"dim": 80, "depths": (1, 1, 1, 1), "image_size": 224, "num_classes": 1000}


def pair(net):
    """(ours, baseline) with the same weights."""
    ours, baseline = fill(sMLPNet(**net)), BaselineSMLPNet(**net)
    baseline.load_state_dict(ours.state_dict())
    return ours, baseline.eval()


def soft_targets(classes):
    return torch.softmax(normal("targets", (2, classes)), dim=1)


def assert_close(ours, baseline, scale=None):
    """Compare dictionaries of tensors, each to a part in 10,000 of the larger of its largest value and `scale`."""
    assert set(ours) == set(baseline)
    for name, value in baseline.items():
        bound = TOLERANCE * max(value.abs().max().item(), scale or 0.0)
        assert (ours[name] - value).abs().max().item() <= bound, name


@pytest.mark.parametrize("net", [SMALL, WIDE], ids=["small", "wide"])
def test_logits_in_evaluation(net):
    ours, baseline = pair(net)
    images = normal("input", (2, 3, net["image_size"], net["image_size"]))
    with torch.no_grad():
        assert_close({"logits": ours(images)}, {"logits": baseline(images)})


@pytest.mark.parametrize("is_training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("net", [SMALL, WIDE], ids=["small", "wide"])
def test_gradients_and_running_statistics(net, is_training):
    both, images = pair(net), normal("input", (2, 3, net["image_size"], net["image_size"]))
    logits = {}
    for model in both:
        logits[model] = model.train(is_training)(images)
        soft_target_loss(logits[model], soft_targets(net["num_classes"])).backward()
    ours, baseline = both
    assert_close({"logits": logits[ours]}, {"logits": logits[baseline]})
    gradients = [{name: value.grad for name, value in model.named_parameters()} for model in both]
    assert_close(*gradients, scale=max(value.abs().max().item() for value in gradients[1].values()))
    statistics = [{name: value for name, value in model.named_buffers() if value.is_floating_point()} for model in both]
    assert_close(*statistics)


@pytest.mark.parametrize("name", WIDTHS_AND_DEPTHS)
def test_state_dicts_and_drop_path_rates_are_the_same(name):
    ours, baseline = create_model(name), baseline_model(name)
    shapes = [[(key, value.shape) for key, value in model.state_dict().items()] for model in (ours, baseline)]
    assert shapes[0] == shapes[1]
    rates = [[getattr(drop, "drop_prob", 0.0) for drop in model.drop_path] for model in (ours, baseline)]
    assert rates[0] == pytest.approx(rates[1], abs=1e-6)


def test_drop_path_samples_the_same():
    ours, baseline = pair(dict(SMALL, drop_path_rate=0.5))
    logits = []
    for model in (ours, baseline):
        torch.manual_seed(1)
        logits.append(model.train()(normal("input", (4, 3, 64, 64))))
    assert_close({"logits": logits[0]}, {"logits": logits[1]})


def test_losses_of_three_steps():
    ours, baseline = pair(SMALL)
    targets, optimizer = soft_targets(10), baseline_optimizer(ours)
    precision, criterion = Precision(), losses.build_criterion(True, 0.0)
    take = baseline_step(baseline.train(), baseline_optimizer(baseline), BaselineEma(baseline), Device("cpu"))
    ours.train()
    for step in range(3):
        images = normal("step%d" % step, (2, 3, 64, 64))
        loss = criterion(images, ours(images), targets)
        precision.backward(loss, optimizer)
        precision.step(optimizer, list(ours.parameters()))
        assert loss.item() == pytest.approx(take(images, targets), rel=1e-3)


def test_ema_weights():
    ours, baseline = pair(SMALL)
    emas = Ema(ours, 0.9), BaselineEma(baseline, 0.9)
    with torch.no_grad():
        for model in (ours, baseline):
            for parameter in model.parameters():
                parameter.mul_(2)
    emas[0].update(ours)
    emas[1].update(baseline)
    states = [ema.module.state_dict() for ema in emas]
    assert_close(*[{name: value for name, value in state.items() if value.is_floating_point()} for state in states])
    assert not torch.equal(states[1]["mlp_head.0.weight"], baseline.state_dict()["mlp_head.0.weight"])


def test_a_loss_that_is_not_finite_ends_the_baseline_training():
    baseline = BaselineSMLPNet(**SMALL)
    take = baseline_step(baseline, baseline_optimizer(baseline), BaselineEma(baseline), Device("cpu"))
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        take(torch.full((2, 3, 64, 64), float("nan")), soft_targets(10))


@pytest.mark.parametrize("is_training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", SMALL_SIBLINGS)
def test_the_siblings_equal_their_baseline(kind, is_training):
    make, words = SMALL_SIBLINGS[kind]
    words = dict(words, image_size=32, num_classes=5, drop_path_rate=0.0 if is_training else 0.5)
    both = fill(make(**words)), baseline_siblings.as_baseline(fill(make(**words)))
    images, logits = normal("input", (4, 3, 32, 32)), []
    for model in both:
        model.train(is_training)
        logits.append(model(images.contiguous(memory_format=torch.channels_last) if model is both[0] else images))
        soft_target_loss(logits[-1], torch.softmax(normal("targets", (4, 5)), dim=1)).backward()
    assert_close({"logits": logits[0]}, {"logits": logits[1]})
    gradients = [{name: value.grad for name, value in model.named_parameters()} for model in both]
    assert_close(*gradients, scale=max(value.abs().max().item() for value in gradients[1].values()))
    assert not {type(module) for module in both[0].modules()} & set(baseline_siblings.BASELINE_MODULES)
    assert type(both[1]) in baseline_siblings.BASELINE_MODULES
