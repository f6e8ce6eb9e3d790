"""The fused channel MLP beside the eager one in float64, in Triton's interpreter: values and all gradients."""

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1: test/system/test_fused.py runs this file with it", allow_module_level=True)

from models.fused import mlp_operators
from models.smlp import FeedForward
from runtime.amp import DTYPES

LIMITS = {torch.float32: 2e-6, DTYPES["float16"]: 3e-3, DTYPES["bfloat16"]: 2e-2}
NAMES = ["x", "norm.weight", "norm.bias", "0.weight", "0.bias", "3.weight", "3.bias"]
CASES = [  # B, S, C, alpha; the layer is wide
    ((2, 7, 16, 3), False),
    ((3, 5, 24, 3), False),
    ((1, 7, 80, 3), False),
    ((2, 3, 16, 2), True),
    ((2, 7, 48, 3), True),
    ((1, 7, 80, 3), True),
]


def problem(batch, side, dim, alpha, dtype, has_drop_path):
    """Return tokens, norm, MLP, factors of drop path and a gradient in float64, of values that `dtype` has."""
    torch.manual_seed(batch + 10 * side + 100 * dim)
    norm, mlp = torch.nn.LayerNorm(dim), FeedForward(dim, alpha * dim, 0.0)
    torch.nn.init.normal_(norm.weight, 1.0, 0.2)
    torch.nn.init.normal_(norm.bias, 0.0, 0.2)
    for layer in (norm, mlp.net[0], mlp.net[3]):
        for parameter in layer.parameters():
            parameter.data = parameter.data.to(dtype).double()
    x, g = (torch.randn(2, batch, side, side, dim) * 1.5 + 0.3).to(dtype).double()
    factors = torch.tensor([0.0, 1.25, 2.0])[:batch].flip(0).view(-1, 1, 1, 1) if has_drop_path else None
    return x, norm, mlp, factors, g


def results(function, x, norm, mlp, scale, g):
    """Return the output and the gradients of `function`, as in NAMES."""
    x = x.clone().requires_grad_()
    out = function(x, norm, mlp, scale)
    return [out, *torch.autograd.grad(out, [x, *norm.parameters(), *mlp.parameters()], g.to(out.dtype))]


def eager(x, norm, mlp, scale):
    branch = mlp(norm(x))
    return x + (branch if scale is None else branch * scale)


def errors(case, dtype, has_drop_path, x_dtype=None):
    """Return {name: relative error} of the fused block in `dtype`, with float32 parameters under autocast."""
    x, norm, mlp, scale, g = problem(*case, dtype, has_drop_path)
    exact = results(eager, x, norm, mlp, None if scale is None else scale.double(), g)
    x = x.to(x_dtype or dtype)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        found = results(mlp_operators.channel_mix, x, norm.float(), mlp.float(), scale, g)
    assert [value.dtype for value in found] == [x.dtype] * 2 + [torch.float32] * 6
    names = ["out", *NAMES]
    return {name: relative(value, want) for name, value, want in zip(names, found, exact)}


def relative(value, want):
    return float((value.detach().double() - want.detach()).norm() / want.detach().norm())


@pytest.fixture
def width(monkeypatch):
    """Make the layers of a case wide, whatever their number of channels."""

    def make(is_wide):
        if is_wide:
            monkeypatch.setattr(mlp_operators, "widest_narrow", lambda x: 8)

    return make


@pytest.mark.parametrize("has_drop_path", [False, True], ids=["all kept", "drop path"])
@pytest.mark.parametrize("dtype", list(LIMITS), ids=str)
@pytest.mark.parametrize("case, is_wide", CASES)
def test_output_and_gradients_are_those_of_float64(case, is_wide, dtype, has_drop_path, width):
    width(is_wide)
    found = errors(case, dtype, has_drop_path)
    assert max(found.values()) <= LIMITS[dtype], found
