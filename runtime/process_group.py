"""The process group of a run: how its processes find each other and connect, and what is reported if they cannot."""

from __future__ import annotations

import datetime
import os
import urllib.parse
from typing import Any, Callable

from torch import distributed

from runtime.errors import RunError, UserError, reason
from runtime.launch_environment import (
    Launch,
    int_variable,
    is_outside_of_a_step,
    set_slurm_rendezvous,
    waiting_text,
)
from runtime.rendezvous import agree_on_prefix
from runtime.watchdog import after, deadline

QUIET_SECONDS = 10  # of waiting for the other processes before a line tells of it; they start within a few seconds
EXTRA_SECONDS = 60  # the timeout of a collective comes after the watchdog's, which can name the rank


def connect(
    launch: Launch,
    backend: str,
    dist_url: str,
    timeout_s: int,
    barrier: Callable[[], None],
    report: Callable[[str], object] | None,
) -> Any:
    """Initialise the process group, wait for all ranks by `barrier`, and return the store that they share.

    UserError or RunError if they cannot connect. Where torch would wait longer than `timeout_s`, the process ends with
    status 1 after `report(text)`. A process that waits for some seconds reports that, too.
    """
    set_slurm_rendezvous(os.environ)
    _check_url(dist_url, launch.world_size)

    def report_waiting() -> None:
        if report:
            report(waiting_text(os.environ, launch, _address(dist_url)))

    with after(1 if is_outside_of_a_step(os.environ) else QUIET_SECONDS, report_waiting):
        return _connect(launch, backend, dist_url, timeout_s, barrier, report)


def _connect(
    launch: Launch,
    backend: str,
    dist_url: str,
    timeout_s: int,
    barrier: Callable[[], None],
    report: Callable[[str], object] | None,
) -> Any:
    limit = datetime.timedelta(seconds=timeout_s)

    def report_timeout() -> None:
        if report:
            text = "no answer for %d s, --dist-timeout" % timeout_s
            report("failed: " + _unreachable(_address(dist_url), launch.world_size, backend, text))

    try:
        store, _, _ = next(distributed.rendezvous(dist_url, launch.rank, launch.world_size, timeout=limit))
        store.set_timeout(limit)
        if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun, whose store may hold keys of an earlier start
            prefix = agree_on_prefix(store, launch.rank, launch.world_size, timeout_s)
            store = distributed.PrefixStore(prefix, store)
        # gloo waits five times as long as its timeout for a connection, and NCCL may wait for ever
        with deadline(timeout_s, report_timeout):
            distributed.init_process_group(
                backend,
                store=store,
                world_size=launch.world_size,
                rank=launch.rank,
                timeout=limit + datetime.timedelta(seconds=EXTRA_SECONDS),
            )
            barrier()
    except (RuntimeError, ValueError, OSError) as error:
        raise connection_error(error, dist_url, timeout_s, launch.world_size) from None
    return store


def _check_url(url: str, world_size: int) -> None:
    """Raise UserError where torch would ignore part of `url`, or would end the process because of it."""
    if url == "env://":
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise UserError("%d processes, but %s is not set: start with torchrun" % (world_size, missing[0]))
        int_variable(os.environ, "MASTER_PORT", most=65535)
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


def _address(dist_url: str) -> str:
    """Return the rendezvous address, for a message."""
    if dist_url == "env://":
        return "%s:%s" % (os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT"))
    return dist_url


def _unreachable(address: str, world_size: int, backend: str, text: str) -> str:
    message = "%d processes met at %s but cannot reach each other (%s): if a machine has several networks, set "
    message += (
        "%s_SOCKET_IFNAME to the interface that leads to the others; two processes with the same rank fail like this"
    )
    return message % (world_size, address, text, backend.upper())


def connection_error(error: Exception, dist_url: str, timeout_s: int, world_size: int) -> UserError | RunError:
    """Return the error to raise for what the rendezvous or the process group raised."""
    text = reason(error)
    address = _address(dist_url)
    if "EADDRINUSE" in text or "in use" in text:
        return UserError("%s is in use by another program: set MASTER_PORT to another port" % address, one_rank=True)
    if "connectFullMesh" in text:
        return RunError(_unreachable(address, world_size, "gloo", text), one_rank=True)
    if "imed out" in text or "imeout" in text:
        message = "%d processes did not all connect to %s within %d s (--dist-timeout); did one fail to start? (%s)"
        return RunError(message % (world_size, address, timeout_s, text), one_rank=True)
    if isinstance(error, RuntimeError) and "rendezvous handler" not in text:
        return RunError("the processes cannot connect to %s: %s" % (address, text), one_rank=True)
    return UserError("%s %s: %s" % ("MASTER_ADDR" if dist_url == "env://" else "--dist-url", address, text))
