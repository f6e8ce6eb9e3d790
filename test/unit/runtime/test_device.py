"""Which device a process gets, and what is reported where there is none."""

import pytest
import torch

from runtime.device import select_device
from runtime.errors import UserError


def test_missing_devices_name_what_to_install():
    for kind, message in (("npu", "torch_npu"), ("cuda", "CUDA")):
        if not hasattr(torch, kind) or not getattr(torch, kind).is_available():
            with pytest.raises(UserError, match="--device %s: .*%s" % (kind, message)):
                select_device(kind)
    assert select_device("cpu", 3, 8).torch_device == torch.device("cpu")


def test_too_few_cards(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="8 processes on a machine with 2 cuda device.*--nproc=2"):
        select_device("cuda", 0, 8)
