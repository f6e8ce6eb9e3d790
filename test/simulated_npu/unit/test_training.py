"""Random numbers, autocast, the loss scaler and the fused optimizer on the simulated NPU."""

import pytest
import torch
from torch import nn
from torch.nn import functional

if not hasattr(torch, "npu"):
    pytest.skip("no NPU in this process: test/system/test_npu.py runs this file with one", allow_module_level=True)

import torch_npu


@pytest.fixture(autouse=True)
def first_device():
    torch.npu.set_device(0)


def test_generators_are_the_devices_own():
    torch.manual_seed(5)  # seeds the devices too
    first = torch.rand(4, device="npu")
    torch.npu.manual_seed(5)
    host = torch.random.get_rng_state()
    assert torch.equal(torch.rand(4, device="npu"), first)
    assert torch.equal(torch.random.get_rng_state(), host)
    torch.npu.manual_seed_all(6)
    assert torch.equal(torch.rand(4, device="npu:1").cpu(), torch.rand(4, device="npu").cpu())
    generator = torch.Generator("npu").manual_seed(5)
    assert torch.equal(torch.rand(4, device="npu", generator=generator), first)
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(4, device="npu", generator=torch.Generator())


def test_generator_states():
    states = torch.npu.get_rng_state_all()
    state = torch.npu.get_rng_state()
    assert len(states) == 8 and torch.equal(states[0], state)
    first = torch.rand(3, device="npu")
    torch.npu.set_rng_state(state)
    assert torch.equal(torch.rand(3, device="npu"), first)
    torch.npu.set_rng_state_all(states)
    assert torch.equal(torch.rand(3, device="npu"), first)
    with torch.random.fork_rng(device_type="npu", devices=[0]):
        torch.rand(3, device="npu")


@pytest.mark.parametrize(
    "draw",
    [
        lambda ones: functional.dropout(ones, 0.5),
        lambda ones: torch.native_dropout(ones, 0.5, True)[0],
        lambda ones: ones.bernoulli(0.5),
        lambda ones: torch.randperm(64, device="npu"),
        lambda ones: torch.randn_like(ones),
        lambda ones: ones.multinomial(3),
    ],
)
def test_every_draw_follows_the_devices_seed(draw):
    ones = torch.ones(64, device="npu")
    torch.npu.manual_seed(1)
    first, second = draw(ones), draw(ones)
    host = torch.random.get_rng_state()
    torch.npu.manual_seed(1)
    assert torch.equal(draw(ones), first) and not torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), host)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_casts(dtype):
    images = torch.randn(2, 3, 8, 8, device="npu", requires_grad=True)
    conv, norm, linear = (layer.to("npu") for layer in (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(6, 5)))
    with torch.autocast("npu", dtype=dtype):
        maps = conv(images)
        activated = functional.gelu(norm(maps))
        assert [maps.dtype, activated.dtype] == [dtype, dtype]
        logits = linear(activated)
        assert logits.dtype == (logits @ logits.transpose(2, 3)).dtype == dtype
        for sensitive in (
            functional.layer_norm(logits, (5,)),
            logits.softmax(1),
            logits.log_softmax(1),
            logits.exp(),
            functional.cross_entropy(logits.flatten(1), torch.tensor([0, 1], device="npu")),
        ):
            assert sensitive.dtype == torch.float32
        assert torch.cat([logits, logits.float()]).dtype == torch.float32
        (logits.softmax(1).sum() + logits.log_softmax(1).sum()).backward()
    assert images.grad.dtype == conv.weight.grad.dtype == torch.float32
    assert images.grad.abs().sum() > 0 and images.grad.isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(torch.ones(6, device="npu")).dtype == torch.float32
    assert torch.npu.get_amp_supported_dtype() == [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 0.01), (torch.bfloat16, 0.06)])
