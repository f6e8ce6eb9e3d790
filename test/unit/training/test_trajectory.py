"""Twenty steps of training and the learning-rate tables, against the numbers of the published code."""

import numpy
import pytest
import torch
from recipe import batch, fill, golden, names_shapes_sha256, normal, small_mixup, weights_sha256

from models.smlp import sMLPNet
from options import parsing
from runtime.amp import Precision
from runtime.compat import Mixup
from runtime.ema import Ema
from training import losses, optim

GOLDEN = golden("trajectory")


def options(*words):
    return parsing.parse(["--data-path=unused", "--batch-size=8"] + list(words))


def small_net():
    net = GOLDEN["net"]
    return fill(
        sMLPNet(
            dim=net["dim"],
            alpha=net["alpha"],
            patch_size=net["patch_size"],
            depths=net["depths"],
            image_size=net["image_size"],
            num_classes=net["num_classes"],
            drop_path_rate=net["dp_rate"],
        )
    )


class Trajectory:
    """Train the small net for 20 steps as main.py would, with the mixing left out."""

    def __init__(self, lr, epoch_of_step=None, ema_decay=None, clip_grad=None):
        self.model = small_net()
        self.before = {name: value.clone() for name, value in self.model.named_parameters()}
        self.optimizer = optim.build_optimizer(options(), self.model, lr)
        rate = optim.LearningRate(options(), self.optimizer, lr) if epoch_of_step else None
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        criterion, precision = losses.build_criterion(False, 0.1), Precision()
        self.ema = Ema(self.model, ema_decay) if ema_decay else None
        self.losses, self.rates = [], []
        self.model.train()
        for step in range(20):
            if rate:
                rate.set(epoch_of_step(step))
            self.rates.append(self.optimizer.param_groups[0]["lr"])
            images, targets = batch(step)
            loss = criterion(images, self.model(images), targets)
            precision.backward(loss, self.optimizer)
            precision.step(self.optimizer, list(self.model.parameters()), clip_grad)
            if self.ema:
                self.ema.update(self.model)
            self.losses.append(loss.item())

    def moved(self):
        parts = [(value - self.before[name]).double().pow(2).sum() for name, value in self.model.named_parameters()]
        return sum(parts).sqrt().item()


def test_the_net_is_the_recipe_s():
    model = small_net()
    assert names_shapes_sha256(model) == GOLDEN["net"]["names_shapes_sha256"]
    assert weights_sha256(model) == GOLDEN["net"]["weights_sha256"]


def test_optimizer_groups():
    model = small_net()
    optimizer = optim.build_optimizer(options(), model, optim.scaled_lr(options(), 1))
    assert type(optimizer).__name__ == GOLDEN["optimizer"]["cls"]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group, want in zip(optimizer.param_groups, GOLDEN["optimizer"]["groups"]):
        for key in ("weight_decay", "lr", "eps"):
            assert group[key] == want[key]
        assert list(group["betas"]) == want["betas"]
        assert [names[id(parameter)] for parameter in group["params"]] == want["params"]


def compare(got, want):
    numpy.testing.assert_allclose(got.losses, want["losses"], rtol=0, atol=1e-5)
    numpy.testing.assert_allclose(got.rates, want["lr_used"], rtol=1e-9)
    assert got.moved() == pytest.approx(want["final_minus_initial_l2"], rel=1e-3)


def test_constant_rate():
    compare(Trajectory(lr=optim.scaled_lr(options(), 1)), GOLDEN["runs"]["constant_lr_default"])


def test_schedule_with_one_step_an_epoch():
    got = Trajectory(lr=optim.scaled_lr(options(), 1), epoch_of_step=lambda step: step)
    compare(got, GOLDEN["runs"]["scheduler_one_step_per_epoch"])


@pytest.fixture(scope="module")
def fast_run():
    return Trajectory(lr=1e-3, ema_decay=0.99996)


def test_high_rate_weights(fast_run):
    want = GOLDEN["runs"]["constant_lr_1e_3"]
    compare(fast_run, want)
    skipped = GOLDEN["do_not_compare"]["params"]
    moved = {name: (value - fast_run.before[name]).norm().item() for name, value in fast_run.model.named_parameters()}
    for name, distance in want["per_param_final_minus_initial_l2"].items():
        if name not in skipped:
            assert moved[name] == pytest.approx(distance, rel=1e-3), name


def eval_logits(model):
    with torch.no_grad():
        return model.eval()(normal("traj_eval", (4, 3, 32, 32))).numpy()


def test_logits_after_training(fast_run):
    want = GOLDEN["runs"]["constant_lr_1e_3"]["eval_logits_after"]
    numpy.testing.assert_allclose(eval_logits(fast_run.model), want, rtol=0, atol=2e-3)


