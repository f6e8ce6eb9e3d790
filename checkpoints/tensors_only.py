"""Unpickling that runs no code, for a torch whose `weights_only` has no list of what is allowed."""

import argparse
import collections
import pickle

import torch


class _Unpickler(pickle.Unpickler):
    """Builds tensors, plain containers and Namespaces; refuses every other name, so a file cannot run code."""

    ALLOWED = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("argparse", "Namespace"): argparse.Namespace,
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
        ("torch", "Size"): torch.Size,
    }

    def find_class(self, module, name):
        if (module, name) in self.ALLOWED:
            return self.ALLOWED[module, name]
        if module == "torch" and (name.endswith("Storage") or isinstance(getattr(torch, name, None), torch.dtype)):
            return getattr(torch, name)
        raise pickle.UnpicklingError("it contains %s.%s, which a checkpoint may not" % (module, name))


class TensorsOnly:
    """What torch.load needs of a pickle module, where torch has no `weights_only` with an allow-list."""

    __name__ = "tensors_only"
    Unpickler = _Unpickler
    UnpicklingError = pickle.UnpicklingError

    @staticmethod
    def load(file, **options):
        return _Unpickler(file, **options).load()
