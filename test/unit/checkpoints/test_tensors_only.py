"""The unpickler for a torch whose `weights_only` has no allow-list: every name but those of tensors is refused."""

import io
import pickle

import pytest

from checkpoints.tensors_only import TensorsOnly

# Protocol 2, which torch.save uses, calls the module of built-in functions by its name in Python 2.
MODULES = ["builtins", "__builtin__", "__builtins__"]
FUNCTIONS = ["eval", "exec", "getattr", "__import__", "open", "compile", "print"]
OTHERS = [("os", "system"), ("posix", "system"), ("subprocess", "Popen"), ("pickle", "loads"), ("operator", "call")]
OTHERS += [("torch", "load"), ("torch.serialization", "load"), ("argparse", "open"), ("collections", "namedtuple")]


@pytest.mark.parametrize("module, name", [(module, name) for module in MODULES for name in FUNCTIONS] + OTHERS)
def test_a_function_is_refused_under_every_name_of_its_module(module, name):
    call = b"c%s\n%s\n(V1\ntR." % (module.encode(), name.encode())
    with pytest.raises(pickle.UnpicklingError, match="contains %s.%s, which" % (module, name)):
        TensorsOnly.load(io.BytesIO(call))
