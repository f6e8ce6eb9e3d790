"""The fused kernels in Triton's interpreter, against float64 of the plain formulas. test/system/test_fused.py runs it.

The interpreter multiplies the bit patterns of bfloat16, and truncates where a GPU rounds to it. Products are made of
float32 copies here: so all but the products themselves is checked.
"""

import importlib.util
import inspect
import os

import pytest
import torch
from torch.nn import functional

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1: test/system/test_fused.py runs this file with it", allow_module_level=True)

from models import smlp
from models.fused import block, operators

LIMITS = {torch.float32: 2e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}  # relative 2-norm
SHAPES = [(3, 7, 24), (3, 7, 80), (2, 14, 32), (1, 28, 16), (1, 56, 16), (2, 4, 16), (1, 10, 40)]  # batch, S, C
CASES = [(shape, torch.float32) for shape in SHAPES] + [(shape, torch.float16) for shape in SHAPES[1:4]]
CASES += [(shape, torch.bfloat16) for shape in SHAPES[:3]]


def modules(side, dim):
    """Return a block's token mixing with random parameters and statistics, of values that float16 has."""
    torch.manual_seed(side + dim)
    unit, mixing = smlp.DepthwiseUnit(dim), smlp.SparseMLP(side, dim)
    for module in (unit, mixing):
        for name, value in list(module.named_parameters()) + list(module.named_buffers()):
            if value.is_floating_point():
                spread = 0.1 if value.dim() == 1 else value[0].numel() ** -0.5
                shift = 1.0 if name.endswith(("BN.weight", "running_var")) else 0.0
                value.data = rounded(torch.randn(value.shape) * spread + shift)
    return unit, mixing


def rounded(values):
    return values.to(torch.bfloat16).float()


def problem(batch, side, dim):
    x = rounded(torch.randn(batch, side, side, dim) * 1.5 + 0.3)
    scale = torch.tensor([0.0, 1.25, 1.25][-batch:]).view(batch, 1, 1, 1)
    return x, scale, rounded(torch.randn(batch, side, side, dim))


def plain(x, unit, mixing, scale):
    """Return x + scale * (token mixing of x) by the paper's formulas in float64, and the gradients' leaves."""
    own = {}
    for prefix, module in (("unit", unit), ("mixing", mixing)):
        for name, value in list(module.named_parameters()) + list(module.named_buffers()):
            own["%s.%s" % (prefix, name)] = (
                value.detach().double().requires_grad_(isinstance(value, torch.nn.Parameter))
            )
    leaf = x.double().requires_grad_()

    def norm(values, name, training):
        statistics = None if training else (own[name + ".running_mean"], own[name + ".running_var"])
        mean, variance = statistics or (values.mean((0, 1, 2)), values.var((0, 1, 2), unbiased=False))
        return (values - mean) / (variance + 1e-5).sqrt() * own[name + ".weight"] + own[name + ".bias"]

    training = unit.training
    z = functional.gelu(norm(leaf, "unit.conv_merge.BN", training)).permute(0, 3, 1, 2)
    y = functional.conv2d(z, own["unit.conv_merge.Conv.weight"], padding=1, groups=z.shape[1]).permute(0, 2, 3, 1)
    z = functional.gelu(norm(y, "mixing.BN", training))
    rows = torch.einsum("vw,bhwc->bhvc", own["mixing.proj_h.weight"][:, :, 0, 0], z)
    rows = rows + own["mixing.proj_h.bias"][None, None, :, None]
    columns = torch.einsum("gh,bhwc->bgwc", own["mixing.proh_w.weight"][:, :, 0, 0], z)
    columns = columns + own["mixing.proh_w.bias"][None, :, None, None]
    branch = torch.cat([z, rows, columns], dim=3) @ own["mixing.fuse.weight"][:, :, 0, 0].t()
    out = leaf + (branch if scale is None else branch * scale.double())
    leaves = {"x": leaf, **{name: value for name, value in own.items() if value.requires_grad}}
    return out, leaves


def errors(batch, side, dim, dtype, training=True, scaled=True):
    """Return {name: relative error} of the output and of every gradient of the kernels in `dtype`."""
    unit, mixing = modules(side, dim)
    x, scale, g = problem(batch, side, dim)
    scale = scale if scaled else None
    unit.train(training), mixing.train(training)
    out, leaves = plain(x, unit, mixing, scale)
    want = dict(zip(leaves, torch.autograd.grad(out, list(leaves.values()), g.double())), out=out.detach())
    mine = x.to(dtype).requires_grad_()
    out = block.mix_tokens(mine, unit, mixing, None if scale is None else scale.to(dtype))
    out.backward(g.to(dtype))
    found = {"x": mine.grad, "out": out.detach()}
    for prefix, module in (("unit", unit), ("mixing", mixing)):
        found.update(("%s.%s" % (prefix, name), value.grad) for name, value in module.named_parameters())
    assert found.keys() == want.keys()
    sizes = {name: want[name].norm() for name in want}
    # The second norm undoes the first one's scale: the gradients that its weight sums cancel but for a rest.
    sizes["unit.conv_merge.BN.weight"] = sizes["unit.conv_merge.BN.bias"]
    return {name: float((found[name].double() - want[name]).norm() / sizes[name]) for name in want}


