"""Norms within autocast, beside torch's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from models import norms, shiftvit, smlp, spach
from models.layers import left_product
from runtime import autocast
from runtime.amp import DTYPES, NativePrecision
from runtime.device import Device

BFLOAT16 = DTYPES["bfloat16"]
with_autocast = pytest.mark.skipif(not hasattr(torch, "autocast"), reason="this torch has no autocast on a CPU")
KINDS = [
    (norms.LayerNorm(8), nn.LayerNorm(8), (2, 3, 5, 8)),
    (norms.GroupNorm(2, 8), nn.GroupNorm(2, 8), (2, 8, 3, 5)),
]


@pytest.fixture(params=KINDS, ids=["layer norm", "group norm"])
def pair(request):
    """(our norm, torch's norm of the same weights, an input of both)."""
    ours, torchs, shape = request.param
    torch.manual_seed(3)
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    torchs.load_state_dict(ours.state_dict())
    return ours, torchs, torch.randn(shape) * 3 + 1


def in_autocast():
    return NativePrecision(Device("cpu"), "bfloat16").autocast()


def test_without_autocast_the_bits_are_torchs(pair):
    ours, torchs, x = pair
    assert torch.equal(ours(x), torchs(x))


@with_autocast
def test_within_autocast_a_float32_input_is_treated_as_torch_does(pair):
    ours, torchs, x = pair
    with in_autocast():
        assert ours(x).dtype == torchs(x).dtype
        assert torch.equal(ours(x), torchs(x))


@with_autocast
def test_half_precision_comes_out_in_half_precision_from_float32_sums(pair):
    ours, torchs, x = pair
    x = x.to(BFLOAT16)
    with in_autocast():
        output = ours(x.requires_grad_())
    assert output.dtype == BFLOAT16
    output.sum().backward()
    assert x.grad.dtype == BFLOAT16
    assert [parameter.grad.dtype for parameter in ours.parameters()] == [torch.float32] * 2
    rounded = {name: tensor.to(BFLOAT16).double() for name, tensor in ours.state_dict().items()}
    exact = torchs.double()
    exact.load_state_dict(rounded)
    assert torch.allclose(output.double(), exact(x.double()), rtol=2**-8, atol=0)  # one rounding, of the output
    torchs.float()


@with_autocast
def test_autocast_is_off_where_the_norm_is_computed(pair, monkeypatch):
    ours, _, x = pair
    name, seen = "layer_norm" if isinstance(ours, nn.LayerNorm) else "group_norm", []
    original = getattr(functional, name)

    def watched(x, shape, weight, bias, eps):
        seen.append((autocast.dtype_of_autocast("cpu"), weight.dtype, bias.dtype))
        return original(x, shape, weight, bias, eps)

    monkeypatch.setattr(functional, name, watched)
    with in_autocast():
        ours(x.to(BFLOAT16))
        assert autocast.dtype_of_autocast("cpu") == BFLOAT16
    assert seen == [(None, BFLOAT16, BFLOAT16)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: smlp.sMLPNet(dim=8, depths=(1, 1), image_size=32),
        lambda: spach.Spach([[("mlp", 1)], [("attn", 1)]], hidden_dim=8, num_heads=2, patch_size=4, image_size=32),
        lambda: shiftvit.ShiftViT(embed_dim=16, depths=(1, 1), image_size=32),
    ],
    ids=["smlp", "spach", "shiftvit"],
)
def test_every_norm_of_a_model_is_one_of_these(make):
    found = [module for module in make().modules() if isinstance(module, (nn.LayerNorm, nn.GroupNorm))]
    assert found and all(isinstance(module, (norms.LayerNorm, norms.GroupNorm)) for module in found)


@with_autocast
def test_a_mix_within_autocast_has_the_gradients_of_one_without():
    layer, tokens = nn.Linear(6, 6), torch.randn(4, 6, 5)
    gradients = []
    for context in (in_autocast(), torch.enable_grad()):
        layer.zero_grad()
        with context:
            output = left_product(layer, tokens)
        output.float().square().mean().backward()
        gradients.append(layer.weight.grad.clone())
    assert output.dtype == torch.float32
    assert torch.allclose(gradients[0], gradients[1], rtol=0.05, atol=0.01)
    assert not torch.equal(gradients[0], gradients[1])


def test_a_mix_of_float64_stays_one():
    layer, tokens = nn.Linear(6, 6).double(), torch.randn(4, 6, 5).double()
    with in_autocast() if hasattr(torch, "autocast") else torch.enable_grad():
        assert left_product(layer, tokens).dtype == torch.float64
