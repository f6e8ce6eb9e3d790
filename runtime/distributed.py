"""Ranks: which process of the run this is, and the collectives of all of them."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any, Callable, ContextManager, Sequence

import numpy
import torch
from torch import distributed

from runtime.errors import UserError
from runtime.gradients import average
from runtime.launch_environment import Launch, cores_per_process
from runtime.process_group import connect
from runtime.watchdog import Watchdog

if TYPE_CHECKING:
    from torch import Tensor, nn

    from runtime.device import Device
    from runtime.gradients import Averaging

_IN_PROGRESS, _DONE, _FAILED = range(3)  # what rank 0 tells the others while it computes for them


class Ranks:
    """The processes of a run. With one process every collective is a no-op and no process group exists.

    The recipe of the run is that of `virtual_size` ranks. This process emulates `virtual_ranks`: only its own rank,
    unless the run has more virtual ranks than processes. `report(text)` reports why the process ends if the others do
    not answer at the start.
    """

    def __init__(
        self,
        launch: Launch,
        device: Device,
        dist_url: str = "env://",
        timeout_s: int = 1800,
        virtual_size: int | None = None,
        report: Callable[[str], object] | None = None,
    ) -> None:
        self.rank, self.world_size = launch.rank, launch.world_size
        self.virtual_size = virtual_size or launch.world_size
        self.virtual_ranks = _virtual_ranks_of(launch, self.virtual_size)
        self.device = device
        self.cores = cores_per_process(os.environ, launch)
        self.is_main = self.rank == 0
        self.is_first_of_machine = launch.local_rank == 0
        self.may_span_machines = launch.local_world_size != launch.world_size
        self.timeout_s = timeout_s
        self.watchdog: Watchdog | None = None
        if self.world_size > 1:
            reports = report if launch.local_rank == 0 else None
            self.store = connect(launch, device.backend, dist_url, timeout_s, self.barrier, reports)

    def watch(self, report: Callable[[str], object]) -> None:
        """Start the watchdog: it ends this process when the run makes no progress, after `report(text)` on one rank."""
        if self.world_size > 1:
            self.watchdog = Watchdog(self.store, self.rank, self.world_size, self.timeout_s, report)
            self.barrier()  # from here on each rank finds the others' positions in the store

    def mark(self, epoch: int, step: int) -> None:
        """Tell the watchdog that this rank begins `step`."""
        if self.watchdog is not None:
            self.watchdog.advance((epoch, step, 0))

    def mark_waiting(self) -> None:
        """Tell the watchdog that this rank enters a collective, or is about to."""
        if self.watchdog is not None:
            epoch, step, entered = self.watchdog.position
            self.watchdog.advance((epoch, step, entered + 1))

    def tick(self) -> None:
        """Tell the watchdog that this rank makes progress within its step."""
        if self.watchdog is not None:
            self.watchdog.advance(self.watchdog.position)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum `tensor` over the ranks in place and return it; int64 or float32, since HCCL reduces no float64."""
        if self.world_size > 1:
            self.mark_waiting()
            distributed.all_reduce(tensor)
        return tensor

    def sum_list(self, numbers: Sequence[float]) -> list[float]:
        """Return `numbers`, each summed over the ranks in float32."""
        if self.world_size == 1:
            return list(numbers)
        return self.all_reduce(torch.tensor(numbers, dtype=torch.float32, device=self.device.torch_device)).tolist()

    def sum_int(self, number: int) -> int:
        """Return the sum of an integer over the ranks."""
        if self.world_size == 1:
            return number
        return self.all_reduce(torch.tensor(number, dtype=torch.int64, device=self.device.torch_device)).item()

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is true on any rank; all ranks must call this."""
        if self.world_size == 1:
            return bool(flag)
        votes = torch.tensor([int(flag)], dtype=torch.int64, device=self.device.torch_device)
        return bool(self.all_reduce(votes).item())

    @property
    def agrees_on_each_batch(self) -> bool:
        """Whether the ranks can agree on each batch at no cost to speak of: not where steps are queued on a device."""
        return self.world_size == 1 or not self.device.is_accelerator

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.any(False)

    def from_rank_0(self, compute: Callable[[Callable[[], None]], numpy.ndarray]) -> numpy.ndarray:
        """Return on every rank the uint8 array that `compute(tick)` returns on rank 0; all ranks raise its UserError.

        While `compute` calls `tick` now and then, it may take longer than --dist-timeout, although the others wait.
        """
        if self.world_size == 1:
            return compute(lambda: None)
        return self._compute_and_send(compute) if self.is_main else self._receive()

    def first(self, action: Callable[[Callable[[], None]], object]) -> None:
        """Call `action(tick)` on rank 0 while the others wait; all ranks raise its UserError."""

        def compute(tick: Callable[[], None]) -> numpy.ndarray:
            action(tick)
            return numpy.zeros(1, numpy.uint8)

        self.from_rank_0(compute)

    def _compute_and_send(self, compute: Callable[[Callable[[], None]], numpy.ndarray]) -> numpy.ndarray:
        sent_at = time.monotonic()

        def tick() -> None:
            nonlocal sent_at
            if time.monotonic() - sent_at > self.timeout_s / 10:
                self._broadcast_status(_IN_PROGRESS)
                sent_at = time.monotonic()

        try:
            array = compute(tick)
        except UserError as error:
            self._send(_FAILED, numpy.frombuffer(str(error).encode("utf-8", "surrogatepass"), numpy.uint8))
            raise
        self._send(_DONE, array)
        return array

    def _receive(self) -> numpy.ndarray:
        status, size = _IN_PROGRESS, 0
        while status == _IN_PROGRESS:
            status, size = self._broadcast_status()
        data = torch.empty(size, dtype=torch.uint8, device=self.device.torch_device)
        distributed.broadcast(data, 0)
        received = data.cpu().numpy()
        received.flags.writeable = False
        if status == _FAILED:
            raise UserError(received.tobytes().decode("utf-8", "surrogatepass"))
        return received

    def _send(self, status: int, array: numpy.ndarray) -> None:
        self._broadcast_status(status, len(array))
        # In memory of torch's own: numpy's is released under the interpreter's lock, for which a thread of gloo on old
        # torch may wait while `close`, which holds it, waits for that thread.
        data = torch.empty(len(array), dtype=torch.uint8, device=self.device.torch_device)
        distributed.broadcast(data.copy_(torch.from_numpy(numpy.array(array))), 0)

    def _broadcast_status(self, status: int = _IN_PROGRESS, size: int = 0) -> list[int]:
        """Return rank 0's [status, size]."""
        self.mark_waiting()
        message = torch.tensor([status, size], dtype=torch.int64, device=self.device.torch_device)
        distributed.broadcast(message, 0)
        return message.tolist()

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Give every rank the buffers (running statistics) of rank 0, with one message for each dtype."""
        if self.world_size == 1:
            return
        self.mark_waiting()
        by_dtype: dict[Any, list[Tensor]] = {}
        for buffer in module.buffers():
            by_dtype.setdefault(buffer.dtype, []).append(buffer)
        for buffers in by_dtype.values():
            flat = torch.cat([buffer.reshape(-1) for buffer in buffers]).to(self.device.torch_device)
            distributed.broadcast(flat, 0)
            for buffer, piece in zip(buffers, flat.split([buffer.numel() for buffer in buffers])):
                buffer.copy_(piece.view_as(buffer))

    def wrap(self, model: nn.Module, averaging: Averaging) -> nn.Module:
        """Return `model` with gradients averaged over the ranks; `model` itself in a run of one process."""
        if self.world_size == 1:
            return model
        self.mark_waiting()
        return average(model, self.device, averaging)

    def no_sync(self, model: nn.Module, is_delayed: bool) -> ContextManager[Any]:
        """Return the context of a pass of the wrapped `model`; if `is_delayed`, a later pass averages its gradients."""
        return model.no_sync() if is_delayed and self.world_size > 1 else contextlib.nullcontext()

    def can_sync_statistics(self) -> bool:
        """Return whether there are ranks for `sync_statistics`; UserError where --sync-bn cannot work between them."""
        if self.virtual_size != self.world_size:
            message = "--sync-bn: the statistics of %d virtual ranks cannot be synchronised on %d process(es)"
            raise UserError(message % (self.virtual_size, self.world_size))
        if self.world_size > 1 and self.device.kind != "cuda":
            raise UserError("--sync-bn works between CUDA GPUs only, this is %s: leave it out" % self.device.kind)
        return self.world_size > 1

    def close(self) -> None:
        """Leave the process group."""
        if self.watchdog is not None:
            self.watchdog.end()
        if self.world_size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()


def _virtual_ranks_of(launch: Launch, virtual_size: int) -> range:
    """Return the virtual ranks that this process emulates."""
    if virtual_size % launch.world_size:
        raise UserError(
            "--virtual-ranks %d cannot be divided evenly among %d processes" % (virtual_size, launch.world_size)
        )
    count = virtual_size // launch.world_size
    return range(launch.rank * count, (launch.rank + 1) * count)


def sync_statistics(model: nn.Module) -> nn.Module:
    """Return `model` with SyncBatchNorm instead of batch normalisation, under the same names."""
    return torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
