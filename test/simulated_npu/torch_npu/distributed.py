"""The process group backend "hccl": gloo's, for npu tensors only and with HCCL's limits."""

import torch
from torch import distributed

from torch_npu import _C


def _make_hccl(store, rank, size, timeout):
    gloo = distributed.ProcessGroupGloo(distributed.PrefixStore("gloo", store), rank, size, timeout=timeout)
    return _C.make_hccl(store, gloo)


if distributed.is_available():
    torch.distributed.Backend.register_backend("hccl", _make_hccl, devices=["npu"])
