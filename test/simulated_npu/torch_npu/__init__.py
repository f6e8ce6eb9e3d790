"""Stands in for Ascend's torch_npu where there is no NPU: a device in host memory, with the limits of the real one.

torch >= 2.5 imports it automatically, like the real one. SIMULATED_NPU_COUNT sets the number of devices (8),
SIMULATED_NPU_MEMORY_MIB the memory of each, SIMULATED_NPU_BF16=0 disables bfloat16. Streams exist in name only.
"""

import importlib
import importlib.machinery
import importlib.util
import os
import sys

_autoload_switch = os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD")
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"  # else `import torch` would import this file again

import torch  # noqa: E402 - the switch must come first

from torch_npu import _build  # noqa: E402

__version__ = "2.14.0"


def _autoload():
    """Restore the switch; torch calls this after it has imported this package."""
    if _autoload_switch is None:
        os.environ.pop("TORCH_DEVICE_BACKEND_AUTOLOAD", None)
    else:
        os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = _autoload_switch


def _load_library():
    path = _build.library_path(torch.__version__)
    loader = importlib.machinery.ExtensionFileLoader("torch_npu._C", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("torch_npu._C", loader))
    loader.exec_module(module)
    sys.modules["torch_npu._C"] = module
    return module


def _register():
    """Give the device its name, then the library, then the Python interface: torch wants them in this order."""
    global _C
    torch.utils.rename_privateuse1_backend("npu")
    _C = _load_library()
    module = importlib.import_module("torch_npu.npu")
    torch._register_device_module("npu", module)
    sys.modules["torch.npu"] = module
    sys.modules["torch.npu.amp"] = module.amp
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)


if torch.cuda.is_available():
    raise RuntimeError("Two accelerators cannot be used at the same time in PyTorch: npu and cuda.")
_autoload()
_register()

from torch_npu import distributed, npu, optim  # noqa: E402, F401
