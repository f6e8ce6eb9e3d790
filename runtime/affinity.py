"""CPU affinity: processor cores for each process of a machine, so that their caches stay apart, without numactl."""

from __future__ import annotations

import os

TOPOLOGY = "/sys/devices/system/cpu/cpu%d/topology/%s"


def usable_cores() -> int:
    """Return how many logical processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def bind_cores(local_rank: int, processes: int) -> list[int] | None:
    """Bind this process and its children to its part of the usable cores and return them.

    Returns None where the system cannot bind processes.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    usable = sorted(os.sched_getaffinity(0))
    own = cores_of(local_rank, processes, {cpu: _location_of(cpu) for cpu in usable})
    os.sched_setaffinity(0, own)
    return own


def cores_of(local_rank: int, processes: int, locations: dict[int, tuple[int, int]]) -> list[int]:
    """Return the logical processors of one of `processes`, given {processor: (package, core)}.

    A process gets neighbouring physical cores with all their hardware threads; a package is split only if necessary.
    With more processes than cores each gets one hardware thread, and with more processes than threads some share one.
    """
    cores: dict[tuple[int, int], list[int]] = {}
    for cpu in sorted(locations, key=lambda cpu: (locations[cpu], cpu)):
        cores.setdefault(locations[cpu], []).append(cpu)
    units = list(cores.values())
    if len(units) < processes:
        units = [[cpu] for unit in units for cpu in unit]
    if len(units) < processes:
        return units[local_rank % len(units)]
    local_rank %= processes  # a single process can have local rank 1, to use the second device
    first, last = (rank * len(units) // processes for rank in (local_rank, local_rank + 1))
    return sorted(cpu for unit in units[first:last] for cpu in unit)


def _location_of(cpu: int) -> tuple[int, int]:
    """Return (package, core) of a logical processor; each counts as a core where the system does not tell."""
    try:
        with open(TOPOLOGY % (cpu, "physical_package_id"), encoding="ascii") as file:
            package = int(file.read())
        with open(TOPOLOGY % (cpu, "core_id"), encoding="ascii") as file:
            return package, int(file.read())
    except (OSError, ValueError):
        return 0, cpu
