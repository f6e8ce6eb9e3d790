"""Every optimizer and schedule of timm: it works, resumes and follows the rate, or is refused by its name."""

import inspect
import math
import re
import types

import pytest
import torch

import engine
from checkpoints import loading, store
from options import parsing
from runtime.amp import Precision
from runtime.compat import timm
from runtime.errors import UserError
from training import optim

OLD = not hasattr(timm.optim, "list_optimizers")
OF_OLD = ["sgd", "nesterov", "momentum", "adam", "adamw", "nadam", "radam", "adamp", "sgdp", "adadelta", "adafactor"]
OF_OLD += ["adahessian", "rmsprop", "rmsproptf", "novograd", "nvnovograd", "fusedsgd", "fusedmomentum", "fusedadam"]
OF_OLD += ["fusedadamw", "fusedlamb", "fusednovograd"]
OPTIMIZERS = OF_OLD if OLD else timm.optim.list_optimizers()
OPTIMIZERS = OPTIMIZERS + ["lookahead_adamw", "lookahead_sgd", "lookahead_nadam"]
# What only some machines can do, or what is not here; all others must work.
REFUSED = {
    "adahessian": "needs second derivatives",
    "bnb": "CUDA required for bitsandbytes",
    "fused": "CUDA required",
    "kron": "needs the package opt_einsum",
}
if OLD:
    REFUSED.update({"fused": "APEX and CUDA required", "novograd": "use nvnovograd"})


def options(*words):
    return parsing.parse(["--data-path=unused", "--batch-size=512", *words])


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = torch.nn.Conv2d(3, 4, 3), torch.nn.GroupNorm(1, 4), torch.nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).pow(2).mean(dim=(2, 3)))


class Trained:
    """A net under the optimizer, with what resumes it."""

    def __init__(self, name, seed):
        torch.manual_seed(seed)
        self.net = Net()
        self.optimizer = optim.build_optimizer(options("--opt=" + name), self.net, 0.01)
        self.rate = optim.LearningRate(options("--opt=" + name), self.optimizer, 0.01)
        none = ("device", "ranks", "model", "criterion", "learning_rate", "mixup", "clip_grad", "logger")
        average = types.SimpleNamespace(module=None, load_state_dict=lambda state: None)
        parts = {"bare_model": self.net, "ema": average, "optimizer": self.optimizer, "precision": Precision()}
        self.run = engine.Run(**dict({name: None for name in none}, seed=0, **parts))

    def train(self, steps):
        for step in steps:
            torch.manual_seed(step)
            self.rate.set(30 + step)
            images, targets = torch.randn(8, 3, 6, 6), torch.randint(5, (8,))
            torch.nn.functional.cross_entropy(self.net(images), targets).backward()
            self.run.precision.step(self.optimizer, self.net.parameters())
        return self

    def weights(self):
        return torch.cat([parameter.detach().flatten() for parameter in self.net.parameters()])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_works_or_is_refused(name, tmp_path):
    reason = next((REFUSED[start] for start in REFUSED if name.startswith(start)), None)
    if reason is not None and not name.startswith("fused" if torch.cuda.is_available() else "none"):
        with pytest.raises(UserError) as caught:
            Trained(name, 0)
        text = str(caught.value)
        assert text.startswith("--opt %s" % name) and reason in text and "\n" not in text
        return
    whole = Trained(name, 0)
    before = whole.weights()
    path = str(tmp_path / "c.pth")
    store.save_as(whole.train(range(3)).run.state_dict(), path)
    cut = Trained(name, 1)
    cut.run.load_state_dict(loading.load(path))
    whole.train(range(3, 8))
    cut.train(range(3, 8))
    assert torch.isfinite(whole.weights()).all() and (whole.weights() != before).float().mean() > 0.5
    assert torch.equal(cut.weights(), whole.weights())
    slow = Trained(name, 0)
    slow.rate.set = lambda epoch: [group.update(lr=1e-5) for group in slow.optimizer.param_groups]
    assert (slow.train(range(8)).weights() - before).norm() < (whole.weights() - before).norm() / 2


# The fraction of the peak rate after t of 300 epochs with the options' defaults, after the warm-up.
SCHEDULES = {
    "cosine": lambda t: 0.01 + 0.99 * (1 + math.cos(math.pi * t / 300)) / 2,
    "tanh": lambda t: 0.01 + 0.99 * (1 - math.tanh((-6 if OLD else -7) + t / 30)) / 2,
    "step": lambda t: 0.1 ** (t // 30),
    "multistep": lambda t: 0.1 ** sum(t >= milestone for milestone in (90, 180, 270)),
    "poly": lambda t: 0.01 + 0.99 * (1 - t / 300) ** 0.1,
    "wsd": lambda t: 1 if t < 270 else 0.01 + 0.99 * (1 - math.sqrt((t - 270) / 30)),
    "rsqrt": lambda t: 0.01 + (math.sqrt(20 / t) - 0.01) * min(300 - t, 30) / 30,
    "constant": lambda t: 1,
}
NOT_OLD = ("multistep", "poly", "wsd", "rsqrt", "constant")


def rate_of(*words):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.001)
    return optim.LearningRate(options(*words), optimizer, 0.001)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_every_schedule_works_or_is_refused(name):
    if OLD and name in NOT_OLD:
        with pytest.raises(UserError, match="--sched %s with its options is not possible: this timm has no" % name):
            rate_of("--sched=" + name)
        return
    rate = rate_of("--sched=" + name)
    for epoch in (299, 60, 0, 150, 99, 60):  # of the epoch alone, whatever came before
        fraction = SCHEDULES[name](epoch - 1) if epoch else 0.001
        assert rate.set(epoch) / 0.001 == pytest.approx(fraction, rel=1e-4), epoch


@pytest.mark.parametrize("name", ["plateau", "none", "Cosine", "onecycle", ""])
def test_other_schedules_are_refused(name):
    with pytest.raises(UserError) as caught:
        rate_of("--sched=" + name)
    assert str(caught.value).startswith("--sched %s" % name) and "\n" not in str(caught.value)


@pytest.mark.skipif(OLD, reason="timm 0.4.5 has no multistep")
def test_milestones():
    rate = rate_of("--sched=multistep", "--decay-milestones", "40", "50", "--decay-rate=0.5")
    assert [rate.set(epoch) for epoch in (39, 42, 52)] == pytest.approx([1e-3, 5e-4, 2.5e-4])


def test_all_of_timm_s_schedules_are_here():
    """Those that timm's factory compares with; a new one must be tried above."""
    source = inspect.getsource(timm.scheduler.scheduler_factory)
    groups = " ".join(re.findall(r"sched in (\(.*?\))", source))
    found = set(re.findall(r"sched == '(\w+)'", source)) | set(re.findall(r"'(\w+)'", groups))
    assert found <= set(SCHEDULES) | {"plateau"}
