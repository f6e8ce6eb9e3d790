"""Ranks: who this process is among the others, and what they do together."""

import contextlib
import datetime
import os
import time
import urllib.parse

import numpy
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from runtime.errors import RunError, UserError, reason
from runtime.launch_environment import cores_per_process, int_variable, set_slurm_rendezvous
from runtime.rendezvous import agree_on_prefix
from runtime.watchdog import Watchdog, deadline

_MORE, _DONE, _REFUSED = range(3)  # what the first rank tells the others while it makes something
LATER_SECONDS = 60  # the collectives' own limit comes after the watchdog's, which can name the rank


def _place_of(dist_url):
    """Where the processes meet."""
    if dist_url == "env://":
        return "%s:%s" % (os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT"))
    return dist_url


def _cannot_reach(place, world_size, backend, text):
    message = "%d processes met at %s but cannot reach each other (%s): where a machine has several networks, set "
    message += "%s_SOCKET_IFNAME to the interface that leads to the others; a rank that is given twice looks the same"
    return message % (world_size, place, text, backend.upper())


def _connection_error(error, dist_url, timeout_s, world_size):
    """The error to raise for what the rendezvous said."""
    text = reason(error)
    place = _place_of(dist_url)
    if "EADDRINUSE" in text or "in use" in text:
        return UserError("%s is in use by another program: set MASTER_PORT to another port" % place, one_rank=True)
    if "connectFullMesh" in text:
        return RunError(_cannot_reach(place, world_size, "gloo", text), one_rank=True)
    if "imed out" in text or "imeout" in text:
        message = "%d processes did not come together at %s within %d s (--dist-timeout); did one fail to start? (%s)"
        return RunError(message % (world_size, place, timeout_s, text), one_rank=True)
    if isinstance(error, RuntimeError) and "rendezvous handler" not in text:
        return RunError("the processes cannot connect at %s: %s" % (place, text), one_rank=True)
    return UserError("%s %s: %s" % ("MASTER_ADDR" if dist_url == "env://" else "--dist-url", place, text))


def _share_of_virtual_ranks(launch, virtual_size):
    if virtual_size % launch.world_size:
        raise UserError(
            "--virtual-ranks %d cannot be shared out evenly over %d processes" % (virtual_size, launch.world_size)
        )
    share = virtual_size // launch.world_size
    return range(launch.rank * share, (launch.rank + 1) * share)


class Ranks:
    """The processes of a run. With one process every collective is a no-op and no process group exists.

    The run's recipe is that of `virtual_size` ranks, of which this process does the work of `virtual_ranks`: its own
    alone, unless more virtual ranks than processes are asked for. `report(text)` tells why the process ends where the
    others do not answer at the start.
    """

    def __init__(self, launch, device, dist_url="env://", timeout_s=1800, virtual_size=None, report=None):
        self.rank, self.world_size = launch.rank, launch.world_size
        self.virtual_size = virtual_size or launch.world_size
        self.virtual_ranks = _share_of_virtual_ranks(launch, self.virtual_size)
        self.device = device
        self.cores = cores_per_process(os.environ, launch)
        self.is_main = self.rank == 0
        self.watchdog, self.timeout_s = None, timeout_s
        if self.world_size > 1:
            self._connect(dist_url, timeout_s, report if launch.local_rank == 0 else None)

    def _connect(self, dist_url, timeout_s, report):
        set_slurm_rendezvous(os.environ)
        if dist_url == "env://":
            missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
            if missing:
                raise UserError("%d processes, but %s is not set: start with torchrun" % (self.world_size, missing[0]))
            int_variable(os.environ, "MASTER_PORT", most=65535)
        _check_url(dist_url)
        limit = datetime.timedelta(seconds=timeout_s)
        try:
            self.store, _, _ = next(distributed.rendezvous(dist_url, self.rank, self.world_size, timeout=limit))
            self.store.set_timeout(limit)
            if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun, which may have started others before with this store
                name = agree_on_prefix(self.store, self.rank, self.world_size, timeout_s)
                self.store = distributed.PrefixStore(name, self.store)
            with deadline(timeout_s, lambda: self._give_up_connecting(dist_url, timeout_s, report)):
                distributed.init_process_group(
                    self.device.backend,
                    store=self.store,
                    world_size=self.world_size,
                    rank=self.rank,
                    timeout=limit + datetime.timedelta(seconds=LATER_SECONDS),
                )
                self.barrier()
        except (RuntimeError, ValueError, OSError) as error:
            raise _connection_error(error, dist_url, timeout_s, self.world_size) from None

    def _give_up_connecting(self, dist_url, timeout_s, report):
        """gloo waits for a connection five times as long as it is told to, and NCCL may wait for ever."""
        if report:
            text = "no answer for %d s, --dist-timeout" % timeout_s
            report("failed: " + _cannot_reach(_place_of(dist_url), self.world_size, self.device.backend, text))

    def watch(self, report):
        """From now on end this process when the run makes no progress, after `report(text)` by one of the ranks."""
        if self.world_size > 1:
            self.watchdog = Watchdog(self.store, self.rank, self.world_size, self.timeout_s, report)
            self.barrier()  # from here on each finds the others' places in the store

    def mark(self, epoch, step):
        """This rank begins `step`."""
        if self.watchdog is not None:
            self.watchdog.move((epoch, step, 0))

    def mark_waiting(self):
        """This rank enters a collective, or comes to the point where it does."""
        if self.watchdog is not None:
            epoch, step, entered = self.watchdog.place
            self.watchdog.move((epoch, step, entered + 1))

    def tick(self):
        """This rank makes progress within its place."""
        if self.watchdog is not None:
            self.watchdog.move(self.watchdog.place)

    def all_reduce(self, tensor):
        """Add up `tensor` over the ranks in place; int64 or float32, since HCCL reduces no float64."""
        if self.world_size > 1:
            self.mark_waiting()
            distributed.all_reduce(tensor)
        return tensor

    def sum_list(self, numbers):
        """The list of `numbers`, each added up over the ranks in float32."""
        if self.world_size == 1:
            return list(numbers)
        return self.all_reduce(torch.tensor(numbers, dtype=torch.float32, device=self.device.torch_device)).tolist()

    def any(self, flag):
        """Whether `flag` is true on any rank; all ranks must ask."""
        if self.world_size == 1:
            return bool(flag)
        votes = torch.tensor([int(flag)], dtype=torch.int64, device=self.device.torch_device)
        return bool(self.all_reduce(votes).item())

    def sum_int(self, number):
        """The sum of an integer over the ranks."""
        if self.world_size == 1:
            return number
        return self.all_reduce(torch.tensor(number, dtype=torch.int64, device=self.device.torch_device)).item()

    def barrier(self):
        """Wait for all ranks."""
        self.any(False)

    def from_rank_0(self, make):
        """The uint8 array that `make(tick)` gives on the first rank, on every rank; its UserError is raised on all.

        `make` calls `tick` as it gets on: then it may take longer than --dist-timeout, although the others wait.
        """
        if self.world_size == 1:
            return make(lambda: None)
        return self._give(make) if self.is_main else self._receive()

    def _give(self, make):
        told = time.monotonic()

        def tick():
            nonlocal told
            if time.monotonic() - told > self.timeout_s / 10:
                self._announce(_MORE)
                told = time.monotonic()

        try:
            made = make(tick)
        except UserError as error:
            self._send(_REFUSED, numpy.frombuffer(str(error).encode("utf-8", "surrogatepass"), numpy.uint8))
            raise
        self._send(_DONE, made)
        return made

    def _receive(self):
        status = _MORE
        while status == _MORE:
            status, size = self._announce()
        data = torch.empty(size, dtype=torch.uint8, device=self.device.torch_device)
        distributed.broadcast(data, 0)
        received = data.cpu().numpy()
        received.flags.writeable = False
        if status == _REFUSED:
            raise UserError(received.tobytes().decode("utf-8", "surrogatepass"))
        return received

    def _send(self, status, array):
        self._announce(status, len(array))
        # In memory of torch's own: numpy's is given up under the interpreter's lock, for which a thread of gloo on old
        # torch may wait while `close`, which holds it, waits for that thread.
        data = torch.empty(len(array), dtype=torch.uint8, device=self.device.torch_device)
        distributed.broadcast(data.copy_(torch.from_numpy(numpy.array(array))), 0)

    def _announce(self, *words):
        """[status, size] as the first rank gives them."""
        self.mark_waiting()
        told = torch.tensor((words + (0, 0))[:2], dtype=torch.int64, device=self.device.torch_device)
        distributed.broadcast(told, 0)
        return told.tolist()

    def broadcast_buffers(self, module):
        """Give every rank the first one's buffers (running statistics), one message for each dtype."""
        if self.world_size == 1:
            return
        self.mark_waiting()
        by_dtype = {}
        for buffer in module.buffers():
            by_dtype.setdefault(buffer.dtype, []).append(buffer)
        for buffers in by_dtype.values():
            flat = torch.cat([buffer.reshape(-1) for buffer in buffers]).to(self.device.torch_device)
            distributed.broadcast(flat, 0)
            for buffer, piece in zip(buffers, flat.split([buffer.numel() for buffer in buffers])):
                buffer.copy_(piece.view_as(buffer))

    def wrap(self, model):
        """`model` with gradients averaged over the ranks."""
        if self.world_size == 1:
            return model
        # DDP regroups its buckets after the first step, and with 3 or more ranks a sum depends on the grouping: a
        # resumed run would differ from an uninterrupted one. Looking for unused parameters keeps the first grouping.
        keep_buckets = self.world_size > 2
        return DistributedDataParallel(
            model,
            device_ids=[self.device.index] if self.device.is_accelerator else None,
            find_unused_parameters=keep_buckets,
        )

    def can_sync_statistics(self):
        """Whether there are ranks for `sync_statistics`; UserError where --sync-bn cannot work between them."""
        if self.virtual_size != self.world_size:
            message = "--sync-bn: the statistics of %d virtual ranks cannot be taken together on %d process(es)"
            raise UserError(message % (self.virtual_size, self.world_size))
        if self.world_size > 1 and self.device.kind != "cuda":
            raise UserError("--sync-bn works between CUDA GPUs only, this is %s: leave it out" % self.device.kind)
        return self.world_size > 1

    def no_sync(self, model, delays):
        """The context of a forward and backward pass of what `wrap` gave, whose gradients are kept here for now."""
        return model.no_sync() if delays and self.world_size > 1 else contextlib.nullcontext()

    def close(self):
        """Leave the process group."""
        if self.watchdog is not None:
            self.watchdog.end()
        if self.world_size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()


def sync_statistics(model):
    """`model` with batch normalisation over the batches of all ranks, under the same names."""
    return torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)


def _check_url(url):
    """UserError where torch would take no notice of part of `url`, or would end the process over it."""
    try:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("env", "tcp", "file") or parts.query:
            raise ValueError("it must be env://, tcp://HOST:PORT or file:///PATH")
        if parts.scheme == "tcp" and not (parts.hostname and parts.port):
            raise ValueError("it must name a host and a port")
        if parts.scheme == "file" and (not os.path.isdir(os.path.dirname(parts.path)) or os.path.isdir(parts.path)):
            raise ValueError("it must name a file in a folder that exists")
    except ValueError as error:
        raise UserError("--dist-url %s: %s" % (url, error)) from None
