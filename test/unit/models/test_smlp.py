"""What a user may ask of sMLPNet beyond its published form."""

import math

import pytest
import torch
from torch import nn

import models
from models.smlp import SparseMLP, sMLPNet
from runtime.compat import DropPath, create_model

SMALL = {"dim": 16, "depths": (1, 1, 2, 1), "image_size": 32, "num_classes": 10}


@pytest.mark.parametrize("size", [32, 64, 96])
def test_any_multiple_of_32(size):
    model = create_model("smlpnet_tiny", **dict(SMALL, image_size=size)).eval()
    assert model(torch.zeros(2, 3, size, size)).shape == (2, 10)


@pytest.mark.parametrize("size", [0, 16, 100, -32])
def test_other_sizes_are_refused(size):
    with pytest.raises(ValueError, match="image_size"):
        sMLPNet(image_size=size)


@pytest.mark.parametrize("name", models.MODEL_NAMES)
def test_unknown_keyword(name):
    with pytest.raises(TypeError, match="colour"):
        create_model(name, colour="blue")


def test_hosted_weights_do_not_exist():
    with pytest.raises((ValueError, RuntimeError), match="pretrained"):
        create_model("smlpnet_tiny", pretrained=True)


def test_unknown_token_layout():
    with pytest.raises(ValueError, match="token_layout"):
        sMLPNet(token_layout="transpose")


@pytest.mark.parametrize("name, published", [("smlpnet_tiny", 0.0), ("smlpnet_small", 0.2), ("smlpnet_base", 0.3)])
def test_drop_path_rates(name, published):
    model = create_model(name, dim=8, image_size=32)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert max(rates, default=0.0) == published
    blocks = len(model.drop_path)
    expected = [published * block / (blocks - 1) for block in range(blocks)]
    assert rates == pytest.approx([rate for rate in expected if rate])
    asked = create_model(name, dim=8, image_size=32, drop_path_rate=0.5)
    assert asked.drop_path[-1].drop_prob == 0.5


def test_drop_rate_reaches_the_channel_mlp():
    model = create_model("smlpnet_tiny", drop_rate=0.3, **SMALL)
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.3}


def test_normalisation_epsilons():
    kinds = (nn.BatchNorm2d, nn.LayerNorm)
    norms = [module for module in create_model("smlpnet_tiny", **SMALL).modules() if isinstance(module, kinds)]
    assert {norm.eps for norm in norms} == {1e-5}
    assert {norm.momentum for norm in norms if isinstance(norm, nn.BatchNorm2d)} == {0.1}


def exact_gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def test_gelu_is_the_exact_one():
    """The tanh approximation differs by up to 5e-4, which the logits would let pass."""
    x = torch.linspace(-4, 4, 64).view(1, 1, 8, 8)
    mixer = SparseMLP(8, 1).eval()
    with torch.no_grad():
        mixer.BN.running_var.fill_(1 - mixer.BN.eps)
        mixer.fuse.weight.zero_()
        mixer.fuse.weight[0, 0] = 1
        mixed = mixer(x)
        hidden = create_model("smlpnet_tiny", **SMALL).channel_mix[0][2].net[1](x)
    assert (mixed - exact_gelu(x)).abs().max() < 1e-6
    assert (hidden - exact_gelu(x)).abs().max() < 1e-6


def test_mixing_moves_the_right_axis():
    """One lit token spreads along its row through proj_h and along its column through proh_w, nowhere else."""
    mixer = SparseMLP(4, 1)
    with torch.no_grad():
        mixer.proj_h.bias.zero_()
        mixer.proh_w.bias.zero_()
        x = torch.zeros(1, 1, 4, 4)
        x[0, 0, 1, 2] = 1
        row_mixed, column_mixed = mixer._mix_permuted(x)
    assert row_mixed[0, 0, 1].abs().min() > 0 and row_mixed[0, 0, [0, 2, 3]].abs().max() == 0
    assert column_mixed[0, 0, :, 2].abs().min() > 0 and column_mixed[0, 0, :, [0, 1, 3]].abs().max() == 0
    assert torch.allclose(row_mixed[0, 0, 1], mixer.proj_h.weight[:, 2, 0, 0])
    assert torch.allclose(column_mixed[0, 0, :, 2], mixer.proh_w.weight[:, 1, 0, 0])


def test_features_and_classifier():
    model = create_model("smlpnet_tiny", **SMALL).eval()
    assert model.num_features == 128
    assert model.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 128, 1, 1)
    model.reset_classifier(3)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    pooled = create_model("smlpnet_tiny", **dict(SMALL, num_classes=0)).eval()
    assert pooled(torch.zeros(1, 3, 32, 32)).shape == (1, 128)
    assert isinstance(pooled.get_classifier(), nn.Identity)