def test_ema_weights(fast_run):
    want = GOLDEN["runs"]["constant_lr_1e_3"]["ema_decay_0.99996"]
    numpy.testing.assert_allclose(eval_logits(fast_run.ema.module), want["eval_logits"], rtol=0, atol=2e-5)
    entries = list(fast_run.ema.state_dict().values())
    norm = sum(value.double().pow(2).sum() for value in entries if value.is_floating_point()).sqrt().item()
    assert norm == pytest.approx(want["l2_of_float_entries"], rel=1e-6)
    assert sorted({value.item() for value in entries if not value.is_floating_point()}) == want["num_batches_tracked"]


def test_clipping_bounds_the_update():
    """The recipe says where clipping at 1.0 ends; without clipping the last loss differs in the third digit."""
    clipped = Trajectory(lr=1e-3, clip_grad=1.0)
    assert clipped.losses[-1] == pytest.approx(3.13785, abs=2e-5)
    assert abs(clipped.losses[-1] - GOLDEN["runs"]["constant_lr_1e_3"]["losses"][-1]) > 1e-3


def rates(words, epochs, lr):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=lr)
    rate = optim.LearningRate(options(*words), optimizer, lr)
    return [rate.set(epoch) for epoch in range(epochs)]


@pytest.mark.parametrize(
    "name, batch_size, world_size",
    [
        ("batch 8 x1", 8, 1),
        ("batch 128 x1", 128, 1),
        ("batch 128 x8", 128, 8),
        ("ascend batch 112 x1", 112, 1),
        ("ascend batch 112 x8", 112, 8),
    ],
)
def test_rate_table(name, batch_size, world_size):
    want = GOLDEN["lr_schedule_default_args"][name]
    lr = optim.scaled_lr(options("--batch-size=%d" % batch_size), world_size)
    assert lr == pytest.approx(want["base_lr"], rel=1e-12)
    numpy.testing.assert_allclose(rates([], 300, lr), want["lr_used_epoch_0_309"][:300], rtol=1e-6)


def test_rate_table_with_five_warm_up_epochs():
    want = GOLDEN["lr_schedule_warmup_epochs_5"]["lr_used_epoch_0_309"][:300]
    numpy.testing.assert_allclose(rates(["--warmup-epochs=5"], 300, 1e-3), want, rtol=1e-6)


def test_rate_does_not_depend_on_what_came_before():
    table = rates([], 300, 1e-3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    rate = optim.LearningRate(options(), optimizer, 1e-3)
    assert [rate.set(epoch) for epoch in (250, 3, 250, 0)] == [table[epoch] for epoch in (250, 3, 250, 0)]


FIXED = golden("components")["mixup"]["fixed_lam"]
CALLS = golden("components")["mixup"]["full_calls"]["calls"]
OLD_CALLS = {
    (call["mode"], call["np_seed"]): call for call in golden("components")["timm_0_4_5"]["mixup_full_calls_that_differ"]
}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: "%s-%d" % (call["mode"], call["np_seed"]))
def test_mixup_call(call):
    import timm

    old = OLD_CALLS.get((call["mode"], call["np_seed"]), call)
    want = dict(call, **old) if timm.__version__.startswith("0.") else call
    numpy.random.seed(want["np_seed"])
    images, targets = small_mixup(want["mode"])(normal("mixup", (8, 3, 32, 32)), torch.arange(8))
    numpy.testing.assert_allclose(images.double().sum(dim=(1, 2, 3)), want["sum_per_sample"], rtol=0, atol=1e-3)
    numpy.testing.assert_allclose(targets[0], want["target_row0"], rtol=0, atol=1e-6)
    numpy.testing.assert_allclose(targets[1], want["target_row1"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", FIXED, ids=lambda case: "lam%s-smoothing%s" % (case["lam"], case["smoothing"]))
def test_mixup_targets(case):
    mixup = Mixup(0.8, 1.0, label_smoothing=case["smoothing"], num_classes=case["num_classes"])
    mixup._params_per_batch = lambda: (case["lam"], False)
    _, targets = mixup(torch.zeros(4, 3, 8, 8), torch.tensor(case["target"]))
    numpy.testing.assert_allclose(targets, case["mixed"], rtol=0, atol=1e-7)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_mixup_refuses_an_odd_batch(mode):
    with pytest.raises((AssertionError, ValueError)):
        small_mixup(mode)(torch.zeros(3, 3, 8, 8), torch.arange(3))


def test_criterion_follows_the_targets():
    logits, hard = torch.randn(4, 10), torch.tensor([1, 2, 3, 4])
    soft = torch.nn.functional.one_hot(hard, 10).float()
    plain = torch.nn.functional.cross_entropy(logits, hard)
    assert torch.allclose(losses.build_criterion(False, 0.0)(None, logits, hard), plain)
    assert torch.allclose(losses.build_criterion(True, 0.1)(None, logits, soft), plain)
    smoothed = 0.9 * plain + 0.1 * -torch.log_softmax(logits, 1).mean()
    assert torch.allclose(losses.build_criterion(False, 0.1)(None, logits, hard), smoothed)
