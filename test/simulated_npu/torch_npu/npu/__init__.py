"""torch.npu: the device, its memory, its generators, its settings."""

import contextlib
import os
import types

import torch

from torch_npu import _C
from torch_npu.npu import amp, utils
from torch_npu.npu.random import (  # noqa: F401
    get_rng_state,
    get_rng_state_all,
    initial_seed,
    manual_seed,
    manual_seed_all,
    seed,
    seed_all,
    set_rng_state,
    set_rng_state_all,
)
from torch_npu.npu.streams import (  # noqa: F401
    Event,
    Stream,
    current_stream,
    default_stream,
    set_stream,
    stream,
)

__all__ = ["amp", "utils"]
_NAME = "Ascend910B (simulated)"


class _Setting:
    """torch_npu.npu.conv or .matmul, whose allow_hf32 allows fewer bits in float32."""

    def __init__(self, allow_hf32):
        self.__dict__["allow_hf32"] = allow_hf32

    def __setattr__(self, name, value):
        if name != "allow_hf32":
            raise AttributeError("only allow_hf32 can be set")
        if not isinstance(value, bool):
            raise TypeError("allow_hf32 must be a bool, but got %s" % type(value).__name__)
        self.__dict__[name] = value


conv, matmul = _Setting(True), _Setting(False)
_options = {"jitCompile": "enable"}


def set_compile_mode(jit_compile=False):
    _options["jitCompile"] = "enable" if jit_compile else "disable"


def is_jit_compile_false():
    return _options["jitCompile"] == "disable"


def _lazy_init():
    _C.use_device()


init = _lazy_init


def is_initialized():
    return _C.is_used() and not _C.in_bad_fork()


def _is_in_bad_fork():
    return _C.in_bad_fork()


def is_available():
    return _C.device_count() > 0


def device_count():
    return _C.device_count()


def _index_of(device):
    """Return the index of a device given as an int, a string, a torch.device or None (the current device)."""
    if device is None:
        return _C.current_device()
    if isinstance(device, int):
        return _C.current_device() if device < 0 else device
    device = torch.device(device)
    if device.type != "npu":
        raise ValueError("Expected an npu device, but got: %s" % device)
    return _C.current_device() if device.index is None else device.index


def set_device(device):
    _C.set_device(_index_of(device))


def current_device():
    _lazy_init()
    return _C.current_device()


@contextlib.contextmanager
def device(device):
    """Make `device` the current one within the context."""
    before = current_device()
    set_device(device)
    try:
        yield
    finally:
        _C.set_device(before)


def synchronize(device=None):
    _lazy_init()
    torch.accelerator.synchronize(_index_of(device))


def get_device_properties(device_name=None):
    limit = _C.memory_figures(_index_of(device_name))[2]
    return types.SimpleNamespace(name=_NAME, total_memory=limit)


def get_device_name(device_name=None):
    if _index_of(device_name) >= device_count():
        raise AssertionError("Invalid device id")
    return _NAME


def get_device_capability(device=None):
    return None


def get_amp_supported_dtype():
    return [torch.float16, torch.bfloat16] if is_bf16_supported() else [torch.float16]


def is_bf16_supported(including_emulation=False):
    return os.environ.get("SIMULATED_NPU_BF16", "1") != "0"


def memory_allocated(device=None):
    return _C.memory_figures(_index_of(device))[0]


def max_memory_allocated(device=None):
    return _C.memory_figures(_index_of(device))[1]


def memory_reserved(device=None):
    return memory_allocated(device)


def max_memory_reserved(device=None):
    return max_memory_allocated(device)


def mem_get_info(device=None):
    current, _, limit = _C.memory_figures(_index_of(device))
    return limit - current, limit


def reset_peak_memory_stats(device=None):
    _C.reset_peak_memory(_index_of(device))


def empty_cache():
    pass
