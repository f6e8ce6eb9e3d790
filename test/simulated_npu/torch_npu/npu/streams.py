"""Streams and events in name only: every kernel has run when its call returns."""

import contextlib

import torch

from torch_npu import _C


def Stream(device=None, priority=0):
    return torch.Stream(device="npu:%d" % _C.current_device() if device is None else device, priority=priority)


def Event(enable_timing=False, blocking=False, interprocess=False):
    return torch.Event("npu", enable_timing=enable_timing)


def current_stream(device=None):
    return torch.accelerator.current_stream(device)


def default_stream(device=None):
    index = _C.current_device() if device is None else torch.device("npu", device).index
    return torch.Stream(stream_id=0, device_index=index, device_type=torch.device("npu").type)


def set_stream(stream):
    torch.accelerator.set_stream(stream)


@contextlib.contextmanager
def stream(stream):
    """Make `stream` the current one within the context."""
    if stream is None:
        yield
        return
    before = current_stream()
    set_stream(stream)
    try:
        yield
    finally:
        set_stream(before)