def test_gradients_in_half_are_nearly_those_in_full(dtype, tolerance):
    torch.manual_seed(0)
    blocks = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten()]
    model = nn.Sequential(*blocks, nn.Linear(128, 5)).to("npu")
    images, targets = torch.randn(6, 3, 8, 8, device="npu"), torch.arange(6, device="npu") % 5

    def gradients(enabled):
        model.zero_grad()
        with torch.autocast("npu", dtype=dtype, enabled=enabled):
            loss = functional.cross_entropy(model(images), targets)
        loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    full, half = gradients(False), gradients(True)
    assert 0 < (half - full).norm() / full.norm() < tolerance


def test_softmax_gradients_in_half():
    values = torch.randn(3, 5)
    for name in ("softmax", "log_softmax"):
        want = values.clone().requires_grad_()
        (getattr(want, name)(1) * values.cos()).sum().backward()
        half = values.half().to("npu").requires_grad_()
        with torch.autocast("npu"):
            (getattr(half, name)(1) * values.cos().to("npu")).sum().backward()
        assert half.grad.dtype == torch.float16
        assert torch.allclose(half.grad.cpu().float(), want.grad, atol=2e-3)


def test_scaler_skips_a_step_that_overflows():
    layer = nn.Linear(4, 1).to("npu")
    optimizer = torch.optim.AdamW(layer.parameters(), 0.1)
    for scaler in (torch.amp.GradScaler("npu", init_scale=2.0**16), torch_npu.npu.amp.GradScaler()):
        for value, moves in ((0.1, True), (float("inf"), False), (0.1, True)):
            before = layer.weight.detach().clone()
            with torch.autocast("npu"):
                loss = (layer(torch.ones(2, 4, device="npu")).float() * value).mean()
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            assert torch.equal(layer.weight, before) != moves
        assert scaler.get_scale() == 2.0**15
        assert scaler.state_dict()["_growth_tracker"] == 1


def trained(make, device, steps=3):
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    layer.to(device)
    optimizer = make(layer.parameters())
    for step in range(steps):
        optimizer.zero_grad()
        layer(torch.full((2, 4), step + 1.0, device=device)).square().sum().backward()
        optimizer.step()
    return layer.weight.detach().cpu(), optimizer


def test_fused_optimizer_computes_adamw():
    options = {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1}
    want, _ = trained(lambda parameters: torch.optim.AdamW(parameters, **options), "cpu")
    got, optimizer = trained(lambda parameters: torch_npu.optim.NpuFusedAdamW(parameters, **options), "npu")
    assert torch.allclose(got, want, atol=1e-6)
    assert [state["step"] for state in optimizer.state_dict()["state"].values()] == [3, 3]


def test_fused_optimizer_has_limits():
    make = torch_npu.optim.NpuFusedAdamW
    with pytest.raises(TypeError, match="float32 or float16, but received torch.bfloat16"):
        weight = nn.Parameter(torch.ones(2, device="npu", dtype=torch.bfloat16))
        optimizer = make([weight])
        weight.sum().backward()
        optimizer.step()
    _, optimizer = trained(make, "npu")
    with pytest.raises(ValueError, match="set_to_none"):
        optimizer.zero_grad(set_to_none=True)
    with pytest.raises(RuntimeError, match="npu parameters"):
        trained(make, "cpu")
    _, optimizer = trained(make, "npu")
    _, plain = trained(torch.optim.AdamW, "npu")
    optimizer.load_state_dict(dict(optimizer.state_dict(), state=plain.state_dict()["state"]))
    with pytest.raises(TypeError, match="is an int"):
        optimizer.step()


def test_settings():
    assert torch_npu.npu.conv.allow_hf32 and not torch_npu.npu.matmul.allow_hf32
    torch_npu.npu.conv.allow_hf32 = False
    assert not torch.npu.conv.allow_hf32
    torch_npu.npu.conv.allow_hf32 = True
    with pytest.raises(AttributeError, match="allow_hf32"):
        torch_npu.npu.conv.allow_tf32 = False
    torch_npu.npu.set_compile_mode(jit_compile=False)
    assert torch_npu.npu.is_jit_compile_false()
