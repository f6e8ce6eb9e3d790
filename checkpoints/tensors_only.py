"""Unpickling that runs no code, for a torch whose `weights_only` has no allow-list."""

from __future__ import annotations

import argparse
import collections
import pickle
from typing import Any, BinaryIO

import torch


class _Unpickler(pickle._Unpickler):  # that of C makes room for as many values as a file claims
    """Unpickler of tensors, plain containers and Namespaces; it refuses every other name, so a file cannot run code."""

    ALLOWED: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("argparse", "Namespace"): argparse.Namespace,
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
        ("torch", "Size"): torch.Size,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.ALLOWED:
            return self.ALLOWED[module, name]
        if module == "torch" and (name.endswith("Storage") or isinstance(getattr(torch, name, None), torch.dtype)):
            return getattr(torch, name)
        raise pickle.UnpicklingError("it contains %s.%s, which a checkpoint may not" % (module, name))


class TensorsOnly:
    """The `pickle_module` of torch.load where `weights_only` has no allow-list."""

    __name__ = "tensors_only"
    Unpickler = _Unpickler
    UnpicklingError = pickle.UnpicklingError

    @staticmethod
    def load(file: BinaryIO, **options: Any) -> Any:
        """Return the object that is pickled in `file`."""
        return _Unpickler(file, **options).load()
