"""The bytes that each operator moves, counted on tensors without contents.

Every operator counts as one kernel that reads its distinct input tensors once and writes its outputs once. An in-place
operator reads and writes its target, one that only overwrites it writes it; a view and an allocation move nothing; an
expanded tensor counts its distinct elements. Convolutions alone are counted in more detail: backward, one operator
stands for a kernel for each gradient that is needed (image, weight, bias), and each reads the output's gradient, as the
operators of a linear layer do; and an image or gradient whose axes are ordered neither as (B, C, H, W) nor as
(B, H, W, C) is copied first, which counts as a copy. Each operator of models/fused is one kernel, the parts of its sums
among its outputs. Caches, and whatever else a kernel does internally (a second pass of a batch norm, say), are not
counted.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Callable, Sequence

import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

# The first of these parts that occurs in an operator's name decides.
_KINDS = [
    ("convolution", "convolution"),
    ("batch_norm", "batch norm"),
    ("layer_norm", "layer norm"),
    ("gelu", "gelu"),
    ("softmax", "loss"),
    ("addmm", "matrix product"),
    ("mm", "matrix product"),
    ("_to_copy", "cast"),
    ("copy", "copy"),
    ("clone", "copy"),
    ("cat", "cat"),
    ("add", "add"),
    ("sum", "sum"),
    ("mean", "sum"),
]
_OVERWRITING = {"copy_", "fill_", "zero_", "bernoulli_", "normal_", "uniform_"}


class Contentless(FakeTensorMode):
    """A context in which tensors have shapes but no contents. It can be deep-copied, as part of the EMA's tensors."""

    def __deepcopy__(self, memo: Any) -> Contentless:
        return self


class Ledger(TorchDispatchMode):
    """A context that adds up in `moved` the bytes that each kind of operator moves."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: Counter[str] = Counter()
        self.part: str | None = None

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if operator is torch.ops.aten._local_scalar_dense.default:
            return 1.0  # there are no contents: a finite loss, and one step of the optimizer
        result = operator(*args, **kwargs)
        kind = kind_of(operator)
        self._add(self.part or kind, bytes_moved(operator, args, kwargs, result))
        if kind == "convolution":
            self._add(kind, bytes_read_again(operator, args))
            self._add("copy", bytes_copied(args))
        return result

    def _add(self, kind: str, moved: int) -> None:
        if moved:
            self.moved[kind] += moved

    def as_part(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function` with all its operators counted as `part`, whatever their kind."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.part = part
            try:
                return function(*args, **kwargs)
            finally:
                self.part = None

        return counted


def kind_of(operator: Any) -> str:
    """Return the kind to which an operator's bytes are added."""
    space, _, name = operator._schema.name.partition("::")
    if space == "smlp":
        return "fused kernels"
    return next((kind for part, kind in _KINDS if part in name), "other")


def bytes_moved(operator: Any, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> int:
    """Return the bytes that one operator reads and writes."""
    schema = operator._schema
    name = schema.name.partition("::")[2]
    read: dict[Any, Any] = {}
    written: dict[Any, Any] = {}
    known = set()
    for position, argument in enumerate(schema.arguments):
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        is_written = argument.alias_info is not None and argument.alias_info.is_write
        for tensor in _tensors(value):
            known.add(_storage(tensor))
            if is_written:
                written[_identity(tensor)] = tensor
            if not (argument.is_out or (is_written and name in _OVERWRITING)):
                read[_identity(tensor)] = tensor
    fresh = {_identity(tensor): tensor for tensor in _tensors(result) if _storage(tensor) not in known}
    if not (written or fresh) or name.startswith(("empty", "new_empty")):
        return 0  # a view, a question about a shape, or an allocation
    if name.endswith("_like") or name.startswith("new_"):
        read = {}
    return sum(_size(tensor) for group in (read, written, fresh) for tensor in group.values())


def bytes_read_again(operator: Any, args: Sequence[Any]) -> int:
    """Return the bytes of the output's gradient that a convolution's backward pass reads after the first time."""
    if operator is not torch.ops.aten.convolution_backward.default:
        return 0
    gradient, output_mask = args[0], args[-1]
    return (sum(output_mask) - 1) * _size(gradient)


def bytes_copied(args: Sequence[Any]) -> int:
    """Return the bytes that a convolution moves to copy its images and gradients into a layout of its kernels."""
    formats = (torch.contiguous_format, torch.channels_last)
    images = [tensor for tensor in _tensors(args) if tensor.dim() == 4]
    strange = [image for image in images if not any(image.is_contiguous(memory_format=known) for known in formats)]
    return sum(2 * _size(image) for image in strange)


def _tensors(value: Any) -> list[Any]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _storage(tensor: torch.Tensor) -> Any:
    return tensor.untyped_storage()._cdata


def _identity(tensor: torch.Tensor) -> tuple[Any, ...]:
    return _storage(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


def _size(tensor: torch.Tensor) -> int:
    elements = 1
    for length, stride in zip(tensor.shape, tensor.stride()):
        elements *= length if stride else min(length, 1)
    return elements * tensor.element_size()
