"""Names that the options and the code behind them share; importing them does not import torch."""

DEVICE_KINDS = ("npu", "cuda", "cpu")  # in the order of --device auto
AMP_DTYPES = ("bfloat16", "float16")