@pytest.mark.parametrize("shape, dtype", CASES)
def test_token_mixing_and_all_its_gradients_are_those_of_float64(shape, dtype):
    found = errors(*shape, dtype)
    assert {name: error for name, error in found.items() if not error < LIMITS[dtype]} == {}


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_drop_path_and_fixed_statistics_are_those_of_float64(training, scaled):
    found = errors(3, 7, 24, torch.float32, training, scaled)
    assert max(found.values()) < LIMITS[torch.float32]


def test_the_same_work_gives_the_same_bits():
    def work():
        unit, mixing = modules(7, 24)
        x, scale, g = problem(3, 7, 24)
        out = block.mix_tokens(x.requires_grad_(), unit, mixing, scale)
        out.backward(g)
        return [out, x.grad] + [value.grad for module in (unit, mixing) for value in module.parameters()]

    assert all(torch.equal(first, second) for first, second in zip(work(), work()))


@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
def test_running_statistics_are_those_of_batch_norm(momentum):
    unit, mixing = modules(7, 24)
    norms = (unit.conv_merge.BN, mixing.BN)
    for norm in norms:
        norm.momentum = momentum
    before = [{name: value.clone() for name, value in norm.state_dict().items()} for norm in norms]
    x = problem(2, 7, 24)[0]
    for times in (1, 2):
        block.mix_tokens(x * times, unit, mixing, None)
    found = [{name: value.clone() for name, value in norm.state_dict().items()} for norm in norms]
    for norm, state in zip(norms, before):
        norm.load_state_dict(state)
    for times in (1, 2):
        mixing(unit(x.permute(0, 3, 1, 2) * times))
    for norm, state in zip(norms, found):
        for name, value in norm.state_dict().items():
            assert torch.allclose(state[name], value, rtol=1e-5, atol=1e-6), name


def test_a_large_mean_costs_no_accuracy_of_the_variance():
    x = torch.randn(2, 7, 7, 16) + 1000
    mean, variance = operators.norm_statistics(operators.norm_parts(x), 98)
    want = x.double().var((0, 1, 2), unbiased=False)
    assert torch.allclose(variance.double(), want, rtol=1e-4)
    assert torch.allclose(mean.double(), x.double().mean((0, 1, 2)), rtol=1e-6)


PLANTED = [
    (
        "mixing_kernels",
        "weight + 2 * C, mask=is_inside, other=0.0), mixed",
        "weight + C, mask=is_inside, other=0.0), mixed",
    ),
    ("mixing_kernels", "add_product(rounded, tl.trans(z)", "add_product(z, tl.trans(rounded)"),
    ("mixing_kernels", "add_product(tl.trans(mixing), rounded, direct", "add_product(mixing, rounded, direct"),
    ("mixing_kernels", "dz * gelu_gradient(v)", "dz * gelu_gradient(v * 1.001)"),
    ("mixing_kernels", "bias_sum += tl.sum(mixed", "bias_sum = tl.sum(mixed"),
    ("mixing_kernels", "second_sum * inverse", "second_sum"),
    ("mixing_kernels", "third = add_product(own, column_mixed", "third = add_product(own, row_mixed"),
    ("depthwise_kernels", "above, above_m, above_r, 8, -1, C", "above, above_m, above_r, 6, 1, C"),
    ("depthwise_kernels", "k5 + z * here, k4 + z * here_m", "k5 + z * here_m, k4 + z * here"),
    ("depthwise_kernels", "value - centre[None, :]", "value"),
    ("norm_kernels", "b[None, :] * (value - m[None, :]) - c[None, :]", "c[None, :]"),
    ("norm_kernels", "squares + count * distance * distance", "squares"),
]


@pytest.mark.parametrize("module, right, wrong", PLANTED)
def test_a_planted_error_is_seen(tmp_path, monkeypatch, module, right, wrong):
    source = inspect.getsource(getattr(operators, module))
    assert source.count(right) == 1
    path = tmp_path / ("planted_%s.py" % module)
    path.write_text(source.replace(right, wrong))
    spec = importlib.util.spec_from_file_location(path.stem, str(path))
    planted = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(planted)
    monkeypatch.setattr(operators, module, planted)
    assert max(errors(3, 7, 24, torch.float32).values()) > 20 * LIMITS[torch.float32]
