"""Find where a program would wait for an accelerator: where the host reads a value of a tensor."""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Operators whose result's shape or value the host needs, so that on an accelerator it waits for all queued work.
READING = {
    "_local_scalar_dense",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "equal",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
}
# Methods that copy to host memory, which no operator shows where the tensor is there already.
COPYING = {torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.tolist}


class _Operators(TorchDispatchMode):
    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator._schema.name.partition("::")[2]
        if name in READING or (name.startswith("index") and _has_mask(args)):
            self.found(name)
        return operator(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in COPYING:
            self.found(function.__name__)
        return function(*args, **(kwargs or {}))


def _has_mask(args):
    """Return whether one of the indices is a mask, whose true elements must be counted."""
    indices = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else []
    return any(isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)


class HostWaits:
    """A context that calls `found(name)` for each operator or method that reads a value on the host."""

    def __init__(self, found):
        self.modes = [_Operators(found), _Methods(found)]

    def __enter__(self):
        for mode in self.modes:
            mode.__enter__()

    def __exit__(self, *error):
        for mode in reversed(self.modes):
            mode.__exit__(*error)
