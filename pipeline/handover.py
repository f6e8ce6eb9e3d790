"""How a loader process hands a batch over: in an unnamed file in memory, whose descriptor goes through a socket.

torch would put the batch into /dev/shm, of which a container has 64 MB, and would ask the process for the descriptor
later, when it may be stopped or gone. Here the kernel keeps both from the moment that the batch is sent.
"""

from __future__ import annotations

import array
import ctypes
import errno
import itertools
import mmap
import os
import socket
import weakref
from typing import Any, Callable, Sequence

import numpy
import torch
from torch.utils.data import get_worker_info

from pipeline.batch_bytes import ByteBatch
from runtime.errors import reason

ALIGNMENT = 64
_ticket_numbers = itertools.count()
_channels: weakref.WeakValueDictionary[int, Channel] = weakref.WeakValueDictionary()  # of this process, by number


class Undelivered:
    """Stands for a batch that could not be handed over, and why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class Parcel:
    """A batch on its way: what a loader process sends. Unpickled it is the ByteBatch, or an Undelivered."""

    def __init__(self, channel: int, ticket: bytes, layout: list[tuple[str, tuple[int, ...]]]) -> None:
        self.content = channel, ticket, layout

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _open, self.content


class Channel:
    """The way of the batches of one loader: its processes `send`, and their parent takes by unpickling."""

    def __init__(self) -> None:
        self.number = next(_ticket_numbers)
        self.receiver, self.sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.receiver.setblocking(False)
        self.arrived: dict[bytes, int] = {}  # descriptors whose tickets are still on their way
        _channels[self.number] = self

    def send(self, batch: ByteBatch) -> Parcel | Undelivered:
        """Return what stands for `batch` in the message to the parent."""
        arrays = [tensor.numpy() for tensor in batch]
        ticket = b"%d %d" % (os.getpid(), next(_ticket_numbers))
        try:
            descriptor = memory_file()
            try:
                _write(descriptor, arrays)
                rights = array.array("i", [descriptor]).tobytes()
                self.sender.sendmsg([ticket], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            finally:
                os.close(descriptor)
        except OSError as error:
            return Undelivered(reason(error))
        return Parcel(self.number, ticket, [(values.dtype.str, values.shape) for values in arrays])

    def take(self, ticket: bytes) -> int:
        """Return the descriptor that was sent with `ticket`; OSError where it cannot be had."""
        while ticket not in self.arrived:
            flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
            name, rights, _, _ = self.receiver.recvmsg(64, socket.CMSG_SPACE(array.array("i").itemsize), flags)
            if not rights:  # the kernel drops a descriptor for which this process has no room
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            self.arrived[name] = array.array("i", rights[0][2])[0]
        return self.arrived.pop(ticket)

    def close(self) -> None:
        """Give up what is on its way."""
        self.receiver.close()
        self.sender.close()
        while self.arrived:
            os.close(self.arrived.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        return {"number": self.number, "sender": self.sender}  # for a process that is not forked


class Collate:
    """`collate`, which returns (ByteBatch or None, anything), for loader processes: the batch goes by a Channel."""

    def __init__(self, collate: Callable[[Any], tuple[ByteBatch | None, Any]], channel: Channel) -> None:
        self.collate, self.channel = collate, channel

    def __call__(self, samples: Sequence[Any]) -> tuple[Any, Any]:
        batch, more = self.collate(samples)
        if batch is None or get_worker_info() is None:
            return batch, more
        return self.channel.send(batch), more


def open_channel() -> Channel | None:
    """Return a new Channel; None where the system has no such files or sockets."""
    try:
        os.close(memory_file())
        return Channel()
    except (OSError, AttributeError):
        return None


def memory_file() -> int:
    """Return the descriptor of a new file in memory; OSError or AttributeError where there are none."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("batch")
    create = ctypes.CDLL(None, use_errno=True).memfd_create  # Python 3.7
    descriptor = create(b"batch", 1)  # closed on exec
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return descriptor


def _write(descriptor: int, arrays: Sequence[numpy.ndarray]) -> None:
    with open(descriptor, "wb", closefd=False) as file:
        for values in arrays:
            file.write(numpy.ascontiguousarray(values).data)
            file.write(bytes(-values.nbytes % ALIGNMENT))


def _open(channel: int, ticket: bytes, layout: list[tuple[str, tuple[int, ...]]]) -> ByteBatch | Undelivered:
    """Return the batch that was sent with `ticket`; nothing of it is copied."""
    try:
        descriptor = _channels[channel].take(ticket)
        try:
            memory = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        return Undelivered(reason(error))
    tensors, offset = [], 0
    for dtype, shape in layout:
        values: numpy.ndarray = numpy.ndarray(shape, dtype, memory, offset)
        tensors.append(torch.from_numpy(values))
        offset += values.nbytes + -values.nbytes % ALIGNMENT
    return ByteBatch(*tensors)
