"""Evaluation in fewer passes computes what the model does, and is left out where the model must compute by itself."""

import types

import pytest
import torch
from bare_runs import Batches, run_of
from recipe import check_logits, fill, golden, laid, normal
from small_models import create_tiny_model
from torch import nn

import engine
from models import inference
from models.smlp import sMLPNet
from runtime import compiling
from runtime.amp import DTYPES
from runtime.compat import create_model, inference_mode
from runtime.device import Device

if not inference.has_fused_gelu():
    pytest.skip("this torch has no products with GELU", allow_module_level=True)

SMALL = {"dim": 16, "depths": (1, 2, 2, 1), "image_size": 64, "num_classes": 10}
IMAGES = normal("input", (3, 3, 64, 64))


def small(**changes):
    return fill(sMLPNet(**dict(SMALL, **changes))).eval()


def difference(ours, wanted):
    """The largest difference, in parts of the largest value."""
    return (ours.float() - wanted.float()).abs().max().item() / wanted.abs().max().item()


@pytest.mark.parametrize("way", ["contiguous", "channels_last"])
def test_golden_logits(way):
    model = fill(create_model("smlpnet_tiny"))
    images = laid(way, normal("input", (2, 3, 224, 224)))
    with torch.no_grad():
        assert inference.is_faster(model, images)
        check_logits(inference.forward(model, images), golden("models_eval")["models"]["smlpnet_tiny"]["logits"])


@pytest.mark.parametrize("changes", [{}, {"in_chans": 5}, {"num_classes": 0}, {"depths": (2, 1)}, {"alpha": 2}])
def test_small_models_of_any_form(changes):
    model = small(**changes)
    images = normal("input", (3, changes.get("in_chans", 3), 64, 64))
    before = images.clone()
    with torch.no_grad():
        assert inference.is_faster(model, images)
        assert difference(inference.forward(model, images), model(images)) < 1e-5
    assert torch.equal(images, before)


def test_bfloat16_is_as_near_to_float32_as_the_model_itself():
    model = small()
    with torch.no_grad():
        wanted = model(IMAGES)
        with torch.autocast("cpu", dtype=DTYPES["bfloat16"]):
            errors = [difference(way(IMAGES), wanted) for way in (model, lambda x: inference.forward(model, x))]
        assert 1e-6 < errors[1] < 1.5 * errors[0] + 1e-3 and errors[1] < 2e-2


def test_changed_weights_are_used_by_the_next_call():
    model = small()
    with torch.no_grad():
        before = inference.forward(model, IMAGES)
        for parameter in model.parameters():
            parameter.mul_(1.1)
        model.token_mix[0][1].BN.running_mean.add_(0.5)
        assert difference(inference.forward(model, IMAGES), model(IMAGES)) < 1e-5 < difference(before, model(IMAGES))


def hooked():
    model = small()
    model.channel_mix[0][2].register_forward_hook(lambda *_: None)
    return model


def replaced():
    model = small()
    model.channel_mix[0][2].net[0] = type("Adapted", (nn.Linear,), {})(16, 48)
    return model


def with_own_forward():
    model = small()
    model.token_mix[0].forward = types.MethodType(lambda self, x: x, model.token_mix[0])
    return model


def compiled():
    model = small()
    compiling.compile_blocks(model, "auto")
    return model


MODELS = {
    "training": lambda: small().train(),
    "reshape": lambda: small(token_layout="reshape"),
    "a hook": hooked,
    "a layer of another kind": replaced,
    "a method of its own": with_own_forward,
    "compiled": compiled,
    "another family": lambda: create_tiny_model("spach_xxs_patch16_224_mlp", image_size=64).eval(),
    "a model of torch": lambda: nn.Flatten().eval(),
}


@pytest.mark.parametrize("kind", MODELS)
def test_where_a_model_computes_by_itself(kind):
    with torch.no_grad():
        assert not inference.is_faster(MODELS[kind](), IMAGES)
        assert not inference.is_faster(small(), IMAGES.double())


def test_gradients_are_those_of_the_model_itself():
    model = small()
    assert not inference.is_faster(model, IMAGES)
    inference.forward(model, IMAGES).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_without_products_with_gelu_the_model_computes_by_itself(monkeypatch):
    model = small()
    with torch.no_grad():
        wanted = inference.forward(model, IMAGES)
        monkeypatch.setattr(inference, "has_fused_gelu", lambda: False)
        assert not inference.is_faster(model, IMAGES)
        assert difference(inference.forward(model, IMAGES), wanted) < 1e-5


def test_that_products_with_gelu_are_there_is_seen_under_autocast_too():
    inference.has_fused_gelu.cache_clear()
    with torch.autocast("cpu", dtype=DTYPES["bfloat16"]):
        assert inference.has_fused_gelu()


@pytest.mark.parametrize("count", [1, 3])
def test_an_evaluation_takes_the_faster_way(monkeypatch, count):
    model = small()
    model.apply_block = None  # which the model itself would call
    monkeypatch.setattr(inference, "is_faster", lambda *_: True)
    batches = Batches([(IMAGES[:count], torch.zeros(count, dtype=torch.long))])
    assert engine.evaluate(run_of(model), model, batches).images == count
    with inference_mode():
        assert engine.forward(model, IMAGES, Device("cpu")).shape == (3, 10)
