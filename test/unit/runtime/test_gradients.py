"""How DDP averages gradients: in a process group of one process, which has all of DDP's machinery."""

import copy
import types

import pytest
import torch
from small_models import SMALL_SIBLINGS, create_small_model
from torch import distributed, nn

from runtime import amp, gradients
from runtime.device import Device
from runtime.errors import UserError
from runtime.gradients import Averaging
from training import build

CPU = Device("cpu")
MODELS = {"smlp": lambda: create_small_model("smlpnet_tiny", num_classes=3, image_size=32)}
MODELS.update(
    (name, lambda family=family, keywords=keywords: family(num_classes=3, image_size=32, **keywords))
    for name, (family, keywords) in SMALL_SIBLINGS.items()
)


@pytest.fixture(autouse=True, scope="module")
def one_process(tmp_path_factory):
    place = tmp_path_factory.mktemp("group") / "rendezvous"
    distributed.init_process_group("gloo", "file://%s" % place, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


class TwoHeads(nn.Module):
    """A model with one head that is used and one that is not, of which a run returns a pair with `both`."""

    def __init__(self, both=False):
        super().__init__()
        self.first, self.second, self.both = nn.Linear(12, 2), nn.Linear(12, 2), both

    def forward(self, images):
        flat = images.flatten(1)
        return (self.first(flat), self.second(flat)) if self.both else self.first(flat)


def small_model():
    torch.manual_seed(0)
    return MODELS["smlp"]()


def images_of(side=32, count=4, seed=0):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def groups_again(wrapped, side=32):
    """Whether DDP regroups its buckets after a step."""
    wrapped(images_of(side)).sum().backward()
    return wrapped.reducer._rebuild_buckets()


@pytest.mark.skipif(
    not hasattr(distributed.Reducer, "_rebuild_buckets"), reason="this torch does not regroup buckets of gradients"
)
def test_buckets_are_grouped_for_good_before_the_first_step():
    assert groups_again(nn.parallel.DistributedDataParallel(small_model()))
    assert not groups_again(gradients.average(small_model(), CPU, Averaging()))
    assert not groups_again(gradients.average(TwoHeads(), CPU, Averaging(finds_unused=True)), 2)


def test_grouping_leaves_everything_else_as_it_was():
    model = small_model()
    model.mlp_head[0].weight.requires_grad_(False)
    state, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    replaced = model.forward
    for forward in (None, lambda images: replaced(images)):
        if forward is not None:
            model.forward = forward  # as apex does
        gradients.average(model, CPU, Averaging())
        assert vars(model).get("forward") is forward
        assert all(parameter.grad is None for parameter in model.parameters())
        assert model.training and torch.equal(torch.get_rng_state(), generator)
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_of_our_models_gets_a_gradient(name):
    model = MODELS[name]()
    state = copy.deepcopy(model.state_dict())
    assert gradients.parameters_without_gradient(model, images_of(count=1)) == []
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_parameter_without_a_gradient_is_found():
    assert gradients.parameters_without_gradient(TwoHeads(), images_of(2)) == ["second.weight", "second.bias"]
    assert gradients.parameters_without_gradient(TwoHeads(both=True), images_of(2)) == []
    frozen = TwoHeads()
    frozen.second.requires_grad_(False)
    assert gradients.parameters_without_gradient(frozen.eval(), images_of(2)) == []
    assert not frozen.training


def test_a_model_with_a_parameter_without_a_gradient_trains():
    for unused in (True, False):
        wrapped = gradients.average(TwoHeads(both=not unused), CPU, Averaging(finds_unused=unused))
        for _ in range(3):
            outputs = wrapped(images_of(2))
            sum(output.sum() for output in (outputs if isinstance(outputs, tuple) else (outputs,))).backward()
            assert wrapped.module.first.weight.grad.ne(0).any()
            assert unused or wrapped.module.second.weight.grad.ne(0).any()
            wrapped.zero_grad()


def storages_of(model):
    return {parameter.grad.untyped_storage().data_ptr() for parameter in model.parameters()}


@pytest.mark.skipif(not hasattr(torch, "compile"), reason="zero_grad of this torch keeps the gradients")
def test_gradients_lie_in_the_buckets_unless_apex_computes_them():
    counts = {}
    for shares in (True, False):
        wrapped = gradients.average(small_model(), CPU, Averaging(may_share=shares))
        wrapped(images_of()).sum().backward()
        counts[shares] = len(storages_of(wrapped.module))
    assert counts[True] < 3 < len(list(small_model().parameters())) == counts[False]
    assert amp.Precision.may_share_gradients and not amp.ApexPrecision.may_share_gradients


def train(model, step_of, passes=2):
    """Take steps of `passes` batches with clipped gradients, of which the second is not finite and dropped."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(4):
        for part in range(passes):
            loss = step_of(model, part == passes - 1, images_of(seed=2 * step + part))
            if step == 1:
                optimizer.zero_grad()
                break
            loss.backward()
        else:
            amp.Precision().step(optimizer, model.parameters(), 0.5)


@pytest.mark.parametrize("passes", [1, 2])
def test_steps_through_ddp_have_the_bits_of_steps_without(passes):
    def alone(model, is_last, images):
        return model(images).pow(2).mean()

    def averaged(model, is_last, images):
        if is_last:
            return alone(model, is_last, images)
        with model.no_sync():
            return alone(model, is_last, images)

    bare, inner = small_model(), small_model()
    train(bare, alone, passes)
    train(gradients.average(inner, CPU, Averaging()), averaged, passes)
    for name, value in inner.state_dict().items():
        assert torch.equal(value, bare.state_dict()[name]), name
    assert not torch.equal(inner.mlp_head[0].weight, small_model().mlp_head[0].weight)


@pytest.mark.skipif(not hasattr(torch, "amp"), reason="this torch has no loss scale on a CPU")
def test_a_loss_scale_skips_steps_that_overflow_in_the_buckets():
    found = {}
    for name in ("bare", "averaged"):
        model = small_model()
        trained = gradients.average(model, CPU, Averaging()) if name == "averaged" else model
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        optimizer = torch.optim.AdamW(trained.parameters(), lr=0.1)
        for step in range(3):
            factor = float("inf") if step == 1 else 1.0
            scaler.scale(trained(images_of(seed=step)).pow(2).mean() * factor).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(trained.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        assert scaler.get_scale() == 2.0**15
        found[name] = model.state_dict()
    assert all(torch.equal(value, found["bare"][name]) for name, value in found["averaged"].items())


def test_bf16_rounds_what_is_sent_or_is_refused(monkeypatch):
    averaging = Averaging(compression="bf16")
    if not hasattr(torch, "compile"):
        with pytest.raises(UserError, match="--grad-compression bf16: torch .* leave it out"):
            gradients.average(small_model(), CPU, averaging)
        return
    hooks, register = [], nn.parallel.DistributedDataParallel.register_comm_hook
    monkeypatch.setattr(
        nn.parallel.DistributedDataParallel,
        "register_comm_hook",
        lambda wrapped, state, hook: hooks.append(hook) or register(wrapped, state, hook),
    )
    gradients.average(small_model(), CPU, Averaging())
    assert not hooks
    gradients.average(small_model(), CPU, averaging)
    values = torch.randn(100)
    sent = hooks[0](None, types.SimpleNamespace(buffer=values.clone)).wait()
    assert sent.dtype == values.dtype and not torch.equal(sent, values)
    assert torch.equal(sent, values.to(amp.DTYPES["bfloat16"]).to(values.dtype))


def averaging_of(precision, world_size=2, unused=(), **options):
    lines = []
    ranks, logger = types.SimpleNamespace(world_size=world_size), types.SimpleNamespace(warning=lines.append)
    options = types.SimpleNamespace(**dict({"grad_compression": "bf16"}, **options))
    return build.averaging_of(options, ranks, precision, unused, logger), lines


def test_compression_needs_several_processes_and_no_apex():
    assert averaging_of(amp.Precision) == (Averaging(compression="bf16"), [])
    assert averaging_of(amp.Precision, unused=["head"], grad_compression="none")[0] == Averaging(finds_unused=True)
    found, lines = averaging_of(amp.ApexPrecision, world_size=1)
    assert found == Averaging(may_share=False) and lines == ["--grad-compression has no effect: there is one process"]
    with pytest.raises(UserError, match="--grad-compression bf16 does not work with apex: pass --amp native or none"):
        averaging_of(amp.ApexPrecision)
