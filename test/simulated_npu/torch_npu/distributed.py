"""The process group backend "hccl": gloo's, for npu tensors only and with HCCL's limits."""

import torch
from torch import distributed

from torch_npu import _C


def _make_hccl(store, rank, size, timeout):
    if size > 1 and not _C.device_was_chosen():
        raise RuntimeError("HCCL: call torch.npu.set_device before init_process_group")
    gloo = distributed.ProcessGroupGloo(distributed.PrefixStore("gloo", store), rank, size, timeout=timeout)
    return _C.make_hccl(store, gloo)


if distributed.is_available():
    torch.distributed.Backend.register_backend("hccl", _make_hccl, devices=["npu"])
