"""What the hardware can do."""

import os


def is_support_inf_nan():
    """Whether float16 overflows to infinity; SIMULATED_NPU_SATURATES=1 says no, as an Ascend 910A does."""
    return os.environ.get("SIMULATED_NPU_SATURATES", "0") != "1"
