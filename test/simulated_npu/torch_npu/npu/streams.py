"""Streams and events in name only: every kernel has run when its call returns."""

import contextlib

import torch

from torch_npu import _C


class Stream(torch.Stream):
    def __new__(cls, device=None, priority=0):
        return super().__new__(cls, device="npu:%d" % _C.current_device() if device is None else device)


class Event(torch.Event):
    def __new__(cls, enable_timing=False, blocking=False, interprocess=False):
        return super().__new__(cls, "npu", enable_timing=enable_timing)


def current_stream(device=None):
    return torch.accelerator.current_stream(device)


def default_stream(device=None):
    index = _C.current_device() if device is None else torch.device("npu", device).index
    return torch.Stream(stream_id=0, device_index=index, device_type=torch.device("npu").type)


def set_stream(stream):
    torch.accelerator.set_stream(stream)


@contextlib.contextmanager
def stream(stream):
    """A context in which `stream` is the current one."""
    if stream is None:
        yield
        return
    before = current_stream()
    set_stream(stream)
    try:
        yield
    finally:
        set_stream(before)
