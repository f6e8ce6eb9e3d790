"""The device that a process computes on: npu, cuda or cpu behind one class."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

import torch

from runtime.errors import UserError
from runtime.names import DEVICE_KINDS

_PIXELS_IN_CACHE = 8 * 224 * 224
PROCESS_GROUP_BACKENDS = {"npu": "hccl", "cuda": "nccl", "cpu": "gloo"}


class Device:
    """A device of kind "npu", "cuda" or "cpu", the `index`-th of its kind on this machine."""

    def __init__(self, kind: str, index: int = 0) -> None:
        self.kind = kind
        self.backend = PROCESS_GROUP_BACKENDS[kind]
        self.is_accelerator = kind != "cpu"
        self.index: int | None = index if self.is_accelerator else None
        self.torch_device = torch.device("%s:%d" % (kind, index)) if self.is_accelerator else torch.device("cpu")
        if self.is_accelerator:
            self._module.set_device(self.torch_device)
            if hasattr(self._module, "set_compile_mode"):  # of an NPU, which would compile each operator for each shape
                self._module.set_compile_mode(jit_compile=False)

    @property
    def _module(self) -> Any:
        return getattr(torch, self.kind)

    def __str__(self) -> str:
        if self.is_accelerator:
            has_name = hasattr(self._module, "get_device_name")
            name = self._module.get_device_name(self.index) if has_name else "unnamed"
            return "%s (%s)" % (self.torch_device, name)
        return "cpu (%s, %d threads)" % (platform.machine(), torch.get_num_threads())

    def images_in_cache(self, pixels: int) -> int | None:
        """Return the batch size that is fastest on a CPU for images of so many pixels (measured: 8 of 224 x 224).

        None on an accelerator, where larger batches are faster.
        """
        return None if self.is_accelerator else max(1, _PIXELS_IN_CACHE // pixels)

    def synchronize(self) -> None:
        """Wait until all queued work is done."""
        if self.is_accelerator:
            self._module.synchronize()

    @property
    def memory_format(self) -> torch.memory_format:
        """The fastest memory format of images (B, C, H, W): an NPU has no channels_last."""
        return torch.contiguous_format if self.kind == "npu" else torch.channels_last

    def seed(self, value: int) -> None:
        """Seed the device's own generator, which dropout and drop path use."""
        if self.is_accelerator:
            self._module.manual_seed(value)

    def max_memory_mib(self) -> float | None:
        """Return the peak memory of tensors in MiB; None on a CPU."""
        return self._module.max_memory_allocated() / 2**20 if self.is_accelerator else None

    def supports_bfloat16(self) -> bool:
        """Return whether the hardware has bfloat16 instructions (without them autocast on a CPU is slower)."""
        if self.kind == "cpu":
            return cpu_has_bfloat16()
        probe = getattr(self._module, "is_bf16_supported", None)
        return bool(probe and probe())

    def float16_saturates(self) -> bool:
        """Return whether float16 saturates (Ascend 910A); only the NPU's own scaler detects it."""
        if self.kind != "npu":
            return False
        probe = getattr(getattr(torch.npu, "utils", None), "is_support_inf_nan", None)
        return probe is not None and not probe()

    def disable_short_float32(self) -> None:
        """Disable HF32 and TF32, with which an NPU and a GPU round the inputs of float32 convolutions by default."""
        if self.kind == "npu" and hasattr(torch.npu, "conv"):
            torch.npu.conv.allow_hf32 = False
        if self.kind == "cuda" and hasattr(torch.backends.cudnn, "allow_tf32"):  # torch 1.7 has it
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False

    def make_deterministic(self) -> None:
        """Disable kernels whose results depend on timing."""
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        if hasattr(torch, "use_deterministic_algorithms"):
            torch.use_deterministic_algorithms(True)

    def prefer_speed(self) -> None:
        """Let cuDNN benchmark its convolution kernels and use the fastest."""
        torch.backends.cudnn.benchmark = True


def select_device(requested: str, local_rank: int = 0, local_world_size: int | None = 1) -> Device:
    """Return the Device for `--device requested` ("auto", "npu", "cuda" or "cpu") of the process `local_rank`.

    `local_world_size` is None if the launcher does not set it. "auto" selects the first kind that works. UserError if
    the kind is missing or has fewer devices than this machine has processes.
    """
    candidates = DEVICE_KINDS if requested == "auto" else (requested,)
    for kind in candidates:
        missing = _what_is_missing(kind)
        if missing is None:
            break
    else:
        raise UserError("--device %s: %s" % (requested, missing))
    if kind != "cpu":
        count, processes = getattr(torch, kind).device_count(), local_world_size or local_rank + 1
        if processes > count:
            raise UserError(
                "%d processes on a machine with %d %s device(s): start fewer (--nproc=%d in the test/*.sh wrappers)"
                % (processes, count, kind, count),
                one_rank=local_world_size is None,
            )
    return Device(kind, local_rank)


def _what_is_missing(kind: str) -> str | None:
    """Return None if `kind` works, otherwise what to install or repair."""
    if kind == "cpu":
        return None
    if kind == "cuda":
        if torch.cuda.is_available():
            return None
        if torch.backends.cuda.is_built() if hasattr(torch.backends, "cuda") else torch.version.cuda:
            return "no CUDA device was found (is the NVIDIA driver installed? see nvidia-smi)"
        return "this torch was built without CUDA: install a CUDA build"
    return _what_npu_misses()


def _what_npu_misses() -> str | None:
    if not hasattr(torch, "npu"):  # Ascend's builds of torch 1.5 have it, and torch >= 2.5 has imported torch_npu
        try:
            import torch_npu  # noqa: F401 - registers torch.npu
        except ModuleNotFoundError as error:
            if error.name == "torch_npu":
                return "the package torch_npu is not installed: install the release that matches torch %s" % (
                    torch.__version__
                )
            return "torch_npu does not import: %s" % error
        except (ImportError, OSError, RuntimeError) as error:
            return "torch_npu does not import, is CANN installed and its set_env.sh sourced? (%s)" % error
    if not torch.npu.is_available():
        return "torch_npu finds no NPU: are the Ascend driver and firmware installed? see npu-smi info"
    return None


def peak_resident_mib() -> float | None:
    """Return the peak host memory of this process in MiB; None where the system does not report it."""
    try:
        import resource
    except ImportError:  # not a Unix system
        return None
    units = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / units


def accelerators() -> list[str]:
    """Return the names of the NPUs and GPUs that this process can use."""
    kinds = [kind for kind in DEVICE_KINDS if kind != "cpu" and _what_is_missing(kind) is None]
    modules = [getattr(torch, kind) for kind in kinds]
    return [module.get_device_name(index) for module in modules for index in range(module.device_count())]


def cpu_has_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 in hardware (AVX512-BF16, AMX, or Arm's BF16 extension)."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            words = set(file.read().split())
    except OSError:
        return False
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})
