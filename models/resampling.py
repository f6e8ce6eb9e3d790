"""Weights trained at one image size for another: layers that mix tokens by position are resampled between the grids.

W interpolates a line linearly from the shorter length to the longer, and V, its pseudo-inverse, goes back by least
squares. A matrix M that mixes the tokens of a line becomes W M V for a longer one, V M W for a shorter, a bias b
becomes W b or V b. So a longer line that was interpolated from a short one is mixed like that one, and enlarging and
shrinking again changes nothing. The token MLP of SPACH takes its input and gives its output likewise, row and column
alike; units beyond the old hidden width take part with weights 0 in the output, and where there are fewer, those with
the largest weights remain.
"""

from __future__ import annotations

from typing import Mapping, Sequence

import torch
from torch import Tensor


def interpolation_matrix(old: int, new: int) -> Tensor:
    """Return the matrix (new, old) that resamples a line of `old` values to `new` positions."""
    if new < old:
        return interpolation_matrix(new, old).pinverse()
    centres = ((torch.arange(new, dtype=torch.float64) + 0.5) * old / new - 0.5).clamp(0, old - 1)
    distances = (centres[:, None] - torch.arange(old, dtype=torch.float64)).abs()
    return (1 - distances).clamp(min=0)


def resample(
    weights: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    line_mixers: Sequence[str] = (),
    token_mlps: Sequence[str] = (),
) -> tuple[dict[str, Tensor], int]:
    """Return `weights` with token mixers as large as those of the state_dict `wanted`, and how many were resampled.

    `line_mixers` and `token_mlps` are the names of such layers, as of models.layers.ImageModel.
    """
    result, count = dict(weights), 0
    for name, value in wanted.items():
        if name not in weights or weights[name].shape == value.shape:
            continue
        module, _, kind = name.rpartition(".")
        outer, _, layer = module.rpartition(".")
        if kind != "weight":
            continue
        if layer in line_mixers and _is_line_mixer(module, weights):
            result.update(_line_mixer(module, weights, len(value)))
            count += 1
        elif layer == "fc1" and outer.rpartition(".")[2] in token_mlps and _is_token_mlp(outer, weights):
            result.update(_token_mlp(outer, weights, wanted))
            count += 1
    return result, count


def _shapes(weights, *names):
    return [tuple(weights[name].shape) if name in weights else None for name in names]


def _is_line_mixer(module, weights):
    matrix, bias = _shapes(weights, module + ".weight", module + ".bias")
    return bool(bias) and matrix == (bias[0], bias[0], 1, 1)


def _is_token_mlp(module, weights):
    first, *others = _shapes(weights, *_names_of_mlp(module))
    if len(first) != 2 or round(first[1] ** 0.5) ** 2 != first[1]:
        return False
    return others == [first[:1], first[::-1], first[1:]]


def _line_mixer(module, weights, new):
    matrix, bias = weights[module + ".weight"], weights[module + ".bias"]
    old = len(matrix)
    there, back = interpolation_matrix(new, old), interpolation_matrix(old, new)
    return {
        module + ".weight": (back @ matrix.flatten(1).double() @ there).to(matrix.dtype)[:, :, None, None],
        module + ".bias": (back @ bias.double()).to(bias.dtype),
    }


def _names_of_mlp(module):
    return [module + name for name in (".fc1.weight", ".fc1.bias", ".fc2.weight", ".fc2.bias")]


def _token_mlp(module, weights, wanted):
    names = _names_of_mlp(module)
    first, first_bias, second, second_bias = (weights[name].double() for name in names)
    fresh, fresh_bias = (wanted[name].double() for name in names[:2])
    old, new = (round(matrix.shape[1] ** 0.5) for matrix in (first, fresh))
    first, second = first @ _grid(new, old), _grid(old, new) @ second
    keep = _largest(first, second, len(fresh))
    added = len(fresh) - len(keep)
    values = (
        torch.cat([first[keep], fresh[len(keep) :]]),
        torch.cat([first_bias[keep], fresh_bias[len(keep) :]]),
        torch.cat([second[:, keep], second.new_zeros(len(second), added)], dim=1),
        _grid(old, new) @ second_bias,
    )
    return {name: value.to(weights[name].dtype) for name, value in zip(names, values)}


def _grid(old, new):
    """Return the interpolation matrix for the tokens of an image, row after row: (new * new, old * old)."""
    along = interpolation_matrix(old, new)
    return torch.einsum("ab,cd->acbd", along, along).reshape(new * new, old * old)


def _largest(first, second, count):
    """Return at most `count` hidden units, in order: those with the largest product of input and output weights."""
    size = first.norm(dim=1) * second.norm(dim=0)
    return size.argsort(descending=True)[:count].sort()[0]
