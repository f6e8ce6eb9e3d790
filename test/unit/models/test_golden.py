"""sMLPNet against the numbers of the published code."""

import os

import numpy
import pytest
import torch
from recipe import WAYS, batch, check_logits, fill, golden, laid, made, names_shapes_sha256, normal, weights_sha256

from runtime.compat import create_model

EVAL = golden("models_eval")


@pytest.fixture(scope="module", params=WAYS)
def way(request):
    """How the same function is computed: with which memory format, and by compiled blocks (minutes on a CPU)."""
    if request.param == "compiled" and not os.environ.get("TEST_COMPILED"):
        pytest.skip("compiles for minutes: run with TEST_COMPILED=1")
    return request.param


@pytest.mark.parametrize(
    "name, size, want",
    [("smlpnet_tiny", 224, EVAL["models"]["smlpnet_tiny"])]
    + [("smlpnet_tiny", want["input_size"], want) for want in EVAL["other_image_sizes"].values()],
)
def test_eval_logits(way, name, size, want):
    model = made(way, name, image_size=size)
    assert sum(parameter.numel() for parameter in model.parameters()) == want["params"]
    assert weights_sha256(model) == want["weights_sha256"]
    with torch.no_grad():
        check_logits(model(laid(way, normal("input", (2, 3, size, size)))), want["logits"])


@pytest.mark.parametrize("name", ["smlpnet_tiny", "smlpnet_small", "smlpnet_base"])
def test_names_and_shapes(name):
    want = EVAL["models"][name]
    model = create_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == want["params"]
    assert len(model.state_dict()) == want["n_state_dict_keys"]
    assert names_shapes_sha256(model) == want["names_shapes_sha256"]


def test_state_dict_list():
    state = create_model("smlpnet_tiny").state_dict()
    assert [[name, list(tensor.shape)] for name, tensor in state.items()] == golden("smlp_state_dict")["smlpnet_tiny"]


def test_reshape_layout_is_the_ascend_port(way):
    model = made(way, "smlpnet_tiny", token_layout="reshape")
    images = laid(way, normal("input", (2, 3, 224, 224)))
    with torch.no_grad():
        check_logits(model(images), golden("ascend_eval")["smlpnet_tiny"]["logits_ascend"])


@pytest.mark.parametrize("layout, key", [("permute", "microsoft"), ("reshape", "ascend")])
@pytest.mark.parametrize("way", ["contiguous", "channels_last"])
def test_first_sparse_mlp_alone(way, layout, key):
    want = golden("ascend_eval")["smlpnet_tiny"]["first_sMLPBlock_alone"][key]
    block = fill(create_model("smlpnet_tiny", token_layout=layout)).token_mix[0][1]
    with torch.no_grad():
        output = block(laid(way, normal("block_input", (1, 80, 56, 56)))).contiguous()
    numpy.testing.assert_allclose(output.flatten()[:8].numpy(), want["first8"], rtol=0, atol=1e-5)
    assert output.double().norm().item() == pytest.approx(want["l2"], rel=1e-6)


@pytest.fixture(scope="module")
def trained_once(way):
    """One training step of smlpnet_tiny at 64x64: (model, loss, logits), gradients in place."""
    model = made(way, "smlpnet_tiny", image_size=64).train()
    logits = model(laid(way, normal("input", (2, 3, 64, 64))))
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([3, 7]))
    loss.backward()
    return model, loss.item(), logits.detach()


def test_train_loss_and_logits(trained_once):
    _, loss, logits = trained_once
    want = golden("models_train")["smlpnet_tiny"]
    assert loss == pytest.approx(want["loss"], abs=1e-6)
    check_logits(logits, want["logits"])


def test_gradients(trained_once):
    model, want = trained_once[0], golden("models_train")["smlpnet_tiny"]
    gradients = {name: parameter.grad.double() for name, parameter in model.named_parameters()}
    total = sum(gradient.pow(2).sum() for gradient in gradients.values()).sqrt().item()
    assert total == pytest.approx(want["total_grad_l2"], rel=2e-5)
    assert set(gradients) == set(want["all_grad_l2"])
    for name, norm in want["all_grad_l2"].items():
        if name not in want["zero_gradient_params"]:
            assert gradients[name].norm().item() == pytest.approx(norm, rel=5e-5), name
    for name, row in want["selected"].items():
        if name in want["zero_gradient_params"]:
            continue
        scale = row["grad_l2"]
        numpy.testing.assert_allclose(gradients[name].flatten()[:4], row["grad_first4"], rtol=0, atol=5e-5 * scale)
        probe = (gradients[name] * normal("probe:" + name, gradients[name].shape).double()).sum().item()
        assert probe == pytest.approx(row["grad_dot_probe"], abs=5e-4 * scale), name


def test_running_statistics(trained_once):
    state, want = trained_once[0].state_dict(), golden("models_train")["smlpnet_tiny"]["bn_after"]
    for name, row in want.items():
        if name != "columns":
            assert state[name + ".running_mean"].double().sum().item() == pytest.approx(row[0], rel=1e-5, abs=1e-4)
            assert state[name + ".running_var"].double().sum().item() == pytest.approx(row[1], rel=1e-5)
            assert state[name + ".num_batches_tracked"].item() == row[2]


def test_batches_of_the_recipe():
    assert [batch(step)[1].tolist() for step in range(20)] == golden("trajectory")["labels"]
