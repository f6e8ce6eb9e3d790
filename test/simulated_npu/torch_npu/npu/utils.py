"""What the hardware can do."""

import os


def is_support_inf_nan():
    """Return whether float16 overflows to infinity: not with SIMULATED_NPU_SATURATES=1, as on an Ascend 910A."""
    return os.environ.get("SIMULATED_NPU_SATURATES", "0") != "1"
